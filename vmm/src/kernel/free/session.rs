//! One boot of a kernel that runs freely: from its first instruction to its end.

use super::boot::{BOOT_CS, BOOT_DS, ROOT};
use super::look::Look;
use super::platform::Platform;
use super::platform::{Several, TABLES_END, Turns};
use super::startup::Startup;
use super::unwind::{Stack, Unwinder};
use super::{Boot, FreeKernel, Hooks, KernelError, SLICE, USER_PCID_BIT, USER_ROOT_BIT};
use crate::arch::addr::{CpuId, Gva, Pcid};
use crate::arch::fault;
use crate::arch::features::CpuFeatures;
use crate::arch::op::{ControlRegister, Op};
use crate::arch::tlb::TlbModel;
use crate::arch::vcpu::{Vcpu, flags, gpr};
use crate::event::{CpuHeader, KernelAbout, Kind, Pairing, SlotPcids, TraceHeader};
use crate::executor::interp::InterpExecutor;
use crate::executor::{Executor, ExecutorError};
use crate::inject::Injector;
use crate::machine::{Cpu, Director, Halt, Machine, Ran, Snapshot, Stop, WatchedEntry};
use crate::memory::GuestMemory;
use std::collections::BTreeSet;

/// Units of the clock in a second: what the command line tells the kernel too.
pub const CLOCK_HZ: u64 = 1_000_000_000;

/// What a kernel is run on.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What the processor has.
    pub features: CpuFeatures,
    /// Fill choice and structure caches.
    pub model: TlbModel,
    /// Memory, in bytes.
    pub ram: u64,
    /// The timer is so many times as fast as the kernel programs it.
    pub ticks: u64,
    /// Instructions, at most.
    pub instructions: u64,
    /// How many CPUs there are.
    pub cpus: u8,
    /// How several of them take turns.
    pub turns: Turns,
    /// Ports at which no device is looked for, and registers that the processor has not, are answered as
    /// an empty bus does. Else the first such port ends the run, and such a register is #GP.
    pub lenient: bool,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The kernel reset the machine, by a triple fault.
    Reset,
    /// It halted every CPU, and nothing is left that could wake one.
    Halted,
    /// It printed the text that ends the run.
    Said,
    /// It has had its instructions.
    Instructions,
    /// It cannot go on.
    Stopped(Stop, Box<Vcpu>),
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct FreeRun {
    /// How it ended.
    pub end: End,
    /// Instructions that completed.
    pub instructions: u64,
    /// The same when user mode was first entered.
    pub user_mode: Option<u64>,
    /// Traps taken.
    pub traps: u64,
    /// Ports that nothing answers at, and how often they were used.
    pub absent_ports: Vec<(u16, u64)>,
    /// Model-specific registers that the processor has not, and how often they were used.
    pub absent_msrs: Vec<(u32, u64)>,
}

/// Why there is no run.
#[derive(Debug, thiserror::Error)]
pub enum FreeError {
    /// The kernel does not fit.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The host failed.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// A run came to something once, and not a second time.
    #[error(
        "{0} is not met a second time: a run was not repeated exactly, which is a defect of Stalemate"
    )]
    NotRepeated(String),
    /// No memory.
    #[error("mapping {0} MiB of guest memory failed")]
    Memory(u64),
}

/// A kernel before its first instruction.
pub struct Free {
    pub(super) machine: Machine<FreeKernel, Injector>,
    settings: Settings,
    /// Instructions that had completed when user mode was first entered.
    pub(super) user_mode: Option<u64>,
}

/// A kernel in the middle of its run.
pub(crate) struct Checkpoint {
    pub(super) machine: Snapshot<FreeKernel, Injector>,
    pub(super) user_mode: Option<u64>,
}

impl Free {
    /// Puts the kernel into memory.
    ///
    /// # Errors
    /// When it does not fit, or the host has no memory.
    pub fn new(boot: &Boot<'_>, settings: Settings, hooks: Hooks) -> Result<Self, FreeError> {
        let memory =
            GuestMemory::new(settings.ram).map_err(|_| FreeError::Memory(settings.ram >> 20))?;
        let vcpu = boot.load(&memory, settings.features, settings.cpus)?;
        let mut executor = Box::new(InterpExecutor::new(&memory, SLICE));
        hooks.breakpoints().for_each(|at| executor.set_breakpoint(at));
        let several = (settings.cpus > 1).then(|| Several::new(settings.cpus, settings.turns));
        let platform = Platform::new(CLOCK_HZ, settings.ticks, several);
        let kernel = FreeKernel::new(platform, settings.lenient, hooks);
        let injector = Injector::default();
        let identity = vcpu.identity;
        let mut machine = Machine::new(vcpu, settings.model, executor, memory, kernel, injector);
        for cpu in (1..settings.cpus).map(CpuId) {
            let waiting = Vcpu::long_mode(cpu, settings.features, 0, ROOT);
            machine.add_cpu(Vcpu { identity, ..waiting })?;
        }
        Ok(Self { machine, settings, user_mode: None })
    }

    /// Injects faults into the run.
    pub(crate) fn inject(&mut self, injector: Injector) {
        self.machine.interceptor = injector;
    }

    /// What its functions have been seen to do.
    #[must_use]
    pub fn hooks(&self) -> &Hooks {
        &self.machine.kernel.hooks
    }

    /// The faults that never fired, as text.
    #[must_use]
    pub fn not_fired(&self) -> Vec<String> {
        self.machine.interceptor.not_fired().map(ToString::to_string).collect()
    }

    /// What an observer is shown before the first event.
    #[must_use]
    pub fn header(&self) -> TraceHeader {
        let cpus = self.machine.cpus.iter().map(|cpu| CpuHeader {
            cr0: cpu.vcpu.cr0,
            cr3: cpu.vcpu.cr3,
            cr4: cpu.vcpu.cr4,
            efer: cpu.vcpu.efer,
        });
        let hooks = &self.machine.kernel.hooks;
        let slots = 1..=hooks.marks.map_or(0, |marks| marks.slots);
        let slots = slots.map(|kernel| SlotPcids {
            kernel: Pcid::new(kernel),
            user: Pcid::new(kernel | USER_PCID_BIT as u16),
        });
        TraceHeader {
            model: self.settings.model,
            features: self.settings.features,
            cpus: cpus.collect(),
            kernel: KernelAbout {
                runs_freely: true,
                slots: slots.collect(),
                pairing: Some(Pairing { root_bit: USER_ROOT_BIT, pcid_bit: USER_PCID_BIT }),
                wait_for_reuse: hooks.wait_for_reuse.clone(),
                direct_map: hooks.direct_map,
                ..KernelAbout::default()
            },
        }
    }

    /// Instructions that have completed.
    pub(crate) fn instructions(&self) -> u64 {
        self.machine.instructions()
    }

    /// Whether a CPU has come to user mode.
    pub(crate) fn is_in_user_mode(&self) -> bool {
        self.user_mode.is_some()
    }

    /// Whether a fault has met what it is about.
    pub(crate) fn has_fired(&self) -> bool {
        self.machine.interceptor.fired() > 0
    }

    /// The next instruction.
    pub(crate) fn rip(&self) -> Gva {
        self.machine.vcpu().rip()
    }

    /// Comes back from [`Free::advance`] once so many instructions have completed, if not before.
    pub(crate) fn pause_at(&mut self, instructions: Option<u64>) {
        self.machine.kernel.pause = instructions;
    }

    /// Tells the uses of these cached translations from now on.
    pub(crate) fn watch_entries(&mut self, watched_entries: Vec<WatchedEntry>) {
        self.machine.watch_entries(watched_entries);
    }

    /// What has been seen of them.
    pub(crate) fn watched_entries(&self) -> &[WatchedEntry] {
        self.machine.watched_entries()
    }

    /// One of them has become stale.
    ///
    /// # Errors
    /// When the host fails.
    pub(crate) fn is_stale_now(&mut self, number: usize) -> Result<(), ExecutorError> {
        self.machine.is_stale_now(number)
    }

    /// Keeps the stack at each trap at which so many instructions have completed.
    pub(crate) fn look(&mut self, unwinder: Unwinder, wanted: BTreeSet<u64>) {
        self.machine.kernel.look = Some(Look::new(unwinder, wanted));
    }

    /// The stack that was kept at an instruction, once so many had completed.
    pub(crate) fn stack_at(&self, instructions: u64, rip: Gva) -> Option<&Stack> {
        self.machine.kernel.look.as_ref()?.taken(instructions, rip)
    }

    /// The stack at the last trap, before it was carried out.
    pub(crate) fn last_stack(&self) -> Option<Stack> {
        self.machine.kernel.look.as_ref()?.last(&self.machine.memory)
    }

    /// The kernel as it is now, to go back to.
    ///
    /// # Errors
    /// When the host fails.
    pub(crate) fn checkpoint(&mut self) -> Result<Checkpoint, ExecutorError> {
        Ok(Checkpoint { machine: self.machine.checkpoint()?, user_mode: self.user_mode })
    }

    /// Goes back to the last checkpoint.
    ///
    /// # Errors
    /// When the host fails.
    pub(crate) fn go_back(&mut self, checkpoint: &Checkpoint) -> Result<(), ExecutorError> {
        self.user_mode = checkpoint.user_mode;
        self.machine.restore(&checkpoint.machine).map(|_| ())
    }

    /// Runs the kernel. `console` gets what it prints as it comes; the run ends when that says so.
    ///
    /// # Errors
    /// When the host fails.
    pub fn run(
        &mut self,
        director: &mut dyn Director,
        console: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<FreeRun, ExecutorError> {
        let end = loop {
            if let Some(end) = self.advance(director, console)? {
                break end;
            }
        };
        Ok(self.finish(director, console, end))
    }

    /// Runs the kernel to its next trap, and that trap; how the run ended, if it did.
    ///
    /// # Errors
    /// When the host fails.
    pub(crate) fn advance(
        &mut self,
        director: &mut dyn Director,
        console: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<Option<End>, ExecutorError> {
        self.advance_by(director, console, false)
    }

    /// The same, or with `single` no more than one instruction.
    pub(super) fn advance_by(
        &mut self,
        director: &mut dyn Director,
        console: &mut dyn FnMut(&[u8]) -> bool,
        single: bool,
    ) -> Result<Option<End>, ExecutorError> {
        match self.takes_turns(director) {
            Ok(true) => {}
            Ok(false) => return Ok(Some(End::Halted)),
            Err(Halt::Executor(error)) => return Err(error),
            Err(Halt::Stop(stop)) => {
                return Ok(Some(End::Stopped(stop, Box::new(self.machine.vcpu().clone()))));
            }
        }
        let ran = match self.machine.run(director, single) {
            Ok(ran) => ran,
            Err(Halt::Executor(error)) => return Err(error),
            Err(Halt::Stop(Stop::Processor(fault::Stop::TripleFault { .. }))) => {
                return Ok(Some(End::Reset));
            }
            Err(Halt::Stop(stop)) => {
                return Ok(Some(End::Stopped(stop, Box::new(self.machine.vcpu().clone()))));
            }
        };
        let instructions = self.machine.instructions();
        if self.user_mode.is_none() && self.machine.vcpu().cpl == 3 {
            self.user_mode = Some(instructions);
        }
        let printed = self.machine.kernel.platform.take_output();
        if !printed.is_empty() && console(&printed) {
            return Ok(Some(End::Said));
        }
        if instructions >= self.settings.instructions {
            return Ok(Some(End::Instructions));
        }
        if self.settings.cpus > 1 {
            return Ok(None);
        }
        let wakes = self.machine.vcpu().rflags & flags::IF != 0;
        let is_over = ran == Ran::Halted && !(wakes && self.machine.kernel.sleep(instructions));
        Ok(is_over.then_some(End::Halted))
    }

    /// Lets that one of several CPUs run whose turn it is; false if none ever runs again.
    fn takes_turns(&mut self, director: &mut dyn Director) -> Result<bool, Halt> {
        if self.settings.cpus == 1 {
            return Ok(true);
        }
        let current = self.machine.current();
        self.start_cpus(director)?;
        self.machine.switch_to(current)?;
        loop {
            let instructions = self.machine.instructions();
            let kernel = &mut self.machine.kernel;
            let now = kernel.now(instructions);
            let Some(several) = &mut kernel.platform.several else { return Ok(true) };
            for cpu in &self.machine.cpus {
                several.set_halted(cpu.vcpu.id, cpu.vcpu.halted);
            }
            several.advance(instructions, now);
            let runs = |number: usize| {
                let vcpu = &self.machine.cpus[number].vcpu;
                let wakes = several.has_nmi(vcpu.id)
                    || vcpu.rflags & flags::IF != 0 && several.is_interrupting(vcpu.id);
                several.is_started(vcpu.id) && (!vcpu.halted || wakes)
            };
            if runs(current) && !several.is_over(instructions) {
                return Ok(true);
            }
            let all = self.machine.cpus.len();
            if let Some(next) =
                (1..=all).map(|ahead| (current + ahead) % all).find(|&cpu| runs(cpu))
            {
                several.take_turn(CpuId(next as u8), instructions);
                self.machine.switch_to(next)?;
                return Ok(true);
            }
            let waits = |cpu: &Cpu| cpu.vcpu.rflags & flags::IF != 0;
            if !self.machine.cpus.iter().any(waits) || !self.machine.kernel.sleep(instructions) {
                return Ok(false);
            }
        }
    }

    /// CPUs begin that others have started.
    fn start_cpus(&mut self, director: &mut dyn Director) -> Result<(), Halt> {
        let several = self.machine.kernel.platform.several.as_mut();
        for (cpu, page) in several.map_or_else(Vec::new, Several::take_starting) {
            let Some(startup) = Startup::find(&self.machine.memory, page) else {
                let what = format!(
                    "CPU {cpu} is started at {:#x}, where no Linux trampoline is",
                    u64::from(page) << 12
                );
                return Err(fault::Stop::NotModelled(what).into());
            };
            self.machine.switch_to(usize::from(cpu))?;
            let load = Op::WriteCr { register: ControlRegister::Cr3, value: startup.root };
            let loaded =
                self.machine.with_core(director, |core| core.execute(load, startup.entry))?;
            if let Err(fault::Fault::Stop(stop)) = loaded {
                return Err(stop.into());
            }
            let vcpu = self.machine.vcpu_mut();
            vcpu.rip = startup.entry;
            // The first instruction is a call: a page of the tables' memory that nothing is in.
            vcpu.gpr[gpr::RSP] = TABLES_END - u64::from(cpu) * 4096;
            (vcpu.cs, vcpu.ss) = (BOOT_CS, BOOT_DS);
        }
        Ok(())
    }

    /// The run is over.
    pub(crate) fn finish(
        &mut self,
        director: &mut dyn Director,
        console: &mut dyn FnMut(&[u8]) -> bool,
        end: End,
    ) -> FreeRun {
        console(&self.machine.kernel.platform.take_output());
        self.machine.release(director);
        self.machine.publish(director, false, Kind::End);
        FreeRun {
            end,
            instructions: self.machine.instructions(),
            user_mode: self.user_mode,
            traps: self.machine.traps,
            absent_ports: self.machine.kernel.platform.absent().collect(),
            absent_msrs: self.machine.kernel.absent_msrs.clone().into_iter().collect(),
        }
    }
}
