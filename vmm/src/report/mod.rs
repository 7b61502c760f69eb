//! Reports: what a person reads, and what a program reads.

mod json;
mod score;
mod text;

pub use json::{SCHEMA_VERSION, json};
pub use score::{SCORE_SCHEMA_VERSION, Score, score_json, score_text};
pub use text::{details, difference, summary};

use crate::boot::Symbols;
use crate::runner::{Difference, RunResult};
use crate::scenario::{Run, Scenario};

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
    for fault in &run.faults {
        // Writing to a String cannot fail.
        let _ = write!(command, " --inject \"{fault}\"");
    }
    command
}
