//! A run's verdict as one line of text that does not depend on where the guest's code is.

use stalemate::event::TaskId;
use stalemate::oracle::{Obligation, RuleId, State, Violation};
use stalemate::runner::RunResult;
use stalemate::scenario::Scenario;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What the run was, what it came to, and what each violation rests on.
pub fn of(scenario: &Scenario, result: &RunResult) -> String {
    let mut line = format!("{} | {} |", scenario.name, result.title());
    if scenario.name == "fuzz" {
        let steps: Vec<&str> = scenario.steps.iter().map(|step| step.text.as_str()).collect();
        let _ = write!(line, " {} |", steps.join("; "));
    }
    let _ = write!(line, " {}", result.outcome);
    let _ = write!(line, "{}", names(result.rules()));
    for mismatch in &result.mismatches {
        let _ = write!(line, " | step {} got {}", mismatch.step, mismatch.got);
    }
    if let Some((stop, _)) = &result.stop {
        let _ = write!(line, " | {stop} in step {:?}", result.stopped_in.step);
    }
    if !result.not_fired.is_empty() {
        let _ = write!(line, " | never fired: {}", result.not_fired.join(", "));
    }
    for violation in &result.violations {
        let _ = write!(line, " | {}", one(violation));
    }
    if let Some(sweep) = &result.sweep {
        // Where and at how many boundaries depends on the code; what they came to does not.
        for failing in &sweep.failing {
            let rules = names(failing.rules.iter().copied());
            let _ = write!(line, " | step {}: {}{rules}", failing.step, failing.outcome);
        }
        return line;
    }
    let _ = write!(line, " | {}", ends(&result.obligations));
    let hammers = (result.hammers.count, result.hammers.lost);
    let _ = write!(line, " | hammers {hammers:?}, needless {}", result.needless);
    line
}

fn step(task: Option<TaskId>) -> Option<usize> {
    task.map(|task| task.0)
}

/// Rules in the order of their names.
fn names(rules: impl IntoIterator<Item = RuleId>) -> String {
    let mut names: Vec<String> = rules.into_iter().map(|rule| rule.to_string()).collect();
    names.sort();
    names.iter().map(|name| format!(" {name}")).collect()
}

/// A violation by its store, its flush and its deadline.
fn one(violation: &Violation) -> String {
    let mut text =
        format!("{} CPU {} step {:?}", violation.rule, violation.cpu.0, step(violation.task));
    if let Some((tag, entry)) = &violation.entry {
        let _ = write!(text, ", {tag} {}", entry.translation);
    }
    if let Some(structure) = &violation.structure {
        let _ = write!(text, ", level {} of {}", structure.level, structure.base);
    }
    if let Some(store) = &violation.downgrade {
        let (cpu, (old, new)) = (store.cpu.0, store.cause.values());
        let _ = write!(
            text,
            ", stored by {cpu} in {:?}: {} {old:#x} {new:#x}",
            step(store.task),
            store.cause.place()
        );
    }
    if let Some(requested) = &violation.requested {
        let flush = &requested.flush;
        let (name, start, end) = (flush.name(), flush.start, flush.end);
        let root = flush.root.unwrap_or_default();
        let _ =
            write!(text, ", asked {name} {} {start}..{end} in {:?}", root, step(requested.task));
    }
    if let Some(deadline) = &violation.deadline {
        let _ = write!(text, ", due {}", code(violation.rule, &deadline.to_string()));
    }
    let _ = write!(text, ", missed {}", violation.missed.len());
    text
}

/// A deadline's short name, so that its wording may change.
fn code(rule: RuleId, deadline: &str) -> &str {
    match deadline {
        "the acknowledgement" => "shot-down",
        "the return of the primitive that covers it"
            if rule.to_string() == "stale-remote-entry" =>
        {
            "shot-down"
        }
        "the moment at which its frame is given back" => "edits-over",
        "the next entry to user mode" => "user-entry",
        "the return of the primitive that covers it" => "return",
        "the CR3 load that makes its PCID current" => "cr3",
        "the acknowledgement, or the return of the primitive" => "shot-down",
        "the end of what raised the slot's generation" => "generation",
        "the end of the edit's step" => "edits-over",
        "the end of the step in which a CPU that was lazy goes on" => "caught-up",
        other => other,
    }
}

/// How many obligations ended how.
fn ends(obligations: &[Obligation]) -> String {
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for obligation in obligations {
        let end = match obligation.state {
            State::Open => "open".to_owned(),
            State::Discharged { by, task, .. } => format!("{} in {:?}", by.name(), step(task)),
            State::Violated { rule, .. } => rule.to_string(),
        };
        *ends.entry(end).or_default() += 1;
    }
    ends.iter().map(|(end, count)| format!("{count} {end}")).collect::<Vec<_>>().join(", ")
}
