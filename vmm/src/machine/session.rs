//! A booted guest from which runs start: booted once for each configuration, then put back.

use super::outcome::FinalMemory;
use super::schedule::{Hold, Schedule, Scheduler};
use super::snapshot::Snapshot;
use super::{Cpu, Flow, Halt, Machine};
use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::core::table_entries;
use crate::arch::fault::Stop;
use crate::arch::features::CpuFeatures;
use crate::arch::tlb::TlbModel;
use crate::arch::vcpu::Vcpu;
use crate::boot::{self, GuestMemory, Image, ImageError, KernelInfo, KernelOptions};
use crate::event::{CpuHeader, Event, Kind, Observer, StepClass, TraceHeader};
use crate::executor::{Executor, ExecutorError};
use crate::inject::Injector;
use stalemate_shared::layout;
use stalemate_shared::step::{op, status};
use stalemate_shared::tlb_state::{MmState, TLB_STATE_WORDS};
use std::time::Duration;

/// Traps from entry to the first step, at most.
const BOOT_TRAP_BUDGET: u64 = 20_000;
/// Traps within one step, at most.
const STEP_TRAP_BUDGET: u64 = 5_000;

/// What a guest is booted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// What the processor has.
    pub features: CpuFeatures,
    /// What the kernel is told to be.
    pub kernel: KernelOptions,
    /// Fill choice and structure caches.
    pub model: TlbModel,
    /// How many virtual CPUs.
    pub cpus: u8,
    /// How they come in between each other.
    pub schedule: Schedule,
}

/// One step for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepInput {
    /// The CPU that does it.
    pub cpu: CpuId,
    /// Not a step of its own: the CPU goes on with the one that it was held in.
    pub resumes: bool,
    /// Until where it runs, if not to its end.
    pub hold: Option<Hold>,
    /// A `shared::step::op`.
    pub op: u64,
    /// Its arguments.
    pub args: [u64; 4],
    /// Edit, flush or other.
    pub class: StepClass,
}

/// What the guest reported of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepReport {
    /// A `shared::step::status`.
    pub status: u64,
    /// What was read, or a page fault's error code.
    pub value: u64,
    /// CR2 after a page fault.
    pub second: u64,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunEnd {
    /// By step; none for one that did not complete, or that only let another go on.
    pub reports: Vec<Option<StepReport>>,
    /// Why the guest could not go on, and its state then.
    pub stop: Option<(Stop, Box<Vcpu>)>,
    /// Traps taken.
    pub traps: u64,
    /// The faults that never fired, as text.
    pub not_fired: Vec<String>,
    /// How often faults fired.
    pub fired: u32,
    /// How often each fault's operation was met.
    pub met: Vec<u32>,
    /// What is in memory at the end, where that was asked for.
    pub memory: Option<FinalMemory>,
    /// The registers at the watched event, and the instruction that it is of.
    pub watched: Option<(Box<Vcpu>, Option<String>)>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The image cannot be loaded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The host failed.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// No memory.
    #[error("mapping {0} bytes of guest memory failed")]
    Memory(u64),
    /// The guest did not come to its first step.
    #[error("the guest stopped while booting: {stop}")]
    Guest {
        /// Why.
        stop: Stop,
        /// Its state.
        vcpu: Box<Vcpu>,
    },
}

/// What the observers of a run are told before its first event.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Registers and more.
    pub header: TraceHeader,
    /// Every page table.
    pub events: Vec<Event>,
}

impl Opening {
    /// Tells it.
    pub fn tell(&self, observer: &mut dyn Observer) {
        observer.begin(&self.header);
        self.events.iter().for_each(|event| observer.event(event));
    }
}

/// A booted guest.
pub struct Session {
    pub(super) machine: Machine,
    snapshot: Snapshot,
    opening: Opening,
    config: SessionConfig,
    /// Traps that booting took.
    pub boot_traps: u64,
    /// Runs tell what is in memory at their end.
    pub tells_memory: bool,
    /// The executor was kicked out of a loop and cannot be used again.
    pub spent: bool,
}

/// For events that nobody wants: those of booting.
struct Nobody;

impl Observer for Nobody {
    fn begin(&mut self, _: &TraceHeader) {}
    fn event(&mut self, _: &Event) {}
}

impl Session {
    /// Boots `image` on an executor made by `make` for the guest's memory.
    ///
    /// # Errors
    /// When the image cannot be loaded, the host fails, or the guest does not boot.
    pub fn boot(
        config: SessionConfig,
        image: &Image<'_>,
        make: impl FnOnce(&GuestMemory) -> Result<Box<dyn Executor>, ExecutorError>,
    ) -> Result<Self, BootError> {
        let memory = GuestMemory::new(layout::MEMORY_SIZE)
            .map_err(|_| BootError::Memory(layout::MEMORY_SIZE))?;
        image.load(&memory)?;
        boot::prepare(&memory, config.features, &config.kernel, config.cpus);
        let mut vcpu =
            Vcpu::long_mode(CpuId(0), config.features, image.entry(), layout::BOOT_TABLES);
        vcpu.gpr[crate::arch::vcpu::gpr::RDI] = layout::KERNEL_BASE + layout::BOOT_BLOCK;
        let executor = make(&memory)?;
        let mut machine = Machine::new(vcpu, config.model, executor, memory);
        let booted = boot_all(&mut machine, config.cpus);
        match booted {
            Ok(()) => {}
            Err(Halt::Executor(error)) => return Err(error.into()),
            Err(Halt::Stop(stop)) => {
                return Err(BootError::Guest { stop, vcpu: Box::new(machine.vcpu().clone()) });
            }
        }
        let boot_traps = machine.traps;
        machine.memory.set_base();
        // Pages that the guest may write natively stay touched; they are mapped for good.
        let memory = &machine.memory;
        machine.executor.revalidate(&|_| true, &mut |_, _, leaf| {
            if leaf.writable {
                memory.touch(leaf.frame);
            }
            Some(leaf)
        })?;
        (0..machine.cpus.len()).for_each(|cpu| machine.reset_tlb(cpu));
        machine.revalidate_all().map_err(|halt| match halt {
            Halt::Executor(error) => BootError::Executor(error),
            Halt::Stop(stop) => BootError::Guest { stop, vcpu: Box::new(machine.vcpu().clone()) },
        })?;
        machine.schedule = Scheduler::new(config.schedule);
        let opening = opening(&mut machine, &config);
        machine.traps = 0;
        let snapshot = machine.snapshot()?;
        Ok(Self {
            machine,
            snapshot,
            opening,
            config,
            boot_traps,
            tells_memory: false,
            spent: false,
        })
    }

    /// What it was booted with.
    #[must_use]
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// What the kernel said of itself.
    #[must_use]
    pub fn info(&self) -> Option<&KernelInfo> {
        self.machine.info.as_ref()
    }

    /// Time that the executor has spent running guest code.
    #[must_use]
    pub fn time_in_executor(&self) -> Duration {
        self.machine.executor.time_running()
    }

    /// Lets the next runs tell of the registers at event `seq`.
    pub fn watch(&mut self, seq: Option<u64>) {
        self.machine.watch = seq;
    }

    /// Instructions that the executor has completed, where it counts them.
    #[must_use]
    pub fn instructions(&self) -> Option<u64> {
        self.machine.executor.instructions()
    }

    /// Runs `steps` from the booted state.
    ///
    /// # Errors
    /// When the host fails.
    pub fn run(
        &mut self,
        steps: &[StepInput],
        injector: Injector,
        observer: &mut dyn Observer,
    ) -> Result<RunEnd, ExecutorError> {
        self.opening.tell(observer);
        self.run_told(steps, injector, observer)
    }

    /// What every run's observers are told first.
    #[must_use]
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// As [`Session::run`], for an observer that has been told the opening.
    ///
    /// # Errors
    /// When the host fails.
    pub fn run_told(
        &mut self,
        steps: &[StepInput],
        injector: Injector,
        observer: &mut dyn Observer,
    ) -> Result<RunEnd, ExecutorError> {
        self.begin(injector)?;
        let mut reports = vec![None; steps.len()];
        let halt = self.machine.run_steps(observer, steps, 0, &mut reports).err();
        self.ended(observer, reports, halt)
    }

    /// Back to the booted state; the pages of memory that had to be written.
    ///
    /// # Errors
    /// When the host fails.
    pub fn rewind(&mut self) -> Result<usize, ExecutorError> {
        self.machine.restore(&self.snapshot)
    }

    pub(super) fn begin(&mut self, injector: Injector) -> Result<(), ExecutorError> {
        self.rewind()?;
        self.machine.injector = injector;
        Ok(())
    }
}

/// Control registers, and every page table.
fn opening(machine: &mut Machine, config: &SessionConfig) -> Opening {
    let vcpu = machine.vcpu();
    let trampoline = machine.info.iter().flat_map(|info| &info.trampoline);
    let watched = machine.info.as_ref().map(|info| info.watched);
    let words = |at: Gpa, count: usize| {
        (0..count as u64).map(|word| machine.memory.read_word(Gpa(at.0 + word * 8))).collect()
    };
    let cpus = machine.cpus.iter().map(|Cpu { vcpu, .. }| CpuHeader {
        cr0: vcpu.cr0,
        cr3: vcpu.cr3,
        cr4: vcpu.cr4,
        efer: vcpu.efer,
        tlb_state: watched
            .map_or_else(Vec::new, |watched| words(watched.of(vcpu.id), TLB_STATE_WORDS)),
    });
    let header = TraceHeader {
        pti: config.kernel.options & stalemate_shared::boot::options::PTI != 0,
        model: config.model,
        features: vcpu.features,
        cpus: cpus.collect(),
        trampoline: trampoline.map(|&(start, end)| (Gva(start), Gva(end))).collect(),
        direct_map: (Gva(layout::KERNEL_BASE), Gva(layout::KERNEL_BASE + layout::DIRECT_MAP_SIZE)),
        mm_states: watched.map_or_else(Vec::new, |watched| {
            words(watched.mm_states, layout::MM_STATES * size_of::<MmState>() / 8)
        }),
    };
    let tables = machine
        .census
        .tables()
        .map(|table| Kind::TableLinked { table, entries: table_entries(&machine.memory, table) });
    let roots = machine.census.roots().map(|root| Kind::RootLinked { root });
    let kinds: Vec<Kind> = tables.chain(roots).collect();
    let mut told = Told::default();
    machine.seq = 0;
    // Of booting nobody is told, not even late.
    machine.release(&mut Nobody);
    for kind in kinds {
        let rip = machine.vcpu().rip();
        machine.publish(&mut told, rip, false, kind);
    }
    Opening { header, events: told.0 }
}

#[derive(Default)]
struct Told(Vec<Event>);

impl Observer for Told {
    fn begin(&mut self, _: &TraceHeader) {}
    fn event(&mut self, event: &Event) {
        self.0.push(event.clone());
    }
}

/// Boots the first CPU, and then the others one by one.
fn boot_all(machine: &mut Machine, cpus: u8) -> Result<(), Halt> {
    boot_to_first_step(machine)?;
    let entry = machine.info.as_ref().map_or(0, |info| info.ap_entry);
    for number in 1..cpus {
        let features = machine.vcpu().features;
        let mut vcpu = Vcpu::long_mode(CpuId(number), features, entry, layout::BOOT_TABLES);
        vcpu.gpr[crate::arch::vcpu::gpr::RDI] = u64::from(number);
        machine.add_cpu(vcpu)?;
        machine.switch_to(usize::from(number))?;
        boot_to_first_step(machine)?;
    }
    Ok(machine.switch_to(0)?)
}

fn boot_to_first_step(machine: &mut Machine) -> Result<(), Halt> {
    let budget = machine.traps + BOOT_TRAP_BUDGET;
    loop {
        match machine.step(&mut Nobody)? {
            Flow::NextStep([status::NONE, ..]) if machine.info.is_some() => return Ok(()),
            Flow::NextStep(_) => {
                let what = "a step was asked for before READY".to_owned();
                return Err(Stop::Interface(what).into());
            }
            Flow::Continue | Flow::Ready | Flow::Yield => {}
        }
        if machine.traps > budget {
            return Err(Stop::TrapBudget { budget: BOOT_TRAP_BUDGET }.into());
        }
    }
}

impl Machine {
    /// Runs the steps from the `first`, and lets what is held then come to its end.
    pub(super) fn run_steps(
        &mut self,
        observer: &mut dyn Observer,
        steps: &[StepInput],
        first: usize,
        reports: &mut [Option<StepReport>],
    ) -> Result<(), Halt> {
        for (index, step) in steps.iter().enumerate().skip(first) {
            self.run_step(observer, index, step, reports)?;
        }
        self.release_all(observer, reports)
    }

    /// Gives the current CPU a step.
    pub(super) fn hand_over(
        &mut self,
        observer: &mut dyn Observer,
        index: usize,
        step: &StepInput,
    ) {
        debug_assert!(step.op != op::STOP, "a scenario cannot ask for STOP");
        let rip = self.vcpu().rip();
        self.publish(observer, rip, false, Kind::StepBegin { index, class: step.class });
        self.injector.step_begins(self.vcpu().id, index);
        self.answer(step.op, step.args);
    }

    /// The number of traps at which a step that begins now has had too many.
    pub(super) fn step_budget(&self) -> u64 {
        self.traps + STEP_TRAP_BUDGET
    }

    /// Whether the traps are fewer than that.
    pub(super) fn within(&self, budget: u64) -> Result<(), Halt> {
        if self.traps > budget {
            return Err(Stop::TrapBudget { budget: STEP_TRAP_BUDGET }.into());
        }
        Ok(())
    }

    pub(super) fn end_step(
        &mut self,
        observer: &mut dyn Observer,
        index: usize,
        [status, value, second]: [u64; 3],
    ) -> StepReport {
        let rip = self.vcpu().rip();
        self.publish(observer, rip, false, Kind::StepEnd { index, status, value });
        StepReport { status, value, second }
    }
}
