//! One run of the report.

use super::super::Results;
use super::violation::{Location, Obligation, Violation};
use crate::arch::tlb::Fill;
use crate::inject::Interrupt;
use crate::oracle::RuleId;
use crate::runner::{EventCounts, Failing, Outcome, RunResult, Seen, SweepResult};
use crate::scenario::{Expected, Policy, RunConfig, Stops};
use crate::schema::{FillName, Later, RuleName};
use schemars::JsonSchema;
use serde::Serialize;
use stalemate_shared::layout::MAX_CPUS;
use std::collections::{BTreeMap, BTreeSet};

/// One run.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "run", deny_unknown_fields, transform = Later(&[
    "file", "seed", "cpus", "schedule", "variant", "sweep", "needless_flushes", "pcids",
    "invpcid_used", "printed",
]))]
pub(super) struct Run<'a> {
    /// The scenario's name.
    scenario: &'a str,
    /// Its file.
    file: &'a str,
    /// The processor.
    cpu: &'static str,
    /// The flush policy.
    policy: Policy,
    /// Page-table isolation was on.
    pti: bool,
    /// Kernel pages were global.
    kernel_global: bool,
    /// PCIDs were in use; null where the guest did not boot.
    pcids: Option<bool>,
    /// INVPCID was executed after boot; null where the guest did not boot.
    invpcid_used: Option<bool>,
    /// What the modelled TLB holds.
    #[schemars(with = "FillName")]
    fill: Fill,
    /// Where seeded choices begin.
    seed: u64,
    /// The historical mistake that the kernel makes.
    variant: Option<&'static str>,
    /// Virtual CPUs.
    #[schemars(range(min = 1, max = MAX_CPUS))]
    cpus: u8,
    /// How virtual CPUs preempt each other.
    schedule: Schedule,
    /// The faults that were injected.
    faults: Vec<String>,
    /// The rules that are to be violated; null where the scenario says nothing of this run.
    #[schemars(with = "Option<Vec<RuleName>>")]
    expected_violations: Option<Vec<RuleId>>,
    /// How the guest is to stop, where the scenario says that it does.
    #[schemars(extend("enum" = ["hang", "crash", null]))]
    expected_stop: Option<&'static str>,
    /// A step is to come to something else than it says, and no rule is to speak.
    expected_mismatch: bool,
    /// The outcome; a violation comes before a mismatch.
    outcome: Outcome,
    /// It is what the scenario says, or it is clean where that says nothing.
    as_expected: bool,
    /// By event.
    violations: Vec<Violation<'a>>,
    /// Each entry that some store made stale, by event.
    obligations: Vec<Obligation>,
    /// Accesses that did not see what their step says.
    mismatches: Vec<Mismatch<'a>>,
    /// Those of `faults` to which no occasion came.
    faults_not_fired: &'a [String],
    /// Numbers of the steps whose `until` was never reached, or whose `resume` found nobody held.
    steps_unreached: Vec<usize>,
    /// How the guest stopped before its last step; null where it did not.
    stop: Option<Stop>,
    /// What the kernel printed, at its debug port.
    printed: &'a str,
    /// An interrupt at every instruction boundary, each in a run of its own; null where none was
    /// requested.
    sweep: Option<Sweep<'a>>,
    /// Flushes of a whole PCID or of everything.
    big_hammers: usize,
    /// Flushes that removed entries with no obligation behind them.
    needless_flushes: usize,
    /// Live entries that the big hammers removed; null where not only what was accessed is filled:
    /// it would mean nothing.
    live_entries_lost: Option<usize>,
    /// Events of the modelled processor by kind.
    #[schemars(with = "BTreeMap<String, u64>")]
    events: &'a EventCounts,
    /// Does this run again.
    command: String,
}

impl<'a> Run<'a> {
    pub(super) fn new(results: &'a Results<'_>, result: &'a RunResult) -> Self {
        let scenario = &result.run.scenario;
        let config = &result.run.config;
        let seen = result.seen.as_ref();
        Self {
            scenario: &scenario.name,
            file: &scenario.file,
            cpu: config.cpu.name,
            policy: config.policy,
            pti: seen.map_or(config.pti, Seen::isolated),
            kernel_global: config.kernel_global() && seen.is_none_or(Seen::global),
            pcids: seen.map(|seen| seen.pcid),
            invpcid_used: seen.map(|seen| seen.invpcid),
            fill: config.fill,
            seed: config.seed,
            variant: config.variant.map(|variant| variant.about().name),
            cpus: config.cpus,
            schedule: Schedule::of(config),
            faults: result.run.faults.iter().map(ToString::to_string).collect(),
            expected_violations: match &result.run.expected {
                Expected::Clean | Expected::Stops(_) | Expected::Mismatch => Some(Vec::new()),
                Expected::Violates(rules) => Some(rules.iter().copied().collect()),
                Expected::Unstated => None,
            },
            expected_stop: match &result.run.expected {
                Expected::Stops(Stops::Hang) => Some("hang"),
                Expected::Stops(Stops::Crash) => Some("crash"),
                _ => None,
            },
            expected_mismatch: result.run.expected == Expected::Mismatch,
            outcome: result.outcome,
            as_expected: result.as_expected,
            violations: result
                .violations
                .iter()
                .map(|violation| Violation::new(results.symbols, violation))
                .collect(),
            obligations: result
                .obligations
                .iter()
                .map(|owed| Obligation::new(results.symbols, owed))
                .collect(),
            mismatches: result
                .mismatches
                .iter()
                .map(|found| Mismatch { step: found.step, text: &found.text, got: &found.got })
                .collect(),
            faults_not_fired: &result.not_fired,
            steps_unreached: result.unreached.iter().map(|step| step + 1).collect(),
            stop: result.stop.as_ref().map(|(stop, vcpu)| Stop {
                why: stop.to_string(),
                at: Location::new(results.symbols, vcpu.rip()),
            }),
            printed: &result.printed,
            sweep: result.sweep.as_ref().map(|sweep| Sweep::new(results, sweep)),
            big_hammers: result.hammers.count,
            needless_flushes: result.needless,
            live_entries_lost: (config.fill == Fill::OnDemand).then_some(result.hammers.lost),
            events: &result.counts,
            command: results.command(&result.run),
        }
    }
}

/// How virtual CPUs preempt each other.
#[derive(Serialize, JsonSchema)]
#[schemars(inline, deny_unknown_fields)]
struct Schedule {
    /// After what another CPU may run.
    #[schemars(extend("enum" = ["in-order", "events", "instructions"]))]
    kind: &'static str,
    /// Where its choices begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    seed: Option<u64>,
}

impl Schedule {
    fn of(config: &RunConfig) -> Self {
        Self { kind: config.schedule.name(), seed: config.schedule.seed() }
    }
}

/// An access that did not see what its step says.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Mismatch<'a> {
    /// Number of the step.
    step: usize,
    /// The step.
    text: &'a str,
    /// What the access saw.
    got: &'a str,
}

/// How the guest stopped.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Stop {
    /// In words.
    why: String,
    /// Where it was.
    at: Location,
}

/// An interrupt, or a CPU that was held back, at every instruction boundary.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Sweep<'a> {
    /// The interrupt that was injected; or `preempt`, a CPU that was held back and came in.
    #[schemars(extend("enum" = ["nmi", "irq", "preempt"]))]
    interrupt: &'static str,
    /// Boundaries.
    tried: usize,
    /// Boundaries at which NMIs are blocked, or no CPU is held back.
    held: usize,
    /// Boundaries after which interrupts stayed off to the end.
    undelivered: usize,
    /// There were more boundaries than this executor tries.
    cut_short: bool,
    /// Where it made a difference.
    failing: Vec<Boundaries<'a>>,
}

/// Boundaries, one after the other, at which the interrupt made the same difference.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Boundaries<'a> {
    /// Number of the step.
    step: usize,
    /// The first such boundary of a stretch of code.
    first: Location,
    /// The last.
    last: Location,
    /// How many there are.
    #[schemars(range(min = 1))]
    boundaries: usize,
    /// The outcome of those runs.
    outcome: Outcome,
    /// The rules that were violated.
    #[schemars(with = "Vec<RuleName>")]
    rules: &'a BTreeSet<RuleId>,
}

impl<'a> Sweep<'a> {
    fn new(results: &Results<'_>, sweep: &'a SweepResult) -> Self {
        let boundaries = |failing: &'a Failing| Boundaries {
            step: failing.step,
            first: Location::new(results.symbols, failing.first),
            last: Location::new(results.symbols, failing.last),
            boundaries: failing.boundaries,
            outcome: failing.outcome,
            rules: &failing.rules,
        };
        Self {
            interrupt: match sweep.interrupt {
                Interrupt::Nmi => "nmi",
                Interrupt::Irq => "irq",
                Interrupt::Preempt => "preempt",
            },
            tried: sweep.swept.tried,
            held: sweep.swept.held,
            undelivered: sweep.swept.undelivered,
            cut_short: sweep.swept.cut_short,
            failing: sweep.failing.iter().map(boundaries).collect(),
        }
    }
}
