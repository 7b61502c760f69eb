//! Which CPU runs. One runs at a time, so that a run is a pure function of its input.
//!
//! A step is the *foreground* of its CPU. With the schedule `in-order` that CPU runs until the step
//! is done; where it waits for others (it yields), those that have something to do run instead:
//! first CPUs with an interrupt to take, then, if nobody else can, one that the scenario holds
//! back. A seeded schedule may let any CPU go on after any event, or after any instruction.

use super::session::{StepInput, StepReport};
use super::{Flow, Halt, Machine};
use crate::event::{Event, Kind, Observer};
use serde::{Deserialize, Serialize};
use stalemate_shared::tlb_state::{
    MmState, SWITCHING, Slot, TlbState, USER_PCID_FLUSH_MASK, WAITING,
};
use std::mem::{offset_of, size_of};

/// How CPUs come in between each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// In the order of the steps.
    #[default]
    InOrder,
    /// After any event, pseudo-random from this seed.
    Events(u64),
    /// After any instruction.
    Instructions(u64),
}

impl Schedule {
    /// The same, from another seed.
    #[must_use]
    pub fn from_seed(self, seed: u64) -> Self {
        match self {
            Self::InOrder => Self::InOrder,
            Self::Events(_) => Self::Events(seed),
            Self::Instructions(_) => Self::Instructions(seed),
        }
    }

    /// Its name in scenarios.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InOrder => "in-order",
            Self::Events(_) => "events",
            Self::Instructions(_) => "instructions",
        }
    }

    /// Where its choices begin, if it makes any.
    #[must_use]
    pub fn seed(self) -> Option<u64> {
        match self {
            Self::InOrder => None,
            Self::Events(seed) | Self::Instructions(seed) => Some(seed),
        }
    }
}

/// Where a scenario holds a CPU back, within a step: right after the CPU's own event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HoldPoint {
    Start,
    Instruction,
    Primitive,
    TableStore,
    Generation,
    CpuMask,
    Switching,
    LoadedMm,
    Slot,
    Mark,
    Consume,
    Cr3,
    Invlpg,
    Invpcid,
    Ipi,
    Interrupt,
    Acknowledge,
    Freed,
    User,
}

/// Every point by its name in scenarios, with what has just happened there.
pub const HOLD_POINTS: [(&str, HoldPoint, &str); 19] = [
    ("start", HoldPoint::Start, "the step was handed over, nothing is done"),
    ("instruction", HoldPoint::Instruction, "an instruction was completed"),
    ("primitive", HoldPoint::Primitive, "a flush primitive began"),
    ("table-store", HoldPoint::TableStore, "a paging-structure entry was stored"),
    ("generation", HoldPoint::Generation, "an address space's tlb_gen was raised"),
    ("cpumask", HoldPoint::CpuMask, "an address space's cpumask was changed"),
    ("switching", HoldPoint::Switching, "loaded_mm was set to say that CR3 is being changed"),
    ("loaded-mm", HoldPoint::LoadedMm, "loaded_mm was set to an address space"),
    ("slot", HoldPoint::Slot, "an ASID slot was changed"),
    ("mark", HoldPoint::Mark, "a user PCID was marked"),
    ("consume", HoldPoint::Consume, "a mark was cleared"),
    ("cr3", HoldPoint::Cr3, "CR3 was loaded"),
    ("invlpg", HoldPoint::Invlpg, "INVLPG was executed"),
    ("invpcid", HoldPoint::Invpcid, "INVPCID was executed"),
    ("ipi", HoldPoint::Ipi, "an interrupt was sent"),
    ("interrupt", HoldPoint::Interrupt, "an interrupt or exception was delivered"),
    ("acknowledge", HoldPoint::Acknowledge, "a shootdown was acknowledged"),
    ("freed", HoldPoint::Freed, "a frame was given back"),
    ("user", HoldPoint::User, "user mode was entered"),
];

/// Until where a step runs before its CPU is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The point.
    pub point: HoldPoint,
    /// The nth time that it is met in this step, from 1.
    pub nth: u32,
}

impl HoldPoint {
    fn matches(self, kind: &Kind) -> bool {
        match (self, kind) {
            (Self::Primitive, Kind::PrimitiveBegin(_))
            | (Self::TableStore, Kind::TableStore { .. })
            | (Self::Cr3, Kind::LoadCr3 { .. })
            | (Self::Invlpg, Kind::Invlpg { .. })
            | (Self::Invpcid, Kind::Invpcid { .. })
            | (Self::Ipi, Kind::Ipi { .. })
            | (Self::Interrupt, Kind::Delivered { .. })
            | (Self::Freed, Kind::FrameFreed { .. })
            | (Self::User, Kind::UserEntry) => true,
            (_, Kind::MmStore { offset, .. }) => {
                let field = *offset as usize % size_of::<MmState>();
                match self {
                    Self::Generation => field == offset_of!(MmState, tlb_gen),
                    Self::CpuMask => field == offset_of!(MmState, cpumask),
                    _ => false,
                }
            }
            (_, Kind::StateStore { offset, old, new, .. }) => {
                let slots = offset_of!(TlbState, slots) as u64;
                let slots_end = slots + size_of::<[Slot; 6]>() as u64;
                let loaded = *offset == offset_of!(TlbState, loaded_mm) as u64;
                match self {
                    Self::Switching => loaded && *new == SWITCHING,
                    Self::LoadedMm => loaded && *new != SWITCHING,
                    Self::Slot => (slots..slots_end).contains(offset),
                    Self::Mark => *offset == USER_PCID_FLUSH_MASK && new & !old != 0,
                    Self::Consume => *offset == USER_PCID_FLUSH_MASK && old & !new != 0,
                    Self::Acknowledge => *offset == WAITING && old & !new != 0,
                    _ => false,
                }
            }
            _ => false,
        }
    }
}

/// What a CPU does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Task {
    /// The step under way.
    pub(super) step: Option<usize>,
    /// The scenario holds it back.
    pub(super) held: bool,
    /// It waits for another one.
    waits: bool,
    /// It has no step, and handles an interrupt.
    awake: bool,
}

/// Where the foreground is to be held.
#[derive(Clone, Copy, Debug)]
struct Sought {
    cpu: usize,
    hold: Hold,
    seen: u32,
}

impl Sought {
    fn is_reached(&self) -> bool {
        self.seen >= self.hold.nth
    }
}

/// The schedule's own state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scheduler {
    schedule: Schedule,
    random: u64,
    sought: Option<Sought>,
    /// A CPU that runs because the foreground waits, and the event that it began at.
    instead: Option<(usize, u64)>,
    /// Of a seeded schedule: who runs, and until which event, or for how many instructions.
    slice: Option<(usize, u64)>,
}

/// Events, or instructions, that a seeded schedule lets a CPU run, at most.
const LONGEST_SLICE: u64 = 8;

impl Scheduler {
    pub(super) fn new(schedule: Schedule) -> Self {
        let random = match schedule {
            Schedule::InOrder => 0,
            Schedule::Events(seed) | Schedule::Instructions(seed) => seed,
        };
        Self { schedule, random, ..Self::default() }
    }

    /// A number below `bound`, from the seed (SplitMix64, as the TLB's choices).
    fn random(&mut self, bound: u64) -> u64 {
        crate::arch::tlb::split_mix(&mut self.random) % bound
    }

    /// Looks for the point at which the foreground is to be held.
    pub(super) fn saw(&mut self, event: &Event) {
        if let Some(sought) = &mut self.sought {
            let here = usize::from(event.cpu.0) == sought.cpu;
            sought.seen += u32::from(here && sought.hold.point.matches(&event.kind));
        }
    }

    fn is_reached(&self) -> bool {
        self.sought.is_some_and(|sought| sought.is_reached())
    }
}

/// What a turn came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// A CPU ran, and nothing else.
    Went,
    /// The step of this CPU is done, with its report.
    Done(usize, [u64; 3]),
}

/// Reports by step; none for a step that is not done.
pub(super) type Reports = [Option<StepReport>];

impl Machine {
    /// Hands a step to its CPU, or lets one that was held go on, to its end or to where the
    /// scenario holds it.
    pub(super) fn run_step(
        &mut self,
        observer: &mut dyn Observer,
        index: usize,
        step: &StepInput,
        reports: &mut Reports,
    ) -> Result<(), Halt> {
        self.begin_step(observer, index, step)?;
        self.finish_step(observer, step, reports)
    }

    /// Lets the foreground run until its step is done or held; then whoever has an interrupt to
    /// take takes it.
    pub(super) fn finish_step(
        &mut self,
        observer: &mut dyn Observer,
        step: &StepInput,
        reports: &mut Reports,
    ) -> Result<(), Halt> {
        let foreground = usize::from(step.cpu.0);
        let budget = self.step_budget();
        while !self.is_over(foreground) {
            let turn = self.turn(observer, foreground, false)?;
            self.report(observer, &turn, reports);
            self.within(budget)?;
        }
        self.settle(observer, reports, budget)
    }

    /// Whether the foreground's step is done, or it is to be held now.
    pub(super) fn is_over(&mut self, foreground: usize) -> bool {
        if self.schedule.is_reached() {
            self.cpus[foreground].task.held = self.cpus[foreground].task.step.is_some();
            self.schedule.sought = None;
        }
        let task = self.cpus[foreground].task;
        task.held || task.step.is_none()
    }

    /// Writes down the report of a step that is done.
    pub(super) fn report(
        &mut self,
        observer: &mut dyn Observer,
        turn: &Turn,
        reports: &mut Reports,
    ) {
        let Turn::Done(cpu, report) = *turn else { return };
        let Some(index) = self.cpus[cpu].task.step.take() else { return };
        self.cpus[cpu].task.held = false;
        reports[index] = Some(self.end_step(observer, index, report));
    }

    /// Runs the CPUs without a step that have an interrupt to take, until they are idle again.
    pub(super) fn settle(
        &mut self,
        observer: &mut dyn Observer,
        reports: &mut Reports,
        budget: u64,
    ) -> Result<(), Halt> {
        self.schedule.instead = None;
        self.schedule.slice = None;
        while let Some(cpu) = (0..self.cpus.len()).find(|&cpu| self.is_summoned(cpu)) {
            let turn = self.go(observer, cpu, false)?;
            self.report(observer, &turn, reports);
            self.within(budget)?;
        }
        Ok(())
    }

    /// Lets every step that is still held come to its end.
    pub(super) fn release_all(
        &mut self,
        observer: &mut dyn Observer,
        reports: &mut Reports,
    ) -> Result<(), Halt> {
        for cpu in 0..self.cpus.len() {
            self.cpus[cpu].task.held = false;
            let budget = self.step_budget();
            while self.cpus[cpu].task.step.is_some() {
                let turn = self.turn(observer, cpu, false)?;
                self.report(observer, &turn, reports);
                self.within(budget)?;
            }
            self.settle(observer, reports, budget)?;
        }
        Ok(())
    }

    /// Begins a step on its CPU, or takes up the one that it was held in.
    pub(super) fn begin_step(
        &mut self,
        observer: &mut dyn Observer,
        index: usize,
        step: &StepInput,
    ) -> Result<(), Halt> {
        let cpu = usize::from(step.cpu.0);
        self.switch_to(cpu)?;
        let task = &mut self.cpus[cpu].task;
        task.held = false;
        let sought = step.hold.map(|hold| Sought { cpu, hold, seen: 0 });
        self.schedule.sought = sought;
        if !step.resumes {
            task.step = Some(index);
            self.hand_over(observer, index, step);
            let starts = |sought: &Sought| sought.hold.point == HoldPoint::Start;
            if let Some(sought) = self.schedule.sought.as_mut().filter(|sought| starts(sought)) {
                sought.seen = sought.hold.nth;
            }
        }
        Ok(())
    }

    /// Runs one CPU to its next trap, or with `single` over one instruction: the foreground, or
    /// another one where the schedule says so.
    pub(super) fn turn(
        &mut self,
        observer: &mut dyn Observer,
        foreground: usize,
        single: bool,
    ) -> Result<Turn, Halt> {
        let (cpu, sliced) = self.pick(foreground);
        let sought = self.schedule.sought.filter(|sought| sought.cpu == cpu);
        let counts = sought.is_some_and(|sought| sought.hold.point == HoldPoint::Instruction);
        let before = counts.then(|| self.cpus[cpu].vcpu.clone());
        let turn = self.go(observer, cpu, counts || sliced || single && cpu == foreground)?;
        if let (Some(before), Some(sought)) = (before, &mut self.schedule.sought) {
            // A trap that only filled the projection completed nothing.
            sought.seen += u32::from(before != self.cpus[cpu].vcpu);
        }
        Ok(turn)
    }

    fn go(&mut self, observer: &mut dyn Observer, cpu: usize, single: bool) -> Result<Turn, Halt> {
        self.switch_to(cpu)?;
        let task = &mut self.cpus[cpu].task;
        task.awake |= task.step.is_none();
        let flow = match single {
            true => self.single_step(observer)?,
            false => self.step(observer)?,
        };
        // Whatever the others wait for may have come about.
        for (other, one) in self.cpus.iter_mut().enumerate() {
            one.task.waits &= other == cpu;
        }
        let task = &mut self.cpus[cpu].task;
        match flow {
            Flow::NextStep(report) => {
                task.awake = false;
                task.waits = false;
                Ok(if task.step.is_some() { Turn::Done(cpu, report) } else { Turn::Went })
            }
            Flow::Yield => {
                task.waits = true;
                Ok(Turn::Went)
            }
            Flow::Continue | Flow::Ready => Ok(Turn::Went),
        }
    }

    /// Who runs now, and whether over one instruction only.
    fn pick(&mut self, foreground: usize) -> (usize, bool) {
        if self.cpus.len() == 1 {
            return (foreground, false);
        }
        match self.schedule.schedule {
            Schedule::InOrder => (self.in_order(foreground), false),
            Schedule::Events(_) => (self.seeded(foreground, false), false),
            Schedule::Instructions(_) => (self.seeded(foreground, true), true),
        }
    }

    /// The foreground; where it waits, another one until that has nothing more to do, waits
    /// itself or, if it was held, has made an event.
    fn in_order(&mut self, foreground: usize) -> usize {
        if let Some((cpu, since)) = self.schedule.instead {
            let task = self.cpus[cpu].task;
            let goes_on = !task.waits && (task.awake || task.step.is_some() && !task.held)
                || task.held && self.seq == since;
            if goes_on {
                return cpu;
            }
            self.schedule.instead = None;
            self.cpus[foreground].task.waits = false;
        }
        if !self.cpus[foreground].task.waits {
            return foreground;
        }
        let count = self.cpus.len();
        let others = || (1..count).map(|distance| (foreground + distance) % count);
        let held = |&cpu: &usize| self.cpus[cpu].task.held;
        let next = others().find(|&cpu| self.is_summoned(cpu)).or_else(|| others().find(held));
        match next {
            Some(cpu) => {
                self.schedule.instead = Some((cpu, self.seq));
                cpu
            }
            None => foreground,
        }
    }

    /// Anybody who can run, for a while.
    fn seeded(&mut self, foreground: usize, instructions: bool) -> usize {
        if let Some((cpu, left)) = &mut self.schedule.slice {
            let (cpu, goes_on) = match instructions {
                true => {
                    *left -= 1;
                    (*cpu, *left > 0)
                }
                false => (*cpu, self.seq < *left),
            };
            if goes_on && self.can_run(cpu) {
                return cpu;
            }
        }
        let mut able: Vec<usize> = (0..self.cpus.len()).filter(|&cpu| self.can_run(cpu)).collect();
        if able.is_empty() {
            able.push(foreground);
        }
        let cpu = able[self.schedule.random(able.len() as u64) as usize];
        let length = 1 + self.schedule.random(LONGEST_SLICE);
        let left = if instructions { length } else { self.seq + length };
        self.schedule.slice = Some((cpu, left));
        cpu
    }

    fn can_run(&self, cpu: usize) -> bool {
        let task = self.cpus[cpu].task;
        !task.waits && (task.step.is_some() || self.is_summoned(cpu))
    }

    /// A CPU without a step has an interrupt to take, or is at it.
    fn is_summoned(&self, cpu: usize) -> bool {
        let one = &self.cpus[cpu];
        one.task.step.is_none() && (one.task.awake || one.vcpu.is_interrupted())
    }
}
