//! One pass of the search: all schedules with at most so many preemptions, or all there are.

use super::found::{Found, What};
use super::visited::Visited;
use crate::arch::addr::CpuId;
use crate::arch::key::StateKey;
use crate::executor::ExecutorError;
use crate::kernel::steps::{Interleaving, Saved, Turn};
use crate::machine::{Halt, Stop};
use crate::oracle::Oracle;
use crate::runner::mismatch;
use crate::scenario::Run;
use crate::schedule::{Recorded, Segment};
use std::collections::BTreeSet;
use xxhash_rust::xxh3::xxh3_128;

/// States in a row with one turn each that are not looked up: a loop is found a little later.
const UNSEEN: usize = 64;
/// Turns of one schedule at most: more are met only where a rule does not say what it remembers.
const MOST_TURNS: usize = 1 << 16;

/// Why a pass ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// More accesses than were known are visible.
    Learnt,
    /// Too many states.
    States,
    /// Somebody wants it to end.
    Told,
}

/// A state with more than one turn, of which some are still to be made.
struct Node {
    saved: Saved,
    oracle: Oracle,
    turns: Vec<Turn>,
    next: usize,
    last: Option<CpuId>,
    preemptions: u32,
    /// Turns that led here.
    depth: usize,
    key: u128,
    choice: Option<usize>,
    interrupt: Option<usize>,
}

/// One pass, and what it has found.
pub(super) struct Pass<'p, 's> {
    run: &'p Run,
    interleaving: &'p mut Interleaving<'s>,
    primed: &'p Oracle,
    bound: Option<u32>,
    most_states: usize,
    /// Asked now and then whether to go on, with what there is so far.
    goes_on: &'p mut dyn FnMut(&Counts) -> bool,
    visited: Visited,
    stack: Vec<Node>,
    path: Vec<Segment>,
    oracle: Oracle,
    last: Option<CpuId>,
    preemptions: u32,
    unseen: usize,
    /// Turns that led to the last state at which somebody else could have gone on.
    choice: Option<usize>,
    /// The same of the last state at which an interrupt could have been taken.
    interrupt: Option<usize>,
    key: StateKey,
    counts: Counts,
    found: Vec<Found>,
    finals: BTreeSet<u128>,
    bounded: bool,
    /// A rule does not say what it remembers: no states were taken for the same.
    merges: bool,
}

/// What a whole pass has come to.
pub(super) struct Done {
    pub(super) counts: Counts,
    pub(super) found: Vec<Found>,
    /// Hashes of the states that all steps came to.
    pub(super) finals: BTreeSet<u128>,
    /// Some turn was left out, since it would have been one preemption too many.
    pub(super) bounded: bool,
}

/// What a pass has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// States that were told apart.
    pub states: u64,
    /// Turns that were made.
    pub transitions: u64,
    /// Schedules that came to their end, or to something wrong.
    pub schedules: u64,
    /// The longest of them, in turns.
    pub deepest: usize,
    /// Bytes that states take, about.
    pub bytes: usize,
}

impl<'p, 's> Pass<'p, 's> {
    pub(super) fn new(
        run: &'p Run,
        interleaving: &'p mut Interleaving<'s>,
        primed: &'p Oracle,
        bound: Option<u32>,
        most_states: usize,
        goes_on: &'p mut dyn FnMut(&Counts) -> bool,
    ) -> Self {
        Self {
            run,
            interleaving,
            primed,
            bound,
            most_states,
            goes_on,
            visited: Visited::default(),
            stack: Vec::new(),
            path: Vec::new(),
            oracle: primed.clone(),
            last: None,
            preemptions: 0,
            unseen: 0,
            choice: None,
            interrupt: None,
            key: StateKey::new(),
            counts: Counts::default(),
            found: Vec::new(),
            finals: BTreeSet::new(),
            bounded: false,
            merges: true,
        }
    }

    /// Makes every turn that there is; why not all of them, where that is so.
    pub(super) fn explore(&mut self) -> Result<Option<Cut>, ExecutorError> {
        self.interleaving.restart()?;
        self.oracle = self.primed.clone();
        loop {
            let goes_deeper = match self.next_turn()? {
                Some(turn) => self.make(turn)?,
                None => false,
            };
            if !goes_deeper && !self.back()? {
                return Ok(self.has_learnt().then_some(Cut::Learnt));
            }
            if !goes_deeper && self.has_learnt() {
                return Ok(Some(Cut::Learnt));
            }
            if self.visited.len() >= self.most_states || self.path.len() > MOST_TURNS {
                return Ok(Some(Cut::States));
            }
            if self.counts.transitions.is_multiple_of(256) {
                self.counts.bytes = self.visited.bytes();
                if !(self.goes_on)(&self.counts) {
                    return Ok(Some(Cut::Told));
                }
            }
        }
    }

    /// What it has come to.
    pub(super) fn done(self) -> Done {
        let Self { counts, found, finals, bounded, .. } = self;
        Done { counts, found, finals, bounded }
    }

    fn has_learnt(&mut self) -> bool {
        self.interleaving.sharing().is_some_and(crate::executor::Sharing::has_learnt)
    }

    /// The first turn from the state that the machine is in; none where there is nothing to be seen.
    fn next_turn(&mut self) -> Result<Option<Turn>, ExecutorError> {
        let mut turns = self.interleaving.turns();
        let mut looks = false;
        if turns.is_empty() {
            if self.interleaving.is_over() {
                self.note_final()?;
                self.over()?;
                return Ok(None);
            }
            // Whoever waits looks once more, and hangs where it comes to the same again.
            looks = self.interleaving.look_again();
            turns = self.interleaving.turns();
            if turns.is_empty() {
                self.wrong(What::Stop(Stop::Deadlock.to_string()));
                return Ok(None);
            }
        }
        let (all, depth) = (turns.len(), self.path.len());
        if turns.iter().any(|turn| matches!(turn, Turn::Interrupt(_))) {
            self.interrupt = Some(depth);
        }
        if all > 1 && !looks {
            self.choice = Some(depth);
        }
        let turns = self.allowed(turns);
        self.unseen += 1;
        let mut key = 0;
        if all > 1 || looks || self.unseen > UNSEEN {
            self.unseen = 0;
            key = self.state_key()?;
            let seen = self.merges && !self.visited.visit(key, self.preemptions);
            if seen {
                if self.is_caught(key, looks) {
                    self.wrong(What::Stop(Stop::Deadlock.to_string()));
                }
                return Ok(None);
            }
            self.counts.states += 1;
        }
        let first = turns.first().copied();
        if turns.len() > 1 || looks || self.unseen == 0 && all == 1 {
            self.stack.push(Node {
                saved: self.interleaving.save()?,
                oracle: self.oracle.clone(),
                turns,
                next: 1,
                last: self.last,
                preemptions: self.preemptions,
                depth,
                key,
                choice: self.choice,
                interrupt: self.interrupt,
            });
        }
        Ok(first)
    }

    /// Whether the state that the machine has come to again is one that it can only come to again: since it
    /// was there nobody could have done anything else, or all looked in vain, and no interrupt could have
    /// been taken.
    fn is_caught(&self, key: u128, looks: bool) -> bool {
        let Some(node) = self.stack.iter().rev().find(|node| node.key == key) else { return false };
        let since = |at: Option<usize>| at.is_some_and(|at| at >= node.depth);
        !since(self.interrupt) && (looks || !since(self.choice))
    }

    /// Of these turns those that may be made, the ones of the CPU that ran last first.
    fn allowed(&mut self, mut turns: Vec<Turn>) -> Vec<Turn> {
        let last = self.last;
        turns.sort_by_key(|turn| (Some(turn.cpu()) != last, *turn));
        let Some(bound) = self.bound else { return turns };
        let before = turns.len();
        let all = turns.clone();
        turns.retain(|&turn| self.preemptions + self.preempts(turn, &all) <= bound);
        self.bounded |= turns.len() < before;
        turns
    }

    /// 1 where the CPU that ran last could go on in the middle of a step, and another one comes in.
    fn preempts(&self, turn: Turn, turns: &[Turn]) -> u32 {
        let Some(last) = self.last.filter(|last| *last != turn.cpu()) else { return 0 };
        let amid = self.interleaving.is_amid(last) && turns.contains(&Turn::Go(last));
        u32::from(amid)
    }

    /// The state's hash; with a bound whose turn it was counts too.
    fn state_key(&mut self) -> Result<u128, ExecutorError> {
        self.key.clear();
        self.interleaving.put(&mut self.key, None)?;
        self.merges &= self.oracle.put(&mut self.key);
        if self.bound.is_some() {
            self.key.put(self.last);
        }
        Ok(xxh3_128(self.key.bytes()))
    }

    /// Makes a turn; whether what it comes to is to be looked at.
    fn make(&mut self, turn: Turn) -> Result<bool, ExecutorError> {
        let turns = self.interleaving.turns();
        self.preemptions += self.preempts(turn, &turns);
        self.last = Some(turn.cpu());
        self.counts.transitions += 1;
        let made = self.interleaving.make(turn, &mut self.oracle);
        self.path.push(self.interleaving.last());
        let over = match made {
            Ok(over) => over,
            Err(Halt::Executor(error)) => return Err(error),
            Err(Halt::Stop(stop)) => {
                if !self.speaks() {
                    self.wrong(What::Stop(stop.to_string()));
                }
                return Ok(false);
            }
        };
        if self.speaks() {
            return Ok(false);
        }
        let steps = &self.run.scenario.steps;
        let judged = self.run.scenario.concurrently.is_some();
        if let Some(found) = over
            .filter(|_| judged)
            .and_then(|(index, report)| mismatch(index, &steps[index], &report))
        {
            self.wrong(What::Mismatch { step: found.step, got: found.got });
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether a rule has spoken.
    fn speaks(&mut self) -> bool {
        if self.run.scenario.conformance {
            return false;
        }
        let Some(first) = self.oracle.violations().first() else { return false };
        let what = What::Violation { rule: first.rule, message: first.message.clone() };
        self.wrong(what);
        true
    }

    /// All steps are over.
    fn over(&mut self) -> Result<(), ExecutorError> {
        self.interleaving.end(&mut self.oracle)?;
        if !self.speaks() {
            self.ended();
        }
        Ok(())
    }

    /// The hash of the state that the steps have come to.
    fn note_final(&mut self) -> Result<(), ExecutorError> {
        self.key.clear();
        self.interleaving.put(&mut self.key, None)?;
        self.finals.insert(xxh3_128(self.key.bytes()));
        Ok(())
    }

    fn ended(&mut self) {
        self.counts.schedules += 1;
        self.counts.deepest = self.counts.deepest.max(self.path.len());
    }

    /// Notes what has gone wrong here.
    fn wrong(&mut self, what: What) {
        self.ended();
        let (preemptions, turns) = (self.preemptions, self.path.len());
        let mut schedule = Recorded::default();
        self.path.iter().for_each(|segment| schedule.push(*segment));
        let new = Found { what, schedule, preemptions, turns, times: 1 };
        match self.found.iter_mut().find(|known| known.what.is_same(&new.what)) {
            None => self.found.push(new),
            Some(known) => {
                let times = known.times + 1;
                if (preemptions, turns) < (known.preemptions, known.turns) {
                    *known = new;
                }
                known.times = times;
            }
        }
    }

    /// Goes back to the last state with a turn that is still to be made, and makes it; whether there was
    /// one.
    fn back(&mut self) -> Result<bool, ExecutorError> {
        loop {
            let Some(node) = self.stack.last_mut() else { return Ok(false) };
            let Some(&turn) = node.turns.get(node.next) else {
                self.stack.pop();
                continue;
            };
            node.next += 1;
            self.interleaving.restore(&node.saved)?;
            self.oracle = match node.next == node.turns.len() {
                true => std::mem::take(&mut node.oracle),
                false => node.oracle.clone(),
            };
            (self.last, self.preemptions) = (node.last, node.preemptions);
            (self.choice, self.interrupt) = (node.choice, node.interrupt);
            self.path.truncate(node.depth);
            self.unseen = 0;
            if self.make(turn)? {
                return Ok(true);
            }
            if self.has_learnt() {
                return Ok(false);
            }
        }
    }
}
