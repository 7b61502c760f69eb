//! Scenarios: what a guest is asked to do, on which configurations, and what must come of it.

mod axes;
mod builtin;
mod config;
mod diagnostic;
mod file;
mod matrix;
mod needs;
mod order;
mod raw;
mod source;
mod step;

pub use axes::Cell;
pub use builtin::{BUILTIN, NOT_REBUILT, ZOO};
pub use config::{CPUS, CpuModel, POLICIES, Policy, RunConfig, When};
pub use diagnostic::Diagnostic;
pub(crate) use diagnostic::explain;
pub use file::{parse, parse_all};
pub use matrix::{Expected, MAX_RUNS, Run, Selection};
pub use needs::step_name;
pub use raw::{Stops, schema};
pub(crate) use step::parse as parse_step;
pub use step::{Change, Expect, MOST_VALUES, Step, VERBS, Verb};

use crate::arch::tlb::Fill;
use crate::inject::Fault;
use crate::oracle::RuleId;
use crate::schedule::Schedule;
use stalemate_shared::variant::Variant;
use std::ops::Range;
use std::sync::Arc;

/// One scenario, checked.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name: the file's, without extension.
    pub name: String,
    /// The file.
    pub file: String,
    /// What the file says, as written.
    pub source: String,
    /// One line on what it is about.
    pub summary: String,
    /// Whether the processor may have PCID; empty for any.
    pub pcid: Vec<bool>,
    /// The same for INVPCID.
    pub invpcid: Vec<bool>,
    /// The same for global pages.
    pub pge: Vec<bool>,
    /// The policies.
    pub policy: Vec<Policy>,
    /// With and without page-table isolation.
    pub pti: Vec<bool>,
    /// Only where kernel pages are global, or are not; `true` with PTI asks for the broken
    /// variant that leaks them.
    pub global: Option<bool>,
    /// With the older paranoid exit.
    pub paranoid_rewrite: Vec<bool>,
    /// The NMI handler changes a page and flushes it.
    pub nmi_flush: bool,
    /// The historical mistakes that the kernel makes; none stands for the kernel as it is.
    pub variant: Vec<Option<Variant>>,
    /// What it rebuilds of history, if anything.
    pub zoo: Option<ZooRow>,
    /// The fill choices.
    pub fill: Vec<Fill>,
    /// How CPUs preempt each other.
    pub schedule: Vec<Schedule>,
    /// Where seeded choices begin.
    pub seed: Vec<u64>,
    /// With and without paging-structure caches.
    pub structure_caches: Vec<bool>,
    /// It is about what a processor may show: its accesses alone decide, and no rule speaks.
    pub conformance: bool,
    /// The steps.
    pub steps: Vec<Step>,
    /// The first of the steps that may come in any order, each CPU's own in theirs, where the file says so.
    pub concurrently: Option<usize>,
    /// Runs with faults.
    pub faults: Vec<FaultCase>,
    /// Where the run without faults is not clean.
    pub verdicts: Vec<Verdict>,
    /// Which combination of its file's axes it is, where that has axes.
    pub cell: Option<Cell>,
}

/// A historical bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZooRow {
    /// Where it is told: commit, CVE or advisory.
    pub reference: String,
    /// When it was mended, where that is known.
    pub year: Option<u16>,
    /// Whose it was.
    pub system: String,
    /// The rule that it breaks; none where it shows by what steps come to alone.
    pub rule: Option<RuleId>,
}

impl Scenario {
    /// Where a step stands in the source: its text, or the line that holds it among escapes.
    #[must_use]
    pub fn span(&self, step: usize) -> Option<Range<usize>> {
        let step = self.steps.get(step)?;
        let line = self.source.split_inclusive('\n').nth(step.line.checked_sub(1)?)?;
        let start = line.as_ptr() as usize - self.source.as_ptr() as usize;
        let (at, width) = match line.find(&step.text) {
            Some(at) => (at, step.text.len()),
            None => (line.len() - line.trim_start().len(), line.trim().len()),
        };
        Some(start + at..start + at + width)
    }

    /// The line of the file that a line of the text was made from, both from 1.
    #[must_use]
    pub fn file_line(&self, line: usize) -> usize {
        let from = self.cell.as_ref().and_then(|cell| cell.lines.get(line.checked_sub(1)?));
        from.copied().unwrap_or(line)
    }

    /// What its text is called where it is shown: the file, and which scenario of it.
    #[must_use]
    pub fn title(&self) -> String {
        let cell = self.cell.as_ref().map(|cell| format!(" ({})", cell.name));
        self.file.clone() + &cell.unwrap_or_default()
    }

    /// What the row of a table is called that it belongs to: scenarios that differ by their last axis
    /// only share one.
    #[must_use]
    pub fn row(&self) -> &str {
        match (&self.cell, self.name.rsplit_once('/')) {
            (Some(_), Some((row, _))) => row,
            _ => &self.name,
        }
    }

    /// How many of its steps come in order before those of several CPUs may come in any: as the file says,
    /// else those before the first of a second CPU, or before one that holds its CPU back.
    #[must_use]
    pub fn in_order(&self) -> usize {
        let first = self.steps.first().map(|step| step.input.cpu);
        let is_another = |step: &Step| Some(step.input.cpu) != first || step.input.hold.is_some();
        let another = || self.steps.iter().position(is_another);
        self.concurrently.or_else(another).unwrap_or(self.steps.len())
    }

    /// How many CPUs its steps use.
    #[must_use]
    pub fn cpus(&self) -> u8 {
        self.steps.iter().map(|step| step.input.cpu.0 + 1).max().unwrap_or(1)
    }
}

/// One or more faults, and what must come of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultCase {
    /// The faults, injected together.
    pub inject: Vec<Fault>,
    /// On these configurations.
    pub when: When,
    /// What must come of it; clean where the fault must do no harm.
    pub expected: Expected,
}

/// What must come of a configuration without faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// On these configurations.
    pub when: When,
    /// What must come of it.
    pub expected: Expected,
}

/// The scenario that is built in under this name, of the suite or the zoo.
#[must_use]
pub fn builtin(name: &str) -> Option<Arc<Scenario>> {
    let mut all = builtins(name)?.ok()?;
    if all.len() == 1 { all.pop() } else { None }
}

/// The scenarios that are built in under this name: one, or all of a file with axes.
pub(crate) fn builtins(name: &str) -> Option<Result<Vec<Arc<Scenario>>, Diagnostic>> {
    let (stem, _) = name.split_once('/').unwrap_or((name, ""));
    let (file, text) = builtin_file(stem)?;
    let mut all = match parse_all(stem, &file, text) {
        Ok(all) => all,
        Err(error) => return Some(Err(error)),
    };
    all.retain(|scenario| stem == name || scenario.name == name);
    (!all.is_empty()).then_some(Ok(all))
}

/// Whether the scenario is the built-in one of its name, which a file of the same name need not be.
#[must_use]
pub fn is_builtin(scenario: &Scenario) -> bool {
    let name = &scenario.name;
    match builtin_file(name) {
        Some((_, text)) => text == scenario.source,
        None => builtin(name).is_some_and(|known| known.source == scenario.source),
    }
}

/// The file of a built-in scenario, and its text.
pub(crate) fn builtin_file(name: &str) -> Option<(String, &'static str)> {
    let of = |directory: &str, files: &[(&str, &'static str)]| {
        let (_, text) = files.iter().find(|(known, _)| *known == name)?;
        Some((format!("{directory}/{name}.toml"), *text))
    };
    of("scenarios", BUILTIN).or_else(|| of("scenarios/zoo", ZOO))
}

/// The built-in scenarios, parsed.
///
/// # Errors
/// The first error in one of them; a test says that there is none.
pub fn suite() -> Result<Vec<Arc<Scenario>>, Diagnostic> {
    all_of(BUILTIN, "scenarios")
}

/// The historical bugs, parsed.
///
/// # Errors
/// As [`suite`].
pub fn zoo() -> Result<Vec<Arc<Scenario>>, Diagnostic> {
    all_of(ZOO, "scenarios/zoo")
}

fn all_of(files: &[(&str, &str)], directory: &str) -> Result<Vec<Arc<Scenario>>, Diagnostic> {
    let each =
        |(name, text): &(&str, &str)| parse_all(name, &format!("{directory}/{name}.toml"), text);
    let all: Result<Vec<_>, _> = files.iter().map(each).collect();
    Ok(all?.into_iter().flatten().collect())
}
