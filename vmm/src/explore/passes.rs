//! The passes of one exploration, and what they come to together.

use super::found::{Found, What};
use super::pass::{Counts, Cut, Pass};
use crate::executor::Sharing;
use crate::interrupt;
use crate::kernel::steps::{BootError, RunError};
use crate::runner::{Runner, check_of, mismatch};
use crate::scenario::Run;
use crate::schedule::Recorded;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How far an exploration goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Preemptions at most; all there are where there is no such limit.
    pub bound: Option<u32>,
    /// States at most.
    pub states: usize,
    /// Wall-clock time at most.
    pub time: Option<Duration>,
    /// Another CPU may come in after every instruction, and not after visible operations only: the same is
    /// found, much later.
    pub every_instruction: bool,
}

/// The bounds that come before all schedules do.
const FIRST_BOUNDS: u32 = 3;

/// What was covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covered {
    /// Every interleaving.
    Complete,
    /// Those with at most so many preemptions.
    Bound(u32),
    /// Fewer, since there are more states than were allowed; with the bound that was covered before.
    States(Option<u32>),
    /// Fewer, since the time was over, or somebody stopped it.
    Time(Option<u32>),
    /// Fewer than all: page tables change where code is fetched from, and a fetch is no turn of its own.
    Code,
    /// None: the steps that come in order have gone wrong.
    Nothing,
}

/// What came of an exploration.
#[derive(Clone, Debug)]
pub struct Explored {
    /// The run whose steps were interleaved.
    pub run: Run,
    /// What was covered.
    pub covered: Covered,
    /// Of the last pass.
    pub counts: Counts,
    /// Words that CPUs share.
    pub shared: u64,
    /// How long it took.
    pub time: Duration,
    /// What went wrong.
    pub found: Vec<Found>,
    /// Hashes of the states that all steps came to.
    pub finals: BTreeSet<u128>,
}

impl Explored {
    /// Whether nothing went wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.found.is_empty()
    }
}

/// Notified now and then of the pass's bound and of what it has come to.
pub type Progress<'a> = &'a mut dyn FnMut(Option<u32>, &Counts);

/// Explores the interleavings of a run's steps.
///
/// # Errors
/// When the host fails or the image cannot be loaded. A guest that does not boot is found.
pub fn explore(
    runner: &mut Runner,
    run: &Run,
    limits: &Limits,
    progress: Progress<'_>,
) -> Result<Explored, RunError> {
    let start = Instant::now();
    let check = check_of(run, runner.guest());
    let injector = runner.injector(run);
    let mut explored = Explored {
        run: run.clone(),
        covered: Covered::Nothing,
        counts: Counts::default(),
        shared: 0,
        time: Duration::ZERO,
        found: Vec::new(),
        finals: BTreeSet::new(),
    };
    let wrong = |what| Found {
        what,
        schedule: Recorded { check, segments: Vec::new() },
        preemptions: 0,
        turns: 0,
        times: 1,
    };
    let (session, mut primed) = match runner.lend(&run.config) {
        Err(BootError::Guest { stop, .. }) => {
            explored.found.push(wrong(What::Stop(stop.to_string())));
            return Ok(explored);
        }
        lent => lent?,
    };
    let steps = run.steps();
    let alone = run.scenario.in_order();
    let mut interleaving = match session.interleave(&steps, alone, injector, &mut primed)? {
        Err(stop) => {
            explored.found.push(wrong(What::Stop(stop.to_string())));
            return Ok(explored);
        }
        Ok(interleaving) => interleaving,
    };
    if let Some(first) = primed.violations().first().filter(|_| !run.scenario.conformance) {
        let what = What::Violation { rule: first.rule, message: first.message.clone() };
        explored.found.push(wrong(what));
    }
    let reported = run.scenario.steps.iter().zip(&interleaving.reports).enumerate();
    for (index, (step, report)) in reported {
        let found = report.as_ref().and_then(|report| mismatch(index, step, report));
        if let Some(found) = found.filter(|_| explored.found.is_empty()) {
            explored.found.push(wrong(What::Mismatch { step: index, got: found.got }));
        }
    }
    if !explored.found.is_empty() {
        return Ok(explored);
    }
    let nothing = interleaving.unknown_sharing();
    interleaving.share(Some(nothing));
    interleaving.every_instruction = limits.every_instruction;
    let bounds: Vec<Option<u32>> = match limits.bound {
        Some(most) => (0..=most).map(Some).collect(),
        None => (0..FIRST_BOUNDS).map(Some).chain([None]).collect(),
    };
    let mut before = None;
    for bound in bounds {
        let mut goes_on = |counts: &Counts| {
            progress(bound, counts);
            let is_late = limits.time.is_some_and(|time| start.elapsed() >= time);
            !is_late && interrupt::requested().is_none()
        };
        let (cut, pass) = loop {
            let known = interleaving.sharing().map(Sharing::restart);
            debug_assert!(known.is_some(), "this executor tells accesses");
            let states = limits.states;
            let mut pass = Pass::new(run, &mut interleaving, &primed, bound, states, &mut goes_on);
            let cut = pass.explore()?;
            if cut != Some(Cut::Learnt) {
                break (cut, pass.done());
            }
        };
        explored.counts = pass.counts;
        explored.found = pass.found;
        explored.finals = pass.finals;
        explored.covered = match (cut, bound) {
            (Some(Cut::States), _) => Covered::States(before),
            (Some(_), _) => Covered::Time(before),
            (None, Some(bound)) if pass.bounded => Covered::Bound(bound),
            (None, _) => Covered::Complete,
        };
        before = bound;
        if cut.is_some() || !explored.found.is_empty() || !pass.bounded {
            break;
        }
    }
    let sharing = interleaving.share(None);
    explored.shared = sharing.as_ref().map_or(0, |sharing| sharing.shared_words());
    if explored.covered == Covered::Complete
        && sharing.is_some_and(|known| known.is_code_contested())
    {
        explored.covered = Covered::Code;
    }
    explored.found.iter_mut().for_each(|found| found.schedule.check = check);
    explored.time = start.elapsed();
    Ok(explored)
}
