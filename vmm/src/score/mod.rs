//! The detection score: every fault against every scenario and policy, and what became of each.

mod cases;
mod class;

pub use cases::{Case, Wanted, cases};
pub use class::{Class, ClassName, classify};

use crate::arch::addr::CpuId;
use crate::event::StepClass;
use crate::inject::{Fault, Sweep};
use crate::machine::{BootError, StepInput};
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

/// Scores `cases`, which are in the order of their configurations, calling `progress` after each.
///
/// # Errors
/// When the host fails, or a guest does not boot.
pub fn score(
    runner: &mut Runner<'_>,
    scenarios: &[Scenario],
    cases: &[Case],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Scored>, BootError> {
    let mut scored = Vec::with_capacity(cases.len());
    let mut without: Option<(usize, RunConfig, Examined)> = None;
    let mut previous: Option<(Fault, Class, u32)> = None;
    for case in cases {
        let scenario = &scenarios[case.scenario];
        let base = match without.take() {
            Some((index, config, base)) if (index, config) == (case.scenario, case.config) => base,
            _ => {
                previous = None;
                one(runner, scenario, case, None)?
            }
        };
        let every = Fault { occurrence: crate::inject::fault::Occurrence::All, ..case.fault };
        // What comes once at most is the same every time and the first time.
        let same = previous.take().filter(|(fault, _, fired)| *fault == every && *fired <= 1);
        let (class, runs, fired) = match same {
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
        without = Some((case.scenario, case.config, base));
        progress(scored.len());
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

/// The run of a case without its fault.
fn one(
    runner: &mut Runner<'_>,
    scenario: &Scenario,
    case: &Case,
    fault: Option<Fault>,
) -> Result<Examined, BootError> {
    let mut found = None;
    let run = run(case, fault);
    runner.examine(scenario, &run, &epilogue(scenario, &case.config), &mut |seen| {
        found = Some(seen)
    })?;
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
    runner.examine(scenario, &run, &epilogue(scenario, &case.config), &mut |seen| {
        runs += 1;
        fired = seen.fired.max(fired);
        let class = classify(base, &seen);
        worst = std::mem::replace(&mut worst, Class::NotApplied).or_worse(class);
    })?;
    Ok((worst, runs, fired))
}
