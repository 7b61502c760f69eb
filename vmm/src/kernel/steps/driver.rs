//! The driver: hands a kernel the steps of a script and lets its CPUs run, as a scheduler decides.
//!
//! It is the one loop of runs, sweeps and examinations, and it is data: a driver that is cloned
//! together with a snapshot of its machine goes on from there.

use super::Steps;
use crate::arch::addr::CpuId;
use crate::arch::choice::{Chooser, CpuState, Move, Point};
use crate::event::{Announcement, Event, Observer, TaskId, TraceHeader};
use crate::machine::{Access, Director, Halt, Interceptor, Machine, Moment, Ran, Stop};
use crate::schedule::{Hold, Scheduler, ScriptItem};
use stalemate_shared::step::{Op, Status};

/// Traps within one step, at most.
const STEP_TRAP_BUDGET: u64 = 5_000;

/// The classes of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepClass {
    /// A page-table edit.
    Edit,
    /// A flush primitive.
    Flush,
    /// Anything else.
    Other,
}

/// One step for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepInput {
    /// The CPU that does it.
    pub cpu: CpuId,
    /// Until where it runs, if not to its end.
    pub hold: Option<Hold>,
    /// What the guest does; none where the CPU only goes on with the step that it was held in.
    pub op: Option<Op>,
    /// Its arguments.
    pub args: [u64; 4],
    /// Edit, flush or other.
    pub class: StepClass,
}

impl StepInput {
    /// The step as a scheduler knows it.
    pub(super) fn script_item(&self) -> ScriptItem {
        ScriptItem { cpu: self.cpu, hold: self.hold, resumes: self.op.is_none() }
    }
}

/// What the guest reported of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepReport {
    /// What the step came to.
    pub status: Status,
    /// What was read, or a page fault's error code.
    pub value: u64,
    /// CR2 after a page fault.
    pub second: u64,
}

/// What a CPU does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Task {
    /// The step under way.
    pub(super) step: Option<usize>,
    /// It waits for another CPU.
    pub(super) waits: bool,
    /// It runs its interrupt handler, without a step.
    pub(super) in_interrupt: bool,
}

/// Where a script is.
#[derive(Clone, Debug)]
pub(super) struct Driver<'s, S> {
    steps: &'s [StepInput],
    pub(super) scheduler: S,
    tasks: Vec<Task>,
    /// The step that begins next.
    next: usize,
    /// The number of traps at which what is under way has had too many.
    budget: u64,
    /// Reports by step; none for a step that is not done, or that only lets another one go on.
    pub(super) reports: Vec<Option<StepReport>>,
}

/// Lets a scheduler decide, and see the events on their way to the observer.
struct Seen<'a, S> {
    scheduler: &'a mut S,
    observer: &'a mut dyn Observer,
}

impl<S: Scheduler> Observer for Seen<'_, S> {
    fn begin(&mut self, header: &TraceHeader) {
        self.observer.begin(header);
    }

    fn event(&mut self, event: &Event) {
        self.scheduler.saw(event);
        self.observer.event(event);
    }

    fn completed(&mut self, instructions: u64) {
        self.observer.completed(instructions);
    }
}

impl<S: Scheduler> Chooser for Seen<'_, S> {
    fn choose(&mut self, point: Point<'_>) -> usize {
        self.scheduler.choose(point)
    }
}

impl<S: Scheduler> Director for Seen<'_, S> {
    fn holds_before(&mut self, cpu: CpuId, access: &Access<'_>) -> bool {
        self.scheduler.holds_before(cpu, access)
    }
}

impl<'s, S: Scheduler> Driver<'s, S> {
    /// A driver at the beginning of `steps`.
    pub(super) fn new(steps: &'s [StepInput], cpus: usize, scheduler: S) -> Self {
        Self {
            steps,
            budget: STEP_TRAP_BUDGET * scheduler.patience(),
            scheduler,
            tasks: vec![Task::default(); cpus],
            next: 0,
            reports: vec![None; steps.len()],
        }
    }

    /// The same with another scheduler.
    pub(super) fn with_scheduler<T: Scheduler>(&self, scheduler: T) -> Driver<'s, T> {
        let Self { steps, tasks, next, budget, reports, .. } = self.clone();
        Driver { steps, scheduler, tasks, next, budget, reports }
    }

    /// Traps that a step may take.
    fn patience(&self) -> u64 {
        STEP_TRAP_BUDGET * self.scheduler.patience()
    }

    /// The step that a CPU is in.
    pub(super) fn step_of(&self, cpu: CpuId) -> Option<usize> {
        self.tasks.get(usize::from(cpu.0))?.step
    }

    /// Runs to the end of the script.
    pub(super) fn run<I: Interceptor>(
        &mut self,
        machine: &mut Machine<Steps, I>,
        observer: &mut dyn Observer,
    ) -> Result<(), Halt> {
        while let Some(next) = self.decide(machine) {
            self.make(machine, observer, next)?;
        }
        Ok(())
    }

    /// The move that the scheduler decides for; none at the end of the script.
    pub(super) fn decide<I: Interceptor>(&mut self, machine: &Machine<Steps, I>) -> Option<Move> {
        let states: Vec<CpuState> = self
            .tasks
            .iter()
            .zip(&machine.cpus)
            .map(|(task, cpu)| CpuState {
                in_task: task.step.is_some(),
                in_interrupt: task.in_interrupt,
                interrupted: cpu.vcpu.is_interrupted(),
                waits: task.waits,
            })
            .collect();
        let mut moves = Vec::with_capacity(2 * states.len() + 1);
        for (state, cpu) in states.iter().zip((0..).map(CpuId)) {
            if state.can_run() {
                moves.extend([Move::Run(cpu), Move::Step(cpu)]);
            }
        }
        if let Some(step) = self.steps.get(self.next) {
            moves.push(Move::Begin(step.cpu, self.next));
        }
        if moves.is_empty() {
            return None;
        }
        let point = Point::Next { moves: &moves, cpus: &states, seq: machine.seq };
        let chosen = self.scheduler.choose(point);
        moves.get(chosen).copied()
    }

    /// Makes a move.
    pub(super) fn make<I: Interceptor>(
        &mut self,
        machine: &mut Machine<Steps, I>,
        observer: &mut dyn Observer,
        made: Move,
    ) -> Result<(), Halt> {
        match made {
            Move::Begin(cpu, index) => {
                self.budget = machine.traps + self.patience();
                self.next = index + 1;
                self.begin(machine, observer, cpu, index)
            }
            Move::Run(cpu) => self.let_run(machine, observer, cpu, false),
            Move::Step(cpu) => self.let_run(machine, observer, cpu, true),
        }
    }

    /// Hands a step to its CPU, unless it is one that only lets it go on.
    fn begin<I: Interceptor>(
        &mut self,
        machine: &mut Machine<Steps, I>,
        observer: &mut dyn Observer,
        cpu: CpuId,
        index: usize,
    ) -> Result<(), Halt> {
        let number = usize::from(cpu.0);
        machine.switch_to(number)?;
        let step = &self.steps[index];
        let Some(op) = step.op else { return Ok(()) };
        self.tasks[number].step = Some(index);
        let mut seen = Seen { scheduler: &mut self.scheduler, observer };
        Self::hand_over(machine, &mut seen, cpu, index, &StepInput { op: Some(op), ..*step })
    }

    /// Hands a step to the current CPU.
    pub(super) fn hand_over<I: Interceptor>(
        machine: &mut Machine<Steps, I>,
        director: &mut dyn Director,
        cpu: CpuId,
        index: usize,
        step: &StepInput,
    ) -> Result<(), Halt> {
        let Some(op) = step.op else { return Ok(()) };
        let mut said = vec![Announcement::TaskBegins(TaskId(index))];
        if step.class == StepClass::Other {
            said.push(Announcement::EditsOver);
        }
        let rip = machine.vcpu().rip();
        machine.announce(director, rip, said);
        machine.moment(director, Moment::TaskBegins(TaskId(index)))?;
        machine.kernel.answer(&mut machine.cpus[usize::from(cpu.0)].vcpu, op, step.args);
        Ok(())
    }

    fn let_run<I: Interceptor>(
        &mut self,
        machine: &mut Machine<Steps, I>,
        observer: &mut dyn Observer,
        cpu: CpuId,
        single: bool,
    ) -> Result<(), Halt> {
        let number = usize::from(cpu.0);
        machine.switch_to(number)?;
        let task = &mut self.tasks[number];
        task.in_interrupt |= task.step.is_none();
        let before = single.then(|| machine.vcpu().clone());
        machine.watch(self.scheduler.watch())?;
        let mut seen = Seen { scheduler: &mut self.scheduler, observer };
        let ran = machine.run(&mut seen, single)?;
        if let Some(before) = before {
            self.scheduler.stepped(cpu, before != *machine.vcpu());
        }
        // Whatever the others wait for may have come about.
        for (other, task) in self.tasks.iter_mut().enumerate() {
            task.waits &= other == number;
        }
        match ran {
            Ran::On | Ran::Visible => {}
            Ran::Waits => self.tasks[number].waits = true,
            Ran::Halted => {
                self.tasks[number].waits = true;
                self.somebody_wakes(machine)?;
            }
            Ran::Asks => self.asks(machine, observer, number),
        }
        if machine.traps > self.budget {
            return Err(Stop::TrapBudget { budget: self.patience() }.into());
        }
        Ok(())
    }

    /// Whether there is a CPU that does something, now that one has halted.
    fn somebody_wakes<I: Interceptor>(&self, machine: &Machine<Steps, I>) -> Result<(), Halt> {
        let mut cpus = self.tasks.iter().zip(&machine.cpus);
        let goes_on = cpus.any(|(task, cpu)| {
            let busy = task.step.is_some() || task.in_interrupt;
            cpu.vcpu.is_interrupted() || busy && !cpu.vcpu.halted
        });
        if goes_on { Ok(()) } else { Err(Stop::Halted.into()) }
    }

    /// A CPU asks for a step: the one that it had is done.
    fn asks<I: Interceptor>(
        &mut self,
        machine: &mut Machine<Steps, I>,
        observer: &mut dyn Observer,
        number: usize,
    ) {
        let task = &mut self.tasks[number];
        task.in_interrupt = false;
        let report = machine.kernel.report(machine.vcpu());
        let (Some(index), Some(report)) = (task.step.take(), report) else { return };
        self.budget = machine.traps + self.patience();
        let mut seen = Seen { scheduler: &mut self.scheduler, observer };
        Self::say_over(machine, &mut seen, index, report);
        self.reports[index] = Some(report);
    }

    /// The step of the current CPU is over.
    pub(super) fn say_over<I: Interceptor>(
        machine: &mut Machine<Steps, I>,
        director: &mut dyn Director,
        index: usize,
        report: StepReport,
    ) {
        let StepReport { status, value, .. } = report;
        let rip = machine.vcpu().rip();
        let said = Announcement::TaskEnds { task: TaskId(index), status: status as u64, value };
        machine.announce(director, rip, vec![said]);
    }
}
