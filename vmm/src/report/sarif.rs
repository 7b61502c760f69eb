//! The report in the Static Analysis Results Interchange Format, version 2.1.0 (OASIS), as code hosts
//! show it beside the lines of a change: a result for each violation that was not expected, at the
//! step at which it came to light, and for each run that came out otherwise than its file says.

use super::{Results, details, difference, remarks, what_is_real};
use crate::ink::Ink;
use crate::oracle::Violation;
use crate::runner::RunResult;
use crate::scenario::Scenario;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json as value};
use std::collections::BTreeMap;

/// Where the format is described.
const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// What a path in a relative reference escapes (RFC 3986, 3.3).
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A run that is not as expected although no rule spoke.
const UNEXPECTED: &str = "unexpected-outcome";
/// Two executors that differ.
const DIFFERENCE: &str = "executors-differ";

/// The whole report.
#[must_use]
pub fn sarif(results: &Results<'_>) -> Value {
    let mut found = Vec::new();
    let mut rules = BTreeMap::new();
    let mut rule = |id: &'static str, text: &str, help: &str, source: &str| {
        rules.entry(id).or_insert_with(|| {
            value!({
                "id": id,
                "shortDescription": { "text": id.replace('-', " ") },
                "fullDescription": { "text": text },
                "help": { "text": help },
                "properties": { "source": source },
            })
        });
    };
    for result in results.results {
        if let Some(differs) = results.difference_of(result) {
            let text = "The two executors are given the same and do the same.";
            rule(DIFFERENCE, text, "report it: one of them is wrong", "ARCHITECTURE.md");
            let report = difference(results, differs);
            found.push(entry(results, result, DIFFERENCE, "the executors differ", None, report));
        }
        if result.as_expected {
            continue;
        }
        let report = details(results, result, Ink::Plain);
        for violation in &result.violations {
            let about = violation.rule.about();
            rule(about.name, about.statement, about.hint, about.source);
            let message = &violation.message;
            let report = report.clone();
            found.push(entry(results, result, about.name, message, Some(violation), report));
        }
        if result.violations.is_empty() {
            let text = "A run comes to what its scenario says.";
            rule(UNEXPECTED, text, "read the report of the run", "the scenario");
            let first = report.lines().next().unwrap_or_default().to_owned();
            found.push(entry(results, result, UNEXPECTED, &first, None, report));
        }
    }
    value!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "stalemate",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules.into_values().collect::<Vec<Value>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "results": found,
            "properties": {
                "executor": results.executor(),
                "what is real": what_is_real(results.executors),
            },
        }],
    })
}

fn entry(
    results: &Results<'_>,
    result: &RunResult,
    rule: &str,
    message: &str,
    violation: Option<&Violation>,
    report: String,
) -> Value {
    let scenario = &result.run.scenario;
    let title = result.title();
    let remarks = violation.map(|violation| remarks(scenario, result, violation));
    let remarks = remarks.unwrap_or_default();
    let main = remarks.iter().find(|remark| remark.is_main).map(|remark| remark.step);
    let seen = main.or(result.mismatches.first().map(|mismatch| mismatch.step));
    let others: Vec<Value> = remarks
        .iter()
        .filter(|remark| !remark.is_main)
        .map(|remark| {
            let mut place = location(scenario, Some(remark.step));
            place["message"] = value!({ "text": remark.text });
            place
        })
        .collect();
    value!({
        "ruleId": rule,
        "level": "error",
        "message": { "text": format!("{message} ({title})") },
        "locations": [location(scenario, seen)],
        "relatedLocations": others,
        // What makes it the same finding in the next run of the tool.
        "partialFingerprints": { "run/v1": format!("{}/{title}/{rule}/{message}", scenario.title()) },
        "properties": {
            "again": results.command(&result.run),
            "report": report,
        },
    })
}

/// A step's place in its file; the file's first line, where it is no step.
fn location(scenario: &Scenario, step: Option<usize>) -> Value {
    let span = step.and_then(|step| scenario.span(step)).unwrap_or_default();
    let before = &scenario.source[..span.start];
    let line = scenario.file_line(before.matches('\n').count() + 1);
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    let width = scenario.source[span].chars().count();
    let region = match width {
        // What is in the file has other columns.
        _ if scenario.cell.is_some() => value!({ "startLine": line }),
        0 => value!({ "startLine": line }),
        _ => value!({ "startLine": line, "startColumn": column, "endColumn": column + width }),
    };
    let uri = utf8_percent_encode(&scenario.file, PATH).to_string();
    value!({ "physicalLocation": {
        "artifactLocation": { "uri": uri },
        "region": region,
    } })
}
