//! The report in the Test Anything Protocol, version 14: a line for each run, and what is to be
//! said of one that is not as expected in a YAML block below it.

use super::{Results, details, difference, what_is_real};
use crate::ink::Ink;
use std::fmt::Write;

/// The text.
#[must_use]
pub fn tap(results: &Results<'_>) -> String {
    let count = results.results.len() + results.skipped.len();
    let mut out = format!("TAP version 14\n1..{count}\n");
    for (number, result) in (1..).zip(results.results) {
        let scenario = &result.run.scenario;
        let differs = results.difference_of(result);
        let good = result.as_expected && differs.is_none();
        let ok = if good { "ok" } else { "not ok" };
        let title = escaped(&format!("{} on {}", scenario.name, result.title()));
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{ok} {number} - {title}");
        if !good {
            let text = match differs {
                Some(found) => difference(results, found),
                None => details(results, result, Ink::Plain),
            };
            let rules: Vec<String> = result.rules().iter().map(ToString::to_string).collect();
            let _ = writeln!(out, "  ---");
            let _ = writeln!(out, "  outcome: {}", result.outcome);
            let _ = writeln!(out, "  violated: [{}]", rules.join(", "));
            let again = serde_json::Value::from(results.command(&result.run));
            let _ = writeln!(out, "  again: {again}");
            let _ = writeln!(out, "  report: |");
            text.lines().for_each(|line| {
                let _ = writeln!(out, "    {line}");
            });
            let _ = writeln!(out, "  ...");
        }
    }
    for (number, skipped) in (results.results.len() + 1..).zip(results.skipped) {
        let (name, reason) = (escaped(&skipped.scenario.name), escaped(&skipped.reason));
        let _ = writeln!(out, "ok {number} - {name} # SKIP the kernel lacks {reason}");
    }
    let _ = writeln!(out, "# {}", what_is_real(results.executors));
    out
}

/// `#` begins a directive, and `\` says that it does not.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('#', "\\#")
}
