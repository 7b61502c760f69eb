//! A booted guest from which runs start: booted once for each configuration, then put back.

use super::Steps;
use super::boot::{self, KernelInfo, KernelOptions};
use super::driver::{Driver, StepInput, StepReport};
use super::final_memory::FinalMemory;
use super::guest::Guest;
use super::image::ImageError;
use crate::arch::addr::{CpuId, Gva};
use crate::arch::core::table_entries;
use crate::arch::features::CpuFeatures;
use crate::arch::happened::Happened;
use crate::arch::tlb::TlbModel;
use crate::arch::vcpu::{Vcpu, gpr};
use crate::event::{CpuHeader, Event, KernelAbout, Kind, Observer, Pairing, TraceHeader};
use crate::executor::{Backend, Executor, ExecutorError};
use crate::inject::Injector;
use crate::machine::{Halt, Machine, NullDirector, Probe, Ran, Snapshot, Stop};
use crate::memory::GuestMemory;
use crate::schedule::{Schedule, Scheduler, Scripted};
use stalemate_shared::layout;
use stalemate_shared::pcid::{USER_PCID_BIT, USER_ROOT_BIT};
use stalemate_shared::step::Status;
use std::time::Duration;

/// Traps from entry to the first step, at most.
const BOOT_TRAP_BUDGET: u64 = 20_000;

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
    /// How they preempt each other.
    pub schedule: Schedule,
}

impl SessionConfig {
    /// Whether a guest that was booted with one serves the other too: a schedule and the seeds of
    /// choices are of runs, and decide nothing until the first step.
    #[must_use]
    pub fn boots_as(&self, other: &Self) -> bool {
        let boot = |config: &Self| Self {
            model: TlbModel { seed: 0, ..config.model },
            schedule: Schedule::InOrder,
            ..config.clone()
        };
        boot(self) == boot(other)
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunEnd {
    /// By step; none for one that did not complete, or that only let another go on.
    pub reports: Vec<Option<StepReport>>,
    /// Steps whose hold point was never reached, or which found nobody held.
    pub unreached: Vec<usize>,
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
    /// What is in memory at the end, where that is kept.
    pub memory: Option<FinalMemory>,
    /// The registers at the probed event, and the instruction that it is of.
    pub probed: Option<Probe>,
    /// What the kernel printed.
    pub printed: String,
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
        /// What it had printed.
        printed: String,
    },
}

/// Why a run has no end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no guest to run.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The host failed.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// A step is for a CPU that the guest does not have.
    #[error("step {} is for CPU {}, and the guest has {cpus}", .step + 1, .cpu.0)]
    NoCpu {
        /// The step's index.
        step: usize,
        /// Its CPU.
        cpu: CpuId,
        /// How many CPUs there are.
        cpus: usize,
    },
}

/// The trace header, and one event for each page table that exists when a run begins.
#[derive(Clone, Debug)]
pub struct InitialState {
    /// Registers and what is known of the kernel.
    pub header: TraceHeader,
    /// Every page table.
    pub events: Vec<Event>,
}

impl InitialState {
    /// Shows it to an observer.
    pub fn show(&self, observer: &mut dyn Observer) {
        observer.begin(&self.header);
        self.events.iter().for_each(|event| observer.event(event));
    }
}

type StepMachine = Machine<Steps, Injector>;

/// A booted guest.
pub struct Session {
    pub(super) machine: StepMachine,
    snapshot: Snapshot<Steps, Injector>,
    initial: InitialState,
    config: SessionConfig,
    /// Traps that booting took.
    pub boot_traps: u64,
    /// What the kernel printed while it booted.
    pub boot_printed: String,
    /// Whether runs keep what is in memory at their end.
    pub keeps_memory: bool,
    /// The executor was kicked out of a loop and cannot be used again.
    pub spent: bool,
}

impl Session {
    /// Boots `guest` on an executor of `backend`.
    ///
    /// # Errors
    /// When the image cannot be loaded, the host fails, or the guest does not boot.
    pub fn boot(
        config: SessionConfig,
        guest: &Guest,
        backend: &Backend,
    ) -> Result<Self, BootError> {
        Self::boot_on(config, guest, |memory| backend.make(memory))
    }

    /// Boots `guest` on an executor made by `make` for the guest's memory.
    ///
    /// # Errors
    /// As [`Session::boot`].
    pub fn boot_on(
        config: SessionConfig,
        guest: &Guest,
        make: impl FnOnce(&GuestMemory) -> Result<Box<dyn Executor>, ExecutorError>,
    ) -> Result<Self, BootError> {
        let size = guest.image().memory_size();
        let memory = GuestMemory::new(size).map_err(|_| BootError::Memory(size))?;
        guest.image().load(&memory)?;
        boot::prepare(&memory, config.features, &config.kernel, config.cpus);
        let boot_block = layout::KERNEL_BASE + layout::BOOT_BLOCK;
        let vcpu = entering(CpuId(0), config.features, guest.image().entry(), boot_block);
        let executor = make(&memory)?;
        let kernel = Steps::new(guest.abilities().addresses);
        let injector = Injector::default();
        let mut machine = StepMachine::new(vcpu, config.model, executor, memory, kernel, injector);
        let stopped = |machine: &StepMachine, halt| match halt {
            Halt::Executor(error) => BootError::Executor(error),
            Halt::Stop(stop) => BootError::Guest {
                stop,
                vcpu: Box::new(machine.vcpu().clone()),
                printed: machine.kernel.printed(),
            },
        };
        boot_all(&mut machine, config.cpus).map_err(|halt| stopped(&machine, halt))?;
        let boot_traps = machine.traps;
        let boot_printed = machine.kernel.take_printed();
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
        machine.revalidate_all().map_err(|halt| stopped(&machine, halt))?;
        let initial = initial_state(&mut machine, &config);
        machine.traps = 0;
        let snapshot = machine.snapshot()?;
        Ok(Self {
            machine,
            snapshot,
            initial,
            config,
            boot_traps,
            boot_printed,
            keeps_memory: false,
            spent: false,
        })
    }

    /// What it was booted with.
    #[must_use]
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// Lets the next runs be of `config`, where the guest that was booted serves it
    /// ([`SessionConfig::boots_as`]); whether it does.
    pub fn serve(&mut self, config: &SessionConfig) -> bool {
        let serves = self.config.boots_as(config);
        if serves {
            self.initial.header.model.seed = config.model.seed;
            self.config = config.clone();
        }
        serves
    }

    /// What the kernel said of itself.
    #[must_use]
    pub fn info(&self) -> Option<&KernelInfo> {
        self.machine.kernel.info()
    }

    /// Time that the executor has spent running guest code.
    #[must_use]
    pub fn time_in_executor(&self) -> Duration {
        self.machine.executor.time_running()
    }

    /// Lets the next runs keep the registers at event `seq`.
    pub fn probe(&mut self, seq: Option<u64>) {
        self.machine.probe = seq;
    }

    /// Instructions that the executor has completed, where it counts them.
    #[must_use]
    pub fn instructions(&self) -> Option<u64> {
        self.machine.executor.instructions()
    }

    /// Runs `steps` from the booted state.
    ///
    /// # Errors
    /// When the host fails, or a step is for a CPU that the guest does not have.
    pub fn run(
        &mut self,
        steps: &[StepInput],
        injector: Injector,
        observer: &mut dyn Observer,
    ) -> Result<RunEnd, RunError> {
        self.initial.show(observer);
        self.run_from_initial_state(steps, injector, observer)
    }

    /// The state that every run begins with.
    #[must_use]
    pub fn initial_state(&self) -> &InitialState {
        &self.initial
    }

    /// Like [`Session::run`], for an observer that already holds the initial state (a clone of one
    /// that saw it).
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_from_initial_state(
        &mut self,
        steps: &[StepInput],
        injector: Injector,
        observer: &mut dyn Observer,
    ) -> Result<RunEnd, RunError> {
        let mut driver = self.driver(steps)?;
        self.begin(injector)?;
        let halt = driver.run(&mut self.machine, observer).err();
        Ok(self.end(observer, driver, halt)?)
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
        self.machine.interceptor = injector;
        Ok(())
    }

    /// A driver at the beginning of `steps`.
    pub(super) fn driver<'s>(
        &self,
        steps: &'s [StepInput],
    ) -> Result<Driver<'s, Scripted>, RunError> {
        let cpus = self.machine.cpus.len();
        if let Some(step) = steps.iter().position(|step| usize::from(step.cpu.0) >= cpus) {
            return Err(RunError::NoCpu { step, cpu: steps[step].cpu, cpus });
        }
        let items = steps.iter().map(StepInput::script_item).collect();
        let scheduler = Scripted::new(self.config.schedule, items, cpus, self.config.model.seed);
        Ok(Driver::new(steps, cpus, scheduler))
    }

    /// Emits the end, and gathers what the run came to.
    pub(super) fn end<S: Scheduler>(
        &mut self,
        observer: &mut dyn Observer,
        driver: Driver<'_, S>,
        halt: Option<Halt>,
    ) -> Result<RunEnd, ExecutorError> {
        let memory = self.keeps_memory.then(|| FinalMemory::of(&self.machine));
        let machine = &mut self.machine;
        let stop = match halt {
            None => None,
            Some(Halt::Executor(error)) => return Err(error),
            Some(Halt::Stop(stop)) => {
                self.spent |= matches!(stop, Stop::Timeout { .. } | Stop::Broken { .. });
                Some((stop, Box::new(machine.vcpu().clone())))
            }
        };
        machine.publish(observer, false, Kind::End);
        Ok(RunEnd {
            unreached: driver.scheduler.unreached().to_vec(),
            reports: driver.reports,
            stop,
            traps: machine.traps,
            not_fired: machine.interceptor.not_fired().map(ToString::to_string).collect(),
            fired: machine.interceptor.fired(),
            met: machine.interceptor.met().collect(),
            memory,
            probed: machine.probed.take(),
            printed: machine.kernel.printed(),
        })
    }
}

/// A CPU about to execute the kernel's first instruction, on the boot tables, with `argument`.
fn entering(id: CpuId, features: CpuFeatures, entry: u64, argument: u64) -> Vcpu {
    let mut vcpu = Vcpu::long_mode(id, features, entry, layout::BOOT_TABLES);
    (vcpu.cs, vcpu.ss) = (layout::KERNEL_CS, layout::KERNEL_SS);
    vcpu.gpr[gpr::RDI] = argument;
    vcpu
}

/// Control registers, what the kernel has said, and every page table.
fn initial_state(machine: &mut StepMachine, config: &SessionConfig) -> InitialState {
    let cpus = machine.cpus.iter().map(|cpu| CpuHeader {
        cr0: cpu.vcpu.cr0,
        cr3: cpu.vcpu.cr3,
        cr4: cpu.vcpu.cr4,
        efer: cpu.vcpu.efer,
    });
    let header = TraceHeader {
        model: config.model,
        features: machine.vcpu().features,
        cpus: cpus.collect(),
        kernel: kernel_about(machine),
    };
    let tables = machine.census.tables().map(|table| Happened::TableLinked {
        table,
        entries: table_entries(&machine.memory, table),
    });
    let roots = machine.census.roots().map(|root| Happened::RootLinked { root });
    let all: Vec<Happened> = tables.chain(roots).collect();
    machine.seq = 0;
    // What booting held back is discarded with the rest of it.
    machine.release(&mut NullDirector);
    let vcpu = machine.vcpu();
    let (cpu, rip) = (vcpu.id, vcpu.rip());
    let events = (0..).zip(all).map(|(seq, happened)| Event {
        seq,
        cpu,
        rip,
        injected: false,
        kind: Kind::Cpu(happened),
    });
    let events: Vec<Event> = events.collect();
    machine.seq = events.len() as u64;
    InitialState { header, events }
}

/// What the kernel has said of itself.
fn kernel_about(machine: &StepMachine) -> KernelAbout {
    let info = machine.kernel.info();
    let trampoline = info.iter().flat_map(|info| &info.trampoline);
    let direct_map = match machine.memory.len() {
        layout::MEMORY_SIZE => layout::DIRECT_MAP_SIZE,
        more => more,
    };
    KernelAbout {
        wait_for_reuse: Vec::new(),
        runs_freely: false,
        isolated: info.is_some_and(|info| info.isolated),
        pairing: Some(Pairing { root_bit: USER_ROOT_BIT, pcid_bit: USER_PCID_BIT }),
        slots: info.map_or_else(Vec::new, |info| info.layout.slots()),
        trampoline: trampoline.map(|&(start, end)| (Gva(start), Gva(end))).collect(),
        direct_map: (Gva(layout::KERNEL_BASE), Gva(layout::KERNEL_BASE + direct_map)),
        state: crate::machine::Kernel::state(&machine.kernel, &machine.memory),
    }
}

/// Boots the first CPU, and then the others one by one.
fn boot_all(machine: &mut StepMachine, cpus: u8) -> Result<(), Halt> {
    boot_to_first_step(machine)?;
    let entry = machine.kernel.info().map_or(0, |info| info.ap_entry);
    for number in 1..cpus {
        let features = machine.vcpu().features;
        machine.add_cpu(entering(CpuId(number), features, entry, u64::from(number)))?;
        machine.switch_to(usize::from(number))?;
        boot_to_first_step(machine)?;
    }
    Ok(machine.switch_to(0)?)
}

fn boot_to_first_step(machine: &mut StepMachine) -> Result<(), Halt> {
    let budget = machine.traps + BOOT_TRAP_BUDGET;
    loop {
        match machine.run(&mut NullDirector, false)? {
            Ran::Asks => {
                let report = machine.kernel.report(machine.vcpu());
                let first = report.is_some_and(|report| report.status == Status::None);
                if first && machine.kernel.info().is_some() {
                    return Ok(());
                }
                let what = "a step was requested before READY".to_owned();
                return Err(Stop::Interface(what).into());
            }
            Ran::Halted => return Err(Stop::Halted.into()),
            Ran::On | Ran::Visible | Ran::Waits => {}
        }
        if machine.traps > budget {
            return Err(Stop::TrapBudget { budget: BOOT_TRAP_BUDGET }.into());
        }
    }
}
