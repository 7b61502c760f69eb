//! A run with all that it is compared by: reports, final memory, and what was stale when.

use super::{RunResult, Runner, Watchers};
use crate::arch::addr::{Gpa, Gva};
use crate::arch::tlb::Tag;
use crate::event::{Event, Kind, StepClass};
use crate::inject::{Injector, Sweep};
use crate::machine::{BootError, FinalMemory, RunEnd, StepInput, StepReport};
use crate::oracle::Oracle;
use crate::scenario::{Run, Scenario};
use std::collections::BTreeMap;

/// A moment at which something may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    PrimitiveEnd,
    UserEntry,
    Cr3Load,
    FrameFreed,
    EditOver,
    CaughtUp,
    End,
}

/// Something stale: the tag, the page, the entry that was changed, and to what.
type Stale = (Tag, Gva, Gpa, u64);

/// What was due and stale at the deadlines of each step, and in how many cached entries at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deadlines {
    step: Option<usize>,
    stale: BTreeMap<(Option<usize>, Deadline, Stale), usize>,
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
            Kind::LoadCr3 { .. } if oracle.changed_asid() => Deadline::Cr3Load,
            Kind::FrameFreed { .. } => Deadline::FrameFreed,
            Kind::StepBegin { class: StepClass::Other, .. } => Deadline::EditOver,
            Kind::StepEnd { .. } if !oracle.is_lazy(event.cpu) => Deadline::CaughtUp,
            Kind::End => Deadline::End,
            _ => return,
        };
        for owed in oracle.obligations().iter().filter(|owed| owed.held() > 0) {
            let current = owed.tag == Tag::Global || Some(owed.tag) == oracle.current(owed.cpu);
            let counts = match deadline {
                // What another CPU holds is due when the primitive returns, and before that not.
                Deadline::PrimitiveEnd => current && owed.is_due(),
                Deadline::UserEntry => current && owed.cpu == event.cpu && owed.is_due(),
                Deadline::Cr3Load | Deadline::CaughtUp => {
                    current && owed.cpu == event.cpu && owed.covered.is_some()
                }
                // What is not current is not reached before it is loaded, and flushed by then.
                Deadline::FrameFreed => current,
                Deadline::EditOver => owed.covered.is_none(),
                Deadline::End => true,
            };
            if !counts {
                continue;
            }
            let stale = (owed.tag, owed.page, owed.downgrade.slot, owed.downgrade.new);
            let held = self.stale.entry((self.step, deadline, stale)).or_default();
            *held = owed.held().max(*held);
        }
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
    fn new(scenario: &Scenario, run: &Run, mut end: RunEnd, seen: Watchers) -> Self {
        Self {
            reports: end.reports.clone(),
            fired: end.fired,
            met: std::mem::take(&mut end.met),
            memory: end.memory.take().unwrap_or_default(),
            deadlines: seen.deadlines.unwrap_or_default(),
            result: RunResult::judge(scenario, run, end, &seen.oracle, seen.counts),
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

impl Runner<'_> {
    /// Does one run, and then `epilogue`, during which nothing is injected; with `dry` the faults
    /// are only looked for. An interrupt at each boundary makes more than one run of it; `each`
    /// gets them all.
    ///
    /// # Errors
    /// As [`Runner::run`]; and where the guest does not boot.
    pub fn examine(
        &mut self,
        scenario: &Scenario,
        run: &Run,
        epilogue: &[StepInput],
        dry: bool,
        each: &mut dyn FnMut(Examined),
    ) -> Result<(), BootError> {
        let own = scenario.steps.iter().map(|step| step.input);
        let steps: Vec<StepInput> = own.chain(epilogue.iter().copied()).collect();
        let (sweep, faults) = Sweep::split(&run.faults);
        let sweep = sweep.map(|sweep| sweep.within(scenario.steps.len()).every(self.stride));
        let injector = Injector::new(&faults, self.sites.clone()).until(scenario.steps.len());
        let injector = if dry { injector.dry() } else { injector };
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
