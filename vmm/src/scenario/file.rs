//! Scenario files: TOML, typed and checked before anything boots.

use super::config::{Policy, When};
use super::diagnostic::Diagnostic;
use super::step::{self, Change, Page, Step};
use super::{FaultCase, Scenario, Verdict};
use crate::arch::tlb::Fill;
use crate::inject::Fault;
use crate::oracle::RuleId;
use serde::de::{DeserializeOwned, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use toml::Spanned;

/// A value, or a list of them.
#[derive(Clone, Debug)]
struct List<T>(Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany<T>(PhantomData<T>);
        impl<'de, T: DeserializeOwned> Visitor<'de> for OneOrMany<T> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list of values")
            }
            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Vec<T>, E> {
                T::deserialize(value.into_deserializer()).map(|value| vec![value])
            }
            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Vec<T>, E> {
                T::deserialize(value.into_deserializer()).map(|value| vec![value])
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                Ok(values)
            }
        }
        deserializer.deserialize_any(OneOrMany(PhantomData)).map(List)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScenario {
    summary: String,
    #[serde(default)]
    cpu: RawCpu,
    #[serde(default)]
    kernel: RawKernel,
    #[serde(default)]
    model: RawModel,
    steps: Spanned<String>,
    #[serde(default)]
    fault: Vec<RawFault>,
    #[serde(default)]
    verdict: Vec<RawVerdict>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawCpu {
    pcid: List<bool>,
    invpcid: List<bool>,
    pge: List<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawKernel {
    policy: List<Policy>,
    pti: List<bool>,
    global: Option<Spanned<bool>>,
    paranoid_rewrite: List<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawModel {
    fill: List<Fill>,
    structure_caches: List<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawWhen {
    policy: List<Policy>,
    pcid: List<bool>,
    invpcid: List<bool>,
    pge: List<bool>,
    pti: List<bool>,
    global: List<bool>,
    fill: List<Fill>,
}

impl From<RawWhen> for When {
    fn from(raw: RawWhen) -> Self {
        Self {
            policy: raw.policy.0,
            pcid: raw.pcid.0,
            invpcid: raw.invpcid.0,
            pge: raw.pge.0,
            pti: raw.pti.0,
            global: raw.global.0,
            fill: raw.fill.0,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFault {
    inject: Spanned<List<String>>,
    #[serde(default)]
    when: RawWhen,
    violates: Spanned<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVerdict {
    when: RawWhen,
    violates: Spanned<Vec<String>>,
}

struct Source<'t> {
    file: &'t str,
    text: &'t str,
}

impl Source<'_> {
    fn error(&self, span: std::ops::Range<usize>, message: String, help: String) -> Diagnostic {
        Diagnostic::at(self.file, self.text, span.start, span.end, message, help)
    }

    fn rules(&self, raw: &Spanned<Vec<String>>) -> Result<BTreeSet<RuleId>, Diagnostic> {
        raw.get_ref()
            .iter()
            .map(|name| {
                name.parse().map_err(|help: String| {
                    self.error(raw.span(), format!("`{name}` is no rule"), help)
                })
            })
            .collect()
    }

    fn faults(&self, raw: &Spanned<List<String>>) -> Result<Vec<Fault>, Diagnostic> {
        raw.get_ref()
            .0
            .iter()
            .map(|text| {
                text.parse::<Fault>().map_err(|error| {
                    let message = format!("`{text}` is no fault: {}", error.why);
                    self.error(raw.span(), message, error.help)
                })
            })
            .collect()
    }

    fn steps(&self, raw: &Spanned<String>) -> Result<Vec<Step>, Diagnostic> {
        let span = raw.span();
        let literal = self.text.get(span.clone()).unwrap_or_default();
        let multi = literal.starts_with("\"\"\"") || literal.starts_with("'''");
        let mut offset = span.start + if multi { 3 } else { 1 };
        if multi && self.text[offset..].starts_with('\n') {
            offset += 1;
        }
        let mut steps = Vec::new();
        let mut mapped: BTreeSet<(usize, Page)> = BTreeSet::new();
        for line in raw.get_ref().split('\n') {
            let start = offset;
            offset += line.len() + 1;
            let text = line.split('#').next().unwrap_or_default();
            if text.trim().is_empty() {
                continue;
            }
            let number = self.text[..start.min(self.text.len())].matches('\n').count() + 1;
            let word = |index: usize| {
                let (at, len) = word_at(text, index);
                start + at..start + at + len
            };
            let step = step::parse(text, number)
                .map_err(|(index, message, help)| self.error(word(index), message, help))?;
            check_order(&step, &mut mapped)
                .map_err(|(message, help)| self.error(word(0), message, help))?;
            steps.push(step);
        }
        if steps.is_empty() {
            let help = "write one step a line, as in `user read u0 -> red`".to_owned();
            return Err(self.error(span, "no steps".to_owned(), help));
        }
        Ok(steps)
    }
}

/// Offset and length of a word of a line.
fn word_at(line: &str, index: usize) -> (usize, usize) {
    let words = line
        .split_whitespace()
        .map(|word| (word.as_ptr() as usize - line.as_ptr() as usize, word.len()));
    let last = words.clone().next_back();
    words.clone().nth(index).or(last).unwrap_or((0, line.len()))
}

fn check_order(step: &Step, mapped: &mut BTreeSet<(usize, Page)>) -> Result<(), (String, String)> {
    // Kernel pages are in every address space.
    let key = |page| match page {
        Page::Kernel(_) => (0, page),
        _ => (step.mm, page),
    };
    let unmapped = || {
        let message = "this page is not mapped here".to_owned();
        Err((message, "`map` it in this address space first".to_owned()))
    };
    match step.change {
        Change::None => Ok(()),
        Change::Map(page) if mapped.insert(key(page)) => Ok(()),
        Change::Map(_) => {
            let message = "this page is mapped already".to_owned();
            Err((message, "use `remap`, or `unmap` it first".to_owned()))
        }
        Change::Edit(page) if mapped.contains(&key(page)) => Ok(()),
        Change::Unmap(page) if mapped.remove(&key(page)) => Ok(()),
        Change::Edit(_) | Change::Unmap(_) => unmapped(),
    }
}

fn or<T>(list: List<T>, default: &[T]) -> Vec<T>
where
    T: Clone,
{
    if list.0.is_empty() { default.to_vec() } else { list.0 }
}

/// Parses and checks one file.
///
/// # Errors
/// The first error in it.
pub fn parse(name: &str, file: &str, text: &str) -> Result<Scenario, Diagnostic> {
    let source = Source { file, text };
    let raw: RawScenario = toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let (message, help) = explain(error.message());
        source.error(span, message, help)
    })?;
    let pti = or(raw.kernel.pti, &[true, false]);
    let global = raw.kernel.global.as_ref().map(|global| *global.get_ref());
    let wants_global = raw.kernel.global.as_ref().filter(|global| *global.get_ref());
    if let (Some(spanned), [false]) = (wants_global, &raw.cpu.pge.0[..]) {
        let message = "kernel pages cannot be global on a CPU without PGE".to_owned();
        let help = "drop `global = true`, or allow `pge = true`".to_owned();
        return Err(source.error(spanned.span(), message, help));
    }
    let faults = raw.fault.into_iter().map(|fault| {
        Ok(FaultCase {
            inject: source.faults(&fault.inject)?,
            when: fault.when.into(),
            violates: source.rules(&fault.violates)?,
        })
    });
    let verdicts = raw.verdict.into_iter().map(|verdict| {
        Ok(Verdict { when: verdict.when.into(), violates: source.rules(&verdict.violates)? })
    });
    Ok(Scenario {
        name: name.to_owned(),
        file: file.to_owned(),
        summary: raw.summary,
        pcid: raw.cpu.pcid.0,
        invpcid: raw.cpu.invpcid.0,
        pge: raw.cpu.pge.0,
        policy: or(raw.kernel.policy, &[Policy::Split]),
        global,
        pti,
        paranoid_rewrite: or(raw.kernel.paranoid_rewrite, &[false]),
        fill: or(raw.model.fill, &[Fill::WorstCase]),
        structure_caches: or(raw.model.structure_caches, &[true]),
        steps: source.steps(&raw.steps)?,
        faults: faults.collect::<Result<_, _>>()?,
        verdicts: verdicts.collect::<Result<_, _>>()?,
    })
}

/// Splits a message of the TOML reader into what is wrong and what would be right.
fn explain(message: &str) -> (String, String) {
    for separator in [", expected ", " expected "] {
        if let Some((wrong, right)) = message.split_once(separator) {
            return (wrong.to_owned(), format!("expected {right}"));
        }
    }
    let help = match message.strip_prefix("missing field ") {
        Some(field) => format!("add a line `{} = …`", field.trim_matches('`')),
        None => "see `stalemate list scenarios`, or copy one of the built-in files".to_owned(),
    };
    (message.to_owned(), help)
}
