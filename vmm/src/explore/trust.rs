//! Whether two states with one hash have one future: random walks come to states by different paths, and go
//! on from equal ones in the same way.

use crate::arch::key::StateKey;
use crate::event::{Event, Kind, Observer, TraceHeader};
use crate::executor::{ExecutorError, Sharing};
use crate::kernel::steps::{Interleaving, Part, RunError, Saved, Turn};
use crate::machine::Halt;
use crate::oracle::Oracle;
use crate::runner::Runner;
use crate::scenario::Run;
use std::collections::BTreeMap;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// How much is walked.
#[derive(Clone, Copy, Debug)]
pub struct Walks {
    /// Walks from the beginning to the end of all steps.
    pub walks: usize,
    /// Continuations that are compared, at most.
    pub compared: usize,
    /// Where the random numbers begin.
    pub seed: u64,
    /// Leave this out of hashes, which must be noticed.
    pub without: Option<Part>,
}

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// States that more than one path came to, with continuations that were compared.
    pub compared: usize,
    /// Continuations that differ, by what does.
    pub different: Vec<String>,
}

/// One event of a continuation, without its number.
type Told = (u8, u64, Kind);

/// Keeps the events of a continuation, and judges them.
struct Continuation {
    oracle: Oracle,
    events: Vec<Told>,
}

impl Observer for Continuation {
    fn begin(&mut self, _: &TraceHeader) {}

    fn event(&mut self, event: &Event) {
        self.events.push((event.cpu.0, event.rip.0, event.kind.clone()));
        self.oracle.event(event);
    }
}

/// A state that was come to.
struct Visit {
    saved: Saved,
    oracle: Oracle,
    path: u64,
}

/// Walks at random through the interleavings of a run's steps, and compares what comes after states with
/// one hash that different paths came to.
///
/// # Errors
/// When the host fails, or the image cannot be loaded.
///
/// # Panics
/// Where the steps before those do not come to their end.
pub fn trust(runner: &mut Runner, run: &Run, walks: &Walks) -> Result<Trust, RunError> {
    let injector = runner.injector(run);
    let (session, mut primed) = runner.lend(&run.config)?;
    let steps = run.steps();
    let begun = session.interleave(&steps, run.scenario.in_order(), injector, &mut primed)?;
    let Ok(mut interleaving) = begun else { panic!("the steps in order come to their end") };
    let nothing = interleaving.unknown_sharing();
    interleaving.share(Some(nothing));
    let mut random = walks.seed;
    let mut visits: BTreeMap<u128, Visit> = BTreeMap::new();
    let mut found = Trust::default();
    for _ in 0..walks.walks {
        interleaving.restart()?;
        let mut oracle = primed.clone();
        let mut path = 0;
        while let Some(turn) = next(&mut interleaving, &mut random) {
            path = xxh3_64(format!("{path} {turn:?}").as_bytes());
            match interleaving.make(turn, &mut oracle) {
                Ok(_) if oracle.violations().is_empty() => {}
                Err(Halt::Executor(error)) => return Err(error.into()),
                _ => break,
            }
            if found.compared >= walks.compared {
                break;
            }
            let key = key(&mut interleaving, &oracle, walks.without)?;
            let Some(known) = visits.get(&key) else {
                let saved = interleaving.save()?;
                visits.insert(key, Visit { saved, oracle: oracle.clone(), path });
                continue;
            };
            if known.path == path {
                continue;
            }
            let here = interleaving.save()?;
            let seed = random;
            let one = go_on(&mut interleaving, &oracle, seed)?;
            interleaving.restore(&known.saved)?;
            let other = go_on(&mut interleaving, &known.oracle, seed)?;
            // What became visible in between is a turn of its own in the second alone.
            if interleaving.sharing().is_some_and(Sharing::has_learnt) {
                interleaving.restore(&here)?;
                continue;
            }
            found.compared += 1;
            found.different.extend(difference(&one, &other));
            interleaving.restore(&here)?;
        }
    }
    interleaving.share(None);
    Ok(found)
}

fn key(
    interleaving: &mut Interleaving<'_>,
    oracle: &Oracle,
    without: Option<Part>,
) -> Result<u128, ExecutorError> {
    let mut key = StateKey::new();
    interleaving.put(&mut key, without)?;
    if without != Some(Part::Oracle) {
        let _ = oracle.put(&mut key);
    }
    Ok(xxh3_128(key.bytes()))
}

/// One of the turns that there are, at random; none where all is over.
fn next(interleaving: &mut Interleaving<'_>, random: &mut u64) -> Option<Turn> {
    let mut turns = interleaving.turns();
    if turns.is_empty() && interleaving.look_again() {
        turns = interleaving.turns();
    }
    *random = xxh3_64(&random.to_le_bytes());
    turns.get(*random as usize % turns.len().max(1)).copied()
}

/// Turns of a continuation, at most.
const MOST: usize = 2_000;

/// The events from here on, with turns that are a function of `seed`, and the rules that speak.
fn go_on(
    interleaving: &mut Interleaving<'_>,
    oracle: &Oracle,
    seed: u64,
) -> Result<(Vec<Told>, Vec<String>), ExecutorError> {
    let mut random = seed;
    let mut seen = Continuation { oracle: oracle.clone(), events: Vec::new() };
    let mut ends = Vec::new();
    for _ in 0..MOST {
        let Some(turn) = next(interleaving, &mut random) else {
            interleaving.end(&mut seen)?;
            break;
        };
        match interleaving.make(turn, &mut seen) {
            Ok(over) => ends.extend(over.map(|over| format!("{over:?}"))),
            Err(Halt::Executor(error)) => return Err(error),
            Err(Halt::Stop(stop)) => {
                ends.push(stop.to_string());
                break;
            }
        }
    }
    let rules = seen.oracle.violations().iter().map(|violation| violation.rule.to_string());
    ends.extend(rules);
    Ok((seen.events, ends))
}

fn difference(one: &(Vec<Told>, Vec<String>), other: &(Vec<Told>, Vec<String>)) -> Option<String> {
    let events = one.0.iter().zip(&other.0).position(|(one, other)| one != other);
    if let Some(at) = events {
        return Some(format!("{:x?} and {:x?}", one.0[at], other.0[at]));
    }
    (one.0.len() != other.0.len() || one.1 != other.1).then(|| {
        format!("{} events and {:?}; {} and {:?}", one.0.len(), one.1, other.0.len(), other.1)
    })
}
