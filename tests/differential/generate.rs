//! Random sequences over every code that the interpreter executes.

use crate::entropy::Entropy;
use crate::operand::{Needs, Operands, absolute, mov};
use crate::rig::{CODE, CODE_LEN, DATA, ISLAND, PAGE, STACK_MIDDLE, State, UNMAPPED};
use crate::sequence::{Assembler, Refused, Sequence, is_covered};
use iced_x86::{Code, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register};

/// Subjects of one sequence.
const ITEMS: u64 = 48;
/// Room that an item and its fix-ups may take.
const ITEM_LEN: u64 = 160;
/// How often one item is tried with other operands.
const TRIES: usize = 16;

/// Instructions that trap in whatever state, and that the kernel's code may contain.
const TRAPS: [Code; 20] = [
    Code::Ud2,
    Code::Hlt,
    Code::Cli,
    Code::Sti,
    Code::Clts,
    Code::Rdmsr,
    Code::Wrmsr,
    Code::Swapgs,
    Code::Wbinvd,
    Code::Invlpg_m,
    Code::In_AL_imm8,
    Code::Out_imm8_AL,
    Code::In_EAX_DX,
    Code::In_AX_imm8,
    Code::Out_DX_EAX,
    Code::Mov_dr_r64,
    Code::Mov_r64_dr,
    Code::Lldt_r32m16,
    Code::Lmsw_rm16,
    Code::Lidt_m1664,
];

/// The codes that sequences are made of.
pub struct Generator {
    codes: Vec<Code>,
}

impl Generator {
    pub fn new() -> Self {
        let has_tzcnt = std::arch::is_x86_feature_detected!("bmi1");
        let codes = Code::values()
            .filter(|code| is_covered(*code))
            // BSF, with an undefined destination, where there is no TZCNT.
            .filter(|code| has_tzcnt || code.mnemonic() != Mnemonic::Tzcnt)
            .collect();
        Self { codes }
    }

    pub fn codes(&self) -> &[Code] {
        &self.codes
    }

    /// Whether this host's processor lacks `code`.
    pub fn lacks(&self, code: Code) -> bool {
        code.mnemonic() == Mnemonic::Tzcnt && !self.codes.contains(&code)
    }

    /// A generator of this code alone.
    pub fn only(code: Code) -> Self {
        Self { codes: vec![code] }
    }

    /// A state, and what to run from it.
    pub fn sequence(&self, e: &mut Entropy<'_>) -> (State, Sequence) {
        let mut state = State::any(e);
        // Sometimes an instruction lies across a page boundary.
        let begin = CODE + e.below(PAGE);
        let mut draft = Draft { e, bases: state.bases, out: Assembler::new(begin) };
        for _ in 0..ITEMS {
            if draft.out.here() + 8 * ITEM_LEN > CODE + CODE_LEN {
                break;
            }
            self.item(&mut draft, true);
        }
        let sequence = draft.out.finish();
        state.put(CODE, &vec![0xcc; CODE_LEN as usize]);
        (state, sequence)
    }

    fn item(&self, draft: &mut Draft<'_, '_>, may_jump: bool) {
        let code = match draft.e.below(100) {
            0 if self.codes.len() > 1 => draft.e.pick(&TRAPS),
            _ => draft.e.pick(&self.codes),
        };
        for _ in 0..TRIES {
            let mark = draft.out.mark();
            draft.out.begin_item(code, !may_jump);
            let done = match kind(code) {
                Kind::Plain => draft.plain(code),
                Kind::String => draft.string(code),
                Kind::State => draft.state(code),
                _ if !may_jump => Err(Refused),
                Kind::Relative => self.relative(draft, code),
                Kind::Indirect => self.indirect(draft, code),
            };
            if done.is_ok() {
                return;
            }
            draft.out.go_back(mark);
        }
    }

    /// Items that the jump before them may leave out; jumps in them end at once.
    fn skipped(&self, draft: &mut Draft<'_, '_>, reach: u64) {
        let start = draft.out.here();
        for _ in 0..draft.e.below(4) {
            let mark = draft.out.mark();
            self.item(draft, false);
            if draft.out.here() - start > reach {
                draft.out.go_back(mark);
                return;
            }
        }
    }

    /// Jcc, JMP, CALL, LOOP, JRCXZ, forwards.
    fn relative(&self, draft: &mut Draft<'_, '_>, code: Code) -> Result<(), Refused> {
        let short = code.op_code().op_kind(0) == OpCodeOperandKind::br64_1;
        let counts = matches!(
            code.mnemonic(),
            Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne | Mnemonic::Jrcxz
        );
        if counts {
            let count = draft.e.pick(&[0, 1, 2, 1 << 32, u64::MAX]);
            draft.out.emit(mov(Register::RCX, count))?;
        }
        let branch = |target| Instruction::with_branch(code, target).map_err(|_| Refused);
        let here = draft.out.here();
        let jump = draft.out.emit(branch(here)?)?;
        let undefined = draft.out.undefined();
        self.skipped(draft, if short { 127 } else { u64::MAX });
        let target = draft.out.here();
        draft.out.replace(jump, branch(target)?)?;
        draft.out.join(undefined);
        Ok(())
    }

    /// JMP and CALL through a register or memory, RET.
    fn indirect(&self, draft: &mut Draft<'_, '_>, code: Code) -> Result<(), Refused> {
        let register = draft.e.pick(&[Register::RAX, Register::RSI, Register::R8, Register::R13]);
        let wild = draft.e.one_in(200).then(|| draft.e.pick(&[UNMAPPED, DATA + 5, ISLAND]));
        let target = draft.out.emit(mov(register, 0))?;
        let mut jump = Instruction::default();
        jump.set_code(code);
        if code.mnemonic() == Mnemonic::Ret {
            draft.push(register)?;
            if code == Code::Retnq_imm16 {
                jump.set_op_kind(0, OpKind::Immediate16);
                jump.set_immediate16(draft.e.immediate(16) as u16);
            }
        } else if draft.e.one_in(2) {
            jump.set_op_kind(0, OpKind::Register);
            jump.set_op_register(0, register);
        } else {
            let at = DATA + draft.e.below(2 * PAGE - 8);
            let store = Instruction::with2(Code::Mov_rm64_r64, absolute(at), register);
            draft.out.emit(store.map_err(|_| Refused)?)?;
            jump = Instruction::with1(code, absolute(at)).map_err(|_| Refused)?;
        }
        draft.out.emit(jump)?;
        let undefined = draft.out.undefined();
        self.skipped(draft, u64::MAX);
        let here = draft.out.here();
        draft.out.replace(target, mov(register, wild.unwrap_or(here)))?;
        draft.out.join(undefined);
        if code == Code::Retnq_imm16 {
            draft.out.emit(mov(Register::RSP, STACK_MIDDLE))?;
        }
        Ok(())
    }
}

/// How an instruction is put into a sequence.
enum Kind {
    Plain,
    String,
    /// MXCSR or more.
    State,
    Relative,
    Indirect,
}

fn kind(code: Code) -> Kind {
    use Mnemonic as M;
    let info = code.op_code();
    match code.mnemonic() {
        _ if info
            .op_kinds()
            .iter()
            .any(|kind| matches!(kind, OpCodeOperandKind::br64_1 | OpCodeOperandKind::br64_4)) =>
        {
            Kind::Relative
        }
        M::Jmp | M::Call | M::Ret => Kind::Indirect,
        M::Ldmxcsr | M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 => Kind::State,
        _ if info
            .op_kinds()
            .iter()
            .any(|kind| matches!(kind, OpCodeOperandKind::seg_rSI | OpCodeOperandKind::es_rDI)) =>
        {
            Kind::String
        }
        _ => Kind::Plain,
    }
}

/// A sequence in the making.
struct Draft<'e, 'b> {
    e: &'e mut Entropy<'b>,
    bases: [u64; 2],
    out: Assembler,
}

impl<'b> Draft<'_, 'b> {
    fn operands(&mut self, needs: Needs) -> Operands<'_, 'b> {
        let bases = self.bases;
        Operands { e: self.e, bases, needs, before: Vec::new(), moves_stack: false }
    }

    fn push(&mut self, register: Register) -> Result<(), Refused> {
        self.out.emit(Instruction::with1(Code::Push_r64, register).map_err(|_| Refused)?)?;
        Ok(())
    }

    fn plain(&mut self, code: Code) -> Result<(), Refused> {
        use Mnemonic as M;
        use Register as R;
        let mnemonic = code.mnemonic();
        let locks = code.op_code().can_use_lock_prefix() && self.e.one_in(3);
        let kept: &[Register] = match mnemonic {
            M::Shld | M::Shrd => &[R::RCX],
            M::Div | M::Idiv => &[R::RDX, R::RAX],
            M::Cmpxchg | M::Cmpxchg8b | M::Cmpxchg16b => &[R::RAX, R::RDX],
            _ => &[],
        };
        let aligned = locks || mnemonic == M::Xchg && self.e.one_in(2);
        let mut operands = self.operands(Needs { kept, aligned, ..Needs::default() });
        let mut instruction = operands.fill(code).ok_or(Refused)?;
        let has_memory = (0..instruction.op_count())
            .any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        if locks && has_memory && instruction.op0_kind() == OpKind::Memory {
            instruction.set_has_lock_prefix(true);
        }
        let e = &mut *operands.e;
        match mnemonic {
            M::Shld | M::Shrd => {
                let narrow = matches!(
                    code,
                    Code::Shld_rm16_r16_imm8
                        | Code::Shrd_rm16_r16_imm8
                        | Code::Shld_rm16_r16_CL
                        | Code::Shrd_rm16_r16_CL
                );
                // A count beyond the operand's size gives anything.
                let count = e.below(if narrow { 17 } else { 64 }) | e.below(4) << 6;
                if instruction.op2_kind() == OpKind::Immediate8 {
                    instruction.set_immediate8(count as u8);
                } else {
                    operands.before.push(mov(R::RCX, count | e.bits() << 8));
                }
            }
            M::Div | M::Idiv if !e.one_in(4) => {
                let high = e.pick(&[0, 0, u64::MAX, 1]);
                operands.before.push(mov(R::RDX, high));
                if matches!(code, Code::Div_rm8 | Code::Idiv_rm8) {
                    operands.before.push(mov(R::RAX, e.below(512)));
                }
            }
            M::Bt | M::Bts | M::Btr | M::Btc
                if has_memory && instruction.op1_kind() == OpKind::Register =>
            {
                let register = instruction.op1_register().full_register();
                let base = instruction.memory_base().full_register();
                let index = instruction.memory_index().full_register();
                if !e.one_in(4) && register != base && register != index {
                    operands.before.push(mov(register, e.below(4096).wrapping_sub(2048)));
                }
            }
            M::Leave => {
                let at = if e.one_in(3) { e.integer() } else { STACK_MIDDLE - e.below(128) };
                operands.before.push(mov(R::RBP, at));
            }
            M::Push | M::Pop if e.one_in(12) && instruction.memory_base() != R::RSP => {
                let at = operands.stack();
                operands.before.push(mov(R::RSP, at));
                operands.moves_stack = true;
            }
            _ => {}
        }
        let Operands { before, moves_stack, .. } = operands;
        for instruction in before {
            self.out.emit(instruction)?;
        }
        if matches!(mnemonic, M::Cmpxchg | M::Cmpxchg8b | M::Cmpxchg16b) && self.e.one_in(2) {
            self.expect(&instruction)?;
        }
        self.out.emit(instruction)?;
        if matches!(mnemonic, M::Bsf | M::Bsr) {
            self.define_if_zero(instruction.op0_register().full_register())?;
        }
        if moves_stack || mnemonic == M::Leave {
            self.out.emit(mov(Register::RSP, STACK_MIDDLE))?;
        }
        Ok(())
    }

    /// Makes a comparison with the destination come out equal.
    fn expect(&mut self, instruction: &Instruction) -> Result<(), Refused> {
        if instruction.op0_kind() == OpKind::Register {
            let from = instruction.op0_register().full_register();
            let load = Instruction::with2(Code::Mov_r64_rm64, Register::RAX, from);
            self.out.emit(load.map_err(|_| Refused)?)?;
            return Ok(());
        }
        let wide = instruction.mnemonic() == Mnemonic::Cmpxchg16b;
        let half = if wide { 8 } else { 4 };
        let parts: &[(Code, Register, u64)] = match instruction.mnemonic() {
            Mnemonic::Cmpxchg => &[(Code::Mov_r64_rm64, Register::RAX, 0)],
            Mnemonic::Cmpxchg8b => {
                &[(Code::Mov_r32_rm32, Register::EAX, 0), (Code::Mov_r32_rm32, Register::EDX, half)]
            }
            _ => {
                &[(Code::Mov_r64_rm64, Register::RAX, 0), (Code::Mov_r64_rm64, Register::RDX, half)]
            }
        };
        for &(code, register, offset) in parts {
            self.out.emit(beside(instruction, code, register, offset))?;
        }
        Ok(())
    }

    /// A destination that is undefined when ZF is set gets another register's value.
    fn define_if_zero(&mut self, register: Register) -> Result<(), Refused> {
        let other = if register == Register::RDX { Register::RSI } else { Register::RDX };
        let define = Instruction::with2(Code::Cmove_r64_rm64, register, other);
        self.out.emit(define.map_err(|_| Refused)?)?;
        Ok(())
    }

    fn string(&mut self, code: Code) -> Result<(), Refused> {
        use Register as R;
        let info = code.op_code();
        let mut operands = self.operands(Needs::default());
        let size = {
            let mut sample = Instruction::default();
            sample.set_code(code);
            sample.memory_size().size().max(1) as u64
        };
        let from = operands.target(size);
        let to = match operands.e.below(4) {
            0 => from.wrapping_add(operands.e.below(32)).wrapping_sub(16),
            _ => operands.target(size),
        };
        let short = operands.e.one_in(8);
        let segment = operands.e.one_in(8);
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        for operand in 0..info.op_count() {
            let kind = match info.op_kind(operand) {
                OpCodeOperandKind::seg_rSI if short => OpKind::MemorySegESI,
                OpCodeOperandKind::seg_rSI => OpKind::MemorySegRSI,
                OpCodeOperandKind::es_rDI if short => OpKind::MemoryESEDI,
                OpCodeOperandKind::es_rDI => OpKind::MemoryESRDI,
                kind => {
                    instruction.set_op_kind(operand, OpKind::Register);
                    instruction.set_op_register(
                        operand,
                        match kind {
                            OpCodeOperandKind::al => R::AL,
                            OpCodeOperandKind::ax => R::AX,
                            OpCodeOperandKind::eax => R::EAX,
                            _ => R::RAX,
                        },
                    );
                    continue;
                }
            };
            instruction.set_op_kind(operand, kind);
        }
        let has_source = info.op_kinds().contains(&OpCodeOperandKind::seg_rSI);
        let offset = if segment && has_source {
            from.wrapping_sub(operands.segment(&mut instruction))
        } else {
            from
        };
        match self.e.below(3) {
            0 if info.can_use_rep_prefix() => instruction.set_has_rep_prefix(true),
            1 if info.can_use_repne_prefix() => instruction.set_has_repne_prefix(true),
            _ => {}
        }
        let upper = if short { self.e.integer() << 32 } else { 0 };
        let count = match self.e.below(8) {
            0 => 0,
            1 => self.e.below(600),
            // Only a fault or a difference ends it.
            2 if !short => self.e.integer(),
            _ => 1 + self.e.below(16),
        };
        self.out.emit(mov(R::RSI, if short { upper | offset & 0xffff_ffff } else { offset }))?;
        self.out.emit(mov(R::RDI, if short { upper | to & 0xffff_ffff } else { to }))?;
        self.out.emit(mov(R::RCX, upper | count))?;
        if self.e.one_in(3) {
            self.out.emit(Instruction::with(Code::Std))?;
        } else if self.e.one_in(2) {
            self.out.emit(Instruction::with(Code::Cld))?;
        }
        self.out.emit(instruction)?;
        Ok(())
    }

    /// LDMXCSR with a value that is mostly valid; FXSAVE; FXRSTOR of what FXSAVE stored.
    fn state(&mut self, code: Code) -> Result<(), Refused> {
        let restores = matches!(code.mnemonic(), Mnemonic::Fxrstor | Mnemonic::Fxrstor64);
        let loads = code.mnemonic() == Mnemonic::Ldmxcsr;
        let needs = Needs { image: !loads, stored: loads || restores, ..Needs::default() };
        let mut operands = self.operands(needs);
        let instruction = operands.fill(code).ok_or(Refused)?;
        let Operands { before, moves_stack, .. } = operands;
        for instruction in before {
            self.out.emit(instruction)?;
        }
        let mxcsr = self.e.mxcsr();
        let store = |out: &mut Assembler, offset: u64, value: u32| {
            let mut store = beside(&instruction, Code::Mov_rm32_imm32, Register::None, offset);
            store.set_op1_kind(OpKind::Immediate32);
            store.set_immediate32(value);
            out.emit(store).map(|_| ())
        };
        if loads {
            let value = if self.e.one_in(8) { self.e.bits() as u32 } else { mxcsr };
            store(&mut self.out, 0, value)?;
        }
        if restores {
            let saves = match code.mnemonic() {
                Mnemonic::Fxrstor => Code::Fxsave_m512byte,
                _ => Code::Fxsave64_m512byte,
            };
            let mut save = instruction;
            save.set_code(saves);
            self.out.emit(save)?;
            // Never a bad one: software-only KVMs emulate what gets #GP, and get this one wrong.
            store(&mut self.out, 24, mxcsr)?;
            store(&mut self.out, 164, self.e.bits() as u32)?;
        }
        self.out.emit(instruction)?;
        if moves_stack {
            self.out.emit(mov(Register::RSP, STACK_MIDDLE))?;
        }
        Ok(())
    }
}

/// An instruction of `code` between `register` and the memory operand of another one, `offset`
/// bytes further.
fn beside(of: &Instruction, code: Code, register: Register, offset: u64) -> Instruction {
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let memory = if register == Register::None { 0 } else { 1 };
    instruction.set_op_kind(memory, OpKind::Memory);
    if register != Register::None {
        instruction.set_op0_kind(OpKind::Register);
        instruction.set_op0_register(register);
    }
    instruction.set_memory_base(of.memory_base());
    instruction.set_memory_index(of.memory_index());
    instruction.set_memory_index_scale(of.memory_index_scale());
    instruction.set_segment_prefix(of.segment_prefix());
    let size = match of.memory_displ_size() {
        0 | 1 if offset > 0 && of.memory_base().is_gpr32() => 4,
        0 | 1 if offset > 0 => 8,
        size => size,
    };
    instruction.set_memory_displ_size(size);
    let displacement = of.memory_displacement64().wrapping_add(offset);
    instruction.set_memory_displacement64(displacement);
    instruction
}
