//! One trap: decoded, carried out against `arch/`, and the guest resumed.

use super::kernel::View;
use super::{Call, Director, Halt, Interceptor, Kernel, Machine, Moment, PlannedOp, Site, Stop};
use crate::arch::addr::Gva;
use crate::arch::core::Memory;
use crate::arch::fault::{self, Exception, Fault, vector};
use crate::arch::op::{Decoded, Op, classify, decode};
use crate::arch::vcpu::flags;
use crate::arch::walk::AccessKind;
use crate::event::{Announcement, Kind};
use crate::executor::Trap;
use iced_x86::Instruction;
use std::time::{Duration, Instant};

/// Bits of a page-fault error code.
const ERROR_WRITE: u32 = 1 << 1;
const ERROR_FETCH: u32 = 1 << 4;
/// The longest instruction, in bytes.
const MAX_INSTRUCTION: usize = 15;
/// So many instructions, one at a time and none of them a trap, are a hang. The longest loop that a
/// scenario can have has fewer.
const STEPS_WITHOUT_A_TRAP: u64 = 20_000_000;
/// An executor that counts no instructions, and needs longer for fewer, is not waited for.
const TIME_WITHOUT_A_TRAP: Duration = Duration::from_secs(60);
/// The clock is looked at once in so many instructions.
const STEPS_TO_A_LOOK: u64 = 1 << 12;

/// What came of letting a CPU run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// It can go on.
    On,
    /// It waits for another CPU.
    Waits,
    /// Its kernel asks the driver for something.
    Asks,
    /// It has executed HLT, and no interrupt that it can take is there.
    Halted,
    /// It can go on, after an instruction whose accesses other CPUs can tell.
    Visible,
}

/// The kind of access that a page fault's error code is of.
pub(super) fn access_kind(error: u32) -> AccessKind {
    match error {
        error if error & ERROR_FETCH != 0 => AccessKind::Execute,
        error if error & ERROR_WRITE != 0 => AccessKind::Write,
        _ => AccessKind::Read,
    }
}

impl<K: Kernel, I: Interceptor> Machine<K, I> {
    /// Runs the current CPU to its next trap and carries that out; with `single` over one
    /// instruction at most.
    pub(crate) fn run(&mut self, director: &mut dyn Director, single: bool) -> Result<Ran, Halt> {
        // STI keeps interrupts off for one more instruction.
        let shadowed = std::mem::take(&mut self.vcpu_mut().sti_shadow);
        let holds_off = shadowed && (single || self.is_interrupted());
        if !holds_off {
            self.interrupts(director)?;
        }
        self.run_undisturbed(director, single || holds_off)
    }

    /// The same, and what waits for an instruction boundary goes on waiting.
    pub(crate) fn run_undisturbed(
        &mut self,
        director: &mut dyn Director,
        single: bool,
    ) -> Result<Ran, Halt> {
        if self.vcpu().halted {
            return Ok(Ran::Halted);
        }
        if single {
            return self.one_instruction(director);
        }
        let current = self.current();
        let quiet = self.kernel.quiet(self.instructions());
        if let Some(quiet) = quiet {
            self.executor.set_limit(quiet);
        }
        let trap = loop {
            match self.executor.run(&mut self.cpus[current].vcpu)? {
                Trap::Breakpoint => self.breakpoint(director),
                Trap::Visible => return Ok(Ran::Visible),
                trap => break trap,
            }
            // Less is left of what may complete.
            if let Some(quiet) = self.kernel.quiet(self.instructions()) {
                self.executor.set_limit(quiet);
            }
        };
        if quiet.is_some() && matches!(trap, Trap::InstructionLimit { .. }) {
            return Ok(Ran::On);
        }
        self.trap(director, trap)
    }

    fn one_instruction(&mut self, director: &mut dyn Director) -> Result<Ran, Halt> {
        let current = self.current();
        match self.executor.step(&mut self.cpus[current].vcpu)? {
            Some(Trap::Breakpoint) => {
                self.breakpoint(director);
                self.one_instruction(director)
            }
            Some(trap) => self.trap(director, trap),
            None => self.stepped_over().map(|()| Ran::On),
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
        if self.executor.instructions().is_none()
            && self.stepped.is_multiple_of(STEPS_TO_A_LOOK)
            && self.trapped.elapsed() > TIME_WITHOUT_A_TRAP
        {
            return Err(Stop::Timeout { seconds: TIME_WITHOUT_A_TRAP.as_secs() }.into());
        }
        Ok(())
    }

    /// The current CPU is at an instruction that its kernel wants to be notified of.
    fn breakpoint(&mut self, director: &mut dyn Director) {
        let (current, completed) = (self.current(), self.instructions());
        let reached = self.kernel.at_breakpoint(&self.cpus[current].vcpu, &self.memory, completed);
        reached.more.into_iter().for_each(|at| self.executor.set_breakpoint(at));
        if !reached.says.is_empty() {
            self.announce(director, self.vcpu().rip(), reached.says);
        }
    }

    fn trap(&mut self, director: &mut dyn Director, trap: Trap) -> Result<Ran, Halt> {
        self.traps += 1;
        self.stepped = 0;
        let (current, completed) = (self.current(), self.instructions());
        let said = self.kernel.at_trap(&self.cpus[current].vcpu, &self.memory, completed);
        if !said.is_empty() {
            self.announce(director, self.vcpu().rip(), said);
        }
        let on = |()| Ran::On;
        match trap {
            Trap::Breakpoint => {
                self.breakpoint(director);
                Ok(Ran::On)
            }
            Trap::Visible => Ok(Ran::Visible),
            Trap::Timeout { limit } => Err(Stop::Timeout { seconds: limit.as_secs() }.into()),
            Trap::Broken { exit, rip } => Err(Stop::Broken { exit, rip }.into()),
            Trap::InstructionLimit { instructions } => {
                Err(Stop::InstructionLimit { instructions }.into())
            }
            Trap::Unsupported => Err(self.not_executed(director)),
            Trap::Exception { vector: vector::PAGE_FAULT, error, address } => {
                self.page_fault(director, Gva(address), error).map(on)
            }
            Trap::Syscall { landed } => match landed.filter(|_| !self.is_at_syscall()) {
                // A jump to where SYSCALL leads on this executor is one to where nothing is.
                Some(landed) => {
                    self.vcpu_mut().rip = landed;
                    self.page_fault(director, Gva(landed), ERROR_FETCH).map(on)
                }
                None => self.instruction(director, Exception::INVALID_OPCODE),
            },
            Trap::Exception { vector, error, .. } => {
                let exception = Exception::of_processor(vector, error);
                match vector {
                    vector::GENERAL_PROTECTION | vector::INVALID_OPCODE => {
                        self.instruction(director, exception)
                    }
                    _ => self.resolve(director, Err(exception.into())).map(on),
                }
            }
        }
    }

    /// Whether SYSCALL is at RIP, where code that runs is cached.
    fn is_at_syscall(&self) -> bool {
        const SYSCALL: [u8; 2] = [0x0f, 0x05];
        let vcpu = self.vcpu();
        (0..).zip(SYSCALL).all(|(offset, byte)| {
            let at = Gva(vcpu.rip.wrapping_add(offset));
            let found = self.cpus[self.current()].tlb.peek(&self.memory, vcpu.pcid(), at.page());
            let mut bytes = [0];
            found.is_some_and(|found| self.memory.read(found.at(at), &mut bytes)) && bytes == [byte]
        })
    }

    /// The instruction at RIP is one that the interpreter does not know.
    pub(super) fn not_executed(&mut self, director: &mut dyn Director) -> Halt {
        match self.fetch(director) {
            Ok(Ok((instruction, bytes))) => {
                let why = "the interpreter does not know this instruction";
                fault::Stop::unsupported(&bytes, &instruction, why).into()
            }
            // It was fetched a moment ago.
            Ok(Err(_)) => fault::Stop::NotModelled("an instruction that is gone".into()).into(),
            Err(halt) => halt,
        }
    }

    /// Whether the current CPU would take an interrupt or NMI now.
    fn is_interrupted(&mut self) -> bool {
        self.vcpu().is_interrupted() || self.board_interrupts()
    }

    /// Whether it would take an interrupt of a device of the board.
    fn board_interrupts(&mut self) -> bool {
        let (cpu, instructions) = (self.vcpu().id, self.instructions());
        self.kernel.is_interrupting(cpu, instructions) && self.vcpu().rflags & flags::IF != 0
    }

    /// Delivers what waits for an instruction boundary.
    pub(crate) fn interrupts(&mut self, director: &mut dyn Director) -> Result<(), Halt> {
        let cpu = self.vcpu().id;
        for scheduled in self.interceptor.due(cpu) {
            self.carry_out(director, scheduled)?;
        }
        let external = self.board_interrupts();
        let nmi = self.kernel.takes_nmi(cpu);
        let vcpu = self.vcpu_mut();
        vcpu.nmi_pending |= nmi;
        if !vcpu.is_interrupted() && !external {
            return Ok(());
        }
        vcpu.halted = false;
        if vcpu.nmi_pending && !vcpu.nmi_blocked {
            return self.deliver_nmi(director);
        }
        let own = vcpu.apic.deliverable().filter(|_| vcpu.rflags & flags::IF != 0);
        let vector = match own {
            Some(vector) => {
                vcpu.apic.take(vector);
                Some(vector)
            }
            None => external.then(|| self.kernel.acknowledge(cpu)).flatten(),
        };
        match vector {
            Some(vector) => self.resolve(director, Err(Exception::interrupt(vector).into())),
            None => Ok(()),
        }
    }

    fn deliver_nmi(&mut self, director: &mut dyn Director) -> Result<(), Halt> {
        self.vcpu_mut().nmi_pending = false;
        self.resolve(director, Err(Exception::NMI.into()))
    }

    /// Gives the guest its exception, or ends the run.
    pub(super) fn resolve(
        &mut self,
        director: &mut dyn Director,
        result: Result<(), Fault>,
    ) -> Result<(), Halt> {
        match result {
            Ok(()) => Ok(()),
            Err(Fault::Stop(stop)) => Err(stop.into()),
            Err(Fault::Exception(exception)) => {
                let delivered = self
                    .with_core(director, |core| crate::arch::deliver::deliver(core, exception))?;
                Ok(delivered?)
            }
        }
    }

    /// A fault of the shadow pages: a TLB miss, an access to a watched frame, or an architectural
    /// page fault.
    fn page_fault(&mut self, director: &mut dyn Director, va: Gva, error: u32) -> Result<(), Halt> {
        let kind = access_kind(error);
        let translated = self.with_core(director, |core| {
            let access = core.access(kind);
            core.translate(va, access)
        })?;
        match translated {
            Ok(gpa) if self.is_emulated(kind, gpa) => {
                let result = match self.fetch(director)? {
                    Ok((instruction, _)) => {
                        self.watched_access(director, &instruction, va, gpa, kind)?
                    }
                    Err(fault) => Err(fault),
                };
                self.resolve(director, result)
            }
            Ok(_) => Ok(self.map_current(self.space(), va.page())?),
            Err(Fault::Stop(fault::Stop::BeyondMemory(gpa))) if self.kernel.has_device(gpa) => {
                self.device(director, gpa)
            }
            Err(fault) => self.resolve(director, Err(fault)),
        }
    }

    /// Fetches and decodes the instruction at RIP, through the TLB of this moment.
    pub(super) fn fetch(
        &mut self,
        director: &mut dyn Director,
    ) -> Result<Result<(Instruction, Vec<u8>), Fault>, Halt> {
        let rip = self.vcpu().rip;
        self.with_core(director, |core| {
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
        director: &mut dyn Director,
        genuine: Exception,
    ) -> Result<Ran, Halt> {
        let (instruction, bytes) = match self.fetch(director)? {
            Ok(fetched) => fetched,
            Err(fault) => return self.resolve(director, Err(fault)).map(|()| Ran::On),
        };
        let next = instruction.next_ip();
        match classify(self.vcpu(), &instruction) {
            Decoded::Op(op @ (Op::In { .. } | Op::Out { .. })) if self.vcpu().cpl == 0 => {
                self.port(director, op, next)
            }
            Decoded::Op(op @ (Op::Rdmsr(msr) | Op::Wrmsr { msr, .. }))
                if self.vcpu().cpl == 0 && !self.vcpu().has_msr(msr) =>
            {
                self.board_msr(director, op, next).map(|()| Ran::On)
            }
            Decoded::Op(Op::Rdtsc) => self.read_time(director, next).map(|()| Ran::On),
            Decoded::Op(op) => self.operation(director, op, next).map(|()| Ran::On),
            // At virtual CPL 3 a privileged instruction is the guest user's own #GP or #UD.
            Decoded::Unknown if self.vcpu().cpl == 0 => {
                let why = "the model does not know this operation";
                Err(fault::Stop::unsupported(&bytes, &instruction, why).into())
            }
            Decoded::Unknown | Decoded::Ordinary => {
                self.resolve(director, Err(genuine.into())).map(|()| Ran::On)
            }
        }
    }

    /// OUT of a byte at CPL 0: the kernel's call; none if the port is not the kernel's own.
    pub(super) fn output(
        &mut self,
        director: &mut dyn Director,
        port: u8,
        next: u64,
    ) -> Result<Option<Ran>, Halt> {
        let rip = self.vcpu().rip();
        let current = self.current();
        let vcpu = &mut self.cpus[current].vcpu;
        let Some(answer) = self.kernel.output(port, vcpu, next, &self.memory) else {
            return Ok(None);
        };
        let ran = match answer? {
            Call::Says(announcements) => {
                let moments: Vec<Moment> = announcements.iter().filter_map(moment_of).collect();
                if !announcements.is_empty() {
                    self.announce(director, rip, announcements);
                }
                for moment in moments {
                    self.moment(director, moment)?;
                }
                Ok(Ran::On)
            }
            Call::Watches => self.revalidate_all().map(|()| Ran::On),
            Call::Waits => self.moment(director, Moment::Waits).map(|()| Ran::Waits),
            Call::Asks => self.moment(director, Moment::TaskEnds).map(|()| Ran::Asks),
        };
        ran.map(Some)
    }

    /// Carries out one operation, or what the interceptor makes of it.
    pub(super) fn operation(
        &mut self,
        director: &mut dyn Director,
        op: Op,
        next: u64,
    ) -> Result<(), Halt> {
        let op = match op {
            // Its operands are read before anybody alters it.
            Op::Invpcid { kind, descriptor } if self.vcpu().cpl == 0 => {
                let read =
                    self.with_core(director, |core| core.invpcid_descriptor(kind, descriptor))?;
                match read {
                    Ok(descriptor) => Op::InvpcidOf { kind, descriptor },
                    Err(fault) => return self.resolve(director, Err(fault)),
                }
            }
            op => op,
        };
        let vcpu = self.vcpu();
        let site = Site { cpu: vcpu.id, rip: vcpu.rip(), cr4: vcpu.cr4 };
        let words = View { kernel: &self.kernel, memory: &self.memory };
        let plan = self.interceptor.operation(&site, op, &words);
        for scheduled in plan.before {
            self.carry_out(director, scheduled)?;
        }
        if plan.nmi_before {
            return self.deliver_nmi(director);
        }
        if plan.ops.is_empty() {
            let what = format!("{} {op}", if plan.delayed { "delayed" } else { "dropped" });
            self.publish(director, true, Kind::Suppressed { what });
            self.vcpu_mut().rip = next;
        }
        for PlannedOp { op, errata, injected } in plan.ops {
            let result = self.with_errata(director, errata, |core| {
                let first = core.log.entries.len();
                let result = core.execute(op, next);
                if injected {
                    core.log.mark_injected(first);
                }
                result
            })?;
            let failed = result.is_err();
            self.resolve(director, result)?;
            if failed {
                break;
            }
        }
        Ok(())
    }
}

/// The moment that an announcement is to the interceptor.
fn moment_of(announcement: &Announcement) -> Option<Moment> {
    match announcement {
        Announcement::FlushBegins { .. } => Some(Moment::FlushBegins),
        Announcement::FlushReturns { flush, .. } => Some(Moment::FlushReturned(*flush)),
        _ => None,
    }
}
