//! A run with all that it is compared by: reports, final memory, and what was stale when.

use super::{Booted, Observers, RunResult, Runner};
use crate::arch::addr::{Gpa, Gva};
use crate::arch::tlb::Tag;
use crate::event::{Announcement, Event, Kind, TaskId};
use crate::inject::{Injector, Sweep};
use crate::kernel::steps::{FinalMemory, RunEnd, RunError, StepInput, StepReport};
use crate::oracle::{Deadline, Obligation, Oracle};
use crate::scenario::Run;
use std::collections::BTreeMap;

/// A kind of deadline: two runs are compared by what was stale at those of each task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    UserEntry,
    Returned,
    Acknowledged,
    Current,
    Freed,
    EditsOver,
    TaskOver,
    End,
}

impl Moment {
    fn of(deadline: &Deadline) -> Option<Self> {
        Some(match deadline {
            Deadline::UserEntry { .. } => Self::UserEntry,
            Deadline::Returned(_) => Self::Returned,
            Deadline::Acknowledged { .. } => Self::Acknowledged,
            Deadline::Current { .. } => Self::Current,
            Deadline::Freed(_) => Self::Freed,
            Deadline::EditsOver { .. } => Self::EditsOver,
            Deadline::TaskOver { .. } => Self::TaskOver,
            Deadline::Claimed { .. } => return None,
        })
    }
}

/// Something stale: the tag, the page, the entry that was changed, and to what.
type Stale = (Tag, Gva, Option<Gpa>, u64);

/// What was due and stale at the deadlines of each task, and in how many cached entries at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deadlines {
    task: Option<TaskId>,
    stale: BTreeMap<(Option<TaskId>, Moment, Stale), usize>,
}

impl Deadlines {
    /// Follows an event that `oracle` has seen.
    pub(super) fn event(&mut self, event: &Event, oracle: &Oracle) {
        for announcement in event.announcements() {
            if let Announcement::TaskBegins(task) = announcement {
                self.task = Some(*task);
            }
        }
        for deadline in oracle.deadlines() {
            let Some(moment) = Moment::of(deadline) else { continue };
            // What a rule has spoken of hides nothing any more.
            for owed in oracle.ledger().open() {
                if oracle.is_due(event, deadline, owed) {
                    self.add(moment, owed);
                }
            }
        }
        // Whatever is stale at the end is stale at no deadline any more.
        if event.kind == Kind::End {
            oracle.ledger().open().for_each(|owed| self.add(Moment::End, owed));
        }
    }

    fn add(&mut self, moment: Moment, owed: &Obligation) {
        let cause = owed.downgrade.cause.by_root();
        let slot = cause.store().map(|store| store.slot);
        let stale = (owed.tag, owed.page, slot, cause.values().1);
        let held = self.stale.entry((self.task, moment, stale)).or_default();
        *held = owed.held().max(*held);
    }

    /// Whether all that was stale at a deadline was so in `other` as well.
    fn is_within(&self, other: &Self) -> bool {
        self.stale.iter().all(|(at, held)| other.stale.get(at).is_some_and(|more| held <= more))
    }
}

/// A run that was looked at closely.
#[derive(Clone, Debug)]
pub struct Examined {
    /// Its result.
    pub result: RunResult,
    /// What the guest reported of each step.
    pub reports: Vec<Option<StepReport>>,
    /// How often its faults fired.
    pub fired: u32,
    /// How often each fault's operation was met.
    pub met: Vec<u32>,
    /// What it left in memory.
    pub memory: FinalMemory,
    /// What was stale when.
    pub deadlines: Deadlines,
}

impl Examined {
    fn new(run: &Run, mut end: RunEnd, seen: Observers) -> Self {
        Self {
            reports: end.reports.clone(),
            fired: end.fired,
            met: std::mem::take(&mut end.met),
            memory: end.memory.take().unwrap_or_default(),
            deadlines: seen.deadlines.unwrap_or_default(),
            result: RunResult::judge(run, end, &seen.oracle, seen.counts, seen.seen),
        }
    }

    /// Whether the guest did the same as in `other`, and nothing was stale at a deadline that was
    /// not so there.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.reports == other.reports
            && self.memory == other.memory
            && self.deadlines.is_within(&other.deadlines)
    }
}

impl Runner {
    /// Does one run, and then `epilogue`, during which nothing is injected; with `count_only` the
    /// faults are only looked for. An interrupt at each boundary makes more than one run of it; `each`
    /// gets them all.
    ///
    /// # Errors
    /// As [`Runner::run`]; and where the guest does not boot.
    pub fn examine(
        &mut self,
        run: &Run,
        epilogue: &[StepInput],
        count_only: bool,
        each: &mut dyn FnMut(Examined),
    ) -> Result<(), RunError> {
        let mut steps = run.steps();
        let own = steps.len();
        steps.extend(epilogue);
        let (sweep, faults) = Sweep::split(&run.faults);
        let sweep = sweep.map(|sweep| sweep.within(own).every(self.stride));
        let injector = Injector::new(&faults, self.sites.clone()).until(own);
        let injector = if count_only { injector.count_only() } else { injector };
        let limit = self.boundary_limit;
        let Booted { session, primed } = self.booted(&run.config)?;
        let mut observers = primed.clone();
        observers.deadlines = Some(Deadlines::default());
        session.keeps_memory = true;
        let done = match &sweep {
            None => session.run_from_initial_state(&steps, injector, &mut observers).map(|end| {
                each(Examined::new(run, end, observers));
            }),
            Some(sweep) => {
                let mut branch = |_, end, seen| each(Examined::new(run, end, seen));
                let swept =
                    session.sweep(&steps, injector, sweep, limit, &mut observers, &mut branch);
                swept.map(|_| ())
            }
        };
        session.keeps_memory = false;
        if session.spent {
            self.booted.pop();
        }
        done
    }
}
