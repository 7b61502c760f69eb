//! Operands for one instruction, and what must be in registers and memory before it.

use crate::entropy::Entropy;
use crate::rig::{CODE, DATA, ISLAND, MIXED, PAGE, READ_ONLY, STACK, STACK_MIDDLE, UNMAPPED};
use iced_x86::{Code, Instruction, MemoryOperand, OpCodeOperandKind, OpKind, Register};

/// `mov register, value`, ten bytes.
pub fn mov(register: Register, value: u64) -> Instruction {
    Instruction::with2(Code::Mov_r64_imm64, register, value).expect("valid operands")
}

/// An operand at an address that an instruction can name by itself.
pub fn absolute(at: u64) -> MemoryOperand {
    MemoryOperand::with_displ(at, 8)
}

/// What an instruction needs of its operands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// Registers that addresses leave alone.
    pub kept: &'static [Register],
    /// FXSAVE's memory: aligned to 16 bytes.
    pub image: bool,
    /// Memory that is written before it is read, or not there at all.
    pub stored: bool,
    /// Aligned to its size, since it locks the bus otherwise.
    pub aligned: bool,
}

/// Chooses operands.
pub struct Operands<'e, 'b> {
    pub e: &'e mut Entropy<'b>,
    /// Of FS and GS.
    pub bases: [u64; 2],
    pub needs: Needs,
    /// Instructions that put values in place.
    pub before: Vec<Instruction>,
    /// RSP is an address or a destination.
    pub moves_stack: bool,
}

impl Operands<'_, '_> {
    /// An instruction of this code with operands of every allowed kind; None for a kind that is
    /// not known here.
    pub fn fill(&mut self, code: Code) -> Option<Instruction> {
        use OpCodeOperandKind as K;
        let info = code.op_code();
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        let mut memory = None;
        for operand in 0..info.op_count() {
            let register = match info.op_kind(operand) {
                K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::xmm_or_mem
                    if self.e.one_in(2) || self.needs.aligned =>
                {
                    memory = Some(operand);
                    continue;
                }
                K::mem | K::mem_offs | K::seg_rBX_al => {
                    memory = Some(operand);
                    continue;
                }
                K::r8_or_mem | K::r8_reg | K::r8_opcode => self.general(Register::AL, 20),
                K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode => {
                    self.general(Register::AX, 16)
                }
                K::r32_or_mem | K::r32_reg | K::r32_rm | K::r32_opcode => {
                    self.general(Register::EAX, 16)
                }
                K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_opcode => {
                    self.general(Register::RAX, 16)
                }
                K::xmm_or_mem | K::xmm_reg | K::xmm_rm => self.sse(),
                K::al => self.fixed(Register::AL),
                K::cl => self.fixed(Register::CL),
                K::ax => self.fixed(Register::AX),
                K::eax => self.fixed(Register::EAX),
                K::rax => self.fixed(Register::RAX),
                kind => {
                    self.immediate(&mut instruction, operand, kind)?;
                    continue;
                }
            };
            instruction.set_op_kind(operand, OpKind::Register);
            instruction.set_op_register(operand, register);
        }
        if let Some(operand) = memory {
            let kind = info.op_kind(operand);
            instruction.set_op_kind(operand, OpKind::Memory);
            self.memory(&mut instruction, kind);
        }
        Some(instruction)
    }

    fn immediate(
        &mut self,
        instruction: &mut Instruction,
        operand: u32,
        kind: OpCodeOperandKind,
    ) -> Option<()> {
        use OpCodeOperandKind as K;
        let (kind, width) = match kind {
            K::imm8 => (OpKind::Immediate8, 8),
            K::imm8_const_1 => {
                instruction.set_op_kind(operand, OpKind::Immediate8);
                instruction.set_immediate8(1);
                return Some(());
            }
            K::imm8sex16 => (OpKind::Immediate8to16, 8),
            K::imm8sex32 => (OpKind::Immediate8to32, 8),
            K::imm8sex64 => (OpKind::Immediate8to64, 8),
            K::imm16 => (OpKind::Immediate16, 16),
            K::imm32 => (OpKind::Immediate32, 32),
            K::imm32sex64 => (OpKind::Immediate32to64, 32),
            K::imm64 => (OpKind::Immediate64, 64),
            _ => return None,
        };
        let value = self.e.immediate(width);
        instruction.set_op_kind(operand, kind);
        match kind {
            OpKind::Immediate8 => instruction.set_immediate8(value as u8),
            OpKind::Immediate16 => instruction.set_immediate16(value as u16),
            OpKind::Immediate32 => instruction.set_immediate32(value as u32),
            OpKind::Immediate64 => instruction.set_immediate64(value),
            _ => instruction.set_immediate_i64(operand, value as i64),
        }
        Some(())
    }

    /// One of the `count` registers from `first`, often with a new value.
    fn general(&mut self, first: Register, count: u64) -> Register {
        let mut register = first + self.e.below(count) as u32;
        if register.full_register() == Register::RSP {
            // Seldom: what follows needs a stack.
            if self.e.one_in(4) {
                self.moves_stack = true;
                return register;
            }
            register = first;
        }
        self.fixed(register)
    }

    fn fixed(&mut self, register: Register) -> Register {
        if self.e.one_in(2) {
            let value = self.e.integer();
            self.before.push(mov(register.full_register(), value));
        }
        register
    }

    fn sse(&mut self) -> Register {
        let register = Register::XMM0 + self.e.below(16) as u32;
        if self.e.one_in(2) {
            let at = DATA + self.e.below(2 * PAGE / 16) * 16;
            let load = Instruction::with2(Code::Movups_xmm_xmmm128, register, absolute(at));
            self.before.push(load.expect("valid operands"));
        }
        register
    }

    /// An address for `size` bytes, and whether it is canonical.
    pub fn target(&mut self, size: u64) -> u64 {
        let e = &mut *self.e;
        let aligned = |at: u64| at & !(size.next_power_of_two().min(16) - 1);
        let inside = |e: &mut Entropy<'_>, page: u64| page + e.below(PAGE - size.min(PAGE - 1));
        let across = |e: &mut Entropy<'_>, end: u64| end - 1 - e.below(size.max(2) - 1);
        if self.needs.stored {
            return aligned(match e.below(8) {
                0 => UNMAPPED + e.below(PAGE - 512),
                1 => ISLAND + e.below(PAGE - 512),
                _ => inside(e, DATA),
            });
        }
        if self.needs.image {
            return !15
                & match e.below(12) {
                    0 => inside(e, READ_ONLY),
                    1 => UNMAPPED + e.below(PAGE - 512),
                    2 => across(e, READ_ONLY),
                    3 => across(e, ISLAND + PAGE),
                    4 => across(e, DATA + PAGE),
                    _ => inside(e, DATA),
                };
        }
        let at = match e.below(40) {
            0..=10 => aligned(inside(e, DATA + PAGE)),
            11..=20 => inside(e, DATA),
            21..=24 => across(e, DATA + PAGE),
            25 => across(e, READ_ONLY),
            26 => across(e, ISLAND),
            27 => across(e, READ_ONLY + PAGE),
            28 => across(e, ISLAND + PAGE),
            29 | 30 => inside(e, READ_ONLY),
            31 => inside(e, UNMAPPED),
            32 => inside(e, ISLAND),
            33 => inside(e, CODE),
            34 => inside(e, STACK),
            35 => across(e, STACK),
            36 => inside(e, MIXED + PAGE),
            37 => 1 << 63 | e.bits() >> 2,
            38 => 0x8000_0000_0000 + e.below(1 << 40),
            _ => aligned(inside(e, DATA)),
        };
        // A store to the page that may be executed is a test of its own.
        if self.needs.aligned { aligned(at) } else { at }
    }

    /// Makes `instruction`'s memory operand lead somewhere.
    fn memory(&mut self, instruction: &mut Instruction, kind: OpCodeOperandKind) {
        let size = instruction.memory_size().size().max(1) as u64;
        let target = self.target(size);
        match kind {
            OpCodeOperandKind::mem_offs => {
                let base = if self.e.one_in(4) { self.segment(instruction) } else { 0 };
                instruction.set_memory_displ_size(8);
                instruction.set_memory_displacement64(target.wrapping_sub(base));
            }
            OpCodeOperandKind::seg_rBX_al => {
                instruction.set_memory_base(Register::RBX);
                instruction.set_memory_index(Register::AL);
                let al = self.e.below(256);
                self.before.push(mov(Register::RAX, self.e.integer() & !0xff | al));
                self.before.push(mov(Register::RBX, target.wrapping_sub(al)));
            }
            _ if self.e.one_in(8) => self.short_address(instruction, target),
            _ => self.address(instruction, target),
        }
    }

    /// FS or GS for the memory operand; its base.
    pub fn segment(&mut self, instruction: &mut Instruction) -> u64 {
        let number = self.e.below(2) as usize;
        instruction.set_segment_prefix([Register::FS, Register::GS][number]);
        self.bases[number]
    }

    /// A register that an address may use.
    fn register(&mut self, with_rsp: bool) -> Register {
        loop {
            let register = Register::RAX + self.e.below(16) as u32;
            let usable = register != Register::RSP || with_rsp && self.e.one_in(3);
            if usable && !self.needs.kept.contains(&register) {
                return register;
            }
        }
    }

    fn displacement(&mut self) -> u64 {
        match self.e.below(6) {
            0 | 1 => 0,
            2 | 3 => self.e.immediate(8),
            4 => self.e.pick(&[127, 128, -128i64 as u64, -129i64 as u64, i32::MIN as u64]),
            _ => self.e.immediate(32),
        }
    }

    /// An operand with 64-bit addressing.
    fn address(&mut self, instruction: &mut Instruction, target: u64) {
        let mut offset = target;
        if self.e.one_in(6) {
            offset = target.wrapping_sub(self.segment(instruction));
        }
        let fits = |value: u64| value as i64 == i64::from(value as i32);
        match self.e.below(10) {
            0 if fits(offset) => {
                instruction.set_memory_displ_size(8);
                instruction.set_memory_displacement64(offset);
                return;
            }
            1 | 2 if fits(offset.wrapping_sub(CODE)) => {
                instruction.set_memory_base(Register::RIP);
                instruction.set_memory_displ_size(8);
                instruction.set_memory_displacement64(offset);
                return;
            }
            // Index alone.
            3 if fits(offset) => {
                let index = self.register(false);
                let scale = self.e.pick(&[1, 2, 4, 8]);
                let times = self.e.below(64);
                self.before.push(mov(index, times));
                instruction.set_memory_index(index);
                instruction.set_memory_index_scale(scale);
                instruction.set_memory_displ_size(8);
                instruction.set_memory_displacement64(
                    offset.wrapping_sub(times.wrapping_mul(u64::from(scale))),
                );
                return;
            }
            _ => {}
        }
        let displacement = self.displacement();
        let mut base = offset.wrapping_sub(displacement);
        let register = self.register(true);
        // An image has to be where it should be.
        if self.e.one_in(2) && !self.needs.image && !self.needs.stored {
            let index = self.register(false);
            let scale = self.e.pick(&[1, 2, 4, 8]);
            let times = self.e.integer();
            if index != register {
                base = base.wrapping_sub(times.wrapping_mul(u64::from(scale)));
                self.before.push(mov(index, times));
            } else {
                // One register twice: the address is a multiple of it, or lies elsewhere.
                base /= u64::from(scale) + 1;
            }
            instruction.set_memory_index(index);
            instruction.set_memory_index_scale(scale);
        }
        self.before.push(mov(register, base));
        self.moves_stack |= register == Register::RSP;
        instruction.set_memory_base(register);
        let small = displacement as i64 == i64::from(displacement as i8);
        let size = match displacement {
            0 if self.e.one_in(2) => 0,
            _ if small && self.e.one_in(2) => 1,
            _ => 8,
        };
        instruction.set_memory_displ_size(size);
        instruction.set_memory_displacement64(displacement);
    }

    /// An operand with 32-bit addressing: upper halves of registers count for nothing.
    fn short_address(&mut self, instruction: &mut Instruction, target: u64) {
        let mut offset = target as u32;
        if self.e.one_in(4) {
            offset = target.wrapping_sub(self.segment(instruction)) as u32;
        }
        let displacement = self.displacement() as u32;
        let mut base = offset.wrapping_sub(displacement);
        let register = self.register(false);
        let upper = self.e.integer() << 32;
        let short = |register: Register| Register::EAX + register.number() as u32;
        if self.e.one_in(2) {
            let index = self.register(false);
            let scale = self.e.pick(&[1, 2, 4, 8]);
            if index != register {
                let times = self.e.integer();
                base = base.wrapping_sub((times as u32).wrapping_mul(scale));
                self.before.push(mov(index, times));
                instruction.set_memory_index(short(index));
                instruction.set_memory_index_scale(scale);
            }
        }
        self.before.push(mov(register, upper | u64::from(base)));
        instruction.set_memory_base(short(register));
        instruction.set_memory_displ_size(if displacement == 0 { 0 } else { 4 });
        instruction.set_memory_displacement64(u64::from(displacement));
    }

    /// An address of a stack that is not there, or where it is.
    pub fn stack(&mut self) -> u64 {
        match self.e.below(4) {
            0 => UNMAPPED,
            1 => READ_ONLY + 8 * self.e.below(16),
            2 => 1 << 63 | self.e.bits() >> 2,
            _ => STACK_MIDDLE + self.e.below(64),
        }
    }
}
