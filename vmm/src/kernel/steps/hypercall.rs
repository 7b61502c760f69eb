//! The kernel's hypercalls.

use super::{Ask, StepReport, Steps, boot};
use crate::arch::addr::{Gpa, Gva};
use crate::arch::core::Memory;
use crate::arch::vcpu::Vcpu;
use crate::arch::vcpu::gpr::{RAX, RCX, RDI, RDX, RSI};
use crate::event::{Announcement, Flush, FlushId, FlushKind};
use crate::machine::{Call, Stop};
use crate::memory::GuestMemory;
use stalemate_shared::hypercall::{self, primitive};
use stalemate_shared::layout;

/// The longest file name of a panic that is read.
const MAX_FILE_NAME: u64 = 256;

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
            let report = StepReport { status: a, value: b, second: c };
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
                let id = FlushId(self.next_flush);
                self.next_flush += 1;
                self.flushes.push((id, vcpu.id, flush));
                Ok(Call::Says(vec![Announcement::FlushBegins { id, flush }]))
            }
            hypercall::END => {
                let begun = self.flushes.iter().rposition(|(_, cpu, flush)| {
                    *cpu == vcpu.id && kind(a).is_ok_and(|kind| kind == flush.kind)
                });
                let begun = begun.ok_or_else(|| {
                    Stop::Interface(format!("end of primitive {a}, which has not begun"))
                })?;
                let (id, _, flush) = self.flushes.remove(begun);
                Ok(Call::Says(vec![Announcement::FlushReturns { id, flush }]))
            }
            hypercall::DEFER => Ok(Call::Says(vec![Announcement::Deferred(flush(a, b, c, d)?)])),
            hypercall::YIELD => Ok(Call::Waits),
            hypercall::FRAME_FREED => Ok(Call::Says(vec![Announcement::FrameFreed(Gpa(a))])),
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
    pub(super) fn answer(&self, vcpu: &mut Vcpu, op: u64, args: [u64; 4]) {
        let Some(ask) = self.ask(vcpu) else { return };
        vcpu.rip = ask.next;
        vcpu.gpr[RAX] = op;
        for (number, value) in [RDI, RSI, RDX, RCX].into_iter().zip(args) {
            vcpu.gpr[number] = value;
        }
    }
}

fn kind(number: u64) -> Result<FlushKind, Stop> {
    Ok(match number {
        primitive::ONE_USER => FlushKind::OneUser,
        primitive::ONE_KERNEL => FlushKind::OneKernel,
        primitive::RANGE => FlushKind::Range,
        primitive::MM => FlushKind::Mm,
        primitive::ALL => FlushKind::All,
        primitive::KERNEL_RANGE => FlushKind::KernelRange,
        primitive::BATCHED => FlushKind::Batched,
        primitive::FREE_TABLES => FlushKind::FreeTables,
        other => {
            return Err(Stop::Interface(format!("primitive {other:#x}, which there is none of")));
        }
    })
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
    Stop::Panic { file: String::from_utf8_lossy(&bytes).into_owned(), line }
}
