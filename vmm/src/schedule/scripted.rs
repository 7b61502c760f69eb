//! The scheduler of scenarios: their steps one after the other, with CPUs held back where a step says
//! so, or preempted from a seed.
//!
//! A step is the *foreground* of its CPU. With the schedule `in-order` that CPU runs until the step is
//! over or held; where it waits for others (it yields), those that have something to do run instead:
//! first CPUs with an interrupt to take, then, if nobody else can, one that the scenario holds back.
//! Then whoever has an interrupt to take takes it, and the next step begins. After the last one each
//! step that is still held comes to its end. A seeded schedule lets any CPU that can run go on after
//! any event, or after any instruction, while a step is in the foreground.

use super::hold::{Hold, HoldPoint};
use super::seeds::Seeds;
use super::{Schedule, Scheduler};
use crate::arch::addr::CpuId;
use crate::arch::choice::{Chooser, CpuState, Move, Point};
use crate::event::Event;
use crate::machine::{Access, Watch};

/// One step, as far as a scheduler knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScriptItem {
    /// The CPU that does it.
    pub cpu: CpuId,
    /// Until where it runs, if not to its end.
    pub hold: Option<Hold>,
    /// It only lets its CPU go on with the step that it is held in.
    pub resumes: bool,
}

/// The hold point that the foreground CPU is running towards, and how often it was passed.
#[derive(Clone, Copy, Debug)]
struct PendingHold {
    cpu: CpuId,
    hold: Hold,
    passed: u32,
}

/// What the scheduler is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The next step begins, if there is one.
    Between,
    /// A step of this CPU is under way.
    Foreground(usize),
    /// CPUs without a step take their interrupts.
    Settling,
    /// The step that this CPU was held in comes to its end.
    Releasing(usize),
    /// The same as [`Phase::Settling`], after the step of this CPU.
    Released(usize),
}

/// A CPU that runs because the foreground waits, and the event that it began at.
#[derive(Clone, Copy, Debug)]
struct StandIn {
    cpu: usize,
    since: u64,
}

/// Who runs, and until which event, or for how many instructions.
#[derive(Clone, Copy, Debug)]
struct Slice {
    cpu: usize,
    left: u64,
}

/// Events, or instructions, that a seeded schedule lets a CPU run, at most.
const LONGEST_SLICE: u64 = 8;

/// The scheduler of a scenario.
#[derive(Clone, Debug)]
pub struct Scripted {
    script: Vec<ScriptItem>,
    schedule: Schedule,
    seeds: Seeds,
    /// What each CPU's TLB does by chance.
    fills: Vec<Seeds>,
    phase: Phase,
    /// The CPUs that are held back.
    held: Vec<bool>,
    hold: Option<PendingHold>,
    /// The step that the foreground is in.
    current: usize,
    /// Steps whose hold point was never reached, or which found nobody held.
    unreached: Vec<usize>,
    stand_in: Option<StandIn>,
    /// The held CPU that stood in last, for the foreground as it is.
    last_held: Option<usize>,
    slice: Option<Slice>,
    /// A held CPU that has come in before the foreground goes on.
    preempts: Option<usize>,
}

impl Scripted {
    /// The scheduler of `script` on `cpus` CPUs whose TLBs choose from `fill_seed`.
    #[must_use]
    pub fn new(schedule: Schedule, script: Vec<ScriptItem>, cpus: usize, fill_seed: u64) -> Self {
        Self {
            script,
            schedule,
            seeds: Seeds::new(schedule.seed().unwrap_or(0)),
            fills: vec![Seeds::new(fill_seed); cpus],
            phase: Phase::Between,
            held: vec![false; cpus],
            hold: None,
            current: 0,
            unreached: Vec::new(),
            stand_in: None,
            last_held: None,
            slice: None,
            preempts: None,
        }
    }

    /// The first CPU that is held back.
    #[must_use]
    pub fn held(&self) -> Option<CpuId> {
        let held = self.held.iter().position(|held| *held);
        held.map(|cpu| CpuId(cpu as u8))
    }

    /// Lets the first CPU that is held back come in now: it runs until its step is over, or it waits.
    pub fn preempt(&mut self) {
        self.preempts = self.held().map(|cpu| usize::from(cpu.0));
    }

    /// The CPU whose step is under way in the foreground.
    #[must_use]
    pub fn foreground(&self) -> Option<CpuId> {
        match self.phase {
            Phase::Foreground(cpu) => Some(CpuId(cpu as u8)),
            _ => None,
        }
    }

    fn next(&mut self, moves: &[Move], cpus: &[CpuState], seq: u64) -> Move {
        loop {
            self.phase = match self.phase {
                Phase::Between => {
                    let begins = |one: &&Move| matches!(one, Move::Begin(..));
                    match moves.iter().find(begins) {
                        Some(&Move::Begin(cpu, index)) => return self.begin(cpu, index),
                        _ => Phase::Releasing(0),
                    }
                }
                Phase::Foreground(cpu) => match self.is_over(cpu, cpus) {
                    true => self.settle(Phase::Settling),
                    false => return self.pick(cpu, cpus, seq),
                },
                Phase::Settling => match cpus.iter().position(CpuState::is_summoned) {
                    Some(cpu) => return Move::Run(CpuId(cpu as u8)),
                    None => Phase::Between,
                },
                Phase::Releasing(cpu) if cpu >= cpus.len() => return moves[0],
                Phase::Releasing(cpu) => {
                    self.held[cpu] = false;
                    match cpus[cpu].in_task {
                        true => return self.pick(cpu, cpus, seq),
                        false => self.settle(Phase::Released(cpu)),
                    }
                }
                Phase::Released(cpu) => match cpus.iter().position(CpuState::is_summoned) {
                    Some(cpu) => return Move::Run(CpuId(cpu as u8)),
                    None => Phase::Releasing(cpu + 1),
                },
            };
        }
    }

    fn begin(&mut self, cpu: CpuId, index: usize) -> Move {
        let item = self.script.get(index);
        let hold = item.and_then(|item| item.hold);
        let resumes = item.is_some_and(|item| item.resumes);
        self.current = index;
        self.hold = hold.map(|hold| {
            let passed = if hold.point == HoldPoint::Start { hold.nth } else { 0 };
            PendingHold { cpu, hold, passed }
        });
        let number = usize::from(cpu.0);
        let was_held = std::mem::replace(&mut self.held[number], false);
        if resumes && !was_held {
            self.unreached.push(index);
        }
        self.phase = Phase::Foreground(number);
        Move::Begin(cpu, index)
    }

    fn settle(&mut self, phase: Phase) -> Phase {
        self.stand_in = None;
        self.last_held = None;
        self.slice = None;
        phase
    }

    /// Whether the foreground's step is done, or it is to be held now.
    fn is_over(&mut self, foreground: usize, cpus: &[CpuState]) -> bool {
        if self.hold.is_some_and(|hold| hold.passed >= hold.hold.nth) {
            self.held[foreground] = cpus[foreground].in_task;
            self.hold = None;
        }
        if self.hold.is_some() && !cpus[foreground].in_task {
            self.hold = None;
            self.unreached.push(self.current);
        }
        self.held[foreground] || !cpus[foreground].in_task
    }

    /// Who runs now: the foreground, or another CPU where the schedule says so.
    fn pick(&mut self, foreground: usize, cpus: &[CpuState], seq: u64) -> Move {
        let goes_on = |&cpu: &usize| cpus[cpu].in_task && !cpus[cpu].waits;
        self.preempts = self.preempts.filter(goes_on);
        if let Some(cpu) = self.preempts {
            return Move::Run(CpuId(cpu as u8));
        }
        let (cpu, single) = match self.schedule {
            _ if cpus.len() == 1 => (foreground, false),
            Schedule::InOrder => (self.in_order(foreground, cpus, seq), false),
            Schedule::Events(_) => (self.seeded(foreground, cpus, seq, false), false),
            Schedule::Instructions(_) => (self.seeded(foreground, cpus, seq, true), true),
        };
        let id = CpuId(cpu as u8);
        let counts =
            |hold: &PendingHold| hold.cpu == id && hold.hold.point == HoldPoint::Instruction;
        match single || self.hold.as_ref().is_some_and(counts) {
            true => Move::Step(id),
            false => Move::Run(id),
        }
    }

    /// The foreground; where it waits, another one until that has nothing more to do, waits itself
    /// or, if it was held, has made an event.
    fn in_order(&mut self, foreground: usize, cpus: &[CpuState], seq: u64) -> usize {
        let mut waits = cpus[foreground].waits;
        if let Some(StandIn { cpu, since }) = self.stand_in {
            let (state, held) = (cpus[cpu], self.held[cpu]);
            let unheld = state.in_interrupt || state.in_task && !held;
            let goes_on = !state.waits && (unheld || held && seq == since);
            if goes_on {
                return cpu;
            }
            self.stand_in = None;
            waits = false;
        }
        if !waits {
            return foreground;
        }
        let count = cpus.len();
        let others = || (1..count).map(|distance| (foreground + distance) % count);
        let summoned = others().find(|&cpu| cpus[cpu].is_summoned());
        // One after the other: two that are held may wait for each other.
        let after = self.last_held.unwrap_or(foreground);
        let mut turns = (1..=count).map(|distance| (after + distance) % count);
        let held = turns.find(|&cpu| cpu != foreground && self.held[cpu] && cpus[cpu].in_task);
        if summoned.is_none() {
            self.last_held = held;
        }
        match summoned.or(held) {
            Some(cpu) => {
                self.stand_in = Some(StandIn { cpu, since: seq });
                cpu
            }
            None => foreground,
        }
    }

    /// Anybody who can run, for a while.
    fn seeded(
        &mut self,
        foreground: usize,
        cpus: &[CpuState],
        seq: u64,
        instructions: bool,
    ) -> usize {
        let can_run = |cpu: usize| !cpus[cpu].waits && cpus[cpu].can_run();
        if let Some(slice) = &mut self.slice {
            let goes_on = match instructions {
                true => {
                    slice.left -= 1;
                    slice.left > 0
                }
                false => seq < slice.left,
            };
            if goes_on && can_run(slice.cpu) {
                return slice.cpu;
            }
        }
        let mut able: Vec<usize> = (0..cpus.len()).filter(|&cpu| can_run(cpu)).collect();
        if able.is_empty() {
            able.push(foreground);
        }
        let cpu = able[self.seeds.below(able.len() as u64) as usize];
        let length = 1 + self.seeds.below(LONGEST_SLICE);
        let left = if instructions { length } else { seq + length };
        self.slice = Some(Slice { cpu, left });
        cpu
    }

    fn fills(&mut self, cpu: CpuId) -> Option<&mut Seeds> {
        self.fills.get_mut(usize::from(cpu.0))
    }
}

impl Chooser for Scripted {
    fn choose(&mut self, point: Point<'_>) -> usize {
        match point {
            Point::Next { moves, cpus, seq } => {
                let chosen = self.next(moves, cpus, seq);
                moves.iter().position(|one| *one == chosen).unwrap_or(0)
            }
            Point::Interrupt { .. } => 0,
            Point::Fill(cpu, _) => usize::from(self.fills(cpu).is_some_and(Seeds::fills)),
            Point::Evict(cpu, ..) => usize::from(self.fills(cpu).is_some_and(Seeds::evicts)),
        }
    }
}

impl Scheduler for Scripted {
    fn unreached(&self) -> &[usize] {
        &self.unreached
    }

    fn patience(&self) -> u64 {
        /// The instructions between two traps of one that works, at most, in turns.
        const TURNS: u64 = 20;
        if matches!(self.schedule, Schedule::Instructions(_)) { TURNS } else { 1 }
    }

    fn saw(&mut self, event: &Event) {
        if let Some(pending) = &mut self.hold {
            let here = event.cpu == pending.cpu;
            pending.passed += u32::from(here && pending.hold.point.matches(event));
        }
    }

    fn watch(&self) -> Option<Watch> {
        let pending = self.hold.as_ref()?;
        Some(Watch { cpu: pending.cpu, accesses: pending.hold.point.watches()? })
    }

    fn holds_before(&mut self, cpu: CpuId, access: &Access<'_>) -> bool {
        let Some(pending) = &mut self.hold else { return false };
        let here = pending.cpu == cpu && pending.hold.point.precedes(access);
        pending.passed += u32::from(here);
        here && pending.passed >= pending.hold.nth
    }

    fn stepped(&mut self, cpu: CpuId, moved: bool) {
        if let Some(pending) = &mut self.hold {
            let counts = pending.cpu == cpu && pending.hold.point == HoldPoint::Instruction;
            pending.passed += u32::from(counts && moved);
        }
    }
}
