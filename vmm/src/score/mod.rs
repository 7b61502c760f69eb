//! The detection score: every fault against every scenario and policy, and what became of each.

mod cases;
mod class;

pub use cases::{Case, Wanted, cases};
pub use class::{Class, ClassName, classify};

use crate::arch::addr::CpuId;
use crate::inject::fault::{Occurrence, Point, Target};
use crate::inject::{Fault, Sweep};
use crate::kernel::steps::{BootError, StepClass, StepInput};
use crate::parallel::parallel;
use crate::runner::{Examined, Runner};
use crate::scenario::{Expected, Run, RunConfig, Scenario};
use stalemate_shared::layout::MM_COUNT;
use stalemate_shared::pcid::ASID_SLOTS;
use stalemate_shared::step::op;
use std::collections::BTreeSet;

/// One fault in one scenario on one configuration, and its class.
#[derive(Clone, Debug)]
pub struct Scored {
    /// Index of the scenario.
    pub scenario: usize,
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
        resumes: false,
        hold: None,
        op: op::USER_NOP,
        args: [number as u64, 0, 0, 0],
        class: StepClass::Other,
    };
    let others: Vec<usize> = others.collect();
    let numbers: Vec<usize> = others.into_iter().chain(used).collect();
    let of_cpu = |cpu: u8| numbers.iter().map(move |&number| nop(cpu, number));
    (0..scenario.cpus()).flat_map(of_cpu).collect()
}

/// Scores `cases`, which are in the order of their configurations, on `threads` threads with a
/// runner of its own each; `progress` is called with the number of cases that were done since.
///
/// # Errors
/// When the host fails, or a guest does not boot.
pub fn score<'a>(
    runner: &(dyn Fn() -> Runner<'a> + Sync),
    threads: usize,
    scenarios: &[Scenario],
    cases: &[Case],
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Scored>, BootError> {
    let groups: Vec<&[Case]> = cases
        .chunk_by(|one, other| (one.scenario, one.config) == (other.scenario, other.config))
        .collect();
    let scored = parallel(&groups, threads, runner, |runner, group| {
        let scored = score_group(runner, scenarios, group);
        progress(group.len());
        scored
    })?;
    Ok(scored.into_iter().flatten().collect())
}

/// Scores the cases of one scenario on one configuration.
fn score_group(
    runner: &mut Runner<'_>,
    scenarios: &[Scenario],
    cases: &[Case],
) -> Result<Vec<Scored>, BootError> {
    let Some(first) = cases.first() else { return Ok(Vec::new()) };
    let scenario = &scenarios[first.scenario];
    let base = base(runner, scenario, cases)?;
    let mut scored = Vec::with_capacity(cases.len());
    let mut previous: Option<(Fault, Class, u32)> = None;
    for (number, case) in cases.iter().enumerate() {
        let every = Fault { occurrence: Occurrence::All, ..case.fault };
        // What comes once at most is the same every time and the first time.
        let same = previous.take().filter(|(fault, _, fired)| *fault == every && *fired <= 1);
        // Up to where a fault first fires its run is the one without it: what that never meets the
        // fault never finds.
        let each = case.fault.target == Target::Point(Point::Each);
        let met = each || base.met.get(number).is_none_or(|&met| met > 0);
        let (class, runs, fired) = match same {
            _ if !met => (Class::NotApplied, 0, 0),
            Some((_, class, fired)) => (class, 0, fired),
            None => examine(runner, scenario, case, &base)?,
        };
        previous = Some((case.fault, class.clone(), fired));
        scored.push(Scored {
            scenario: case.scenario,
            config: case.config,
            fault: case.fault,
            class,
            runs,
        });
    }
    Ok(scored)
}

fn run(case: &Case, fault: Option<Fault>) -> Run {
    let faults = fault.into_iter().collect();
    Run {
        scenario: case.scenario,
        config: case.config,
        faults,
        expected: Expected::Unstated,
        cost: false,
    }
}

/// The run of a group without its faults, which are looked for.
fn base(
    runner: &mut Runner<'_>,
    scenario: &Scenario,
    cases: &[Case],
) -> Result<Examined, BootError> {
    let mut found = None;
    // An interrupt at each boundary is not one fault; it stands for itself in the count.
    let faults = cases.iter().map(|case| match case.fault.target {
        Target::Point(Point::Each) => Fault { target: Target::Point(Point::Step), ..case.fault },
        _ => case.fault,
    });
    let run = Run { faults: faults.collect(), ..run(&cases[0], None) };
    let epilogue = epilogue(scenario, &run.config);
    runner.examine(scenario, &run, &epilogue, true, &mut |seen| found = Some(seen))?;
    Ok(found.unwrap_or_else(|| unreachable!("a run without a sweep is examined once")))
}

fn examine(
    runner: &mut Runner<'_>,
    scenario: &Scenario,
    case: &Case,
    base: &Examined,
) -> Result<(Class, usize, u32), BootError> {
    let mut worst = Class::NotApplied;
    let (mut runs, mut fired) = (0, 0);
    let run = run(case, Some(case.fault));
    debug_assert!(Sweep::split(&run.faults).1.len() <= 1);
    runner.examine(scenario, &run, &epilogue(scenario, &case.config), false, &mut |seen| {
        runs += 1;
        fired = seen.fired.max(fired);
        let class = classify(base, &seen);
        worst = std::mem::replace(&mut worst, Class::NotApplied).or_worse(class);
    })?;
    Ok((worst, runs, fired))
}
