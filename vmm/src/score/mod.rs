//! The detection score: every fault against every scenario and policy, and what became of each.

mod cases;
mod class;

pub use cases::{Case, Wanted, cases};
pub use class::{Class, ClassName, classify};

use crate::arch::addr::CpuId;
use crate::inject::fault::{Occurrence, Point, Target};
use crate::inject::{Fault, Sweep};
use crate::interrupt;
use crate::kernel::steps::{RunError, StepClass, StepInput};
use crate::parallel::parallel;
use crate::runner::{Examined, Runner};
use crate::scenario::{RunConfig, Scenario};
use stalemate_shared::layout::MM_COUNT;
use stalemate_shared::pcid::ASID_SLOTS;
use stalemate_shared::step::Op;
use std::collections::BTreeSet;
use std::sync::Arc;

/// One fault in one scenario on one configuration, and its class.
#[derive(Clone, Debug)]
pub struct Scored {
    /// The scenario.
    pub scenario: Arc<Scenario>,
    /// Where in the matrix.
    pub config: RunConfig,
    /// The fault.
    pub fault: Fault,
    /// What became of it.
    pub class: Class,
    /// Runs that it took: more than one for an interrupt at each boundary.
    pub runs: usize,
}

/// What comes after a scenario's own steps, without faults, so that what a fault left behind has
/// its deadline: on each CPU other address spaces take every slot, and then each of the scenario's
/// returns to user mode.
#[must_use]
pub fn epilogue(scenario: &Scenario, config: &RunConfig) -> Vec<StepInput> {
    let used: BTreeSet<usize> = scenario.steps.iter().map(|step| step.mm).collect();
    let slots = if config.cpu.features.pcid { ASID_SLOTS } else { 1 };
    let others = (0..MM_COUNT).rev().filter(|number| !used.contains(number)).take(slots);
    let nop = |cpu: u8, number: usize| StepInput {
        cpu: CpuId(cpu),
        hold: None,
        op: Some(Op::UserNop),
        args: [number as u64, 0, 0, 0],
        class: StepClass::Other,
    };
    let others: Vec<usize> = others.collect();
    let numbers: Vec<usize> = others.into_iter().chain(used).collect();
    let of_cpu = |cpu: u8| numbers.iter().map(move |&number| nop(cpu, number));
    (0..scenario.cpus()).flat_map(of_cpu).collect()
}

/// Scores `cases`, which are in the order of their configurations, on `threads` threads with a
/// runner of its own each; `progress` is called with the number of cases that were done since. Where a
/// signal stopped it, those of the scenarios that were begun are there.
///
/// # Errors
/// When the host fails, or a guest does not boot.
pub fn score(
    runner: &(dyn Fn() -> Runner + Sync),
    threads: usize,
    cases: &[Case],
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Scored>, RunError> {
    let together = |one: &Case, other: &Case| {
        Arc::ptr_eq(&one.scenario, &other.scenario) && one.config == other.config
    };
    let groups: Vec<&[Case]> = cases.chunk_by(together).collect();
    let scored = parallel(&groups, threads, runner, |runner, group| {
        if interrupt::requested().is_some() {
            return Ok(Vec::new());
        }
        let scored = score_group(runner, group);
        progress(group.len());
        scored
    })?;
    Ok(scored.into_iter().flatten().collect())
}

/// Scores the cases of one scenario on one configuration.
fn score_group(runner: &mut Runner, cases: &[Case]) -> Result<Vec<Scored>, RunError> {
    let Some(first) = cases.first() else { return Ok(Vec::new()) };
    let base = base(runner, first, cases)?;
    let mut scored = Vec::with_capacity(cases.len());
    for (number, case) in cases.iter().enumerate() {
        if interrupt::requested().is_some() {
            break;
        }
        let mut add = |fault: Fault, class: Class, runs: usize| {
            let scenario = Arc::clone(&case.scenario);
            scored.push(Scored { scenario, config: case.config, fault, class, runs });
        };
        // Up to where a fault first fires its run is the one without it: what that never meets the
        // fault never finds.
        let each_boundary = case.fault.target == Target::Point(Point::Each);
        let met = base.met.get(number).copied().unwrap_or(0);
        if met == 0 && !each_boundary {
            add(case.fault, Class::NotApplied, 0);
            continue;
        }
        let (class, runs, fired) = examine(runner, case.fault, case, &base)?;
        add(case.fault, class, runs);
        // What comes once at most is the same every time and the first time.
        if !case.each_time || each_boundary || met.max(fired) <= 1 {
            continue;
        }
        for time in 1..=met {
            let fault = Fault { occurrence: Occurrence::Nth(time), ..case.fault };
            let (class, runs, _) = examine(runner, fault, case, &base)?;
            if class != Class::NotApplied {
                add(fault, class, runs);
            }
        }
    }
    Ok(scored)
}

/// The run of a group without its faults, which are looked for.
fn base(runner: &mut Runner, first: &Case, cases: &[Case]) -> Result<Examined, RunError> {
    let mut found = None;
    // An interrupt at each boundary is not one fault; it stands for itself in the count.
    let faults = cases.iter().map(|case| match case.fault.target {
        Target::Point(Point::Each) => Fault { target: Target::Point(Point::Step), ..case.fault },
        _ => case.fault,
    });
    let run = first.scenario.run(first.config, &faults.collect::<Vec<_>>());
    let epilogue = epilogue(&run.scenario, &run.config);
    runner.examine(&run, &epilogue, true, &mut |seen| found = Some(seen))?;
    Ok(found.unwrap_or_else(|| unreachable!("a run without a sweep is examined once")))
}

fn examine(
    runner: &mut Runner,
    fault: Fault,
    case: &Case,
    base: &Examined,
) -> Result<(Class, usize, u32), RunError> {
    let mut worst = Class::NotApplied;
    let (mut runs, mut fired) = (0, 0);
    let run = case.scenario.run(case.config, &[fault]);
    debug_assert!(Sweep::split(&run.faults).1.len() <= 1);
    runner.examine(&run, &epilogue(&run.scenario, &case.config), false, &mut |seen| {
        runs += 1;
        fired = seen.fired.max(fired);
        let class = classify(base, &seen);
        worst = std::mem::replace(&mut worst, Class::NotApplied).or_worse(class);
    })?;
    Ok((worst, runs, fired))
}
