//! What a run came to.

use super::{EventCounts, Seen, SweepResult};
use crate::arch::fault;
use crate::arch::tlb::Fill;
use crate::arch::vcpu::Vcpu;
use crate::event::Flush;
use crate::kernel::steps::{RunEnd, StepReport};
use crate::machine::Stop;
use crate::oracle::rules::{big_hammer, needless_flush};
use crate::oracle::{Discharger, Obligation, Oracle, RuleId, State, Violation};
use crate::scenario::{Expect, Expected, Run, Scenario, Step, Stops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stalemate_shared::layout::{COLOURS, colour_word};
use stalemate_shared::step::{Op, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The outcomes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Outcome {
    /// Something was stale, everything was flushed in time, every step saw what it should.
    Clean,
    /// A rule was violated.
    Violation,
    /// A step saw another value and no rule spoke: a hole in the oracle.
    Mismatch,
    /// Nothing was ever stale.
    Vacuous,
    /// A fault never fired.
    NotApplied,
    /// An `until` was never reached, or a `resume` found nobody held: the steps are not in the order
    /// that the file means.
    Unreached,
    /// Nothing is wrong, and it is not the kernel that was asked for: with page-table isolation, or
    /// without.
    NotAsAsked,
    /// Nothing is wrong where a sweep looked, and it did not look everywhere.
    CutShort,
    /// The guest did what the VMM cannot carry out.
    Unsupported,
    /// The guest could not go on.
    Crash,
    /// It went on for ever.
    Hang,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Clean => "clean",
            Self::Violation => "violation",
            Self::Mismatch => "mismatch",
            Self::Vacuous => "vacuous",
            Self::NotApplied => "not-applied",
            Self::Unreached => "unreached",
            Self::NotAsAsked => "not-as-asked",
            Self::CutShort => "cut-short",
            Self::Unsupported => "unsupported",
            Self::Crash => "crash",
            Self::Hang => "hang",
        })
    }
}

/// What a store that should have faulted came to.
pub const WENT_THROUGH: &str = "no fault, the store went through";

/// A step that came to something else than the scenario says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// Index of the step.
    pub step: usize,
    /// The step as written.
    pub text: String,
    /// What it came to.
    pub got: String,
}

/// Big hammers of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hammers {
    /// How many there were.
    pub count: usize,
    /// The live entries that they removed although nobody requested it (on-demand runs).
    pub lost: usize,
}

/// What the guest was doing when it could not go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoppedIn {
    /// The step.
    pub step: Option<usize>,
    /// The flush that had not returned.
    pub flush: Option<Flush>,
}

/// One run's result.
#[derive(Clone, Debug)]
pub struct RunResult {
    /// The run.
    pub run: Run,
    /// What it came to.
    pub outcome: Outcome,
    /// Whether that is what the scenario says.
    pub as_expected: bool,
    /// The violations.
    pub violations: Vec<Violation>,
    /// The obligations.
    pub obligations: Vec<Obligation>,
    /// Big hammers.
    pub hammers: Hammers,
    /// Flushes with no obligation behind them.
    pub needless: usize,
    /// Steps that came to something else.
    pub mismatches: Vec<Mismatch>,
    /// Why the guest could not go on.
    pub stop: Option<(Stop, Box<Vcpu>)>,
    /// What it was doing when it could not.
    pub stopped_in: StoppedIn,
    /// Faults that never fired.
    pub not_fired: Vec<String>,
    /// Steps whose `until` was never reached, or whose `resume` found nobody held.
    pub unreached: Vec<usize>,
    /// Traps after boot. Depends on the executor and on what ran before: not part of reports.
    pub traps: u64,
    /// Events by kind.
    pub counts: EventCounts,
    /// What the kernel printed, at its debug port.
    pub printed: String,
    /// What the kernel was seen to be; nothing where it did not come to the first step.
    pub seen: Option<Seen>,
    /// What an interrupt at every boundary came to, where that was asked for.
    pub sweep: Option<SweepResult>,
}

impl RunResult {
    pub(super) fn judge(
        run: &Run,
        end: RunEnd,
        oracle: &Oracle,
        counts: EventCounts,
        seen: Seen,
    ) -> Self {
        let mismatches = mismatches(&run.scenario, &end.reports);
        let conformance = run.scenario.conformance;
        let violations = if conformance { Vec::new() } else { oracle.violations().to_vec() };
        let outcome = match &end.stop {
            _ if !violations.is_empty() => Outcome::Violation,
            Some((stop, _)) => stop_outcome(stop),
            None if !end.not_fired.is_empty() => Outcome::NotApplied,
            None if !end.unreached.is_empty() => Outcome::Unreached,
            None if !mismatches.is_empty() => Outcome::Mismatch,
            None if seen.isolated() != run.config.pti => Outcome::NotAsAsked,
            None if oracle.ledger().is_empty() && !conformance => Outcome::Vacuous,
            None => Outcome::Clean,
        };
        let lost = oracle.hammers().iter().map(|hammer| hammer.live_lost).sum();
        let mut result = Self {
            run: run.clone(),
            outcome,
            as_expected: false,
            violations,
            obligations: oracle.obligations().into_iter().cloned().collect(),
            hammers: Hammers { count: oracle.hammers().len(), lost },
            needless: oracle.needless().len(),
            mismatches,
            stopped_in: end.stop.as_ref().map_or_else(StoppedIn::default, |(_, vcpu)| {
                let (task, flush) = oracle.doing(vcpu.id);
                StoppedIn { step: task.map(|task| task.0), flush }
            }),
            stop: end.stop,
            not_fired: end.not_fired,
            unreached: end.unreached,
            traps: end.traps,
            counts,
            printed: end.printed,
            seen: Some(seen),
            sweep: None,
        };
        result.compare_with_expected();
        result
    }

    /// What tells the run from others of its scenario: its configuration and its faults.
    #[must_use]
    pub fn title(&self) -> String {
        let config = &self.run.config;
        let without = config.cpu.features.pcid && self.seen.as_ref().is_some_and(|one| !one.pcid);
        // A processor that has them is no kernel that uses them.
        let pcids = if without { " without PCIDs" } else { "" };
        let faults = self.run.faults.iter().map(|fault| format!(", {fault}"));
        std::iter::once(format!("{config}{pcids}")).chain(faults).collect()
    }

    /// Says whether the outcome is what the scenario says.
    pub(super) fn compare_with_expected(&mut self) {
        let (run, outcome) = (&self.run, self.outcome);
        self.as_expected = match &run.expected {
            // A run for its costs gives no verdict: filling on demand may leave nothing stale, and
            // so may filling and evicting by chance.
            Expected::Clean if run.cost || run.config.fill == Fill::Seeded => {
                matches!(outcome, Outcome::Clean | Outcome::Vacuous)
            }
            Expected::Clean | Expected::Unstated => outcome == Outcome::Clean,
            Expected::Violates(rules) if rules.is_empty() => outcome == Outcome::Clean,
            Expected::Mismatch => outcome == Outcome::Mismatch,
            Expected::Stops(Stops::Hang) => outcome == Outcome::Hang,
            Expected::Stops(Stops::Crash) => outcome == Outcome::Crash,
            Expected::Violates(rules) => {
                // Costs fail a run only where the scenario says so.
                let (costs, others): (BTreeSet<_>, BTreeSet<_>) =
                    rules.iter().partition(|rule| rule.about().is_cost);
                let bad = if others.is_empty() { Outcome::Clean } else { Outcome::Violation };
                outcome == bad && others == self.rules() && costs.is_subset(&self.costs())
            }
        };
    }

    pub(super) fn did_not_boot(run: &Run, stop: Stop, vcpu: Box<Vcpu>, printed: String) -> Self {
        let outcome = stop_outcome(&stop);
        Self { stop: Some((stop, vcpu)), printed, ..Self::not_begun(run, outcome) }
    }

    /// A run that was not done, since others hung before.
    pub(super) fn skipped(run: &Run, hangs: usize, vcpu: Box<Vcpu>) -> Self {
        let stop = Stop::Skipped { hangs };
        Self { stop: Some((stop, vcpu)), ..Self::not_begun(run, Outcome::Hang) }
    }

    fn not_begun(run: &Run, outcome: Outcome) -> Self {
        Self {
            run: run.clone(),
            outcome,
            as_expected: false,
            violations: Vec::new(),
            obligations: Vec::new(),
            hammers: Hammers::default(),
            needless: 0,
            mismatches: Vec::new(),
            stop: None,
            stopped_in: StoppedIn::default(),
            not_fired: Vec::new(),
            unreached: Vec::new(),
            traps: 0,
            counts: EventCounts::default(),
            printed: String::new(),
            seen: None,
            sweep: None,
        }
    }

    /// Whether something was to go wrong, and did.
    #[must_use]
    pub fn is_caught(&self) -> bool {
        self.as_expected && !matches!(self.outcome, Outcome::Clean | Outcome::Vacuous)
    }

    /// The rules that were violated.
    #[must_use]
    pub fn rules(&self) -> BTreeSet<RuleId> {
        let own = self.violations.iter().map(|violation| violation.rule);
        let failing = self.sweep.iter().flat_map(|sweep| &sweep.failing);
        own.chain(failing.flat_map(|failing| failing.rules.iter().copied())).collect()
    }

    /// The cost rules that spoke.
    #[must_use]
    pub fn costs(&self) -> BTreeSet<RuleId> {
        let counts = [
            (RuleId(&big_hammer::ABOUT), self.hammers.count),
            (RuleId(&needless_flush::ABOUT), self.needless),
        ];
        counts.iter().filter(|(_, count)| *count > 0).map(|(rule, _)| *rule).collect()
    }

    /// How many obligations each discharger discharged.
    #[must_use]
    pub fn discharged(&self) -> BTreeMap<Discharger, usize> {
        let mut counts = BTreeMap::new();
        for obligation in &self.obligations {
            if let State::Discharged { by, .. } = obligation.state {
                *counts.entry(by).or_default() += 1;
            }
        }
        counts
    }
}

fn stop_outcome(stop: &Stop) -> Outcome {
    match stop {
        Stop::Processor(fault::Stop::Unsupported { .. }) | Stop::TooManyTranslations => {
            Outcome::Unsupported
        }
        hang if hang.is_hang() => Outcome::Hang,
        _ => Outcome::Crash,
    }
}

fn mismatches(scenario: &Scenario, reports: &[Option<StepReport>]) -> Vec<Mismatch> {
    scenario
        .steps
        .iter()
        .zip(reports)
        .enumerate()
        .filter_map(|(index, (step, report))| Some((index, (step, report.as_ref()?))))
        .filter_map(|(index, (step, report))| mismatch(index, step, report))
        .collect()
}

/// What a step came to, where that is something else than it says.
pub(crate) fn mismatch(index: usize, step: &Step, report: &StepReport) -> Option<Mismatch> {
    let got = || match step.input.op {
        Some(Op::UserWrite | Op::KernelWrite) if report.status == Status::Done => {
            WENT_THROUGH.to_owned()
        }
        _ => describe(report),
    };
    let matches = matches_report(step.expect, report);
    (!matches).then(|| Mismatch { step: index, text: step.text.clone(), got: got() })
}

fn matches_report(expect: Expect, report: &StepReport) -> bool {
    match expect {
        Expect::Done => report.status == Status::Done,
        Expect::Value(value) => report.status == Status::Done && report.value == value,
        Expect::Fault => report.status == Status::Fault,
        Expect::OneOf { values, fault } => match report.status {
            Status::Done => values.contains(&Some(report.value)),
            Status::Fault => fault,
            _ => false,
        },
        Expect::Stop => false,
    }
}

/// A report as a person reads it: values of coloured frames by their colour.
fn describe(report: &StepReport) -> String {
    match report.status {
        Status::Done => {
            let colour = (0..COLOURS.len()).find(|&index| colour_word(index) == report.value);
            colour.map_or_else(|| format!("{:#x}", report.value), |index| COLOURS[index].to_owned())
        }
        Status::Fault => {
            format!("page fault at {:#x}, error code {:#x}", report.second, report.value)
        }
        Status::Refused => "refused by the kernel".to_owned(),
        Status::None => "no step was done".to_owned(),
    }
}
