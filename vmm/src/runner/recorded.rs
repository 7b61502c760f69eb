//! One run as a recorded schedule has it.

use super::{Booted, Observers, RunResult, Runner};
use crate::event::Observer;
use crate::kernel::steps::{BootError, Guest, RunError};
use crate::scenario::{Run, RunConfig};
use crate::schedule::{Recorded, Schedule, Segment};
use xxhash_rust::xxh3::Xxh3;

/// What a recorded schedule of a run begins with: it is of these steps, on this configuration, with these
/// faults, of this kernel.
#[must_use]
pub fn check_of(run: &Run, guest: &Guest) -> u32 {
    let mut hash = Xxh3::new();
    let faults = run.faults.iter().map(ToString::to_string);
    let steps = run.scenario.steps.iter().map(|step| step.text.clone());
    // A recorded schedule stands for any other.
    let config = RunConfig { schedule: Schedule::InOrder, ..run.config };
    for text in steps.chain(faults).chain([config.to_string()]) {
        hash.update(text.as_bytes());
        hash.update(b"\n");
    }
    hash.update(&run.scenario.in_order().to_le_bytes());
    hash.update(guest.image().bytes());
    hash.digest() as u32
}

impl Runner {
    /// Does one run as `schedule` says, which was recorded from the same; `observer` is notified of its
    /// events.
    ///
    /// # Errors
    /// As [`Runner::run`].
    pub fn run_recorded(
        &mut self,
        run: &Run,
        schedule: &[Segment],
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<RunResult, RunError> {
        let injector = self.injector(run);
        let Booted { session, primed } = match self.booted(&run.config) {
            Err(BootError::Guest { stop, vcpu, printed }) => {
                return Ok(RunResult::did_not_boot(run, stop, vcpu, printed));
            }
            booted => booted?,
        };
        let observers = primed.clone();
        if let Some(observer) = &mut observer {
            session.initial_state().show(*observer);
        }
        let mut both = (observers, observer);
        let steps = run.steps();
        let end = session.follow(&steps, run.scenario.in_order(), injector, schedule, &mut both)?;
        let spent = session.spent;
        let Observers { oracle, counts, seen, .. } = both.0;
        let result = RunResult::judge(run, end, &oracle, counts, seen);
        if spent {
            self.booted.pop();
        }
        Ok(result)
    }
}

impl Recorded {
    /// The schedule of a run of `guest`, without its parts.
    #[must_use]
    pub fn of(run: &Run, guest: &Guest) -> Self {
        Self { check: check_of(run, guest), segments: Vec::new() }
    }
}
