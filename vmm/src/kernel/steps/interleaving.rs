//! Steps of several CPUs in any order: what each of them may do next, up to the next operation that
//! another one can tell, and the state that this comes to.
//!
//! A turn lets one CPU run to the end of its next *visible operation*: an instruction that makes an event,
//! or that accesses a word which CPUs share, or an address whose translation may change (`Sharing` learns
//! which these are). What it does before that commutes with all that others do.

use super::Steps;
mod recorded;

use super::driver::{Driver, StepInput, StepReport, Task};
use super::session::{RunError, Session};
use crate::arch::addr::{CpuId, Gpa};
use crate::arch::census::Reach;
use crate::arch::happened::Happened;
use crate::arch::key::StateKey;
use crate::arch::vcpu::gpr;
use crate::event::{Event, Kind, Observer, TraceHeader};
use crate::executor::{ExecutorError, Sharing};
use crate::inject::Injector;
use crate::machine::{Halt, Machine, Ran, Snapshot, Stop};
use crate::schedule::{Scripted, Segment};
use stalemate_shared::layout;

/// Traps within one turn, at most.
const TURN_TRAP_BUDGET: u64 = 5_000;
/// Bytes below RSP that a function which calls none may use (the red zone of the psABI).
const RED_ZONE: u64 = 128;

/// A part of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Which step each CPU is in, and how far its queue is.
    Steps,
    /// Flushes under way, and faults.
    Kernel,
    /// Registers.
    Processors,
    /// TLBs.
    Tlbs,
    /// Memory.
    Memory,
    /// What the oracle remembers.
    Oracle,
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Turn {
    /// A CPU begins its next step, or goes on with what it is in; an interrupt that waits goes on waiting.
    Go(CpuId),
    /// A CPU takes the interrupt that waits.
    Interrupt(CpuId),
}

impl Turn {
    /// Whose turn it is.
    #[must_use]
    pub fn cpu(self) -> CpuId {
        match self {
            Self::Go(cpu) | Self::Interrupt(cpu) => cpu,
        }
    }
}

/// A step that is over, and what was reported of it.
type Over = (usize, StepReport);

/// Where the CPUs are, beside the machine.
#[derive(Clone, Debug)]
struct Place {
    tasks: Vec<Task>,
    /// How many steps of its own each CPU has begun.
    begun: Vec<usize>,
}

/// A state to go back to.
pub struct Saved {
    snapshot: Snapshot<Steps, Injector>,
    place: Place,
}

/// The steps of several CPUs, from the first that may come in any order.
pub struct Interleaving<'s> {
    session: &'s mut Session,
    steps: &'s [StepInput],
    queues: Vec<Vec<usize>>,
    place: Place,
    begin: Saved,
    last: Segment,
    /// A turn is one instruction, visible or not: slow, and for tests.
    pub every_instruction: bool,
    /// Values that the steps before these came to.
    pub reports: Vec<Option<StepReport>>,
}

/// Sees whether a turn has made an event that others can tell, and which addresses its stores to page
/// tables are about.
struct Watching<'a> {
    observer: &'a mut dyn Observer,
    visible: bool,
    slots: Vec<Gpa>,
}

impl Observer for Watching<'_> {
    fn begin(&mut self, header: &TraceHeader) {
        self.observer.begin(header);
    }

    fn event(&mut self, event: &Event) {
        self.visible |= is_visible(event);
        if let Some(Happened::TableStore { slot, .. } | Happened::AccessedDirty { slot, .. }) =
            event.happened()
        {
            self.slots.push(*slot);
        }
        self.observer.event(event);
    }

    fn completed(&mut self, instructions: u64) {
        self.observer.completed(instructions);
    }
}

/// Whether the rest of the machine, or a rule, can tell the event from none: no rule looks at operations
/// of their CPU alone, nor at stores that say nothing. What those store to is looked at elsewhere.
fn is_visible(event: &Event) -> bool {
    match &event.kind {
        Kind::Cpu(happened) => {
            !matches!(happened, Happened::Other { .. } | Happened::Delivered { .. })
        }
        Kind::Announced { announcements, .. } => !announcements.is_empty(),
        Kind::Suppressed { .. } | Kind::Note { .. } | Kind::End => true,
    }
}

impl crate::arch::choice::Chooser for Watching<'_> {
    fn choose(&mut self, _: crate::arch::choice::Point<'_>) -> usize {
        0
    }
}

impl crate::machine::Director for Watching<'_> {}

impl Session {
    /// Runs the first `alone` steps in order, and stands before the others. An executor that cannot tell
    /// accesses of one CPU from another's is used for none.
    ///
    /// # Errors
    /// As [`Session::run`]; [`Halt::Stop`] where the guest cannot go on.
    pub(crate) fn interleave<'s>(
        &'s mut self,
        steps: &'s [StepInput],
        alone: usize,
        injector: Injector,
        observer: &mut dyn Observer,
    ) -> Result<Result<Interleaving<'s>, Stop>, RunError> {
        let mut driver: Driver<'_, Scripted> = self.driver(&steps[..alone])?;
        self.driver(steps)?;
        self.begin(injector)?;
        match driver.run(&mut self.machine, observer) {
            Ok(()) => {}
            Err(Halt::Stop(stop)) => return Ok(Err(stop)),
            Err(Halt::Executor(error)) => return Err(error.into()),
        }
        self.machine.release(observer);
        let cpus = self.machine.cpus.len();
        let of_cpu = |cpu: usize| {
            let own = |&at: &usize| usize::from(steps[at].cpu.0) == cpu && steps[at].op.is_some();
            (alone..steps.len()).filter(own).collect()
        };
        let place = Place { tasks: vec![Task::default(); cpus], begun: vec![0; cpus] };
        let begin = Saved { snapshot: self.machine.snapshot()?, place: place.clone() };
        let mut reports = driver.reports;
        reports.resize(steps.len(), None);
        let queues = (0..cpus).map(of_cpu).collect();
        let last = Segment { cpu: CpuId(0), interrupt: false, instructions: 0, events: 0 };
        let every_instruction = false;
        Ok(Ok(Interleaving {
            session: self,
            steps,
            queues,
            place,
            begin,
            last,
            every_instruction,
            reports,
        }))
    }
}

impl Interleaving<'_> {
    fn machine(&mut self) -> &mut Machine<Steps, Injector> {
        &mut self.session.machine
    }

    /// Tells the accesses that other CPUs can tell, from nothing or from what is known of them.
    pub fn share(&mut self, known: Option<Box<Sharing>>) -> Option<Box<Sharing>> {
        self.machine().executor.share(known)
    }

    /// Nothing is known of accesses yet.
    #[must_use]
    pub fn unknown_sharing(&self) -> Box<Sharing> {
        Box::new(Sharing::new(self.session.machine.memory.len()))
    }

    /// What is known of accesses.
    pub fn sharing(&mut self) -> Option<&mut Sharing> {
        self.machine().executor.sharing()
    }

    /// Back to where the steps may come in any order.
    ///
    /// # Errors
    /// When the host fails.
    pub fn restart(&mut self) -> Result<(), ExecutorError> {
        self.place = self.begin.place.clone();
        self.session.machine.restore(&self.begin.snapshot).map(|_| ())
    }

    /// The turns that there may be now, CPU by CPU.
    #[must_use]
    pub fn turns(&self) -> Vec<Turn> {
        let mut turns = Vec::new();
        for (number, (task, cpu)) in
            self.place.tasks.iter().zip(&self.session.machine.cpus).enumerate()
        {
            let id = CpuId(number as u8);
            let idle = task.step.is_none() && !task.in_interrupt;
            let begins = idle && self.place.begun[number] < self.queues[number].len();
            if (begins || !idle) && !task.waits {
                turns.push(Turn::Go(id));
            }
            if cpu.vcpu.is_interrupted() && !cpu.vcpu.sti_shadow {
                turns.push(Turn::Interrupt(id));
            }
        }
        turns
    }

    /// Whether a CPU is in the middle of something, or has a step to begin.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let idle = |task: &Task| task.step.is_none() && !task.in_interrupt;
        self.place.tasks.iter().all(idle)
            && self.queues.iter().zip(&self.place.begun).all(|(queue, &begun)| begun >= queue.len())
    }

    /// Whether a CPU is in the middle of a step, or of an interrupt.
    #[must_use]
    pub fn is_amid(&self, cpu: CpuId) -> bool {
        let task = self.place.tasks[usize::from(cpu.0)];
        task.step.is_some() || task.in_interrupt
    }

    /// Lets the CPUs that wait for others look once more; whether there are any.
    pub fn look_again(&mut self) -> bool {
        let waiting = self.place.tasks.iter_mut().filter(|task| task.waits);
        waiting.map(|task| task.waits = false).count() > 0
    }

    /// Makes a turn. `observer` is shown its events.
    ///
    /// # Errors
    /// When the host fails, or the guest cannot go on.
    pub(crate) fn make(
        &mut self,
        turn: Turn,
        observer: &mut dyn Observer,
    ) -> Result<Option<Over>, Halt> {
        let (events, instructions) = self.counts();
        let mut watching = Watching { observer, visible: false, slots: Vec::new() };
        let made = self.turn(turn, &mut watching);
        self.session.machine.release(&mut watching);
        let reaches: Vec<Reach> = {
            let census = &self.session.machine.census;
            watching.slots.iter().flat_map(|&slot| census.reaches(slot)).collect()
        };
        if let Some(sharing) = self.sharing() {
            reaches.iter().for_each(|reach| sharing.contest(reach.base, reach.last()));
        }
        let now = self.counts();
        self.last = Segment {
            cpu: turn.cpu(),
            interrupt: matches!(turn, Turn::Interrupt(_)),
            instructions: now.1 - instructions,
            events: now.0 - events,
        };
        made
    }

    /// How far the CPU got whose turn was last.
    #[must_use]
    pub fn last(&self) -> Segment {
        self.last
    }

    /// Events until now, and instructions that have completed.
    fn counts(&self) -> (u64, u64) {
        (self.session.machine.seq, self.session.machine.instructions())
    }

    fn turn(&mut self, turn: Turn, watching: &mut Watching<'_>) -> Result<Option<Over>, Halt> {
        self.advance(turn, watching, self.every_instruction)
    }

    /// Makes a turn, or with `single` one instruction of it.
    fn advance(
        &mut self,
        turn: Turn,
        watching: &mut Watching<'_>,
        single: bool,
    ) -> Result<Option<Over>, Halt> {
        let number = usize::from(turn.cpu().0);
        let (_, written) = self.accesses();
        let over = self.advance_alone(turn, watching, single);
        // Whatever the others wait for may have come about, where this one has done more than look.
        if watching.visible || self.accesses().1 != written || self.sharing().is_none() {
            for (other, task) in self.place.tasks.iter_mut().enumerate() {
                task.waits &= other == number;
            }
        }
        over
    }

    /// Visible accesses so far, and those that write.
    fn accesses(&mut self) -> (u64, u64) {
        self.sharing().map_or((0, 0), |sharing| sharing.visible())
    }

    fn advance_alone(
        &mut self,
        turn: Turn,
        watching: &mut Watching<'_>,
        single: bool,
    ) -> Result<Option<Over>, Halt> {
        let number = usize::from(turn.cpu().0);
        let (accesses, _) = self.accesses();
        let machine = &mut self.session.machine;
        machine.switch_to(number)?;
        let task = self.place.tasks[number];
        match turn {
            Turn::Interrupt(_) => {
                self.place.tasks[number].in_interrupt |= task.step.is_none();
                machine.interrupts(watching)?;
                self.place.tasks[number].waits = false;
                return Ok(None);
            }
            Turn::Go(cpu) if task.step.is_none() && !task.in_interrupt => {
                let index = self.queues[number][self.place.begun[number]];
                self.place.begun[number] += 1;
                self.place.tasks[number].step = Some(index);
                Driver::<Scripted>::hand_over(machine, watching, cpu, index, &self.steps[index])?;
                return Ok(None);
            }
            Turn::Go(_) => {}
        }
        let budget = machine.traps + TURN_TRAP_BUDGET;
        let waited = machine.vcpu().is_interrupted();
        loop {
            let machine = &mut self.session.machine;
            // Its handler may touch what this kernel code is in the middle of.
            let vcpu = machine.vcpu_mut();
            let shadowed = std::mem::take(&mut vcpu.sti_shadow);
            let steps = vcpu.is_interrupted() && (vcpu.cpl == 0 || shadowed);
            let before = steps.then(|| vcpu.clone());
            let ran = machine.run_undisturbed(watching, steps || single)?;
            let stepped = before.is_some_and(|before| before != *machine.vcpu());
            let interrupted = machine.vcpu().is_interrupted() && !waited;
            machine.release(watching);
            match ran {
                Ran::On | Ran::Visible => {}
                // It looks again when something has come about, or it takes an interrupt.
                Ran::Waits | Ran::Halted => {
                    self.place.tasks[number].waits = true;
                    return Ok(None);
                }
                Ran::Asks => return Ok(self.asks(number, watching)),
            }
            let visible = ran == Ran::Visible || self.accesses().0 != accesses;
            if watching.visible || visible || stepped || interrupted || single {
                return Ok(None);
            }
            if self.session.machine.traps > budget {
                return Err(Stop::TrapBudget { budget: TURN_TRAP_BUDGET }.into());
            }
        }
    }

    /// A CPU asks for a step: the one that it had is done.
    fn asks(&mut self, number: usize, watching: &mut Watching<'_>) -> Option<Over> {
        let task = &mut self.place.tasks[number];
        (task.in_interrupt, task.waits) = (false, false);
        let machine = &mut self.session.machine;
        let report = machine.kernel.report(machine.vcpu());
        let (Some(index), Some(report)) = (task.step.take(), report) else { return None };
        Driver::<Scripted>::say_over(machine, watching, index, report);
        Some((index, report))
    }

    /// The end of the run, which rules judge too. It is CPU 0's, whoever ran last: that is no part of a state.
    ///
    /// # Errors
    /// When the host fails.
    pub fn end(&mut self, observer: &mut dyn Observer) -> Result<(), ExecutorError> {
        self.session.machine.switch_to(0)?;
        self.session.machine.publish(observer, false, Kind::End);
        self.session.machine.release(observer);
        Ok(())
    }

    /// The state now, to come back to.
    ///
    /// # Errors
    /// When the host fails.
    pub fn save(&mut self) -> Result<Saved, ExecutorError> {
        Ok(Saved { snapshot: self.session.machine.snapshot()?, place: self.place.clone() })
    }

    /// Goes back to a state.
    ///
    /// # Errors
    /// When the host fails.
    pub fn restore(&mut self, saved: &Saved) -> Result<(), ExecutorError> {
        self.place.clone_from(&saved.place);
        self.session.machine.restore(&saved.snapshot).map(|_| ())
    }

    /// Adds what the machine and the CPUs' steps do from here on depends on; all of it but `without`, where a
    /// test must notice that something is missing.
    ///
    /// # Errors
    /// When the host fails.
    pub fn put(&mut self, key: &mut StateKey, without: Option<Part>) -> Result<(), ExecutorError> {
        let Place { tasks, begun } = &self.place;
        if without != Some(Part::Steps) {
            key.put(begun);
            for task in tasks {
                key.put((task.step, task.waits, task.in_interrupt));
            }
        }
        let machine = &mut self.session.machine;
        if without != Some(Part::Kernel) {
            machine.kernel.put(key);
            machine.interceptor.put(key);
        }
        if without != Some(Part::Processors) {
            // A CPU that waits for a step has told what the last one came to, and its answer is written
            // over that.
            let told = 1 << gpr::RDI | 1 << gpr::RSI | 1 << gpr::RDX;
            let is_idle = |cpu: usize| tasks[cpu].step.is_none() && !tasks[cpu].in_interrupt;
            machine.put_processors(key, &|cpu| if is_idle(cpu) { told } else { 0 })?;
        }
        if without != Some(Part::Tlbs) {
            machine.put_tlbs(key);
        }
        if without != Some(Part::Memory) {
            let dead = dead_stacks(machine);
            machine.put_memory(key, &|page| {
                let start = page * layout::PAGE_SIZE;
                let inside = dead.iter().filter(|(low, high)| *low <= start && start < *high);
                inside.map(|(_, high)| (high - start) as usize).max().unwrap_or(0)
            });
        }
        Ok(())
    }
}

/// The addresses of stacks that nothing is on: below a CPU's kernel stack pointer, and where it runs on
/// that, its stacks for entries too.
fn dead_stacks(machine: &Machine<Steps, Injector>) -> Vec<(u64, u64)> {
    let mut dead = Vec::new();
    for (number, cpu) in (0..).zip(&machine.cpus) {
        let entry = layout::STACKS + number * layout::ENTRY_STACKS * layout::PAGE_SIZE;
        let size = layout::KERNEL_STACK_PAGES * layout::PAGE_SIZE;
        let kernel = layout::KERNEL_STACKS + number * size;
        let rsp = cpu.vcpu.gpr[gpr::RSP].wrapping_sub(layout::KERNEL_BASE);
        if cpu.vcpu.cpl == 0 && (kernel + RED_ZONE..=kernel + size).contains(&rsp) {
            dead.push((kernel, rsp - RED_ZONE));
            dead.push((entry, entry + layout::ENTRY_STACKS * layout::PAGE_SIZE));
        }
    }
    dead
}
