//! The kernel's hypercalls.

use super::{Cpu, Flow, Halt, Machine};
use crate::arch::addr::{Gpa, Gva};
use crate::arch::core::Memory;
use crate::arch::fault::Stop;
use crate::arch::vcpu::gpr::{RAX, RCX, RDI, RDX, RSI};
use crate::boot;
use crate::event::{Kind, Observer, Primitive};
use stalemate_shared::{hypercall, layout};

/// The longest file name of a panic that is read.
const MAX_FILE_NAME: u64 = 256;

impl Machine {
    /// Carries out the hypercall in the registers; `next` is where the guest resumes.
    pub(crate) fn hypercall(
        &mut self,
        observer: &mut dyn Observer,
        next: u64,
    ) -> Result<Flow, Halt> {
        let rip = self.vcpu().rip();
        let [number, a, b, c, d] = [RAX, RDI, RSI, RDX, RCX].map(|number| self.vcpu().gpr[number]);
        if number == hypercall::NEXT_STEP {
            // It waits at the hypercall itself: an interrupt that it takes comes back there.
            self.cpu_mut().after_ask = next;
            self.step_is_over(observer)?;
            return Ok(Flow::NextStep([a, b, c]));
        }
        self.vcpu_mut().rip = next;
        match number {
            hypercall::READY => {
                let info = boot::kernel_info(&self.memory).map_err(Stop::Interface)?;
                self.info = Some(info);
                self.revalidate_all()?;
                return Ok(Flow::Ready);
            }
            hypercall::BEGIN => {
                let begun = Primitive { id: a, root: Gpa(b), start: Gva(c), end: Gva(d) };
                self.cpu_mut().primitives.push(begun);
                self.publish(observer, rip, false, Kind::PrimitiveBegin(begun));
                self.injector.flush_begins(self.vcpu().id);
            }
            hypercall::END => {
                let begun = self.cpu_mut().primitives.pop().filter(|begun| begun.id == a);
                let begun = begun.ok_or_else(|| {
                    Stop::Interface(format!("end of primitive {a}, which has not begun"))
                })?;
                self.publish(observer, rip, false, Kind::PrimitiveEnd(begun));
                self.injector.flush_ends(self.vcpu().id, begun.root);
            }
            hypercall::DEFER => {
                let deferred = Primitive { id: a, root: Gpa(b), start: Gva(c), end: Gva(d) };
                self.publish(observer, rip, false, Kind::Deferred(deferred));
            }
            hypercall::YIELD => {
                for due in self.injector.waits(self.vcpu().id) {
                    self.deed(observer, due)?;
                }
                return Ok(Flow::Yield);
            }
            hypercall::FRAME_FREED => {
                self.publish(observer, rip, false, Kind::FrameFreed { frame: Gpa(a) });
            }
            hypercall::PANIC => return Err(self.panic(a, b, c).into()),
            other => return Err(Stop::Interface(format!("hypercall {other:#x}")).into()),
        }
        Ok(Flow::Continue)
    }

    fn panic(&self, line: u64, name: u64, len: u64) -> Stop {
        let mut bytes = vec![0; len.min(MAX_FILE_NAME) as usize];
        let at = Gpa(name.wrapping_sub(layout::KERNEL_BASE));
        if !self.memory.read(at, &mut bytes) {
            bytes.clear();
        }
        Stop::Panic { file: String::from_utf8_lossy(&bytes).into_owned(), line }
    }

    /// Answers NEXT_STEP.
    pub(crate) fn answer(&mut self, op: u64, args: [u64; 4]) {
        let Cpu { vcpu, after_ask, .. } = self.cpu_mut();
        vcpu.rip = *after_ask;
        vcpu.gpr[RAX] = op;
        for (number, value) in [RDI, RSI, RDX, RCX].into_iter().zip(args) {
            vcpu.gpr[number] = value;
        }
    }
}
