//! The detection score as a person and as a program reads it; the latter's schema is
//! docs/faults.schema.json.

use super::{counted, named, quoted};
use crate::inject::forms::{FORMS, form_of};
use crate::oracle::RuleId;
use crate::scenario::Scenario;
use crate::score::{ClassName, Scored};
use serde_json::{Value, json as value};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Version of the schema. Rises when a field changes its meaning or is removed.
pub const SCORE_SCHEMA_VERSION: u32 = 1;
/// Escapes that the text names one by one; the JSON names all.
const ESCAPES_SHOWN: usize = 20;

/// Everything that a score is made of.
pub struct Score<'a> {
    /// The scenarios.
    pub scenarios: &'a [Scenario],
    /// Every fault's class.
    pub scored: &'a [Scored],
    /// The executor's name.
    pub executor: &'a str,
    /// How many faults every named CPU would make.
    pub possible: usize,
    /// A rule that was left out.
    pub without: Option<RuleId>,
    /// Of the boundaries of an interrupt at each, one in so many was tried.
    pub stride: usize,
}

/// Faults by class, and who caught or covered them.
#[derive(Clone, Debug, Default)]
struct Tally {
    classes: BTreeMap<ClassName, usize>,
    by: BTreeMap<(ClassName, String), usize>,
}

impl Tally {
    fn of<'s>(scored: impl IntoIterator<Item = &'s Scored>) -> Self {
        let mut tally = Self::default();
        for one in scored {
            *tally.classes.entry(one.class.name()).or_default() += 1;
            for by in one.class.by() {
                *tally.by.entry((one.class.name(), by)).or_default() += 1;
            }
        }
        tally
    }

    fn count(&self, class: ClassName) -> usize {
        self.classes.get(&class).copied().unwrap_or(0)
    }

    fn json(&self) -> Value {
        let mut by: BTreeMap<ClassName, BTreeMap<&str, usize>> = BTreeMap::new();
        for ((class, name), count) in &self.by {
            by.entry(*class).or_default().insert(name, *count);
        }
        let named = |class: ClassName| name_of(class);
        let classes: BTreeMap<&str, usize> =
            ClassName::ALL.iter().map(|&(class, name)| (name, self.count(class))).collect();
        let by: BTreeMap<&str, _> = by.into_iter().map(|(class, by)| (named(class), by)).collect();
        value!({ "classes": classes, "by": by })
    }

    fn by(&self) -> String {
        let shown = [ClassName::Caught, ClassName::Covered, ClassName::Stopped];
        let named = self.by.iter().filter(|((class, _), _)| shown.contains(class));
        let named: Vec<String> =
            named.map(|((_, name), count)| format!("{name} {count}")).collect();
        named.join(", ")
    }
}

fn name_of(class: ClassName) -> &'static str {
    ClassName::ALL.iter().find(|(known, _)| *known == class).map_or("?", |row| row.1)
}

impl Score<'_> {
    fn form(&self, form: &str) -> Vec<&Scored> {
        let fits =
            |one: &&Scored| form_of(&one.fault.to_string()).is_some_and(|(known, _)| known == form);
        self.scored.iter().filter(fits).collect()
    }

    fn escapes(&self) -> Vec<&Scored> {
        self.scored.iter().filter(|one| one.class.name() == ClassName::Escaped).collect()
    }

    /// The one command that reproduces a fault's class.
    fn command(&self, one: &Scored) -> String {
        let scenario = &self.scenarios[one.scenario];
        let without = self.without.map(|rule| format!(" --without {rule}")).unwrap_or_default();
        format!(
            "stalemate faults {} --cpu {} --policy {} --executor {}{without} --inject {}",
            named(scenario),
            one.config.cpu.name,
            one.config.policy,
            self.executor,
            quoted(&one.fault.to_string())
        )
    }
}

/// The score as text.
#[must_use]
pub fn score_text(score: &Score<'_>) -> String {
    let mut out = String::new();
    let width = FORMS.iter().map(|(form, _)| form.len()).max().unwrap_or(0);
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "stalemate {}, executor {}: {} of {} faults\n",
        env!("CARGO_PKG_VERSION"),
        score.executor,
        score.scored.len(),
        score.possible
    );
    let _ = write!(out, "{:width$}", "fault");
    for (_, name) in ClassName::ALL {
        let _ = write!(out, "  {name:>11}");
    }
    let _ = writeln!(out, "  caught or covered by");
    let mut row = |name: &str, tally: &Tally| {
        let _ = write!(out, "{name:width$}");
        for (class, _) in ClassName::ALL {
            let _ = write!(out, "  {:>11}", tally.count(class));
        }
        let _ = writeln!(out, "  {}", tally.by());
    };
    for (form, _) in FORMS {
        let of_form = score.form(form);
        if !of_form.is_empty() {
            row(form, &Tally::of(of_form));
        }
    }
    row("all", &Tally::of(score.scored));
    if score.stride > 1 {
        let stride = score.stride;
        let _ = writeln!(
            out,
            "\nnmi@each and irq@each tried one boundary in {stride}; `--stride 1` tries them all"
        );
    }
    let escapes = score.escapes();
    for one in escapes.iter().take(ESCAPES_SHOWN) {
        let scenario = &score.scenarios[one.scenario];
        let _ = writeln!(
            out,
            "\nescaped: {} on {}, {}: {}\n  again: {}",
            scenario.name,
            one.config,
            one.fault,
            one.class.by().join(", "),
            score.command(one)
        );
    }
    if escapes.len() > ESCAPES_SHOWN {
        let _ = writeln!(
            out,
            "\nand {} more; --format json has them all",
            escapes.len() - ESCAPES_SHOWN
        );
    }
    let runs: usize = score.scored.iter().map(|one| one.runs).sum();
    let faults = counted(score.scored.len(), "fault", "faults");
    let runs = counted(runs, "run", "runs");
    let _ = writeln!(out, "\n{faults} in {runs}, {} escaped", escapes.len());
    out
}

/// The score as JSON.
#[must_use]
pub fn score_json(score: &Score<'_>) -> Value {
    let forms: Vec<Value> = FORMS
        .iter()
        .map(|(form, help)| {
            value!({ "form": form, "help": help, "score": Tally::of(score.form(form)).json() })
        })
        .collect();
    let mut cells: BTreeMap<(usize, String), Vec<&Scored>> = BTreeMap::new();
    for one in score.scored {
        cells.entry((one.scenario, one.config.policy.to_string())).or_default().push(one);
    }
    let cells: Vec<Value> = cells
        .into_iter()
        .map(|((scenario, policy), scored)| {
            value!({
                "scenario": score.scenarios[scenario].name,
                "policy": policy,
                "score": Tally::of(scored).json(),
            })
        })
        .collect();
    let cases: Vec<Value> = score
        .scored
        .iter()
        .map(|one| {
            value!({
                "scenario": score.scenarios[one.scenario].name,
                "configuration": one.config.to_string(),
                "fault": one.fault.to_string(),
                "class": one.class.name(),
                "by": one.class.by(),
                "runs": one.runs,
                "command": score.command(one),
            })
        })
        .collect();
    value!({
        "schema": SCORE_SCHEMA_VERSION,
        "stalemate": env!("CARGO_PKG_VERSION"),
        "executor": score.executor,
        "possible_faults": score.possible,
        "without": score.without,
        "stride": score.stride,
        "score": Tally::of(score.scored).json(),
        "forms": forms,
        "cells": cells,
        "faults": cases,
    })
}
