//! A run with all that it is compared by: reports, final memory, and what was stale when.

use super::{RunResult, Runner, Watchers};
use crate::arch::addr::{Gpa, Gva};
use crate::arch::tlb::Tag;
use crate::event::{Event, Kind, StepClass};
use crate::inject::{Injector, Sweep};
use crate::machine::{BootError, FinalMemory, RunEnd, StepInput, StepReport};
use crate::oracle::Oracle;
use crate::scenario::{Run, Scenario};
use std::collections::{BTreeMap, BTreeSet};

/// A moment at which something may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    PrimitiveEnd,
    UserEntry,
    Cr3Load,
    FrameFreed,
    EditOver,
    End,
}

/// Something stale: the tag, the page, the entry that was changed, to what, and how many cached
/// entries it is.
type Stale = (Tag, Gva, Gpa, u64, usize);

/// What was stale at the deadlines of each step. That a deadline comes once more within a step,
/// and finds the same, is no difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deadlines {
    step: Option<usize>,
    stale: BTreeMap<Option<usize>, BTreeSet<(Deadline, Vec<Stale>)>>,
}

impl Deadlines {
    /// Follows an event that `oracle` has seen.
    pub(super) fn event(&mut self, event: &Event, oracle: &Oracle) {
        if let Kind::StepBegin { index, .. } = event.kind {
            self.step = Some(index);
        }
        let deadline = match event.kind {
            Kind::PrimitiveEnd(_) => Deadline::PrimitiveEnd,
            Kind::UserEntry => Deadline::UserEntry,
            Kind::LoadCr3 { .. } => Deadline::Cr3Load,
            Kind::FrameFreed { .. } => Deadline::FrameFreed,
            Kind::StepBegin { class: StepClass::Other, .. } => Deadline::EditOver,
            Kind::End => Deadline::End,
            _ => return,
        };
        let open = oracle.obligations().iter().filter(|owed| owed.held() > 0);
        let stale = open
            .map(|owed| {
                let store = owed.downgrade;
                (owed.tag, owed.page, store.slot, store.new, owed.held())
            })
            .collect();
        self.stale.entry(self.step).or_default().insert((deadline, stale));
    }
}

/// A run that was looked at closely.
#[derive(Clone, Debug)]
pub struct Examined {
    /// Its result.
    pub result: RunResult,
    /// What the guest reported of each step.
    pub reports: Vec<StepReport>,
    /// What it left in memory.
    pub memory: FinalMemory,
    /// What was stale when.
    pub deadlines: Deadlines,
}

impl Examined {
    fn new(scenario: &Scenario, run: &Run, mut end: RunEnd, seen: Watchers) -> Self {
        Self {
            reports: end.reports.clone(),
            memory: end.memory.take().unwrap_or_default(),
            deadlines: seen.deadlines.unwrap_or_default(),
            result: RunResult::judge(scenario, run, end, &seen.oracle, seen.counts),
        }
    }

    /// Whether nobody could tell the runs apart by what the guest did and what was stale.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.reports == other.reports
            && self.memory == other.memory
            && self.deadlines.stale == other.deadlines.stale
    }
}

impl Runner<'_> {
    /// Does one run, and then `epilogue`, during which nothing is injected. An interrupt at each
    /// boundary makes more than one of it; `each` gets them all.
    ///
    /// # Errors
    /// As [`Runner::run`]; and where the guest does not boot.
    pub fn examine(
        &mut self,
        scenario: &Scenario,
        run: &Run,
        epilogue: &[StepInput],
        each: &mut dyn FnMut(Examined),
    ) -> Result<(), BootError> {
        let own = scenario.steps.iter().map(|step| step.input);
        let steps: Vec<StepInput> = own.chain(epilogue.iter().copied()).collect();
        let (sweep, faults) = Sweep::split(&run.faults);
        let sweep = sweep.map(|sweep| sweep.within(scenario.steps.len()).every(self.stride));
        let injector = Injector::new(&faults, self.sites.clone()).until(scenario.steps.len());
        let limit = self.boundary_limit;
        self.session(&run.config)?;
        let mut watchers = self.primed.clone();
        watchers.deadlines = Some(Deadlines::default());
        let session = self.session(&run.config)?;
        session.tells_memory = true;
        let done = match &sweep {
            None => session.run_told(&steps, injector, &mut watchers).map(|end| {
                each(Examined::new(scenario, run, end, watchers));
            }),
            Some(sweep) => {
                let mut branch = |_, end, seen| each(Examined::new(scenario, run, end, seen));
                let swept =
                    session.sweep(&steps, injector, sweep, limit, &mut watchers, &mut branch);
                swept.map(|_| ())
            }
        };
        session.tells_memory = false;
        if session.spent {
            self.session = None;
        }
        Ok(done?)
    }
}
