//! What explorations came to, for people and for programs.

use super::{Covered, Explored};
use crate::ink::{Ink, Tone};
use crate::report;
use crate::scenario::Expected;
use crate::schedule::Recorded;
use serde_json::{Value, json as value};
use std::fmt::Write;
use std::sync::Arc;

/// Whether an exploration came to what the scenario says of the run: nothing wrong, where it says nothing
/// of rules; else something, whatever else its order of steps gives.
#[must_use]
pub fn is_as_expected(explored: &Explored) -> bool {
    match &explored.run.expected {
        Expected::Clean | Expected::Unstated => explored.is_clean(),
        Expected::Violates(rules) if rules.is_empty() => explored.is_clean(),
        Expected::Violates(_) | Expected::Stops(_) | Expected::Mismatch => !explored.is_clean(),
    }
}

/// How much was covered, in words.
#[must_use]
pub fn covered(covered: Covered) -> String {
    let beneath = |bound: Option<u32>| match bound {
        Some(bound) => format!("complete to {bound} preemptions, "),
        None => String::new(),
    };
    match covered {
        Covered::Complete => "complete".to_owned(),
        Covered::Bound(bound) => format!("complete to {bound} preemptions"),
        Covered::States(bound) => beneath(bound) + "then too many states",
        Covered::Time(bound) => beneath(bound) + "then out of time",
        Covered::Code => "all but fetches of code whose translation changes".to_owned(),
        Covered::Nothing => "nothing: the steps in order go wrong".to_owned(),
    }
}

/// The command that repeats a schedule.
#[must_use]
pub fn command(explored: &Explored, schedule: &Recorded) -> String {
    // The recorded schedule stands for those of the file.
    let mut run = explored.run.clone();
    Arc::make_mut(&mut run.scenario).schedule = vec![run.config.schedule];
    let repro = report::command(&run, None, false);
    format!("{repro} --executor interp --schedule {schedule}")
}

/// For people.
#[must_use]
pub fn text(all: &[Explored], ink: Ink) -> String {
    let mut text = String::new();
    for explored in all {
        let word = match (explored.is_clean(), is_as_expected(explored)) {
            (true, true) => ink.paint(Tone::Good, "clean"),
            (true, false) => ink.paint(Tone::Bad, "clean, and should not be"),
            (false, true) => ink.paint(Tone::Good, "caught"),
            (false, false) => ink.paint(Tone::Bad, "violated"),
        };
        let counts = explored.counts;
        let faults = explored.run.faults.iter().map(|fault| format!(", {fault}"));
        let faults: String = faults.collect();
        let _ = writeln!(
            text,
            "{} on {}{faults}: {word}, {}",
            explored.run.scenario.name,
            explored.run.config,
            covered(explored.covered)
        );
        let _ = writeln!(
            text,
            "  {} states, {} turns, {} schedules, the longest of {} turns; {} shared words; {:.2} s",
            counts.states,
            counts.transitions,
            counts.schedules,
            counts.deepest,
            explored.shared,
            explored.time.as_secs_f64()
        );
        for found in &explored.found {
            let _ = writeln!(
                text,
                "  {}\n    after {} turns with {} preemptions, under {} schedules:\n    {}",
                found.what,
                found.turns,
                found.preemptions,
                found.times,
                command(explored, &found.schedule)
            );
        }
    }
    let clean = all.iter().filter(|explored| explored.is_clean()).count();
    let complete = |explored: &&Explored| explored.covered == Covered::Complete;
    let complete = all.iter().filter(complete).count();
    let wrong = all.iter().filter(|explored| !is_as_expected(explored)).count();
    let _ = writeln!(
        text,
        "{} explored: {complete} complete, {clean} clean, {wrong} not as expected",
        all.len()
    );
    text
}

/// For programs.
#[must_use]
pub fn json(all: &[Explored]) -> Value {
    let each = |explored: &Explored| {
        let found = explored.found.iter().map(|found| {
            value!({
                "what": found.what.to_string(),
                "schedule": found.schedule.to_string(),
                "preemptions": found.preemptions,
                "turns": found.turns,
                "times": found.times,
            })
        });
        let faults = explored.run.faults.iter().map(ToString::to_string);
        value!({
            "scenario": explored.run.scenario.name,
            "config": explored.run.config.to_string(),
            "faults": faults.collect::<Vec<_>>(),
            "complete": explored.covered == Covered::Complete,
            "covered": covered(explored.covered),
            "clean": explored.is_clean(),
            "as_expected": is_as_expected(explored),
            "states": explored.counts.states,
            "transitions": explored.counts.transitions,
            "schedules": explored.counts.schedules,
            "deepest": explored.counts.deepest,
            "bytes": explored.counts.bytes,
            "shared_words": explored.shared,
            "seconds": explored.time.as_secs_f64(),
            "found": found.collect::<Vec<_>>(),
        })
    };
    value!({ "version": 1, "explored": all.iter().map(each).collect::<Vec<_>>() })
}
