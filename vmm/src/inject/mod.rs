//! The injector: the one place that may alter an operation, before it takes effect.

mod alter;
pub mod fault;
pub mod forms;
mod grammar;
mod operation;
mod site;
mod sweep;
mod word;

pub use fault::Fault;
pub use grammar::FaultError;
pub use site::Sites;
pub use sweep::{Interrupt, Sweep};

use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::happened::WordStore;
use crate::arch::key::StateKey;
use crate::arch::op::Op;
use crate::event::{Announcement, Flush, SpaceId, TaskId};
use crate::machine::{Interceptor, KernelWords, Moment, Plan, Scheduled, SideEffect, Site};
use fault::{Action, Occurrence, Point, Target};
use operation::OpKind;
use stalemate_shared::layout::IRQ_VECTOR;
use stalemate_shared::page::PageAddresses;

#[derive(Clone, Debug)]
struct Armed {
    fault: Fault,
    seen: u32,
    fired: u32,
    /// Count matches, inject nothing: which faults can apply at all?
    count_only: bool,
    /// The steps that it is meant for are over.
    over: bool,
}

impl Armed {
    /// Counts one occurrence, and says whether it is to be perturbed.
    fn hit(&mut self) -> bool {
        if self.over {
            return false;
        }
        self.seen += 1;
        match self.fault.occurrence {
            _ if self.count_only => false,
            Occurrence::All => true,
            Occurrence::Nth(n) => self.seen == n,
            Occurrence::Steps(..) => false,
        }
    }

    /// The same, where being perturbed is having fired.
    fn fires(&mut self) -> bool {
        let hit = self.hit();
        self.fired += u32::from(hit);
        hit
    }
}

/// A store to one of the kernel's words that was delayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DelayedStore {
    /// The CPU that stores.
    cpu: CpuId,
    /// The word.
    at: Gpa,
    /// The bits that it sets.
    set: u64,
    /// The bits that it clears.
    clear: u64,
    /// It is an acknowledgement, for which another CPU waits.
    acknowledges: bool,
}

/// The faults of one run, counting from its first step.
#[derive(Clone, Debug, Default)]
pub struct Injector {
    armed: Vec<Armed>,
    sites: Sites,
    /// An NMI has just been delivered before the operation at this RIP: not once more.
    resumed: Option<Gva>,
    /// To be done before the next instruction of a CPU.
    due: Vec<(CpuId, Scheduled)>,
    delayed: Vec<(CpuId, Op)>,
    delayed_stores: Vec<DelayedStore>,
    /// Faults are of the steps before this one.
    end: Option<usize>,
}

impl Injector {
    /// An injector of `faults` into an image with these `sites`.
    #[must_use]
    pub fn new(faults: &[Fault], sites: Sites) -> Self {
        let arm = |fault: &Fault| Armed {
            fault: *fault,
            seen: 0,
            fired: 0,
            count_only: false,
            over: false,
        };
        Self { armed: faults.iter().map(arm).collect(), sites, ..Self::default() }
    }

    /// The same, that does nothing from the step with this index on.
    #[must_use]
    pub fn until(self, step: usize) -> Self {
        Self { end: Some(step), ..self }
    }

    /// The same, that only counts what the faults would be about.
    #[must_use]
    pub fn count_only(mut self) -> Self {
        self.armed.iter_mut().for_each(|armed| armed.count_only = true);
        self
    }

    /// How often each fault's operation was met.
    pub fn met(&self) -> impl Iterator<Item = u32> + '_ {
        self.armed.iter().map(|armed| armed.seen)
    }

    /// The faults that never fired.
    pub fn not_fired(&self) -> impl Iterator<Item = &Fault> {
        self.armed.iter().filter(|armed| armed.fired == 0).map(|armed| &armed.fault)
    }

    /// Adds what it will do, which depends on what it has met.
    pub fn put(&self, key: &mut StateKey) {
        for armed in &self.armed {
            key.put((armed.seen, armed.fired, armed.over));
        }
        let waiting = (&self.due, &self.delayed, &self.delayed_stores);
        if (self.due.len(), self.delayed.len(), self.delayed_stores.len()) != (0, 0, 0) {
            key.put(format!("{waiting:?}"));
        }
        key.put(self.resumed);
    }

    /// How often faults fired.
    #[must_use]
    pub fn fired(&self) -> u32 {
        self.armed.iter().map(|armed| armed.fired).sum()
    }

    fn schedule(&mut self, cpu: CpuId, effect: SideEffect) {
        self.due.push((cpu, Scheduled::surely(effect)));
    }

    fn task_begins(&mut self, cpu: CpuId, TaskId(index): TaskId) {
        if self.end == Some(index) {
            // What has fired has fired.
            self.armed.iter_mut().for_each(|armed| armed.over = true);
        }
        self.point(cpu, Point::Step);
    }

    /// What was delayed on `cpu`, of the operations that `select` selects.
    fn late(&mut self, cpu: CpuId, select: impl Fn(Op) -> bool) -> Vec<Scheduled> {
        let of_cpu = |store: &mut DelayedStore| store.cpu == cpu || store.acknowledges;
        let stores = self.delayed_stores.extract_if(.., of_cpu).map(|store| {
            let DelayedStore { cpu, at, set, clear, .. } = store;
            SideEffect::Store { cpu, at, set, clear }
        });
        let chosen = |(of, op): &mut (CpuId, Op)| *of == cpu && select(*op);
        let ops = self.delayed.extract_if(.., chosen).map(|(_, op)| SideEffect::Op(op));
        stores.chain(ops).map(Scheduled::surely).collect()
    }

    /// A flush has returned: where its slots are to claim it early, they do.
    fn flush_returned(&mut self, cpu: CpuId, flush: &Flush, words: &dyn KernelWords) {
        for number in 0..self.armed.len() {
            let fault = self.armed[number].fault;
            if (fault.action, fault.target) != (Action::Early, Target::Generation)
                || !self.armed[number].hit()
            {
                continue;
            }
            let claims = claims(cpu, flush, words);
            self.armed[number].fired += u32::from(!claims.is_empty());
            claims.into_iter().for_each(|claim| self.schedule(cpu, SideEffect::Say(claim)));
        }
        self.point(cpu, Point::FlushEnd);
    }

    /// A point in time of `cpu` has come.
    fn point(&mut self, cpu: CpuId, point: Point) {
        let effects = self.effects_at(point);
        self.due.extend(effects.into_iter().map(|effect| (cpu, effect)));
    }

    fn effects_at(&mut self, point: Point) -> Vec<Scheduled> {
        let mut scheduled = Vec::new();
        for (number, armed) in self.armed.iter_mut().enumerate() {
            let Some(effect) = effect_of(&armed.fault, &self.sites.pages) else { continue };
            if armed.fault.target != Target::Point(point) || !armed.hit() {
                continue;
            }
            let uncertain = matches!(effect, SideEffect::Evict(_) | SideEffect::Speculate(_));
            armed.fired += u32::from(!uncertain);
            scheduled.push(Scheduled { effect, if_done: uncertain.then_some(number) });
        }
        scheduled
    }
}

/// What an action at a point in time does.
fn effect_of(fault: &Fault, pages: &PageAddresses) -> Option<SideEffect> {
    let page = fault.page.map(|page| Gva(pages.address(page)));
    match fault.action {
        Action::Nmi => Some(SideEffect::Nmi),
        Action::Irq => Some(SideEffect::Irq(IRQ_VECTOR)),
        Action::Evict => page.map(SideEffect::Evict),
        Action::Speculate => page.map(SideEffect::Speculate),
        Action::SetRegisters => Some(SideEffect::SetRegisters),
        _ => None,
    }
}

/// What the slots of `cpu` would say if what `flush` is of had been flushed under them.
fn claims(cpu: CpuId, flush: &Flush, words: &dyn KernelWords) -> Vec<Announcement> {
    let state = words.state();
    let of_flush = |said: &Announcement| match *said {
        Announcement::Root { space, root } if flush.root == Some(root) => Some(space),
        _ => None,
    };
    let Some(of) = state.iter().find_map(of_flush) else { return Vec::new() };
    let reached = |said: &Announcement| match *said {
        Announcement::Generation { space, generation } if space == of => Some(generation),
        _ => None,
    };
    let generation = state.iter().find_map(reached).unwrap_or(0);
    let owned = |said: &Announcement| match *said {
        Announcement::SlotOwner { cpu: owner, slot, space: Some(SpaceId(id)) }
            if owner == cpu && SpaceId(id) == of =>
        {
            Some(slot)
        }
        _ => None,
    };
    let flushed = |slot: u16| {
        let said = state.iter().find_map(|said| match *said {
            Announcement::SlotFlushed { cpu: owner, slot: known, generation }
                if (owner, known) == (cpu, slot) =>
            {
                Some(generation)
            }
            _ => None,
        });
        said.unwrap_or(0)
    };
    let slots = state.iter().filter_map(owned).filter(|&slot| flushed(slot) < generation);
    slots.map(|slot| Announcement::SlotFlushed { cpu, slot, generation }).collect()
}

impl Interceptor for Injector {
    fn operation(&mut self, site: &Site, op: Op, words: &dyn KernelWords) -> Plan {
        if self.armed.is_empty() {
            return Plan::unaltered(op);
        }
        self.plan(site, op, words)
    }

    fn word(
        &mut self,
        cpu: CpuId,
        store: &WordStore,
        said: &[Announcement],
        words: &dyn KernelWords,
    ) -> Vec<u64> {
        if self.armed.is_empty() {
            return vec![store.new];
        }
        self.stored(cpu, store, said, words)
    }

    fn moment(&mut self, cpu: CpuId, moment: Moment, words: &dyn KernelWords) -> Vec<Scheduled> {
        match moment {
            Moment::TaskBegins(task) => self.task_begins(cpu, task),
            Moment::FlushBegins => self.point(cpu, Point::FlushBegin),
            Moment::FlushReturned(flush) => self.flush_returned(cpu, &flush, words),
            // What was delayed happens.
            Moment::TaskEnds => {
                let mut due = self.due(cpu);
                due.extend(self.late(cpu, |_| true));
                return due;
            }
            // What was to reach another CPU happens now, or never.
            Moment::Waits => return self.late(cpu, |op| OpKind::of(op) == Some(OpKind::Ipi)),
        }
        Vec::new()
    }

    fn due(&mut self, cpu: CpuId) -> Vec<Scheduled> {
        self.due.extract_if(.., |(of, _)| *of == cpu).map(|(_, due)| due).collect()
    }

    fn done(&mut self, scheduled: &Scheduled) {
        if let Some(armed) = scheduled.if_done.and_then(|number| self.armed.get_mut(number)) {
            armed.fired += 1;
        }
    }
}
