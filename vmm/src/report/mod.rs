//! Reports: what a person reads, and what a program reads.

mod diagnosis;
mod json;
mod junit;
mod picture;
mod recording;
mod sarif;
mod score;
mod tap;
mod text;
mod timeline;

pub use diagnosis::{Fact, Remark, diagnosis, facts, remarks};
pub use json::{SCHEMA_VERSION, json};
pub use junit::junit;
pub use picture::picture;
pub use recording::{RECORDING_VERSION, Recording, RecordingError};
pub use sarif::sarif;
pub use score::{SCORE_SCHEMA_VERSION, Score, score_json, score_text};
pub use tap::tap;
pub use text::{details, difference, summary, what_is_real};
pub use timeline::{KERNEL, Timeline, USER, html, perfetto, timeline};

use crate::arch::tlb::Fill;
use crate::boot::Symbols;
use crate::runner::{Difference, RunResult, Trace};
use crate::scenario::{Run, RunConfig, Scenario};

/// Everything that a report is made of.
pub struct Results<'a> {
    /// The scenarios.
    pub scenarios: &'a [Scenario],
    /// The runs' results, in the order of the runs.
    pub results: &'a [RunResult],
    /// How many runs every named CPU would make.
    pub possible: usize,
    /// Where the two executors differed, when there were two.
    pub differences: &'a [Difference],
    /// The executors' names.
    pub executors: &'a [&'a str],
    /// The guest's symbols.
    pub symbols: &'a Symbols,
}

/// One run with its events: what a picture of it is made of.
#[derive(Clone, Copy)]
pub struct Recorded<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// What the run came to.
    pub result: &'a RunResult,
    /// Its events.
    pub trace: &'a Trace,
    /// The executor's name.
    pub executor: &'a str,
    /// The guest's symbols.
    pub symbols: &'a Symbols,
}

impl Results<'_> {
    /// The executors, as a report names them.
    #[must_use]
    pub fn executor(&self) -> String {
        self.executors.join(" and ")
    }

    /// The scenario of a result.
    #[must_use]
    pub fn scenario(&self, result: &RunResult) -> &Scenario {
        &self.scenarios[result.run.scenario]
    }

    /// Where the executors differed in the run of a result, if they did.
    #[must_use]
    pub fn difference_of(&self, result: &RunResult) -> Option<&Difference> {
        self.differences.iter().find(|found| {
            found.run.scenario == result.run.scenario
                && found.run.config == result.run.config
                && found.run.faults == result.run.faults
        })
    }

    /// Whether every outcome was as expected, and no two executors differed.
    #[must_use]
    pub fn all_as_expected(&self) -> bool {
        self.differences.is_empty() && self.results.iter().all(|result| result.as_expected)
    }
}

/// The one command that reproduces a run.
#[must_use]
pub fn command(scenario: &Scenario, run: &Run) -> String {
    use std::fmt::Write;
    let builtin = ["scenarios", "scenarios/zoo"]
        .iter()
        .any(|directory| scenario.file == format!("{directory}/{}.toml", scenario.name));
    let name = if builtin { &scenario.name } else { &scenario.file };
    let config = &run.config;
    let mut command =
        format!("stalemate run {name} --cpu {} --policy {}", config.cpu.name, config.policy);
    if scenario.variant != [config.variant] {
        let name = config.variant.map_or("none", |variant| variant.about().name);
        // Writing to a String cannot fail.
        let _ = write!(command, " --variant {name}");
    }
    command += &choices(scenario, run);
    for fault in &run.faults {
        // Writing to a String cannot fail.
        let _ = write!(command, " --inject \"{fault}\"");
    }
    command
}

/// What was left to chance in the run, where the scenario leaves it open.
fn choices(scenario: &Scenario, run: &Run) -> String {
    let RunConfig { fill, schedule, seed, .. } = run.config;
    let mut choices = String::new();
    if scenario.fill != [fill] {
        choices += &format!(" --fill {}", fill.name());
    }
    if scenario.schedule != [schedule] {
        choices += &format!(" --schedule {}", schedule.name());
    }
    let drawn = schedule.seed().or((fill == Fill::Seeded).then_some(seed));
    if let Some(seed) = drawn {
        choices += &format!(" --seed {seed}");
    }
    choices
}
