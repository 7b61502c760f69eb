//! Random programs: legal scenarios by the thousand, on which a correct kernel is clean.
//!
//! A program is a function of a seed and a number. It is legal: each downgrade is flushed by a
//! primitive that covers it before the first step that is neither an edit nor a flush. So what is
//! not clean is a policy that is wrong, or we are. A failing program is made small and becomes a
//! scenario file.

pub mod action;
pub mod generate;
mod held;
mod json;
pub mod model;
pub mod report;
pub mod run;
pub mod script;
pub mod shrink;
mod words;
pub mod zoo;

use crate::executor::Backend;
use crate::kernel::steps::Guest;
use crate::report::command;
use crate::scenario::{Policy, RunConfig, Scenario};
use generate::Program;
pub use json::{SCHEMA_VERSION, json, schema};
use report::{Failing, Found, Report, Trouble};
use run::Rig;
pub use run::{Campaign, CrossCheck, FuzzError};
use script::Base;
use std::path::Path;
use std::sync::Arc;

/// Policies that are there to be caught; every other one must be clean.
pub const BROKEN: [Policy; 1] = [Policy::Unsplit];

/// The policies that ought to be correct.
#[must_use]
pub fn correct_policies() -> Vec<Policy> {
    Policy::all().into_iter().filter(|policy| !BROKEN.contains(policy)).collect()
}

/// Runs programs, and makes the first that fails under each policy small. `done` is
/// called with the number of runs that were made since.
///
/// # Errors
/// When the host fails.
pub fn run(campaign: &Campaign<'_>, done: &(dyn Fn(u64) + Sync)) -> Result<Report, FuzzError> {
    let base = Base::of(campaign.guest.abilities())?;
    let mut report = run::campaign(campaign, &base, done)?;
    for failing in report.firsts() {
        let mut backends = vec![campaign.executor];
        if failing.trouble == Trouble::Difference {
            backends.extend(campaign.cross_check.iter().map(|check| check.executor));
        }
        let mut rig = Rig::new(campaign.guest, backends);
        report.found.push(small(&mut rig, &base, (campaign.seed, campaign.path), failing)?.0);
    }
    Ok(report)
}

/// The first program of `seed`, among `limit`, that fails on `config`: its number, and the
/// smallest scenario that was made of it.
///
/// # Errors
/// When the host fails.
pub fn first_failure(
    guest: &Guest,
    executor: &Backend,
    config: &RunConfig,
    seed: u64,
    limit: u64,
) -> Result<Option<(u64, Arc<Scenario>)>, FuzzError> {
    let base = Base::of(guest.abilities())?;
    let mut rig = Rig::new(guest, vec![executor]);
    for first in (0..limit).step_by(WINDOW) {
        let numbers = first..limit.min(first + WINDOW as u64);
        let Some(failing) = window(&mut rig, &base, config, seed, numbers)? else { continue };
        let number = failing.number;
        let (_, scenario) = small(&mut rig, &base, (seed, None), failing)?;
        return Ok(Some((number, scenario)));
    }
    Ok(None)
}

/// Programs that [`first_failure`] takes together, those with as many CPUs after each other.
const WINDOW: usize = 64;

/// The first of these programs that fails on `config`.
fn window(
    rig: &mut Rig<'_>,
    base: &Base,
    config: &RunConfig,
    seed: u64,
    numbers: std::ops::Range<u64>,
) -> Result<Option<Failing>, FuzzError> {
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_by_key(|&number| generate::setup(seed, number).cpus);
    let mut first: Option<Failing> = None;
    for number in numbers {
        let program = base.program(seed, number);
        let scenario = base.scenario("fuzz", &program).map_err(FuzzError::Illegal)?;
        let run = script::run(&scenario, *config, &program.faults);
        let (Some(trouble), _) = rig.run(&run)? else { continue };
        if first.as_ref().is_none_or(|first| number < first.number) {
            first = Some(Failing { number, config: run.config, trouble });
        }
    }
    Ok(first)
}

/// Makes a failing program of this seed small; and the kernel's file is for the command.
fn small(
    rig: &mut Rig<'_>,
    base: &Base,
    (seed, path): (u64, Option<&Path>),
    failing: Failing,
) -> Result<(Found, Arc<Scenario>), FuzzError> {
    let Failing { number, config, trouble } = &failing;
    let program = base.program(seed, *number);
    let mut fails = |candidate: &Program| -> Result<bool, FuzzError> {
        let scenario = base.scenario("fuzz", candidate).map_err(FuzzError::Illegal)?;
        // What a kernel refuses is no failure of its flushes.
        if !base.can(&scenario) {
            return Ok(false);
        }
        let run = script::run(&scenario, *config, &candidate.faults);
        let (found, result) = rig.run(&run)?;
        Ok(same(trouble, found.as_ref(), result.as_ref()))
    };
    let smallest = shrink::shrink(&program, &mut fails)?;
    let name = format!("fuzz-{seed}-{number}-{}", config.policy);
    let why = format!("Program {number} of seed {seed} on {config}: {trouble}");
    let text = script::text(&smallest, config, &why).map_err(FuzzError::Illegal)?;
    let scenario = crate::scenario::parse(&name, &format!("{name}.toml"), &text)?;
    let run = script::run(&scenario, *config, &smallest.faults);
    let command = command(&run, path, false);
    let found = Found {
        steps_before: program.actions.len(),
        steps: smallest.actions.len(),
        text,
        file: scenario.file.clone(),
        command,
        failing,
    };
    Ok((found, scenario))
}

/// Whether a smaller program fails as the first did: the same outcome, the same rule among others.
fn same(
    trouble: &Trouble,
    found: Option<&Trouble>,
    result: Option<&crate::runner::RunResult>,
) -> bool {
    match (trouble, found) {
        (Trouble::Outcome(outcome, Some(rule)), Some(Trouble::Outcome(other, _))) => {
            outcome == other && result.is_some_and(|result| result.rules().contains(rule))
        }
        (trouble, found) => Some(trouble) == found,
    }
}
