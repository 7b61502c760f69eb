//! Programs on guests: which runs a campaign makes, in which order, and what they came to.
//!
//! Two threads, each with guests of its own, take one configuration after another, so that a
//! booted guest serves many programs. A run depends on nothing but its program and its
//! configuration, and sums know no order: two campaigns of one seed report the same.

use super::generate::{self, Program};
use super::model::Illegal;
use super::report::{Failing, Report, Tally, Trouble};
use super::script::{self, Base};
use crate::boot::{Image, Symbols, guest_image};
use crate::executor::Backend;
use crate::machine::BootError;
use crate::runner::{RunResult, Runner, compare};
use crate::scenario::{CpuModel, Diagnostic, Policy, Run, RunConfig, Scenario};
use stalemate_shared::variant::Variant;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
    Boot(#[from] BootError),
    /// The base of every program is no scenario.
    #[error(transparent)]
    Base(#[from] Diagnostic),
    /// The generator made a program that breaks its own rules.
    #[error("the generator made an illegal program: {0:?}")]
    Illegal(Illegal),
}

/// An executor, or two to compare, and the guests on them.
pub struct Rig<'a> {
    image: &'a Image<'a>,
    symbols: &'a Symbols,
    backends: Vec<&'a Backend>,
    runners: Vec<Runner<'a>>,
}

impl<'a> Rig<'a> {
    /// A rig of guests of `image`.
    #[must_use]
    pub fn new(image: &'a Image<'a>, symbols: &'a Symbols, backends: Vec<&'a Backend>) -> Self {
        Self { image, symbols, backends, runners: Vec::new() }
    }

    /// Does one run; what went wrong, and its result where there is one.
    ///
    /// # Errors
    /// When the host fails.
    pub fn run(
        &mut self,
        scenario: &Scenario,
        run: &Run,
    ) -> Result<(Option<Trouble>, Option<RunResult>), BootError> {
        if self.runners.is_empty() {
            let runner = |backend: &&'a Backend| Runner::new(self.image, self.symbols, backend);
            self.runners = self.backends.iter().map(runner).collect();
        }
        let runners = &mut self.runners;
        let done = catch_unwind(AssertUnwindSafe(|| match &mut runners[..] {
            [one] => one.run(scenario, run, None).map(|result| (result, false)),
            _ => {
                let Some(two) = runners.first_chunk_mut::<2>() else { unreachable!("one or two") };
                compare(two, scenario, run).map(|(result, found)| (result, found.is_some()))
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

/// Work on guests of the built-in image.
///
/// # Errors
/// When the image cannot be loaded, or what `work` returns.
pub fn with_rig<T>(
    backends: Vec<&Backend>,
    work: impl FnOnce(&mut Rig<'_>) -> Result<T, FuzzError>,
) -> Result<T, FuzzError> {
    let bytes = guest_image();
    let image = Image::parse(bytes).map_err(BootError::from)?;
    let symbols = Symbols::new(bytes);
    work(&mut Rig::new(&image, &symbols, backends))
}

/// The programs of one configuration but for its policy.
struct Group {
    /// One configuration a policy.
    configs: Vec<RunConfig>,
    numbers: Vec<u64>,
}

/// Everything that the threads share.
struct Shared<'a> {
    campaign: &'a Campaign<'a>,
    base: &'a Base,
    groups: Vec<Group>,
    next: AtomicUsize,
    failed: AtomicBool,
    report: Mutex<Report>,
    done: &'a (dyn Fn(u64) + Sync),
}

/// Runs a campaign until something fails, or to its end. `done` is told the runs made, by and by.
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
        batch(campaign, base, groups(campaign, base, from..to), &mut report, done)?;
        report.programs = to - campaign.first;
        from = to;
    }
    report.failing.sort_by_key(|failing| (failing.number, failing.config));
    Ok(report)
}

fn groups(campaign: &Campaign<'_>, base: &Base, numbers: std::ops::Range<u64>) -> Vec<Group> {
    let mut groups: BTreeMap<Vec<RunConfig>, Vec<u64>> = BTreeMap::new();
    for number in numbers {
        let config =
            |&policy| base.config(campaign.seed, number, campaign.cpus, policy, campaign.variant);
        let configs: Vec<RunConfig> = campaign.policies.iter().filter_map(config).collect();
        groups.entry(configs).or_default().push(number);
    }
    groups.into_iter().map(|(configs, numbers)| Group { configs, numbers }).collect()
}

fn batch(
    campaign: &Campaign<'_>,
    base: &Base,
    mut groups: Vec<Group>,
    report: &mut Report,
    done: &(dyn Fn(u64) + Sync),
) -> Result<(), FuzzError> {
    // The longest first, so that the threads end together.
    groups.sort_by_key(|group| std::cmp::Reverse(group.numbers.len()));
    let shared = Shared {
        campaign,
        base,
        groups,
        next: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        report: Mutex::new(std::mem::take(report)),
        done,
    };
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..campaign.threads).map(|_| scope.spawn(|| work(&shared))).collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    *report = shared.report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for result in results {
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    }
    Ok(())
}

/// One thread: takes groups until there are none.
fn work(shared: &Shared<'_>) -> Result<(), FuzzError> {
    let campaign = shared.campaign;
    let result = with_rig(vec![campaign.executor], |one| {
        let two = campaign.cross_check.iter().flat_map(|check| [campaign.executor, check.executor]);
        with_rig(two.collect(), |two| {
            while !shared.failed.load(Ordering::Relaxed) {
                let taken = shared.next.fetch_add(1, Ordering::Relaxed);
                let Some(group) = shared.groups.get(taken) else { break };
                let found = one_group(shared, group, one, two)?;
                let mut report =
                    shared.report.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                report.add(found);
            }
            Ok(())
        })
    });
    if result.is_err() {
        shared.failed.store(true, Ordering::Relaxed);
    }
    result
}

fn one_group(
    shared: &Shared<'_>,
    group: &Group,
    one: &mut Rig<'_>,
    two: &mut Rig<'_>,
) -> Result<Report, FuzzError> {
    let campaign = shared.campaign;
    let mut report = Report::default();
    let mut scenarios: Vec<(u64, Program, Scenario)> = Vec::new();
    for &number in &group.numbers {
        let program = generate::program(campaign.seed, number);
        let scenario = shared.base.scenario("fuzz", &program).map_err(FuzzError::Illegal)?;
        scenarios.push((number, program, scenario));
    }
    for (index, config) in group.configs.iter().enumerate() {
        for (number, program, scenario) in &scenarios {
            let run = script::run(scenario, *config, &program.faults);
            let (trouble, result) = one.run(scenario, &run)?;
            let tally = report.tallies.entry((config.policy, config.cpu)).or_default();
            *tally += Tally::of(scenario, result.as_ref(), trouble.is_some());
            let mut found = trouble;
            // Under one policy after another, and none of the runs that one executor has failed.
            let check = campaign.cross_check.as_ref();
            let check = check.filter(|check| check.takes(*number, index, group.configs.len()));
            if check.is_some() && found.is_none() {
                report.compared += 1;
                found = two.run(scenario, &run)?.0;
            }
            if let Some(trouble) = found {
                report.failing.push(Failing { number: *number, config: *config, trouble });
            }
        }
        (shared.done)(scenarios.len() as u64);
    }
    Ok(report)
}
