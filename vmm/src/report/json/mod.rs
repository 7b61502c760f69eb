//! The report as JSON; its schema is docs/report.schema.json.

mod run;
mod violation;

use super::Results;
use crate::event::Event;
use crate::runner;
use crate::schema::{self, Later};
use run::Run;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Version of the schema. Rises when a field changes its meaning or is removed.
pub const SCHEMA_VERSION: u32 = 1;

/// What `stalemate run --format json` prints. `schema` rises when a field changes its meaning or is
/// removed; new fields may appear. Addresses are numbers. Steps and events are numbered from 0;
/// reports for people call the first step 1.
#[derive(Serialize, JsonSchema)]
#[schemars(title = "Stalemate report", transform = Later(&["differences", "skipped"]))]
struct Report<'a> {
    /// Version of this schema.
    #[schemars(extend("const" = SCHEMA_VERSION))]
    schema: u32,
    /// Version of the program.
    stalemate: &'static str,
    /// What ran the guest.
    #[schemars(extend("enum" = ["kvm", "interp", "kvm and interp"]))]
    executor: String,
    /// Runs whose events differ between two executors, each at the first such event.
    differences: Vec<Difference<'a>>,
    /// Runs that all named CPUs would make.
    possible_runs: usize,
    /// Every run was; the exit code is 0.
    as_expected: bool,
    /// In the order of the scenarios.
    runs: Vec<Run<'a>>,
    /// Scenarios that the kernel of `--guest` cannot run.
    skipped: Vec<SkippedScenario<'a>>,
}

/// A scenario that a kernel cannot run.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct SkippedScenario<'a> {
    /// Its name.
    scenario: &'a str,
    /// What the kernel lacks of what it asks for.
    lacks: &'a str,
}

/// A run whose events differ between two executors.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Difference<'a> {
    /// The scenario.
    scenario: &'a str,
    /// The number of the first event that differs.
    event: u64,
    /// Does this run again.
    command: String,
    /// The two executors.
    sides: [Side<'a>; 2],
}

/// One executor's events.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Side<'a> {
    /// Which it is.
    executor: &'static str,
    /// The event; null where its run had ended.
    #[schemars(with = "Option<BTreeMap<String, Value>>")]
    event: Option<&'a Event>,
    /// The instruction before it; null where it is not known.
    instruction: Option<&'a str>,
}

impl<'a> Difference<'a> {
    fn new(results: &'a Results<'_>, found: &'a runner::Difference) -> Self {
        Self {
            scenario: &found.run.scenario.name,
            event: found.seq,
            command: results.command(&found.run),
            sides: found.sides.each_ref().map(|side| Side {
                executor: side.executor,
                event: side.event.as_ref(),
                instruction: side.instruction.as_deref(),
            }),
        }
    }
}

/// The whole report.
#[must_use]
pub fn json(results: &Results<'_>) -> Value {
    let differences = results.differences.iter().map(|found| Difference::new(results, found));
    let report = Report {
        schema: SCHEMA_VERSION,
        stalemate: env!("CARGO_PKG_VERSION"),
        executor: results.executor(),
        differences: differences.collect(),
        possible_runs: results.possible,
        as_expected: results.all_as_expected(),
        runs: results.results.iter().map(|result| Run::new(results, result)).collect(),
        skipped: results
            .skipped
            .iter()
            .map(|one| SkippedScenario { scenario: &one.scenario.name, lacks: &one.reason })
            .collect(),
    };
    schema::value(&report)
}

/// The schema of the report; docs/report.schema.json.
#[must_use]
pub fn schema() -> Value {
    schema::of::<Report<'_>>()
}
