//! What a campaign came to: sums by policy and processor, and what failed.

use crate::oracle::{Discharger, RuleId};
use crate::runner::{Outcome, RunResult};
use crate::scenario::{CpuModel, Policy, RunConfig, Scenario};
use crate::schema::by;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Sums over runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Tally {
    /// Runs.
    pub runs: u64,
    /// Their steps.
    pub steps: u64,
    /// Obligations, by what discharged them.
    #[schemars(with = "BTreeMap<String, u64>")]
    pub discharged: BTreeMap<Discharger, u64>,
    /// Runs by outcome.
    #[schemars(with = "BTreeMap<String, u64>", transform = by::<Outcome>)]
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Runs in which something went wrong.
    pub failing: u64,
}

impl Tally {
    /// Of one run.
    #[must_use]
    pub fn of(scenario: &Scenario, result: Option<&RunResult>, failing: bool) -> Self {
        let one = |result: &RunResult| (result.outcome, 1);
        let discharged = result.map(RunResult::discharged).unwrap_or_default();
        Self {
            runs: 1,
            steps: scenario.steps.len() as u64,
            discharged: discharged.into_iter().map(|(by, count)| (by, count as u64)).collect(),
            outcomes: result.map(one).into_iter().collect(),
            failing: u64::from(failing),
        }
    }

    /// Runs with this outcome.
    #[must_use]
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(&outcome).copied().unwrap_or_default()
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.failing += other.failing;
        for (by, count) in other.discharged {
            *self.discharged.entry(by).or_default() += count;
        }
        for (outcome, count) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
    }
}

/// What went wrong in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// An outcome that no correct kernel has; the first rule, if rules spoke.
    Outcome(Outcome, Option<RuleId>),
    /// The VMM panicked.
    Panic,
    /// Two executors differ.
    Difference,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Outcome(_, Some(rule)) => rule.fmt(f),
            Self::Outcome(outcome, None) => outcome.fmt(f),
            Self::Panic => f.write_str("panic of the VMM"),
            Self::Difference => f.write_str("difference between executors"),
        }
    }
}

impl Trouble {
    /// What is wrong with the result of a run, if anything.
    pub(super) fn of(result: &RunResult) -> Option<Self> {
        let rule = result.violations.first().map(|violation| violation.rule);
        let rule = rule.or_else(|| result.rules().first().copied());
        match result.outcome {
            // A program does not know whether the policy marks or the processor has PCIDs, nor
            // therefore whether it comes by every point.
            Outcome::Clean | Outcome::Vacuous | Outcome::NotApplied | Outcome::Unreached
                if result.mismatches.is_empty() && rule.is_none() =>
            {
                None
            }
            Outcome::NotApplied | Outcome::Unreached => {
                Some(Self::Outcome(Outcome::Mismatch, rule))
            }
            outcome => Some(Self::Outcome(outcome, rule)),
        }
    }
}

/// One run in which something went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The program's number.
    pub number: u64,
    /// Where it ran.
    pub config: RunConfig,
    /// What went wrong.
    pub trouble: Trouble,
}

/// A failing program, made small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The run that failed.
    pub failing: Failing,
    /// Steps that it had.
    pub steps_before: usize,
    /// Steps that are left.
    pub steps: usize,
    /// The scenario file.
    pub text: String,
    /// Where it was written, or what it would be called.
    pub file: String,
    /// The one command that reproduces it.
    pub command: String,
}

/// A whole campaign.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Programs that ran.
    pub programs: u64,
    /// The program to go on with, where somebody stopped the campaign: those before are among
    /// `programs`, some of those after are among the runs.
    pub unfinished: Option<u64>,
    /// Sums.
    pub tallies: BTreeMap<(Policy, CpuModel), Tally>,
    /// Runs whose events were compared with those of another executor.
    pub compared: u64,
    /// What failed, in the order of programs.
    pub failing: Vec<Failing>,
    /// The first failing program of each kind and policy, made small.
    pub found: Vec<Found>,
}

impl Report {
    /// Adds what other runs came to.
    pub fn add(&mut self, other: Self) {
        self.compared += other.compared;
        self.failing.extend(other.failing);
        for (key, tally) in other.tallies {
            *self.tallies.entry(key).or_default() += tally;
        }
    }

    /// The first failure of each kind under each policy.
    #[must_use]
    pub fn firsts(&self) -> Vec<Failing> {
        let mut firsts: BTreeMap<(Policy, String), &Failing> = BTreeMap::new();
        for failing in &self.failing {
            let kind = (failing.config.policy, failing.trouble.to_string());
            firsts.entry(kind).or_insert(failing);
        }
        firsts.into_values().cloned().collect()
    }
}

/// What the report says of the campaign, beside the sums.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The seed.
    pub seed: u64,
    /// Programs that were requested.
    pub count: u64,
    /// The executor of every run.
    pub executor: &'a str,
    /// The executor beside it, or why there is none.
    pub beside: Result<&'a str, &'a str>,
    /// Whether the scenario files were written.
    pub written: bool,
}

/// The report for people.
#[must_use]
pub fn text(about: &About<'_>, report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    for found in &report.found {
        let Failing { number, config, trouble } = &found.failing;
        let _ = writeln!(out, "program {number} of seed {} on {config}: {trouble}", about.seed);
        let _ = writeln!(out, "  shrunk from {} steps to {}:\n", found.steps_before, found.steps);
        found.text.lines().for_each(|line| {
            let _ = writeln!(out, "    {line}");
        });
        let _ = match about.written {
            true => writeln!(out, "\n  written to {}", found.file),
            false => writeln!(out, "\n  to be saved as {}, as --out DIR does", found.file),
        };
        let _ = writeln!(out, "  again: {}\n", found.command);
    }
    let _ = writeln!(
        out,
        "{:12}{:22}{:>8}{:>10}{:>12}{:>9}{:>9}{:>12}{:>9}",
        "policy", "cpu", "runs", "steps", "discharged", "clean", "vacuous", "not met", "failing"
    );
    let mut all = Tally::default();
    for ((policy, cpu), tally) in &report.tallies {
        row(&mut out, &policy.to_string(), cpu.name, tally);
        all += tally.clone();
    }
    row(&mut out, "all", "", &all);
    let _ = writeln!(
        out,
        "not met: an interrupt that never came, or a hold point that was never reached; judged all the same"
    );
    let by: Vec<String> =
        all.discharged.iter().map(|(by, count)| format!("{} {count}", by.name())).collect();
    let _ = writeln!(out, "discharged by {}", by.join(", "));
    let executor = about.executor;
    let _ = match about.beside {
        Ok(other) => {
            let differ = report.failing.iter().filter(|one| one.trouble == Trouble::Difference);
            let (compared, differ) = (report.compared, differ.count());
            writeln!(out, "{compared} runs on {executor} and {other}: {differ} differ")
        }
        Err(reason) => writeln!(out, "{executor} alone: {reason}"),
    };
    let _ = writeln!(
        out,
        "seed {}: {} of {} programs, {} runs, {} failing",
        about.seed,
        report.programs,
        about.count,
        all.runs,
        report.failing.len()
    );
    out
}

fn row(out: &mut String, policy: &str, cpu: &str, tally: &Tally) {
    let discharged: u64 = tally.discharged.values().sum();
    let of = |outcome| tally.outcome(outcome);
    let _ = writeln!(
        out,
        "{policy:12}{cpu:22}{:>8}{:>10}{discharged:>12}{:>9}{:>9}{:>12}{:>9}",
        tally.runs,
        tally.steps,
        of(Outcome::Clean),
        of(Outcome::Vacuous),
        of(Outcome::NotApplied) + of(Outcome::Unreached),
        tally.failing
    );
}
