//! What a campaign came to, as JSON; its schema is docs/fuzz.schema.json.

use super::report::{self, About, Tally};
use crate::scenario::Policy;
use crate::schema;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// Version of the schema. Rises when a field changes its meaning or is removed.
pub const SCHEMA_VERSION: u32 = 1;

/// What `stalemate fuzz --format json` prints. `schema` rises when a field changes its meaning or
/// is removed; new fields may appear.
#[derive(Serialize, JsonSchema)]
#[schemars(title = "Stalemate fuzz report")]
struct Report<'a> {
    /// Version of this schema.
    #[schemars(extend("const" = SCHEMA_VERSION))]
    schema: u32,
    /// Version of the program.
    stalemate: &'static str,
    /// The seed of all programs.
    seed: u64,
    /// Programs that were requested.
    asked: u64,
    /// Programs that ran; fewer than were requested where something failed.
    programs: u64,
    /// What ran the guest.
    #[schemars(extend("enum" = ["kvm", "interp"]))]
    executor: &'a str,
    /// The executor that some runs were compared with.
    #[schemars(extend("enum" = ["kvm", "interp", null]))]
    beside: Option<&'a str>,
    /// Why there is none.
    skipped: Option<&'a str>,
    /// Runs whose events were compared.
    compared: u64,
    /// By policy and processor.
    tallies: Vec<Sums<'a>>,
    /// Each run that was not clean.
    failing: Vec<Failing>,
    /// The first failing program of each kind and policy, made small.
    found: Vec<Found<'a>>,
}

/// Sums over the runs under one policy on one processor.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Sums<'a> {
    /// The policy.
    policy: Policy,
    /// The processor.
    cpu: &'static str,
    #[serde(flatten)]
    tally: &'a Tally,
}

/// A run that was not clean.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "failing")]
struct Failing {
    /// The program's number; with the seed it gives the program.
    program: u64,
    /// CPU, policy, page-table isolation and, but for worst-case, the fill.
    config: String,
    /// The first violated rule, another outcome, a panic, or a difference between executors.
    trouble: String,
}

impl Failing {
    fn new(failing: &report::Failing) -> Self {
        let report::Failing { number, config, trouble } = failing;
        Self { program: *number, config: config.to_string(), trouble: trouble.to_string() }
    }
}

/// A failing program, made small.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Found<'a> {
    #[serde(flatten)]
    failing: Failing,
    /// Steps of the program as it was drawn.
    steps_before: usize,
    /// Steps of the program made small.
    steps: usize,
    /// The file's name under `--out`.
    file: &'a str,
    /// The file's text.
    scenario: &'a str,
    /// Runs it.
    command: &'a str,
}

/// The report for programs.
#[must_use]
pub fn json(about: &About<'_>, report: &report::Report) -> Value {
    let tallies = report.tallies.iter();
    let found = report.found.iter().map(|found| Found {
        failing: Failing::new(&found.failing),
        steps_before: found.steps_before,
        steps: found.steps,
        file: &found.file,
        scenario: &found.text,
        command: &found.command,
    });
    let report = Report {
        schema: SCHEMA_VERSION,
        stalemate: env!("CARGO_PKG_VERSION"),
        seed: about.seed,
        asked: about.count,
        programs: report.programs,
        executor: about.executor,
        beside: about.beside.ok(),
        skipped: about.beside.err(),
        compared: report.compared,
        tallies: tallies
            .map(|((policy, cpu), tally)| Sums { policy: *policy, cpu: cpu.name, tally })
            .collect(),
        failing: report.failing.iter().map(Failing::new).collect(),
        found: found.collect(),
    };
    schema::value(&report)
}

/// The schema of the report; docs/fuzz.schema.json.
#[must_use]
pub fn schema() -> Value {
    schema::of::<Report<'_>>()
}
