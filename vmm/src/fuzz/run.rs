//! Programs on guests: which runs a campaign makes, in which order, and what they came to.
//!
//! Threads, each with guests of its own, take one configuration after another, so that a booted
//! guest serves many programs. A run depends on nothing but its program and its
//! configuration, and sums know no order: two campaigns of one seed report the same.

use super::generate::Program;
use super::model::Illegal;
use super::report::{Failing, Report, Tally, Trouble};
use super::script::{self, Base};
use crate::executor::Backend;
use crate::interrupt;
use crate::kernel::steps::{Guest, RunError};
use crate::parallel::parallel;
use crate::runner::{RunResult, Runner, crosscheck};
use crate::scenario::{CpuModel, Diagnostic, Policy, Run, RunConfig, Scenario};
use crate::schedule::Schedule;
use stalemate_shared::variant::Variant;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

/// Programs of the first batch: what is broken shows soon.
const FIRST_BATCH: u64 = 256;
/// Programs of every later batch.
const BATCH: u64 = 65_536;

/// A second executor that runs some of the programs too; the events of both are compared.
#[derive(Clone, Copy, Debug)]
pub struct CrossCheck<'a> {
    /// The executor.
    pub executor: &'a Backend,
    /// One in so many programs, each under one policy; 1 means every run.
    pub one_in: u64,
}

impl CrossCheck<'_> {
    fn takes(&self, number: u64, policy: usize, policies: usize) -> bool {
        let turn = number / self.one_in % policies.max(1) as u64;
        self.one_in == 1 || number.is_multiple_of(self.one_in) && turn == policy as u64
    }
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Campaign<'a> {
    /// The seed.
    pub seed: u64,
    /// The first program's number.
    pub first: u64,
    /// Programs.
    pub count: u64,
    /// Each program runs under each of them.
    pub policies: &'a [Policy],
    /// The historical mistake that the kernel makes.
    pub variant: Option<Variant>,
    /// Each program runs on one of them.
    pub cpus: &'a [CpuModel],
    /// The kernel.
    pub guest: &'a Guest,
    /// Its file, where it is not the built-in guest.
    pub path: Option<&'a Path>,
    /// What runs them.
    pub executor: &'a Backend,
    /// A second executor that some of the runs are compared with.
    pub cross_check: Option<CrossCheck<'a>>,
    /// Threads, each with guests of its own.
    pub threads: usize,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum FuzzError {
    /// The host, or the image.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The base of every program is no scenario.
    #[error(transparent)]
    Base(#[from] Diagnostic),
    /// The generator made a program that breaks its own rules.
    #[error("the generator made an illegal program: {0:?}")]
    Illegal(Illegal),
}

/// An executor, or two to compare, and guests on them.
pub struct Rig<'a> {
    guest: &'a Guest,
    backends: Vec<&'a Backend>,
    runners: Vec<Runner>,
}

/// Booted guests that are kept: the configurations of one program are those of the next.
const BOOTED: usize = 8;

impl<'a> Rig<'a> {
    /// A rig of no guest yet.
    #[must_use]
    pub fn new(guest: &'a Guest, backends: Vec<&'a Backend>) -> Self {
        Self { guest, backends, runners: Vec::new() }
    }

    /// Does one run; what went wrong, and its result where there is one.
    ///
    /// # Errors
    /// When the host fails.
    pub fn run(&mut self, run: &Run) -> Result<(Option<Trouble>, Option<RunResult>), RunError> {
        if self.runners.is_empty() {
            let runner = |backend: &&Backend| {
                let mut runner = Runner::new(self.guest, backend);
                runner.keep(BOOTED);
                runner
            };
            self.runners = self.backends.iter().map(runner).collect();
        }
        let runners = &mut self.runners;
        let done = catch_unwind(AssertUnwindSafe(|| match &mut runners[..] {
            [one] => one.run(run, None).map(|result| (result, false)),
            _ => {
                let Some(two) = runners.first_chunk_mut::<2>() else { unreachable!("one or two") };
                crosscheck(two, run).map(|(result, found)| (result, found.is_some()))
            }
        }));
        match done {
            Ok(done) => done.map(|(result, differ)| {
                let trouble = Trouble::of(&result);
                (trouble.or(differ.then_some(Trouble::Difference)), Some(result))
            }),
            Err(_) => {
                // What a panic has left half done is not used again.
                self.runners.clear();
                Ok((Some(Trouble::Panic), None))
            }
        }
    }
}

/// Programs that the same booted guests serve, one a policy.
struct Group {
    /// The number of each, and its configurations, one a policy.
    programs: Vec<(u64, Vec<RunConfig>)>,
}

/// Which guest a run needs: its configuration but for what decides nothing before the first step.
fn booted(config: &RunConfig) -> RunConfig {
    RunConfig { seed: 0, schedule: Schedule::InOrder, ..*config }
}

/// Runs a campaign until something fails, or to its end. `done` is called with the number
/// of runs that were made since.
///
/// # Errors
/// When the host fails.
pub fn campaign(
    campaign: &Campaign<'_>,
    base: &Base,
    done: &(dyn Fn(u64) + Sync),
) -> Result<Report, FuzzError> {
    let mut report = Report::default();
    let (mut from, end) = (campaign.first, campaign.first.saturating_add(campaign.count));
    while from < end && report.failing.is_empty() {
        let size = if from == campaign.first { FIRST_BATCH } else { BATCH };
        let to = end.min(from.saturating_add(size));
        let groups = groups(campaign, base, from..to);
        batch(campaign, base, &groups, done)?.into_iter().for_each(|of| report.add(of));
        if interrupt::requested().is_some() {
            report.unfinished = Some(from);
            break;
        }
        report.programs = to - campaign.first;
        from = to;
    }
    report.failing.sort_by_key(|failing| (failing.number, failing.config));
    Ok(report)
}

fn groups(campaign: &Campaign<'_>, base: &Base, numbers: std::ops::Range<u64>) -> Vec<Group> {
    let mut groups: BTreeMap<Vec<RunConfig>, Vec<(u64, Vec<RunConfig>)>> = BTreeMap::new();
    for number in numbers {
        let config =
            |&policy| base.config(campaign.seed, number, campaign.cpus, policy, campaign.variant);
        let configs: Vec<RunConfig> = campaign.policies.iter().filter_map(config).collect();
        let guests = configs.iter().map(booted).collect();
        groups.entry(guests).or_default().push((number, configs));
    }
    let mut groups: Vec<Group> = groups.into_values().map(|programs| Group { programs }).collect();
    // The longest first, so that the threads end together.
    groups.sort_by_key(|group| std::cmp::Reverse(group.programs.len()));
    groups
}

fn batch(
    campaign: &Campaign<'_>,
    base: &Base,
    groups: &[Group],
    done: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Report>, FuzzError> {
    let both = campaign.cross_check.iter().flat_map(|check| [campaign.executor, check.executor]);
    let both: Vec<&Backend> = both.collect();
    let rig = |backends| Rig::new(campaign.guest, backends);
    let rigs = || (rig(vec![campaign.executor]), rig(both.clone()));
    parallel(groups, campaign.threads, rigs, |(one, two), group| {
        one_group(campaign, base, group, one, two, done)
    })
}

fn one_group(
    campaign: &Campaign<'_>,
    base: &Base,
    group: &Group,
    one: &mut Rig<'_>,
    two: &mut Rig<'_>,
    done: &(dyn Fn(u64) + Sync),
) -> Result<Report, FuzzError> {
    let mut report = Report::default();
    let mut scenarios: Vec<(u64, &[RunConfig], Program, Arc<Scenario>)> = Vec::new();
    for (number, configs) in &group.programs {
        let program = base.program(campaign.seed, *number);
        let scenario = base.scenario("fuzz", &program).map_err(FuzzError::Illegal)?;
        scenarios.push((*number, configs, program, scenario));
    }
    let policies = scenarios.first().map_or(0, |(_, configs, ..)| configs.len());
    for index in 0..policies {
        for (number, configs, program, scenario) in &scenarios {
            let Some(config) = configs.get(index) else { continue };
            if interrupt::requested().is_some() {
                return Ok(report);
            }
            let run = script::run(scenario, *config, &program.faults);
            let (trouble, result) = one.run(&run)?;
            let tally = report.tallies.entry((config.policy, config.cpu)).or_default();
            *tally += Tally::of(scenario, result.as_ref(), trouble.is_some());
            let mut found = trouble;
            // Under one policy after another, and none of the runs that one executor has failed.
            let check = campaign.cross_check.as_ref();
            let check = check.filter(|check| check.takes(*number, index, policies));
            if check.is_some() && found.is_none() {
                report.compared += 1;
                found = two.run(&run)?.0;
            }
            if let Some(trouble) = found {
                report.failing.push(Failing { number: *number, config: *config, trouble });
            }
        }
        done(scenarios.len() as u64);
    }
    Ok(report)
}
