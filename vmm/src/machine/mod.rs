//! The machine: one virtual CPU, its modelled TLB, guest memory and an executor, driven from
//! trap to trap.

mod deed;
mod hypercall;
mod outcome;
mod project;
mod session;
mod snapshot;
mod sweep;
mod trap;

pub use outcome::FinalMemory;
pub use session::{BootError, Opening, RunEnd, Session, SessionConfig, StepInput, StepReport};
pub use sweep::{Boundary, Swept};

use crate::arch::addr::{Gpa, Gva};
use crate::arch::census::Census;
use crate::arch::core::{Core, Log, Memory};
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
}

/// A machine.
pub(crate) struct Machine {
    pub(crate) vcpu: Vcpu,
    pub(crate) tlb: Tlb,
    pub(crate) census: Census,
    pub(crate) model: TlbModel,
    pub(crate) executor: Box<dyn Executor>,
    // After the executor, whose virtual machine maps it: fields drop in order.
    pub(crate) memory: GuestMemory,
    pub(crate) info: Option<KernelInfo>,
    pub(crate) injector: Injector,
    pub(crate) primitive: Option<Primitive>,
    pub(crate) seq: u64,
    pub(crate) traps: u64,
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
            vcpu,
            tlb: Tlb::new(model),
            census: Census::default(),
            model,
            executor,
            memory,
            info: None,
            injector: Injector::default(),
            primitive: None,
            seq: 0,
            traps: 0,
            watch: None,
            watched: None,
            held: Vec::new(),
        };
        machine.reset_tlb();
        machine
    }

    /// An empty TLB under the current CR3, and a census of what that root reaches.
    pub(crate) fn reset_tlb(&mut self) {
        self.tlb = Tlb::new(self.model);
        let paging = self.vcpu.paging();
        let (pcid, root) = (self.vcpu.pcid(), self.vcpu.root());
        self.census.add_root(&self.memory, root);
        self.tlb.load_cr3(&self.memory, paging, pcid, root, true);
        // A bits set at a reset are told to nobody: the run has not begun.
        for (slot, _, new) in self.tlb.speculate(&self.memory, paging) {
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
        let rip = self.vcpu.rip();
        let mut log = Log::default();
        let state_page = self.info.as_ref().map(|info| info.tlb_state);
        let mut core = Core {
            vcpu: &mut self.vcpu,
            tlb: &mut self.tlb,
            census: &mut self.census,
            memory: &self.memory,
            state_page,
            hook: &mut self.injector,
            seq: self.seq,
            log: &mut log,
        };
        let result = work(&mut core);
        self.follow(&log)?;
        for (kind, injected) in log.events {
            self.publish(observer, rip, injected, kind);
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
        let holds = matches!(kind, Kind::Fill { .. } | Kind::AccessedDirty { .. });
        let event = Event { seq: self.seq, cpu: self.vcpu.id, rip, injected, kind };
        if self.watch == Some(self.seq) {
            self.watched = Some((Box::new(self.vcpu.clone()), self.disassemble(rip)));
        }
        self.seq += 1;
        let same = self.held.last().is_none_or(|held| held.rip == rip);
        if holds && same {
            self.held.push(event);
            return;
        }
        self.release(observer);
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
            Kind::AccessedDirty { slot, .. } => (0, slot.0),
            Kind::Fill { page, .. } => (1, page.0),
            _ => (2, 0),
        });
        for (index, event) in held.iter_mut().enumerate() {
            event.seq = first + index as u64;
            observer.event(event);
        }
    }

    /// The instruction at `rip`, as the current root maps it.
    fn disassemble(&self, rip: Gva) -> Option<String> {
        let walked = walk(&self.memory, Start::root(self.vcpu.root()), rip, self.vcpu.paging());
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
        let state = self.info.as_ref().is_some_and(|info| info.tlb_state == gpa.page());
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
