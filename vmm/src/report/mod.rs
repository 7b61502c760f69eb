//! Reports: what a person reads, and what a program reads.

mod diagnosis;
mod fold;
mod json;
mod junit;
mod picture;
mod recording;
mod repro;
mod sarif;
mod score;
mod score_json;
mod skipped;
mod table;
mod tap;
mod text;
mod timeline;
mod unexplained;
mod verdict;

pub use diagnosis::{Fact, Remark, diagnosis, facts, remarks};
pub use fold::{DEFAULT_WIDTH, LEAST_WIDTH, fold};
pub use json::{SCHEMA_VERSION, json, schema};
pub use junit::junit;
pub use picture::picture;
pub use recording::{RECORDING_VERSION, Recording, RecordingError};
pub use repro::{command, named, quoted};
pub use sarif::sarif;
pub use score::{Score, score_text};
pub use score_json::{SCORE_SCHEMA_VERSION, score_json, score_schema};
pub use skipped::{Skipped, skipped_lines};
pub use tap::tap;
pub(crate) use text::counted;
pub use text::{Layout, Rows, details, difference, summary, what_is_real};
pub use timeline::{KERNEL, Timeline, USER, html, perfetto, timeline};
pub use unexplained::unexplained;

use crate::event::Trace;
use crate::inject::Sweep;
use crate::runner::{Difference, RunResult};
use crate::scenario::{Run, Scenario};
use crate::symbols::Symbols;
use std::path::Path;
use std::sync::Arc;

/// Everything that a report is made of.
pub struct Results<'a> {
    /// The scenarios.
    pub scenarios: &'a [Arc<Scenario>],
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
    /// The kernel's file, where it is not the built-in guest.
    pub guest: Option<&'a Path>,
    /// What the selection leaves out, a line each.
    pub left_out: &'a [String],
    /// What the kernel cannot run.
    pub skipped: &'a [Skipped],
}

/// One run with its events: what a picture of it is made of.
#[derive(Clone, Copy)]
pub struct Recorded<'a> {
    /// What the run came to.
    pub result: &'a RunResult,
    /// Its events.
    pub trace: &'a Trace,
    /// The executor's name.
    pub executor: &'a str,
    /// The guest's symbols.
    pub symbols: &'a Symbols,
    /// The command that does the run again.
    pub command: &'a str,
}

impl Results<'_> {
    /// The executors, as a report names them.
    #[must_use]
    pub fn executor(&self) -> String {
        self.executors.join(" and ")
    }

    /// The results of a scenario.
    pub fn of<'a>(&'a self, scenario: &'a Arc<Scenario>) -> impl Iterator<Item = &'a RunResult> {
        self.results.iter().filter(|result| Arc::ptr_eq(&result.run.scenario, scenario))
    }

    /// The one command that does a run again.
    #[must_use]
    pub fn command(&self, run: &Run) -> String {
        let again = command(run, self.guest, self.executors.len() > 1);
        // How far a sweep comes depends on what runs it.
        match self.executors {
            [one] if Sweep::split(&run.faults).0.is_some() => {
                format!("{again} --executor {one}")
            }
            _ => again,
        }
    }

    /// Where the executors differed in the run of a result, if they did.
    #[must_use]
    pub fn difference_of(&self, result: &RunResult) -> Option<&Difference> {
        self.differences.iter().find(|found| found.run.is_same(&result.run))
    }

    /// Whether every outcome was as expected, and no two executors differed.
    #[must_use]
    pub fn all_as_expected(&self) -> bool {
        self.differences.is_empty() && self.results.iter().all(|result| result.as_expected)
    }
}
