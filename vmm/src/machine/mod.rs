//! The machine: virtual CPUs with their modelled TLBs, guest memory and an executor, driven from
//! trap to trap. One CPU runs at a time; `schedule` says which.

mod deed;
mod hypercall;
mod outcome;
mod project;
mod schedule;
mod session;
mod snapshot;
mod sweep;
mod trap;

pub use outcome::FinalMemory;
pub use schedule::{HOLD_POINTS, Hold, HoldPoint, Schedule};
pub use session::{BootError, Opening, RunEnd, Session, SessionConfig, StepInput, StepReport};
pub use sweep::{Boundary, Swept};

use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::census::Census;
use crate::arch::core::{Core, Log, Logged, Memory, Remote};
use crate::arch::fault::{Fault, Stop};
use crate::arch::op::decode;
use crate::arch::tlb::{Tlb, TlbModel};
use crate::arch::vcpu::Vcpu;
use crate::arch::walk::{Start, walk};
use crate::boot::{GuestMemory, KernelInfo};
use crate::event::{Event, Kind, Observer, Primitive};
use crate::executor::{Executor, ExecutorError};
use crate::inject::Injector;
use iced_x86::{Formatter, IntelFormatter};
use std::time::Instant;

/// Why the machine's loop came to an end.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The guest cannot go on.
    Stop(Stop),
    /// The host cannot.
    Executor(ExecutorError),
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<ExecutorError> for Halt {
    fn from(error: ExecutorError) -> Self {
        Self::Executor(error)
    }
}

/// What the loop does after a trap.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Resume the guest.
    Continue,
    /// The kernel has booted.
    Ready,
    /// The kernel reports (status, value, second value) and asks for a step.
    NextStep([u64; 3]),
    /// The CPU waits for another one.
    Yield,
}

/// One virtual CPU.
#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    pub(crate) vcpu: Vcpu,
    pub(crate) tlb: Tlb,
    /// The primitives under way, the innermost last.
    pub(crate) primitives: Vec<Primitive>,
    /// What it does.
    pub(crate) task: schedule::Task,
    /// Where it goes on once it is given a step.
    after_ask: u64,
    /// x87 and SSE state while another CPU runs.
    fpu: Vec<u32>,
}

impl Cpu {
    fn new(vcpu: Vcpu, model: TlbModel) -> Self {
        Self {
            vcpu,
            tlb: Tlb::new(model),
            primitives: Vec::new(),
            task: schedule::Task::default(),
            after_ask: 0,
            fpu: Vec::new(),
        }
    }
}

/// A machine.
pub(crate) struct Machine {
    pub(crate) cpus: Vec<Cpu>,
    /// The one that the executor's state is of.
    pub(crate) current: usize,
    pub(crate) schedule: schedule::Scheduler,
    pub(crate) census: Census,
    pub(crate) model: TlbModel,
    pub(crate) executor: Box<dyn Executor>,
    // After the executor, whose virtual machine maps it: fields drop in order.
    pub(crate) memory: GuestMemory,
    pub(crate) info: Option<KernelInfo>,
    pub(crate) injector: Injector,
    pub(crate) seq: u64,
    pub(crate) traps: u64,
    /// Instructions that were stepped over since the last trap.
    stepped: u64,
    /// When the first of them began.
    trapped: Instant,
    /// The event whose registers are kept, and they.
    pub(crate) watch: Option<u64>,
    pub(crate) watched: Option<(Box<Vcpu>, Option<String>)>,
    /// Fills and A/D updates of one instruction, held back to be sorted by address: the order in
    /// which a processor makes them is its own.
    held: Vec<Event>,
}

impl Machine {
    pub(crate) fn new(
        vcpu: Vcpu,
        model: TlbModel,
        executor: Box<dyn Executor>,
        memory: GuestMemory,
    ) -> Self {
        let mut machine = Self {
            cpus: vec![Cpu::new(vcpu, model)],
            current: 0,
            schedule: schedule::Scheduler::default(),
            census: Census::default(),
            model,
            executor,
            memory,
            info: None,
            injector: Injector::default(),
            seq: 0,
            traps: 0,
            stepped: 0,
            trapped: Instant::now(),
            watch: None,
            watched: None,
            held: Vec::new(),
        };
        machine.reset_tlb(0);
        machine
    }

    /// The CPU that runs.
    pub(crate) fn cpu(&self) -> &Cpu {
        &self.cpus[self.current]
    }

    pub(crate) fn cpu_mut(&mut self) -> &mut Cpu {
        &mut self.cpus[self.current]
    }

    /// Its registers.
    pub(crate) fn vcpu(&self) -> &Vcpu {
        &self.cpu().vcpu
    }

    pub(crate) fn vcpu_mut(&mut self) -> &mut Vcpu {
        &mut self.cpu_mut().vcpu
    }

    /// Another CPU, which begins with `vcpu` once it runs.
    pub(crate) fn add_cpu(&mut self, vcpu: Vcpu) -> Result<(), ExecutorError> {
        let mut cpu = Cpu::new(vcpu, self.model);
        cpu.fpu = self.executor.save_fpu()?;
        self.cpus.push(cpu);
        self.reset_tlb(self.cpus.len() - 1);
        Ok(())
    }

    /// Lets the executor's state be that of another CPU.
    pub(crate) fn switch_to(&mut self, cpu: usize) -> Result<(), ExecutorError> {
        if cpu != self.current {
            self.cpu_mut().fpu = self.executor.save_fpu()?;
            self.current = cpu;
            self.executor.restore_fpu(&self.cpus[cpu].fpu)?;
        }
        Ok(())
    }

    /// An empty TLB under a CPU's CR3, and a census of what that root reaches.
    pub(crate) fn reset_tlb(&mut self, cpu: usize) {
        let Cpu { vcpu, tlb, .. } = &mut self.cpus[cpu];
        *tlb = Tlb::new(self.model);
        let paging = vcpu.paging();
        let (pcid, root) = (vcpu.pcid(), vcpu.root());
        self.census.add_root(&self.memory, root);
        tlb.load_cr3(&self.memory, paging, pcid, root, true);
        // A bits set at a reset are told to nobody: the run has not begun.
        for (slot, _, new) in tlb.speculate(&self.memory, paging) {
            self.memory.write_word(slot, new);
        }
    }

    /// Runs `work` on the processor, then lets the projection follow and the observer see what
    /// it did.
    pub(crate) fn with_core<T>(
        &mut self,
        observer: &mut dyn Observer,
        work: impl FnOnce(&mut Core<'_>) -> T,
    ) -> Result<T, Halt> {
        let rip = self.vcpu().rip();
        let mut log = Log::default();
        let (before, rest) = self.cpus.split_at_mut(self.current);
        let Some((cpu, after)) = rest.split_first_mut() else { unreachable!("a CPU runs") };
        let others = before.iter_mut().chain(after);
        let mut core = Core {
            vcpu: &mut cpu.vcpu,
            tlb: &mut cpu.tlb,
            remote: others.map(|Cpu { vcpu, tlb, .. }| Remote { vcpu, tlb }).collect(),
            census: &mut self.census,
            memory: &self.memory,
            watched: self.info.as_ref().map(|info| info.watched),
            hook: &mut self.injector,
            seq: self.seq,
            log: &mut log,
        };
        let result = work(&mut core);
        self.follow(&log)?;
        for Logged { cpu, kind, injected } in log.events {
            self.publish_of(observer, cpu, rip, injected, kind);
        }
        Ok(result)
    }

    /// Emits an event that no processor operation made.
    pub(crate) fn publish(
        &mut self,
        observer: &mut dyn Observer,
        rip: Gva,
        injected: bool,
        kind: Kind,
    ) {
        self.publish_of(observer, self.vcpu().id, rip, injected, kind);
    }

    fn publish_of(
        &mut self,
        observer: &mut dyn Observer,
        cpu: CpuId,
        rip: Gva,
        injected: bool,
        kind: Kind,
    ) {
        let holds = matches!(kind, Kind::Fill { .. } | Kind::AccessedDirty { .. });
        let event = Event { seq: self.seq, cpu, rip, injected, kind };
        self.schedule.saw(&event);
        if self.watch == Some(self.seq) {
            self.watched = Some((Box::new(self.vcpu().clone()), self.disassemble(rip)));
        }
        self.seq += 1;
        let same = self.held.last().is_none_or(|held| held.rip == rip);
        if holds && same {
            self.held.push(event);
            return;
        }
        self.release(observer);
        if let Some(instructions) = self.executor.instructions() {
            observer.completed(instructions);
        }
        if holds {
            self.held.push(event);
        } else {
            observer.event(&event);
        }
    }

    /// Publishes what is held back.
    pub(crate) fn release(&mut self, observer: &mut dyn Observer) {
        let mut held = std::mem::take(&mut self.held);
        let first = held.first().map_or(0, |event| event.seq);
        held.sort_by_key(|event| match event.kind {
            Kind::AccessedDirty { slot, .. } => (0, slot.0, event.cpu),
            Kind::Fill { page, .. } => (1, page.0, event.cpu),
            _ => (2, 0, event.cpu),
        });
        for (index, event) in held.iter_mut().enumerate() {
            event.seq = first + index as u64;
            observer.event(event);
        }
    }

    /// The instruction at `rip`, as the current root maps it.
    fn disassemble(&self, rip: Gva) -> Option<String> {
        let walked = walk(&self.memory, Start::root(self.vcpu().root()), rip, self.vcpu().paging());
        let at = walked.result.ok()?.at(rip);
        let mut bytes = [0; 15];
        let bytes = &mut bytes[..(4096 - (at.0 & 0xfff) as usize).min(15)];
        self.memory.read(at, bytes).then(|| {
            let instruction = decode(bytes, rip.0);
            let mut text = String::new();
            IntelFormatter::new().format(&instruction, &mut text);
            text
        })
    }

    /// The frame at `gpa` holds page tables or `TlbState`.
    pub(crate) fn is_protected(&self, gpa: Gpa) -> bool {
        let state = self.info.as_ref().is_some_and(|info| info.watched.contains(gpa));
        state || self.census.is_table(gpa.page())
    }

    /// Gives the guest its exception, or ends the run.
    pub(crate) fn resolve(
        &mut self,
        observer: &mut dyn Observer,
        result: Result<(), Fault>,
    ) -> Result<(), Halt> {
        match result {
            Ok(()) => Ok(()),
            Err(Fault::Stop(stop)) => Err(stop.into()),
            Err(Fault::Exception(exception)) => {
                let delivered = self
                    .with_core(observer, |core| crate::arch::deliver::deliver(core, exception))?;
                Ok(delivered?)
            }
        }
    }
}
