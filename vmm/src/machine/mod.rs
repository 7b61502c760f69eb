//! The machine: virtual CPUs with their modelled TLBs, guest memory and an executor, driven from
//! trap to trap.
//!
//! It knows a [`Kernel`] and an [`Interceptor`], and neither what they are nor what its driver has
//! the kernel do. One CPU runs at a time; the driver says which.

mod board;
mod device;
mod director;
mod interceptor;
mod kernel;
mod key;
mod publish;
mod shadow_pages;
mod side_effect;
mod snapshot;
mod stop;
mod store;
mod trap;
mod uses;

pub use director::{Access, Accesses, Director, Watch};
pub use interceptor::{Interceptor, Moment, Plan, PlannedOp, Scheduled, SideEffect, Site};
pub use kernel::{Call, Kernel, KernelWords, Reached, Sent, Statement};
pub use stop::Stop;

pub(crate) use director::NullDirector;
pub(crate) use snapshot::Snapshot;
pub(crate) use stop::Halt;
pub(crate) use trap::Ran;
pub(crate) use uses::{Use, WatchedEntry};

use crate::arch::addr::{CpuId, Gpa};
use crate::arch::census::Census;
use crate::arch::core::{Core, Log, Remote};
use crate::arch::features::Errata;
use crate::arch::tlb::{Tlb, TlbModel};
use crate::arch::vcpu::Vcpu;
use crate::event::Event;
use crate::executor::{Executor, ExecutorError};
use crate::memory::GuestMemory;
use kernel::View;
use std::time::Instant;

/// One virtual CPU.
#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    pub(crate) vcpu: Vcpu,
    pub(crate) tlb: Tlb,
    /// x87 and SSE state while another CPU runs.
    fpu: Vec<u32>,
}

/// Registers at an event, and the instruction that it is of.
pub type Probe = (Box<Vcpu>, Option<String>);

/// A machine.
pub(crate) struct Machine<K, I> {
    pub(crate) cpus: Vec<Cpu>,
    /// The one that the executor's state is of.
    current: usize,
    pub(crate) census: Census,
    pub(crate) model: TlbModel,
    pub(crate) executor: Box<dyn Executor>,
    // After the executor, whose virtual machine maps it: fields drop in order.
    pub(crate) memory: GuestMemory,
    pub(crate) kernel: K,
    pub(crate) interceptor: I,
    /// The number of the next event.
    pub(crate) seq: u64,
    pub(crate) traps: u64,
    /// What the executor had counted when the machine's own count was 0.
    counted: u64,
    /// Instructions that were stepped over since the last trap.
    stepped: u64,
    /// When the first of them began.
    trapped: Instant,
    /// The event at which registers are kept, and they.
    pub(crate) probe: Option<u64>,
    pub(crate) probed: Option<Probe>,
    /// Fills and A/D updates of one instruction, held back to be sorted by address: the order in
    /// which a processor makes them is its own.
    held: Vec<Event>,
    /// The accesses that the director is asked about. The driver says so before each move.
    watch: Option<Watch>,
    /// Translations whose uses are told.
    watched_entries: Vec<WatchedEntry>,
}

impl<K: Kernel, I: Interceptor> Machine<K, I> {
    pub(crate) fn new(
        vcpu: Vcpu,
        model: TlbModel,
        executor: Box<dyn Executor>,
        memory: GuestMemory,
        kernel: K,
        interceptor: I,
    ) -> Self {
        let mut machine = Self {
            cpus: vec![Cpu { vcpu, tlb: Tlb::new(model), fpu: Vec::new() }],
            current: 0,
            census: Census::default(),
            model,
            executor,
            memory,
            kernel,
            interceptor,
            seq: 0,
            traps: 0,
            counted: 0,
            stepped: 0,
            trapped: Instant::now(),
            probe: None,
            probed: None,
            held: Vec::new(),
            watch: None,
            watched_entries: Vec::new(),
        };
        machine.reset_tlb(0);
        machine
    }

    /// The CPU that the executor's state is of.
    pub(crate) fn current(&self) -> usize {
        self.current
    }

    /// Instructions that all CPUs have completed; on an executor that does not count them, none. It
    /// goes back with a snapshot.
    pub(crate) fn instructions(&self) -> u64 {
        self.executor.instructions().unwrap_or(0).wrapping_sub(self.counted)
    }

    /// Its registers.
    pub(crate) fn vcpu(&self) -> &Vcpu {
        &self.cpus[self.current].vcpu
    }

    pub(crate) fn vcpu_mut(&mut self) -> &mut Vcpu {
        &mut self.cpus[self.current].vcpu
    }

    /// Another CPU, which begins with `vcpu` once it runs.
    pub(crate) fn add_cpu(&mut self, vcpu: Vcpu) -> Result<(), ExecutorError> {
        let fpu = self.executor.save_fpu()?;
        self.cpus.push(Cpu { vcpu, tlb: Tlb::new(self.model), fpu });
        self.reset_tlb(self.cpus.len() - 1);
        Ok(())
    }

    /// Lets the executor's state be that of another CPU.
    pub(crate) fn switch_to(&mut self, cpu: usize) -> Result<(), ExecutorError> {
        if cpu != self.current {
            self.cpus[self.current].fpu = self.executor.save_fpu()?;
            self.current = cpu;
            self.executor.restore_fpu(&self.cpus[cpu].fpu)?;
        }
        Ok(())
    }

    /// An empty TLB under a CPU's CR3, and a census of what that root reaches.
    pub(crate) fn reset_tlb(&mut self, cpu: usize) {
        let Cpu { vcpu, tlb, .. } = &mut self.cpus[cpu];
        *tlb = Tlb::new(self.model);
        self.census.forget_pin_count();
        let paging = vcpu.paging();
        let (pcid, root) = (vcpu.pcid(), vcpu.root());
        self.census.add_root(&self.memory, root);
        tlb.load_cr3(&self.memory, paging, pcid, root, true);
        // A bits set at a reset are no events: the run has not begun.
        for (slot, _, new) in tlb.speculate(&self.memory, paging) {
            self.memory.write_word(slot, new);
        }
    }

    /// Runs `work` on the current processor, then lets the shadow pages follow and the director see
    /// what it did.
    pub(crate) fn with_core<T>(
        &mut self,
        director: &mut dyn Director,
        work: impl FnOnce(&mut Core<'_>) -> T,
    ) -> Result<T, Halt> {
        self.with_errata(director, Errata::default(), work)
    }

    /// The same on a processor that does something wrong.
    fn with_errata<T>(
        &mut self,
        director: &mut dyn Director,
        errata: Errata,
        work: impl FnOnce(&mut Core<'_>) -> T,
    ) -> Result<T, Halt> {
        let rip = self.vcpu().rip();
        let mut log = Log { tells_accesses: !self.watched_entries.is_empty(), ..Log::default() };
        let (before, rest) = self.cpus.split_at_mut(self.current);
        let Some((cpu, after)) = rest.split_first_mut() else { unreachable!("a CPU runs") };
        let others = before.iter_mut().chain(after);
        let mut core = Core {
            vcpu: &mut cpu.vcpu,
            tlb: &mut cpu.tlb,
            errata,
            remote: others.map(|Cpu { vcpu, tlb, .. }| Remote { vcpu, tlb }).collect(),
            census: &mut self.census,
            memory: &self.memory,
            forgets_roots: self.kernel.frees_roots_in_silence(),
            watched: self.kernel.watched(),
            chooser: &mut *director,
            log: &mut log,
        };
        let result = work(&mut core);
        self.follow(&log)?;
        self.follow_uses(rip, &log)?;
        self.publish_log(director, rip, log);
        match self.cpus.iter().any(|cpu| cpu.tlb.is_beyond()) {
            true => Err(Stop::TooManyTranslations.into()),
            false => Ok(result),
        }
    }

    /// Whether each store to the frame at `gpa` must be seen: it is a page table, or the kernel's to
    /// watch.
    pub(crate) fn is_protected(&self, gpa: Gpa) -> bool {
        self.kernel.watched().contains(&gpa.page()) || self.census.is_table(gpa.page())
    }

    /// Has the director asked about these accesses from now on.
    pub(crate) fn watch(&mut self, watch: Option<Watch>) -> Result<(), Halt> {
        if self.watch == watch {
            return Ok(());
        }
        self.watch = watch;
        self.revalidate_all()
    }

    /// Whether accesses of this kind by the current CPU are watched.
    fn is_watched(&self, accesses: Accesses) -> bool {
        self.watch == Some(Watch { cpu: self.vcpu().id, accesses })
    }

    /// Lets the interceptor know of a moment of the current CPU, and does what it wants at it.
    pub(crate) fn moment(
        &mut self,
        director: &mut dyn Director,
        moment: Moment,
    ) -> Result<(), Halt> {
        let cpu = self.vcpu().id;
        let words = View { kernel: &self.kernel, memory: &self.memory };
        for scheduled in self.interceptor.moment(cpu, moment, &words) {
            self.carry_out(director, scheduled)?;
        }
        Ok(())
    }

    /// The CPU with this number.
    pub(crate) fn index(cpu: CpuId) -> usize {
        usize::from(cpu.0)
    }
}
