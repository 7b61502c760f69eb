//! A run that can be gone through in both directions. It is a function of its inputs, so what was before
//! is found by running again from a snapshot.

use super::super::{Audited, Subject, boot};
use crate::arch::addr::Gva;
use crate::kernel::free::{Checkpoint, End, Free, FreeError};
use crate::machine::NullDirector;
use std::collections::BTreeSet;

/// Instructions from the last snapshot to where somebody looks back from: so far is run again at once.
const NEAR: u64 = 1 << 20;
/// Instructions that are looked through first, backward.
const WINDOW: u64 = 1 << 20;
/// Traps between two looks at whether somebody wants the run to stop.
const PATIENCE: u32 = 1 << 10;

/// A moment of a run, in order: instructions that had completed, then traps that were carried out, and
/// waits of a halted CPU, since the last of them had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) instructions: u64,
    pub(super) traps: u64,
}

/// Where a rule has spoken.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: String,
    /// Instructions that had completed.
    instructions: u64,
    /// The instruction that was next.
    rip: Gva,
    /// What that comes to, where it has been looked for.
    position: Option<Position>,
}

/// Why a run has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// As far as was wanted.
    There,
    /// Before an instruction that it was to stop at.
    Breakpoint,
    /// Before the instruction at which a rule speaks.
    Finding,
    /// Somebody wants it to.
    Interrupted,
    /// It has no more instructions.
    End,
    /// It has none before.
    Begin,
}

/// A run.
pub(super) struct Session {
    pub(super) free: Free,
    pub(super) position: Position,
    /// How it ended, when it is there.
    ended: bool,
    begin: Checkpoint,
    near: Option<(Position, Checkpoint)>,
    pub(super) breakpoints: BTreeSet<Gva>,
    pub(super) findings: Vec<Place>,
    until: Option<Vec<u8>>,
    printed: Vec<u8>,
}

impl Session {
    /// Before the first instruction.
    pub(super) fn new(subject: &Subject<'_>, audited: &Audited) -> Result<Self, FreeError> {
        let (mut free, _) = boot(subject)?;
        let begin = free.checkpoint()?;
        let findings = audited.findings.iter().map(|finding| Place {
            key: finding.key.to_string(),
            instructions: finding.noted.found,
            rip: finding.first.rip,
            position: None,
        });
        let mut findings: Vec<Place> = findings.collect();
        findings.sort_by_key(|place| place.instructions);
        Ok(Self {
            free,
            position: Position::default(),
            ended: false,
            begin,
            near: None,
            breakpoints: BTreeSet::new(),
            findings,
            until: subject.until.map(|text| text.as_bytes().to_vec()),
            printed: Vec::new(),
        })
    }

    /// One call of the machine, and where that leads.
    fn advance(&mut self, single: bool) -> Result<(), FreeError> {
        if self.ended {
            return Ok(());
        }
        let (before, traps) = (self.free.instructions(), self.free.traps());
        let printed = &mut self.printed;
        let mut console = |bytes: &[u8]| {
            printed.extend(bytes);
            false
        };
        let director = &mut NullDirector;
        let end = match single {
            true => self.free.step(director, &mut console)?,
            false => self.free.advance(director, &mut console)?,
        };
        let now = self.free.instructions();
        let waits = self.free.vcpu().halted;
        let more = u64::from(self.free.traps() != traps) + u64::from(waits);
        let traps = if now == before { self.position.traps + more } else { more };
        self.position = Position { instructions: now, traps };
        self.ended = self.is_end(end);
        Ok(())
    }

    /// Whether the run ends here, as the audit's did.
    fn is_end(&mut self, end: Option<End>) -> bool {
        if self.until.is_none() {
            self.printed.clear();
        }
        let said = self.until.as_ref().is_some_and(|text| {
            let found = self.printed.windows(text.len().max(1)).any(|part| part == text);
            let kept = self.printed.len().saturating_sub(text.len());
            self.printed.drain(..kept);
            found
        });
        said || end.is_some()
    }

    fn rip(&self) -> Gva {
        self.free.rip()
    }

    /// One instruction of the kernel, with all traps that it takes, or one wait.
    fn instruction(&mut self) -> Result<(), FreeError> {
        let (before, rip) = (self.position.instructions, self.rip());
        loop {
            let last = self.position;
            self.advance(true)?;
            let is_over = self.position.instructions != before || self.rip() != rip;
            if is_over || self.ended || self.free.vcpu().halted || self.position == last {
                return Ok(());
            }
        }
    }

    /// Goes to a position, forward or backward.
    pub(super) fn seek(&mut self, to: Position) -> Result<(), FreeError> {
        if to < self.position {
            self.go_back(to)?;
        }
        self.free.stop_at(&BTreeSet::new());
        self.fast(to.instructions)?;
        while self.position < to && !self.ended {
            self.advance(true)?;
        }
        Ok(())
    }

    /// Runs until so many instructions have completed.
    fn fast(&mut self, instructions: u64) -> Result<(), FreeError> {
        while self.position.instructions < instructions && !self.ended {
            self.free.pause_at(Some(instructions));
            self.advance(false)?;
        }
        Ok(())
    }

    /// Goes to the last snapshot that is not after a position, and takes another where that is far before.
    fn go_back(&mut self, to: Position) -> Result<(), FreeError> {
        let near = self.near.as_ref().filter(|(position, _)| *position <= to);
        let (position, snapshot) = match near {
            Some((position, snapshot)) => (*position, snapshot),
            None => (Position::default(), &self.begin),
        };
        self.free.go_back(snapshot)?;
        (self.position, self.ended) = (position, false);
        self.printed.clear();
        let from = to.instructions.saturating_sub(NEAR);
        if from > position.instructions + NEAR {
            self.free.stop_at(&BTreeSet::new());
            self.fast(from)?;
            self.near = Some((self.position, self.free.snapshot()?));
        }
        Ok(())
    }

    /// One instruction on.
    pub(super) fn step(&mut self) -> Result<Stopped, FreeError> {
        if self.ended {
            return Ok(Stopped::End);
        }
        self.instruction()?;
        Ok(if self.ended { Stopped::End } else { Stopped::There })
    }

    /// The instruction before this one is next again.
    pub(super) fn step_back(&mut self) -> Result<Stopped, FreeError> {
        let here = self.position;
        if here == Position::default() {
            return Ok(Stopped::Begin);
        }
        // The last instruction before this one began after the last but one had completed.
        let from = here.instructions.saturating_sub(1 + u64::from(here.traps == 0));
        self.seek(Position { instructions: from, traps: 0 })?;
        let mut last = self.position;
        while self.position < here && !self.ended {
            last = self.position;
            self.instruction()?;
        }
        self.seek(last)?;
        Ok(Stopped::There)
    }

    /// On to the next place to stop at. `wants_stop` is asked now and then.
    pub(super) fn go_on(
        &mut self,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<Stopped, FreeError> {
        let end = Position { instructions: u64::MAX, traps: 0 };
        self.run_to_stop(end, wants_stop)
    }

    /// Back to the last place to stop at before this one.
    pub(super) fn go_on_back(
        &mut self,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<Stopped, FreeError> {
        let here = self.position;
        let (mut until, mut window) = (here, WINDOW);
        while until > Position::default() {
            let from =
                Position { instructions: until.instructions.saturating_sub(window), traps: 0 };
            self.seek(from)?;
            let is_one = self.breakpoints.contains(&self.rip());
            let mut last = is_one.then_some((from, Stopped::Breakpoint));
            while self.position < until {
                match self.run_to_stop(until, wants_stop)? {
                    stopped @ (Stopped::Breakpoint | Stopped::Finding) if self.position < until => {
                        last = Some((self.position, stopped));
                    }
                    Stopped::Interrupted => {
                        self.seek(here)?;
                        return Ok(Stopped::Interrupted);
                    }
                    _ => break,
                }
            }
            if let Some((position, stopped)) = last {
                self.seek(position)?;
                return Ok(stopped);
            }
            (until, window) = (from, window.saturating_mul(8));
        }
        self.seek(Position::default())?;
        Ok(Stopped::Begin)
    }

    /// On by one instruction at least, and to the next place to stop at before `until`, or to that.
    fn run_to_stop(
        &mut self,
        until: Position,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<Stopped, FreeError> {
        if self.ended {
            return Ok(Stopped::End);
        }
        self.find_between(self.position.instructions)?;
        self.instruction()?;
        self.free.stop_at(&self.breakpoints);
        let mut patience = PATIENCE;
        loop {
            if self.ended {
                return Ok(Stopped::End);
            }
            if self.position >= until {
                return Ok(Stopped::There);
            }
            if let Some(stopped) = self.stop_here() {
                return Ok(stopped);
            }
            patience -= 1;
            if patience == 0 {
                patience = PATIENCE;
                if wants_stop() {
                    return Ok(Stopped::Interrupted);
                }
            }
            // Where a rule speaks is told from its instruction.
            let now = self.position.instructions;
            let soon = self.findings.iter().filter(|place| place.instructions >= now);
            let next = soon.map(|place| place.instructions).min().unwrap_or(u64::MAX);
            if next == now || until.instructions == now {
                self.find_between(now)?;
                if let Some(stopped) = self.stop_here() {
                    return Ok(stopped);
                }
                self.free.stop_at(&self.breakpoints);
                self.advance(true)?;
                continue;
            }
            self.free.pause_at(Some(next.min(until.instructions)));
            self.advance(false)?;
        }
    }

    /// Whether this is a place to stop at.
    fn stop_here(&self) -> Option<Stopped> {
        let breakpoint = self.breakpoints.contains(&self.rip()).then_some(Stopped::Breakpoint);
        self.findings_here().next().map(|_| Stopped::Finding).or(breakpoint)
    }

    /// Finds out where rules speak once so many instructions have completed: before their instruction; where that
    /// is none that is next then, as of a rule that looks back, as soon as so many have.
    fn find_between(&mut self, instructions: u64) -> Result<(), FreeError> {
        let here = self.position;
        let is_sought =
            |place: &Place| place.instructions == instructions && place.position.is_none();
        if !self.findings.iter().any(is_sought) {
            return Ok(());
        }
        let first = Position { instructions, traps: 0 };
        self.seek(first)?;
        while self.position.instructions == instructions && !self.ended {
            let (position, rip) = (self.position, self.rip());
            let found = self.findings.iter_mut().filter(|place| is_sought(place));
            found
                .filter(|place| place.rip == rip)
                .for_each(|place| place.position = Some(position));
            self.advance(true)?;
        }
        let rest = self.findings.iter_mut().filter(|place| is_sought(place));
        rest.for_each(|place| place.position = Some(first));
        self.seek(here)
    }

    /// Goes to where a rule speaks.
    pub(super) fn seek_finding(&mut self, number: usize) -> Result<bool, FreeError> {
        let Some(instructions) = self.findings.get(number).map(|place| place.instructions) else {
            return Ok(false);
        };
        self.find_between(instructions)?;
        let position = self.findings[number].position;
        self.seek(position.unwrap_or(Position { instructions, traps: 0 }))?;
        Ok(true)
    }

    /// The findings that this is the place of, by number: one instruction can be several rules' to speak of.
    pub(super) fn findings_here(&self) -> impl Iterator<Item = (usize, &Place)> {
        let all = self.findings.iter().enumerate();
        all.filter(|(_, place)| place.position == Some(self.position))
    }
}
