//! One trap: decoded, carried out against `arch/`, and the guest resumed.

use super::{Flow, Halt, Machine};
use crate::arch::addr::{Gpa, Gva};
use crate::arch::core::StateWord;
use crate::arch::emulate::emulate_store;
use crate::arch::fault::{Exception, Fault, Stop, vector};
use crate::arch::op::{Decoded, Op, classify, decode};
use crate::arch::walk::AccessKind;
use crate::event::{Kind, Observer};
use crate::executor::Trap;
use crate::inject::{How, InjectedOp};
use iced_x86::Instruction;
use stalemate_shared::hypercall;
use stalemate_shared::tlb_state::USER_PCID_FLUSH_MASK;
use std::time::{Duration, Instant};

/// Bits of a page-fault error code.
const ERROR_WRITE: u32 = 1 << 1;
const ERROR_FETCH: u32 = 1 << 4;
/// The longest instruction, in bytes.
const MAX_INSTRUCTION: usize = 15;
/// So many instructions, one at a time and none of them a trap, are a hang. The longest loop that a
/// scenario can ask for has fewer.
const STEPS_WITHOUT_A_TRAP: u64 = 20_000_000;
/// An executor that needs longer for fewer is not waited for.
const TIME_WITHOUT_A_TRAP: Duration = Duration::from_secs(60);
/// The clock is looked at once in so many instructions.
const STEPS_TO_A_LOOK: u64 = 1 << 12;

impl Machine {
    /// Runs the current CPU to its next trap and carries that out.
    pub(crate) fn step(&mut self, observer: &mut dyn Observer) -> Result<Flow, Halt> {
        let shadowed = std::mem::take(&mut self.vcpu_mut().sti_shadow);
        if shadowed && self.vcpu().is_interrupted() {
            return self.one_instruction(observer);
        }
        self.interrupts(observer)?;
        let trap = self.executor.run(&mut self.cpus[self.current].vcpu)?;
        self.trap(observer, trap)
    }

    /// Runs one instruction, or takes the trap that it makes.
    pub(crate) fn single_step(&mut self, observer: &mut dyn Observer) -> Result<Flow, Halt> {
        if !std::mem::take(&mut self.vcpu_mut().sti_shadow) {
            self.interrupts(observer)?;
        }
        self.one_instruction(observer)
    }

    fn one_instruction(&mut self, observer: &mut dyn Observer) -> Result<Flow, Halt> {
        match self.executor.step(&mut self.cpus[self.current].vcpu)? {
            Some(trap) => self.trap(observer, trap),
            None => self.stepped_over().map(|()| Flow::Continue),
        }
    }

    /// Counts an instruction that was no trap.
    fn stepped_over(&mut self) -> Result<(), Halt> {
        self.stepped += 1;
        if self.stepped == 1 {
            self.trapped = Instant::now();
        }
        if self.stepped > STEPS_WITHOUT_A_TRAP {
            return Err(Stop::InstructionLimit { instructions: STEPS_WITHOUT_A_TRAP }.into());
        }
        if self.stepped.is_multiple_of(STEPS_TO_A_LOOK)
            && self.trapped.elapsed() > TIME_WITHOUT_A_TRAP
        {
            return Err(Stop::Timeout { seconds: TIME_WITHOUT_A_TRAP.as_secs() }.into());
        }
        Ok(())
    }

    fn trap(&mut self, observer: &mut dyn Observer, trap: Trap) -> Result<Flow, Halt> {
        self.traps += 1;
        self.stepped = 0;
        match trap {
            Trap::Timeout { limit } => Err(Stop::Timeout { seconds: limit.as_secs() }.into()),
            Trap::InstructionLimit { instructions } => {
                Err(Stop::InstructionLimit { instructions }.into())
            }
            Trap::Unsupported => self.unsupported(observer),
            Trap::Exception { vector: vector::PAGE_FAULT, error, address } => {
                self.page_fault(observer, Gva(address), error)?;
                Ok(Flow::Continue)
            }
            Trap::Syscall => self.instruction(observer, Exception::INVALID_OPCODE),
            Trap::Exception { vector, error, .. }
                if matches!(vector, vector::GENERAL_PROTECTION | vector::INVALID_OPCODE) =>
            {
                let error = (vector == vector::GENERAL_PROTECTION).then_some(error);
                self.instruction(observer, Exception { vector, error, address: None })
            }
            Trap::Exception { vector, error, .. } => {
                let has_error = matches!(vector, 8 | 10..=14 | 17);
                let error = has_error.then_some(error);
                let exception = Exception { vector, error, address: None };
                self.resolve(observer, Err(exception.into()))?;
                Ok(Flow::Continue)
            }
        }
    }

    /// An instruction that the executor does not know.
    fn unsupported(&mut self, observer: &mut dyn Observer) -> Result<Flow, Halt> {
        match self.fetch(observer)? {
            Ok((instruction, bytes)) => {
                let why = "the interpreter does not know this instruction";
                Err(Stop::unsupported(&bytes, &instruction, why).into())
            }
            Err(fault) => {
                self.resolve(observer, Err(fault))?;
                Ok(Flow::Continue)
            }
        }
    }

    /// Delivers what waits for an instruction boundary.
    fn interrupts(&mut self, observer: &mut dyn Observer) -> Result<(), Halt> {
        for due in self.injector.take_due(self.vcpu().id) {
            self.deed(observer, due)?;
        }
        let vcpu = self.vcpu_mut();
        if !vcpu.is_interrupted() {
            return Ok(());
        }
        if vcpu.nmi_pending && !vcpu.nmi_blocked {
            return self.deliver_nmi(observer);
        }
        match vcpu.apic.deliverable() {
            Some(vector) => {
                vcpu.apic.take(vector);
                self.resolve(observer, Err(Exception::interrupt(vector).into()))
            }
            None => Ok(()),
        }
    }

    fn deliver_nmi(&mut self, observer: &mut dyn Observer) -> Result<(), Halt> {
        self.vcpu_mut().nmi_pending = false;
        self.resolve(observer, Err(Exception::NMI.into()))
    }

    /// A fault of the projection: a TLB miss, a store to a watched frame, or an architectural
    /// page fault.
    fn page_fault(&mut self, observer: &mut dyn Observer, va: Gva, error: u32) -> Result<(), Halt> {
        let kind = match error {
            error if error & ERROR_FETCH != 0 => AccessKind::Execute,
            error if error & ERROR_WRITE != 0 => AccessKind::Write,
            _ => AccessKind::Read,
        };
        let translated = self.with_core(observer, |core| {
            let access = core.access(kind);
            core.translate(va, access)
        })?;
        match translated {
            Ok(gpa) if kind == AccessKind::Write && self.is_protected(gpa) => {
                self.watched_store(observer)
            }
            Ok(_) => {
                let page = va.page();
                if let Some(leaf) = self.current_leaf(page) {
                    if leaf.writable {
                        self.memory.touch(leaf.frame);
                    }
                    let space = self.space();
                    self.executor.map(space, page, leaf)?;
                }
                Ok(())
            }
            Err(fault) => self.resolve(observer, Err(fault)),
        }
    }

    fn watched_store(&mut self, observer: &mut dyn Observer) -> Result<(), Halt> {
        let result = match self.fetch(observer)? {
            Ok((instruction, _)) => {
                self.with_core(observer, |core| emulate_store(core, &instruction))?
            }
            Err(fault) => Err(fault),
        };
        self.resolve(observer, result)
    }

    /// Fetches and decodes the instruction at RIP, through the TLB of this moment.
    fn fetch(
        &mut self,
        observer: &mut dyn Observer,
    ) -> Result<Result<(Instruction, Vec<u8>), Fault>, Halt> {
        let rip = self.vcpu().rip;
        self.with_core(observer, |core| {
            let access = core.access(AccessKind::Execute);
            let in_page = (4096 - (rip & 0xfff) as usize).min(MAX_INSTRUCTION);
            let mut bytes = [0u8; MAX_INSTRUCTION];
            core.read(Gva(rip), &mut bytes[..in_page], access)?;
            let mut instruction = decode(&bytes[..in_page], rip);
            if instruction.is_invalid() && in_page < MAX_INSTRUCTION {
                core.read(Gva(rip), &mut bytes, access)?;
                instruction = decode(&bytes, rip);
            }
            Ok((instruction, bytes[..instruction.len().max(1)].to_vec()))
        })
    }

    /// An instruction that trapped: carried out if it is privileged, else the guest's own
    /// `genuine` exception.
    fn instruction(
        &mut self,
        observer: &mut dyn Observer,
        genuine: Exception,
    ) -> Result<Flow, Halt> {
        let (instruction, bytes) = match self.fetch(observer)? {
            Ok(fetched) => fetched,
            Err(fault) => {
                self.resolve(observer, Err(fault))?;
                return Ok(Flow::Continue);
            }
        };
        match classify(self.vcpu(), &instruction) {
            Decoded::Op(Op::Out(hypercall::PORT)) if self.vcpu().cpl == 0 => {
                self.hypercall(observer, instruction.next_ip())
            }
            Decoded::Op(op) => {
                self.operation(observer, op, instruction.next_ip())?;
                Ok(Flow::Continue)
            }
            // At virtual CPL 3 a privileged instruction is the guest user's own #GP or #UD.
            Decoded::Unknown if self.vcpu().cpl == 0 => {
                let why = "the model does not know this operation";
                Err(Stop::unsupported(&bytes, &instruction, why).into())
            }
            Decoded::Unknown | Decoded::Ordinary => {
                self.resolve(observer, Err(genuine.into()))?;
                Ok(Flow::Continue)
            }
        }
    }

    /// Carries out one operation, or what the injector makes of it.
    fn operation(&mut self, observer: &mut dyn Observer, op: Op, next: u64) -> Result<(), Halt> {
        let rip = self.vcpu().rip();
        let plan = self.injector.plan(self.vcpu().id, rip, op, self.marks());
        for due in plan.before {
            self.deed(observer, due)?;
        }
        if plan.nmi_before {
            return self.deliver_nmi(observer);
        }
        if plan.clear_marks {
            let (owner, old) = (self.vcpu().id, self.marks());
            let store = StateWord { owner, offset: USER_PCID_FLUSH_MASK, old, new: 0 };
            self.with_core(observer, |core| core.state_store(store, true))?;
        }
        if plan.keep && !self.keep(observer, op)? {
            return Ok(());
        }
        if plan.ops.is_empty() {
            let what = format!("{} {op}", if plan.keep { "kept back" } else { "dropped" });
            self.publish(observer, rip, true, Kind::Withheld { what });
            self.vcpu_mut().rip = next;
        }
        for InjectedOp { op, how, injected } in plan.ops {
            let result = self.with_core(observer, |core| {
                let first = core.log.events.len();
                let result = match how {
                    How::Right => core.execute(op, next),
                    how => core.execute_wrongly(op, how, next),
                };
                for event in &mut core.log.events[first..] {
                    event.injected |= injected;
                }
                result
            })?;
            let failed = result.is_err();
            self.resolve(observer, result)?;
            if failed {
                break;
            }
        }
        Ok(())
    }

    /// The current CPU's `user_pcid_flush_mask` as it is in guest memory.
    pub(crate) fn marks(&self) -> u64 {
        self.info.as_ref().map_or(0, |info| {
            let state = info.watched.of(self.vcpu().id);
            self.memory.read_word(Gpa(state.0 + USER_PCID_FLUSH_MASK))
        })
    }
}
