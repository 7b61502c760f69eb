//! All runs in a sentence: what was run, what holds, what does not.

use super::{Results, counted};
use crate::runner::{Outcome, RunResult};
use crate::scenario::Expected;
use std::collections::{BTreeMap, BTreeSet};

/// Rules that the sentence names; beyond these the table does.
const NAMED: usize = 3;

/// What a run is to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Nothing went wrong, and nothing was to.
    Clean,
    /// A fault that the file injects was found out.
    Fault,
    /// The kernel makes a mistake of its own, which the file knows of, and it was found out.
    Bug,
    /// A fault that the caller injects had a consequence, of which no file says anything.
    Injected,
    /// It is not what the file says.
    Unexpected,
}

impl Class {
    /// What `result` is.
    pub(super) fn of(result: &RunResult) -> Self {
        let faulty = !result.run.faults.is_empty();
        match (result.as_expected, &result.run.expected) {
            (true, _) if !result.is_caught() => Self::Clean,
            (true, _) if faulty => Self::Fault,
            (true, _) => Self::Bug,
            (false, Expected::Unstated) if faulty => Self::Injected,
            (false, _) => Self::Unexpected,
        }
    }
}

/// What was found in a run: rules by name, else what it came to.
pub(super) fn found(result: &RunResult) -> Vec<String> {
    let rules = result.rules();
    match rules.is_empty() {
        true => vec![result.outcome.to_string()],
        false => rules.iter().map(ToString::to_string).collect(),
    }
}

/// What was run and what came of it, in one line without an end.
pub(super) fn sentence(results: &Results<'_>) -> String {
    let mut by: BTreeMap<Class, Vec<&RunResult>> = BTreeMap::new();
    for result in results.results {
        by.entry(Class::of(result)).or_default().push(result);
    }
    let of = |class: Class| by.get(&class).map_or(&[][..], Vec::as_slice);
    let names: BTreeSet<&str> =
        results.results.iter().map(|result| result.run.scenario.name.as_str()).collect();
    let runs = counted(results.results.len(), "run", "runs");
    let mut names = names.into_iter();
    let subject = match (names.next(), names.len()) {
        (Some(name), 0) => format!("{name}: {runs}"),
        (_, more) => format!("{runs} of {} scenarios", more + 1),
    };
    let mut holds = Vec::new();
    if let count @ 1.. = of(Class::Clean).len() {
        holds.push(format!("{count} clean"));
    }
    if let faults @ [_, ..] = of(Class::Fault) {
        let many = counted(faults.len(), "injected fault caught", "injected faults caught");
        holds.push(many + &rules(faults));
    }
    if let bugs @ [_, ..] = of(Class::Bug) {
        let runs = counted(bugs.len(), "run", "runs");
        holds.push(format!("a known bug of the kernel caught in {runs}{}", rules(bugs)));
    }
    let holds = holds.join(", ");
    let mut text = match (of(Class::Injected), of(Class::Unexpected)) {
        ([], []) if of(Class::Clean).len() == results.results.len() => {
            format!("{subject}, all clean: what was made stale was removed in time")
        }
        ([], []) => format!("{subject}, as the scenarios say: {holds}"),
        (injected, []) => {
            let also = if holds.is_empty() { String::new() } else { format!(", {holds}") };
            format!(
                "{subject} with a fault that you inject: {}{also}; no scenario says what comes of \
                 it, so the exit code is 1",
                outcomes(injected)
            )
        }
        (injected, unexpected) => {
            let mut others = outcomes(unexpected);
            if !injected.is_empty() {
                others += &format!("; with a fault that you inject {}", outcomes(injected));
            }
            let also = if holds.is_empty() { String::new() } else { format!("; else {holds}") };
            format!("{subject}, {} NOT as expected: {others}{also}", unexpected.len())
        }
    };
    if !results.differences.is_empty() {
        let many = counted(results.differences.len(), "run", "runs");
        text += &format!("; the executors DIFFER in {many}");
    }
    text
}

/// Rules in parentheses, where they are few.
fn rules(results: &[&RunResult]) -> String {
    let names: BTreeSet<String> = results.iter().flat_map(|result| found(result)).collect();
    match names.len() {
        1..=NAMED => format!(" ({})", names.into_iter().collect::<Vec<_>>().join(", ")),
        _ => String::new(),
    }
}

/// How many runs came to what.
fn outcomes(results: &[&RunResult]) -> String {
    let mut by: BTreeMap<Outcome, Vec<&RunResult>> = BTreeMap::new();
    for &result in results {
        by.entry(result.outcome).or_default().push(result);
    }
    let each = by.iter().map(|(outcome, of)| {
        let rules = if *outcome == Outcome::Violation { rules(of) } else { String::new() };
        format!("{outcome} in {}{rules}", of.len())
    });
    each.collect::<Vec<_>>().join(", ")
}
