//! The same run on two executors, event by event.

use super::{Interrupted, RunResult, Runner};
use crate::arch::vcpu::Vcpu;
use crate::event::{Event, Trace};
use crate::kernel::steps::RunError;
use crate::scenario::Run;

/// The first event in which two executors differ.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The run.
    pub run: Run,
    /// Position in the trace.
    pub seq: u64,
    /// By executor.
    pub sides: [Side; 2],
}

/// What one executor made of it.
#[derive(Clone, Debug)]
pub struct Side {
    /// The executor's name.
    pub executor: &'static str,
    /// Its event; none when its trace had ended.
    pub event: Option<Event>,
    /// The registers at it.
    pub registers: Option<Box<Vcpu>>,
    /// The instruction at the event's RIP.
    pub instruction: Option<String>,
}

/// Does one run on both; the result is the first one's.
///
/// # Errors
/// When a host fails or the image cannot be loaded.
pub fn crosscheck(
    runners: &mut [Runner; 2],
    run: &Run,
) -> Result<(RunResult, Option<Difference>), RunError> {
    // Both try the same boundaries of a sweep.
    let limit = runners.iter().map(|runner| runner.boundary_limit).min().unwrap_or(0);
    runners.iter_mut().for_each(|runner| runner.limit_boundaries(limit));
    let mut traces = [Trace::default(), Trace::default()];
    let mut results = Vec::new();
    for (runner, trace) in runners.iter_mut().zip(&mut traces) {
        results.push(runner.run(run, Some(trace))?);
    }
    let [first, second] = &traces;
    let same = first.header == second.header && first.events == second.events;
    let result = results.swap_remove(0);
    if same {
        return Ok((result, None));
    }
    let seq = first.events.iter().zip(&second.events).take_while(|(a, b)| a == b).count();
    let [one, other] = runners;
    let sides = [side(one, run, seq, first)?, side(other, run, seq, second)?];
    Ok((result, Some(Difference { run: run.clone(), seq: seq as u64, sides })))
}

fn side(runner: &mut Runner, run: &Run, seq: usize, trace: &Trace) -> Result<Side, RunError> {
    let seen = runner.probe(run, seq as u64)?;
    let (registers, instruction) = seen.map_or((None, None), |(vcpu, text)| (Some(vcpu), text));
    let event = trace.events.get(seq).cloned();
    Ok(Side { executor: runner.executor(), event, registers, instruction })
}

/// Does all of `runs` on both, calling `progress` after each.
///
/// # Errors
/// As [`crosscheck`]; with what was run until then.
pub fn crosscheck_all(
    runners: &mut [Runner; 2],
    runs: &[Run],
    progress: &mut dyn FnMut(usize),
) -> Result<(Vec<RunResult>, Vec<Difference>), Box<Interrupted>> {
    let mut differences = Vec::new();
    let each = |run: &Run| {
        let (result, difference) = crosscheck(runners, run)?;
        differences.extend(difference);
        Ok(result)
    };
    match super::in_order(runs, each, progress) {
        Ok(results) => Ok((results, differences)),
        Err(mut interrupted) => {
            interrupted.differences = differences;
            Err(interrupted)
        }
    }
}
