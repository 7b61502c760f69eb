//! The kernel's hypercalls.

use super::{Ask, StepReport, Steps, boot};
use crate::arch::addr::{Gpa, Gva};
use crate::arch::core::Memory;
use crate::arch::vcpu::Vcpu;
use crate::arch::vcpu::gpr::{RAX, RCX, RDI, RDX, RSI};
use crate::event::{Announcement, Flush, FlushId, FlushKind, Until};
use crate::ink::one_line;
use crate::machine::{Call, Stop};
use crate::memory::GuestMemory;
use stalemate_shared::hypercall::{self, Deferral, Primitive};
use stalemate_shared::layout;
use stalemate_shared::step::{Op, Status};

/// The longest file name of a panic that is read.
const MAX_FILE_NAME: u64 = 256;

/// Flushes that have begun and not returned, at most.
const MAX_OPEN_FLUSHES: usize = 1024;

impl Steps {
    /// Carries out the hypercall in the registers; `next` is where the guest resumes.
    pub(super) fn hypercall(
        &mut self,
        vcpu: &mut Vcpu,
        next: u64,
        memory: &GuestMemory,
    ) -> Result<Call, Stop> {
        let [number, a, b, c, d] = [RAX, RDI, RSI, RDX, RCX].map(|number| vcpu.gpr[number]);
        if number == hypercall::NEXT_STEP {
            // It waits at the hypercall itself: an interrupt that it takes comes back there.
            let status = Status::try_from(a).map_err(|a| nothing("status", a))?;
            let report = StepReport { status, value: b, second: c };
            self.asks.retain(|(cpu, _)| *cpu != vcpu.id);
            self.asks.push((vcpu.id, Ask { report, next }));
            return Ok(Call::Asks);
        }
        vcpu.rip = next;
        match number {
            hypercall::READY => {
                self.described(boot::kernel_info(memory).map_err(Stop::Interface)?);
                Ok(Call::Watches)
            }
            hypercall::BEGIN => {
                let flush = flush(a, b, c, d)?;
                if self.flushes.len() == MAX_OPEN_FLUSHES {
                    let what = format!("{MAX_OPEN_FLUSHES} flushes have begun and not returned");
                    return Err(Stop::Interface(what));
                }
                self.last_flush += 1;
                let id = FlushId(self.last_flush);
                vcpu.gpr[RAX] = id.0;
                self.flushes.insert(id, flush);
                Ok(Call::Says(vec![Announcement::FlushBegins { id, flush }]))
            }
            hypercall::END => {
                let id = FlushId(a);
                let flush = self.flushes.remove(&id).ok_or_else(|| {
                    Stop::Interface(format!("END of flush {a:#x}, which has not begun"))
                })?;
                Ok(Call::Says(vec![Announcement::FlushReturns { id, flush }]))
            }
            hypercall::DEFER => Ok(Call::Says(vec![deferred(a, b, c, d)?])),
            hypercall::YIELD => Ok(Call::Waits),
            hypercall::FRAME_FREED => Ok(Call::Says(vec![Announcement::FrameFreed(Gpa(a))])),
            hypercall::CONTENTS_TAKEN => Ok(Call::Says(vec![Announcement::ContentsTaken(Gpa(a))])),
            hypercall::ENTRY_READ => {
                Ok(Call::Says(vec![Announcement::EntryRead { slot: Gpa(a), value: b }]))
            }
            hypercall::PANIC => Err(panic(memory, a, b, c)),
            other => Err(Stop::Interface(format!("hypercall {other:#x}"))),
        }
    }

    /// The report of a CPU that asks for a step.
    pub(super) fn report(&self, vcpu: &Vcpu) -> Option<StepReport> {
        self.ask(vcpu).map(|ask| ask.report)
    }

    fn ask(&self, vcpu: &Vcpu) -> Option<Ask> {
        self.asks.iter().find(|(cpu, _)| *cpu == vcpu.id).map(|(_, ask)| *ask)
    }

    /// Answers NEXT_STEP.
    pub(super) fn answer(&self, vcpu: &mut Vcpu, op: Op, args: [u64; 4]) {
        let Some(ask) = self.ask(vcpu) else { return };
        vcpu.rip = ask.next;
        vcpu.gpr[RAX] = op as u64;
        let args = self.pages.arguments(op, args);
        for (number, value) in [RDI, RSI, RDX, RCX].into_iter().zip(args) {
            vcpu.gpr[number] = value;
        }
    }
}

/// The guest named something by a number that stands for nothing.
fn nothing(what: &str, number: u64) -> Stop {
    Stop::Interface(format!("{what} {number:#x}, which there is none of"))
}

fn kind(number: u64) -> Result<FlushKind, Stop> {
    let primitive = Primitive::try_from(number).map_err(|number| nothing("primitive", number))?;
    Ok(match primitive {
        Primitive::OneUser => FlushKind::OneUser,
        Primitive::OneKernel => FlushKind::OneKernel,
        Primitive::Range => FlushKind::Range,
        Primitive::Mm => FlushKind::Mm,
        Primitive::All => FlushKind::All,
        Primitive::KernelRange => FlushKind::KernelRange,
        Primitive::Batched => FlushKind::Batched,
        Primitive::FreeTables => FlushKind::FreeTables,
        Primitive::OneKernelHere => FlushKind::OneKernelHere,
    })
}

fn deferred(number: u64, root: u64, start: u64, end: u64) -> Result<Announcement, Stop> {
    let deferral = Deferral::try_from(number).map_err(|number| nothing("deferral", number))?;
    let until = match deferral {
        Deferral::Batched => Until::Batched,
        Deferral::Reuse => Until::Reuse,
        Deferral::ReuseHere => Until::ReuseHere,
    };
    let root = (root != 0).then_some(Gpa(root));
    Ok(Announcement::Deferred { root, start: Gva(start), end: Gva(end), until })
}

fn flush(number: u64, root: u64, start: u64, end: u64) -> Result<Flush, Stop> {
    let root = (root != 0).then_some(Gpa(root));
    Ok(Flush { kind: kind(number)?, root, start: Gva(start), end: Gva(end) })
}

fn panic(memory: &GuestMemory, line: u64, name: u64, len: u64) -> Stop {
    let mut bytes = vec![0; len.min(MAX_FILE_NAME) as usize];
    let at = Gpa(name.wrapping_sub(layout::KERNEL_BASE));
    if !memory.read(at, &mut bytes) {
        bytes.clear();
    }
    Stop::Panic { file: one_line(&String::from_utf8_lossy(&bytes)), line }
}
