//! Steps in the order of a recorded schedule.

use super::{Interleaving, Turn, Watching};
use crate::event::Observer;
use crate::inject::Injector;
use crate::kernel::steps::driver::StepInput;
use crate::kernel::steps::session::{RunEnd, RunError, Session};
use crate::machine::{Halt, Stop};
use crate::schedule::Segment;

/// Instructions that one part of a recorded schedule may have, with traps.
const MOST_TRIES: u64 = 50_000_000;

impl Session {
    /// Runs `steps` as a recorded schedule has them, the first `alone` in order.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn follow(
        &mut self,
        steps: &[StepInput],
        alone: usize,
        injector: Injector,
        schedule: &[Segment],
        observer: &mut dyn Observer,
    ) -> Result<RunEnd, RunError> {
        let (halt, reports) = match self.interleave(steps, alone, injector, observer)? {
            Err(stop) => (Some(Halt::Stop(stop)), vec![None; steps.len()]),
            Ok(mut interleaving) => {
                let halt = interleaving.run_recorded(schedule, observer).err();
                (halt, interleaving.reports)
            }
        };
        if halt.is_none() {
            self.machine.switch_to(0)?;
        }
        let mut driver = self.driver(steps)?;
        driver.reports = reports;
        Ok(self.end(observer, driver, halt)?)
    }
}

impl Interleaving<'_> {
    /// Follows a recorded schedule as far as it goes, then lets each CPU come to the end of its steps, the
    /// one that ran last first.
    ///
    /// # Errors
    /// When the host fails, or the guest cannot go on. [`Stop::Schedule`] where the schedule asks for what
    /// there is not.
    pub(crate) fn run_recorded(
        &mut self,
        schedule: &[Segment],
        observer: &mut dyn Observer,
    ) -> Result<(), Halt> {
        for segment in schedule {
            self.segment(segment, observer)?;
            self.last = *segment;
        }
        // What the schedule leaves open comes to its end as in a run without one.
        let mut looks = 0;
        while looks < self.place.tasks.len() {
            let turns = self.turns();
            let goes_on = Turn::Go(self.last.cpu);
            let goes_on = turns.iter().find(|turn| **turn == goes_on);
            let taken = turns.iter().find(|turn| matches!(turn, Turn::Interrupt(_)));
            match goes_on.or(taken).or(turns.first()) {
                Some(&turn) => {
                    let over = self.make(turn, observer)?;
                    looks = 0;
                    if let Some((index, report)) = over {
                        self.reports[index] = Some(report);
                    }
                }
                None if self.look_again() => looks += 1,
                None => break,
            }
        }
        Ok(())
    }

    /// Lets one CPU go so far as it went.
    fn segment(&mut self, segment: &Segment, observer: &mut dyn Observer) -> Result<(), Halt> {
        let (events, instructions) = self.counts();
        let target = (events + segment.events, instructions + segment.instructions);
        let other = || Halt::from(Stop::Schedule);
        if usize::from(segment.cpu.0) >= self.place.tasks.len() {
            return Err(other());
        }
        let mut turn =
            if segment.interrupt { Turn::Interrupt(segment.cpu) } else { Turn::Go(segment.cpu) };
        let mut tried = 0;
        while self.counts() != target {
            let now = self.counts();
            tried += 1;
            if now.0 > target.0 || now.1 > target.1 || tried > MOST_TRIES {
                return Err(other());
            }
            self.look_again();
            if !self.turns().contains(&turn) {
                return Err(other());
            }
            let mut watching = Watching { observer, visible: false, slots: Vec::new() };
            let over = self.advance(turn, &mut watching, true)?;
            self.session.machine.release(&mut watching);
            if let Some((index, report)) = over {
                self.reports[index] = Some(report);
            }
            turn = Turn::Go(segment.cpu);
        }
        Ok(())
    }
}
