//! Names on the command line as the values that they mean. The parser knows every name, and so do
//! its errors, the shell completions and the man pages.

use crate::arch::tlb::{FILLS, Fill};
use crate::oracle::{RuleId, rules};
use crate::scenario::{CPUS, CpuModel, POLICIES, Policy};
use crate::schedule::{Recorded, Schedule};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, Command};
use stalemate_shared::variant::{VARIANTS, Variant};
use std::ffi::OsStr;

/// The processors of one word of `--cpu`.
#[derive(Clone, Debug)]
pub struct Cpus(Vec<CpuModel>);

/// What the kernel does wrong; `none` is the kernel as it is.
#[derive(Clone, Copy, Debug)]
pub struct Mistake(pub Option<Variant>);

/// A schedule, but for its seed.
pub type Seeded = fn(u64) -> Schedule;

/// A parser of the names in a table: name, help, value.
fn named<T>(rows: Vec<(&'static str, &'static str, T)>) -> impl TypedValueParser<Value = T>
where
    T: Clone + Send + Sync + 'static,
{
    let names = rows.iter().map(|(name, help, _)| PossibleValue::new(*name).help(*help));
    PossibleValuesParser::new(names.collect::<Vec<_>>()).try_map(move |name| {
        let found = rows.iter().find(|(known, ..)| *known == name);
        found.map(|(.., value)| value.clone()).ok_or("no such name")
    })
}

pub fn policy() -> impl TypedValueParser<Value = Policy> {
    named(POLICIES.iter().map(|&(policy, name, help)| (name, help, policy)).collect())
}

pub fn fill() -> impl TypedValueParser<Value = Fill> {
    named(FILLS.iter().map(|&(fill, name, help)| (name, help, fill)).collect())
}

pub fn rule() -> impl TypedValueParser<Value = RuleId> {
    named(rules::abouts().map(|rule| (rule.name, rule.statement, RuleId(rule))).collect())
}

pub fn variant() -> impl TypedValueParser<Value = Mistake> {
    let mistakes =
        VARIANTS.iter().map(|about| (about.name, about.what, Mistake(Some(about.variant))));
    named([("none", "the kernel as it is", Mistake(None))].into_iter().chain(mistakes).collect())
}

/// How CPUs take turns: as a scheduler says, but for its seed, or as was recorded.
#[derive(Clone, Debug)]
pub enum Turns {
    /// A scheduler's.
    Seeded(Seeded),
    /// What `explore` printed.
    Recorded(Recorded),
}

/// The names of schedulers, and recorded schedules.
#[derive(Clone)]
pub struct TurnsParser;

const SCHEDULES: [(&str, &str, Seeded); 3] = [
    ("in-order", "the steps, one after the other", |_| Schedule::InOrder),
    ("events", "any CPU may come in after any event", Schedule::Events),
    ("instructions", "any CPU may come in after any instruction", Schedule::Instructions),
];

impl TypedValueParser for TurnsParser {
    type Value = Turns;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Turns, clap::Error> {
        let text = value.to_str().unwrap_or_default();
        let is_recorded =
            text.starts_with('s') && text[1..].starts_with(|c: char| c.is_ascii_digit());
        if is_recorded {
            let parse = |text: String| text.parse().map(Turns::Recorded);
            let parser = clap::builder::StringValueParser::new().try_map(parse);
            return parser.parse_ref(command, arg, value);
        }
        let seeded = named::<Seeded>(SCHEDULES.to_vec());
        seeded.parse_ref(command, arg, value).map(Turns::Seeded)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let value = |(name, help, _): &(&'static str, &'static str, Seeded)| {
            PossibleValue::new(*name).help(*help)
        };
        Some(Box::new(SCHEDULES.iter().map(value)))
    }
}

pub fn schedule() -> TurnsParser {
    TurnsParser
}

pub fn cpus() -> impl TypedValueParser<Value = Cpus> {
    let each = CPUS.iter().map(|cpu| (cpu.name, "", Cpus(vec![*cpu])));
    named([("all", "every one of them", Cpus(CPUS.to_vec()))].into_iter().chain(each).collect())
}

/// The processors of `--cpu`, each once.
pub fn each_once(words: &[Cpus]) -> Vec<CpuModel> {
    let mut cpus: Vec<CpuModel> = Vec::new();
    for cpu in words.iter().flat_map(|word| &word.0) {
        if !cpus.contains(cpu) {
            cpus.push(*cpu);
        }
    }
    cpus
}

/// The processors of `--cpu`, or those of the default suite.
pub fn or_default(words: &[Cpus]) -> Vec<CpuModel> {
    match words {
        [] => CPUS.into_iter().filter(|cpu| cpu.default).collect(),
        words => each_once(words),
    }
}
