//! Loads and stores of devices that are in memory's address space, where no memory is: the forms that
//! kernels access them by, MOV of 32 bits.

use super::{Director, Halt, Interceptor, Kernel, Machine};
use crate::arch::addr::Gpa;
use crate::arch::happened::Happened;
use crate::arch::op::gpr_number;
use crate::event::Kind;
use iced_x86::{Code, Instruction};

/// What an instruction does with a device.
enum Access {
    /// Loads into a register.
    Load(usize),
    /// Stores this.
    Store(u32),
}

impl<K: Kernel, I: Interceptor> Machine<K, I> {
    /// The instruction at RIP accesses the device at `gpa`.
    pub(super) fn device(&mut self, director: &mut dyn Director, gpa: Gpa) -> Result<(), Halt> {
        let (instruction, _) = match self.fetch(director)? {
            Ok(fetched) => fetched,
            Err(fault) => return self.resolve(director, Err(fault)),
        };
        let Some(access) = self.access_of(&instruction) else {
            return Err(self.not_executed(director));
        };
        let (cpu, completed) = (self.vcpu().id, self.instructions());
        match access {
            Access::Load(register) => {
                let value = self.kernel.load_device(cpu, gpa, completed);
                self.vcpu_mut().gpr[register] = u64::from(value);
            }
            Access::Store(value) => {
                for sent in self.kernel.store_device(cpu, gpa, value, completed) {
                    let (to, vector, nmi) = (sent.to, sent.vector, sent.nmi);
                    let happened = Happened::Ipi { to, vector, nmi };
                    self.publish(director, false, Kind::Cpu(happened));
                }
            }
        }
        self.vcpu_mut().rip = instruction.next_ip();
        Ok(())
    }

    fn access_of(&self, instruction: &Instruction) -> Option<Access> {
        let register = |operand| gpr_number(instruction.op_register(operand));
        let low = |number: usize| self.vcpu().gpr[number] as u32;
        Some(match instruction.code() {
            Code::Mov_r32_rm32 => Access::Load(register(0)?),
            Code::Mov_EAX_moffs32 => Access::Load(0),
            Code::Mov_rm32_r32 => Access::Store(low(register(1)?)),
            Code::Mov_moffs32_EAX => Access::Store(low(0)),
            Code::Mov_rm32_imm32 => Access::Store(instruction.immediate32()),
            _ => return None,
        })
    }
}
