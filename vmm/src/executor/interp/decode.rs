//! From bytes to [`Uop`]s: iced-x86 decodes, and the instruction's operands pick a handler.

use super::Flaw;
use super::ops::{
    alu, bits, branch, data, multiply, shift, sse, sse_convert, sse_move, sse_shuffle, stack,
    string, system, x87,
};
use super::uop::{ADDRESS_32, Handler, REP, REPNE, STACK, Uop, form, reg};
use iced_x86::{Code, ConditionCode, Decoder, DecoderError, DecoderOptions};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// The longest instruction, in bytes.
pub const MAX_INSTRUCTION: usize = 15;

/// What stands at an address.
#[derive(Clone, Copy, Debug)]
pub enum Decoded {
    /// An instruction after which the next one runs.
    Next(Uop),
    /// One that may go elsewhere, or trap.
    Last(Uop),
    /// The beginning of one.
    Incomplete,
}

/// Decodes the instruction at the beginning of `bytes`.
pub fn decode(bytes: &[u8], rip: u64, flaw: Option<Flaw>) -> Decoded {
    let mut decoder = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    match decoder.last_error() {
        DecoderError::NoMoreBytes => return Decoded::Incomplete,
        // iced-x86 says the same of an instruction that goes on after fifteen bytes.
        DecoderError::InvalidInstruction if decoder.position() == MAX_INSTRUCTION => {
            return Decoded::Incomplete;
        }
        DecoderError::None => {}
        _ => return Decoded::Last(plain(system::undefined, 0)),
    }
    let mut uop = operands(&instruction);
    if let Some((handler, last)) = executes(&instruction, flaw) {
        uop.run = handler;
        return if last { Decoded::Last(uop) } else { Decoded::Next(uop) };
    }
    uop.run = traps(&instruction).unwrap_or(system::unsupported);
    Decoded::Last(uop)
}

/// The instruction that is longer than fifteen bytes.
pub fn too_long() -> Uop {
    plain(system::sensitive, 0)
}

fn plain(run: Handler, len: u8) -> Uop {
    Uop {
        run,
        imm: 0,
        disp: 0,
        len,
        dst: 0,
        src: 0,
        base: reg::ZERO,
        index: reg::ZERO,
        scale: 0,
        segment: reg::ZERO,
        bits: 0,
    }
}

/// The number of a general-purpose or SSE register.
fn number(register: Register) -> Option<u8> {
    if register.is_xmm() {
        return Some(register.number() as u8);
    }
    if !register.is_gpr() {
        return None;
    }
    Some(match register {
        Register::AH | Register::CH | Register::DH | Register::BH => {
            reg::HIGH | (register as u8 - Register::AH as u8)
        }
        _ => register.full_register().number() as u8,
    })
}

/// The operands, whatever the instruction makes of them.
fn operands(instruction: &Instruction) -> Uop {
    let mut uop = plain(system::unsupported, instruction.len() as u8);
    let register = |operand: u32| {
        (operand < instruction.op_count() && instruction.op_kind(operand) == OpKind::Register)
            .then(|| number(instruction.op_register(operand)))
            .flatten()
    };
    uop.dst = register(0).unwrap_or(0);
    uop.src = register(1).unwrap_or(0);
    for operand in 0..instruction.op_count() {
        match instruction.op_kind(operand) {
            OpKind::NearBranch64 => {
                let target = instruction.near_branch64();
                uop.imm = target.wrapping_sub(instruction.next_ip()) as i64;
            }
            OpKind::Memory => memory(instruction, &mut uop),
            OpKind::MemorySegRSI => uop.segment = segment(instruction.memory_segment()),
            OpKind::MemorySegESI => {
                uop.segment = segment(instruction.memory_segment());
                uop.bits |= ADDRESS_32;
            }
            OpKind::MemoryESEDI => uop.bits |= ADDRESS_32,
            _ => {
                if let Ok(immediate) = instruction.try_immediate(operand) {
                    uop.imm = immediate as i64;
                }
            }
        }
    }
    if is_offset_form(instruction) {
        uop.imm = instruction.memory_displacement64() as i64;
    }
    if is_string(instruction) {
        uop.bits |= if instruction.has_rep_prefix() { REP } else { 0 };
        uop.bits |= if instruction.has_repne_prefix() { REPNE } else { 0 };
    }
    uop
}

fn segment(register: Register) -> u8 {
    match register {
        Register::FS => reg::FS,
        Register::GS => reg::GS,
        _ => reg::ZERO,
    }
}

fn memory(instruction: &Instruction, uop: &mut Uop) {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    let number = |register| match register {
        Register::RIP | Register::EIP => reg::RIP,
        _ => number(register).unwrap_or(reg::ZERO),
    };
    uop.base = number(base);
    uop.index = if instruction.mnemonic() == Mnemonic::Xlatb { reg::ZERO } else { number(index) };
    uop.scale = instruction.memory_index_scale().trailing_zeros() as u8;
    let mut displacement = instruction.memory_displacement64();
    if instruction.is_ip_rel_memory_operand() {
        displacement = displacement.wrapping_sub(instruction.next_ip());
    }
    // Both sizes are 32 bits, sign-extended, in the encoding.
    uop.disp = displacement as i32;
    if matches!(instruction.memory_segment(), Register::FS | Register::GS) {
        uop.segment = segment(instruction.memory_segment());
    } else if matches!(base, Register::RSP | Register::RBP | Register::ESP | Register::EBP) {
        // Other overrides count for nothing in 64-bit mode.
        uop.bits |= STACK;
    }
    let short = |register: Register| register.is_gpr32() || register == Register::EIP;
    let absolute = base == Register::None && index == Register::None;
    if short(base) || short(index) || absolute && instruction.memory_displ_size() == 4 {
        uop.bits |= ADDRESS_32;
    }
    if instruction.mnemonic() == Mnemonic::Lea {
        uop.segment = reg::ZERO;
    }
}

/// The form of the first two operands; one operand counts as with an immediate.
fn form_of(instruction: &Instruction) -> Option<u8> {
    let is_register = |operand| {
        let kind = instruction.op_kind(operand);
        kind == OpKind::Register && number(instruction.op_register(operand)).is_some()
    };
    let is_memory = |operand| instruction.op_kind(operand) == OpKind::Memory;
    let is_immediate = |operand| instruction.try_immediate(operand).is_ok();
    let one = instruction.op_count() == 1;
    match () {
        () if instruction.op_count() == 0 => None,
        () if is_register(0) && (one || is_immediate(1)) => Some(form::RI),
        () if is_memory(0) && (one || is_immediate(1)) => Some(form::MI),
        () if one => None,
        () if is_register(0) && is_register(1) => Some(form::RR),
        () if is_register(0) && is_memory(1) => Some(form::RM),
        () if is_memory(0) && is_register(1) => Some(form::MR),
        () => None,
    }
}

/// Bits of the operand: the widest register's, or memory's.
fn width_of(instruction: &Instruction, operand: u32) -> u32 {
    let bytes = match instruction.op_kind(operand) {
        OpKind::Register => instruction.op_register(operand).size(),
        _ => instruction.memory_size().size(),
    };
    bytes as u32 * 8
}

fn condition(instruction: &Instruction) -> u8 {
    debug_assert!(instruction.condition_code() != ConditionCode::None);
    instruction.condition_code() as u8 - ConditionCode::o as u8
}

fn is_string(instruction: &Instruction) -> bool {
    string_operation(instruction).is_some()
}

fn string_operation(instruction: &Instruction) -> Option<(u8, u32)> {
    use string::op;
    Some(match instruction.code() {
        Code::Movsb_m8_m8 => (op::MOVS, 8),
        Code::Movsw_m16_m16 => (op::MOVS, 16),
        Code::Movsd_m32_m32 => (op::MOVS, 32),
        Code::Movsq_m64_m64 => (op::MOVS, 64),
        Code::Stosb_m8_AL => (op::STOS, 8),
        Code::Stosw_m16_AX => (op::STOS, 16),
        Code::Stosd_m32_EAX => (op::STOS, 32),
        Code::Stosq_m64_RAX => (op::STOS, 64),
        Code::Lodsb_AL_m8 => (op::LODS, 8),
        Code::Lodsw_AX_m16 => (op::LODS, 16),
        Code::Lodsd_EAX_m32 => (op::LODS, 32),
        Code::Lodsq_RAX_m64 => (op::LODS, 64),
        Code::Cmpsb_m8_m8 => (op::CMPS, 8),
        Code::Cmpsw_m16_m16 => (op::CMPS, 16),
        Code::Cmpsd_m32_m32 => (op::CMPS, 32),
        Code::Cmpsq_m64_m64 => (op::CMPS, 64),
        Code::Scasb_AL_m8 => (op::SCAS, 8),
        Code::Scasw_AX_m16 => (op::SCAS, 16),
        Code::Scasd_EAX_m32 => (op::SCAS, 32),
        Code::Scasq_RAX_m64 => (op::SCAS, 64),
        _ => return None,
    })
}

/// The handler of an instruction that runs here, and whether it ends a block.
pub(super) fn executes(instruction: &Instruction, flaw: Option<Flaw>) -> Option<(Handler, bool)> {
    if let Some((operation, width)) = string_operation(instruction) {
        return string::handler(operation, width).map(|handler| (handler, true));
    }
    if let Some(handler) = jumps(instruction) {
        return Some((handler, true));
    }
    let handler = match flaw {
        Some(flaw) => flawed(instruction, flaw),
        None => None,
    };
    handler
        .or_else(|| integer(instruction))
        .or_else(|| without_operands(instruction))
        .or_else(|| sse_instruction(instruction))
        .map(|handler| (handler, false))
}

fn flawed(instruction: &Instruction, flaw: Flaw) -> Option<Handler> {
    let form = form_of(instruction)?;
    match (flaw, instruction.mnemonic()) {
        (Flaw::CarryOfAdc, Mnemonic::Adc) => {
            alu::handler(alu::op::ADD, width_of(instruction, 0), form)
        }
        (Flaw::OperandSizeOfMov, Mnemonic::Mov)
            if form == form::RR && width_of(instruction, 0) == 32 =>
        {
            Some(data::mov_flawed)
        }
        (Flaw::BitOfBts, Mnemonic::Bts) if form == form::RI => {
            bits::handler(bits::op::BT, width_of(instruction, 0), form)
        }
        _ => None,
    }
}

fn jumps(instruction: &Instruction) -> Option<Handler> {
    let near = instruction.op_count() == 1 && instruction.op0_kind() == OpKind::NearBranch64;
    if near && instruction.is_jcc_short_or_near() {
        return Some(branch::jcc_handler(condition(instruction)));
    }
    let form = form_of(instruction);
    Some(match instruction.code() {
        Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => branch::jmp,
        Code::Call_rel32_64 => branch::call,
        Code::Jmp_rm64 => branch::jmp_indirect_handler(form?)?,
        Code::Call_rm64 => branch::call_indirect_handler(form?)?,
        Code::Retnq | Code::Retnq_imm16 => branch::ret,
        Code::Jrcxz_rel8_64 => branch::jrcxz,
        Code::Loop_rel8_64_RCX => branch::LOOP,
        Code::Loope_rel8_64_RCX => branch::LOOPE,
        Code::Loopne_rel8_64_RCX => branch::LOOPNE,
        _ => return None,
    })
}

fn integer(instruction: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    if instruction.op_count() == 0 {
        return None;
    }
    let form = form_of(instruction)?;
    let width = width_of(instruction, 0);
    let has_xmm = |operand| {
        operand < instruction.op_count()
            && instruction.op_kind(operand) == OpKind::Register
            && instruction.op_register(operand).is_xmm()
    };
    if has_xmm(0) || has_xmm(1) {
        return None;
    }
    // For the forms whose one operand is given as such.
    let source_form = match form {
        form::RI if instruction.op0_kind() == OpKind::Register => form::RR,
        form::MI => form::RM,
        other => other,
    };
    let by_immediate = instruction.op_count() == 3;
    match instruction.mnemonic() {
        M::Add => alu::handler(alu::op::ADD, width, form),
        M::Or => alu::handler(alu::op::OR, width, form),
        M::Adc => alu::handler(alu::op::ADC, width, form),
        M::Sbb => alu::handler(alu::op::SBB, width, form),
        M::And => alu::handler(alu::op::AND, width, form),
        M::Sub => alu::handler(alu::op::SUB, width, form),
        M::Xor => alu::handler(alu::op::XOR, width, form),
        M::Cmp => alu::handler(alu::op::CMP, width, form),
        M::Test => alu::handler(alu::op::TEST, width, form),
        M::Inc => alu::unary_handler(alu::unary::INC, width, form),
        M::Dec => alu::unary_handler(alu::unary::DEC, width, form),
        M::Neg => alu::unary_handler(alu::unary::NEG, width, form),
        M::Not => alu::unary_handler(alu::unary::NOT, width, form),
        M::Xadd => alu::xadd_handler(width, form),
        M::Cmpxchg => alu::cmpxchg_handler(width, form),
        M::Cmpxchg8b => Some(alu::cmpxchg8b),
        M::Cmpxchg16b => Some(alu::cmpxchg16b),
        M::Mov if is_offset_form(instruction) => data::mov_offset_handler(width, form),
        M::Mov => data::mov_handler(width, form),
        M::Movnti => data::mov_handler(width, form),
        M::Movzx => data::movzx_handler(width_of(instruction, 1), width, form),
        M::Movsx | M::Movsxd => data::movsx_handler(width_of(instruction, 1), width, form),
        M::Lea => data::lea_handler(width),
        M::Xchg => data::xchg_handler(width, form),
        M::Bswap => data::bswap_handler(width),
        M::Push => stack::push_handler(width.max(16), source_form),
        M::Pop if form == form::RI => stack::pop_handler(width, form::RR),
        M::Pop => stack::pop_handler(width, form::MR),
        M::Mul => multiply::handler(multiply::op::MUL, width, form),
        M::Imul if instruction.op_count() == 1 => {
            multiply::handler(multiply::op::IMUL, width, form)
        }
        M::Imul => multiply::imul_handler(by_immediate, width, form),
        M::Div => multiply::handler(multiply::op::DIV, width, form),
        M::Idiv => multiply::handler(multiply::op::IDIV, width, form),
        M::Rol => shift::handler(shift::op::ROL, width, form),
        M::Ror => shift::handler(shift::op::ROR, width, form),
        M::Rcl => shift::handler(shift::op::RCL, width, form),
        M::Rcr => shift::handler(shift::op::RCR, width, form),
        M::Shl | M::Sal => shift::handler(shift::op::SHL, width, form),
        M::Shr => shift::handler(shift::op::SHR, width, form),
        M::Sar => shift::handler(shift::op::SAR, width, form),
        M::Shld | M::Shrd => {
            let by_cl = instruction.op2_kind() == OpKind::Register;
            shift::double_handler(instruction.mnemonic() == M::Shld, by_cl, width, form)
        }
        M::Bt => bits::handler(bits::op::BT, width, form),
        M::Bts => bits::handler(bits::op::BTS, width, form),
        M::Btr => bits::handler(bits::op::BTR, width, form),
        M::Btc => bits::handler(bits::op::BTC, width, form),
        M::Bsf => bits::scan_handler(true, width, form),
        M::Bsr => bits::scan_handler(false, width, form),
        M::Tzcnt => bits::tzcnt_handler(width, form),
        M::Xlatb => Some(system::xlatb),
        M::Nop | M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 => {
            Some(system::nothing)
        }
        M::Stmxcsr => Some(sse_move::stmxcsr),
        M::Ldmxcsr => Some(sse_move::ldmxcsr),
        M::Fxsave64 => Some(sse_move::fxsave::<true>),
        M::Fxrstor64 => Some(sse_move::fxrstor::<true>),
        M::Fxsave => Some(sse_move::fxsave::<false>),
        M::Fxrstor => Some(sse_move::fxrstor::<false>),
        M::Fnstcw => Some(x87::fnstcw),
        M::Fldcw => Some(x87::fldcw),
        M::Fnstsw if form == form::RI => Some(x87::fnstsw_ax),
        M::Fnstsw => Some(x87::fnstsw),
        // Without shadow stacks it does nothing, and leaves its operand alone.
        M::Rdsspd | M::Rdsspq => Some(system::nothing),
        _ if is_setcc(instruction) => data::setcc_handler(condition(instruction), form),
        _ if is_cmov(instruction) => data::cmov_handler(condition(instruction), width, form),
        _ => None,
    }
}

/// MOV between the accumulator and a 64-bit absolute address, which is a [`Uop`]'s immediate.
fn is_offset_form(instruction: &Instruction) -> bool {
    matches!(
        instruction.code(),
        Code::Mov_AL_moffs8
            | Code::Mov_AX_moffs16
            | Code::Mov_EAX_moffs32
            | Code::Mov_RAX_moffs64
            | Code::Mov_moffs8_AL
            | Code::Mov_moffs16_AX
            | Code::Mov_moffs32_EAX
            | Code::Mov_moffs64_RAX
    )
}

fn is_setcc(instruction: &Instruction) -> bool {
    instruction.op_count() == 1
        && instruction.condition_code() != ConditionCode::None
        && instruction.op0_kind() != OpKind::NearBranch64
}

fn is_cmov(instruction: &Instruction) -> bool {
    instruction.op_count() == 2 && instruction.condition_code() != ConditionCode::None
}

fn without_operands(instruction: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    Some(match instruction.mnemonic() {
        M::Nop | M::Pause | M::Lfence | M::Mfence | M::Sfence | M::Endbr64 => system::nothing,
        M::Wait => x87::wait,
        M::Fninit => x87::fninit,
        M::Fnclex => x87::fnclex,
        M::Cbw => data::widen_handler(16)?,
        M::Cwde => data::widen_handler(32)?,
        M::Cdqe => data::widen_handler(64)?,
        M::Cwd => data::sign_handler(16)?,
        M::Cdq => data::sign_handler(32)?,
        M::Cqo => data::sign_handler(64)?,
        M::Lahf => system::lahf,
        M::Sahf => system::sahf,
        M::Clc => system::clc,
        M::Stc => system::stc,
        M::Cmc => system::cmc,
        M::Cld => system::cld,
        M::Std => system::std,
        M::Leave if instruction.code() == Code::Leaveq => stack::leave,
        M::Push => match instruction.code() {
            Code::Pushq_imm32 | Code::Pushq_imm8 => stack::push_handler(64, form::RI)?,
            Code::Push_imm16 | Code::Pushw_imm8 => stack::push_handler(16, form::RI)?,
            _ => return None,
        },
        _ => return None,
    })
}

fn sse_instruction(instruction: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    let form = form_of(instruction)?;
    let mnemonic = instruction.mnemonic();
    let is_xmm = |operand| instruction.op_register(operand).is_xmm();
    // Registers that are not general-purpose are SSE's: `form_of` knows no others.
    let general = |operand| instruction.op_kind(operand) == OpKind::Register && !is_xmm(operand);
    match mnemonic {
        M::Movaps | M::Movapd | M::Movdqa | M::Movntps | M::Movntpd | M::Movntdq => {
            sse_move::whole_handler(true, form)
        }
        M::Movups | M::Movupd | M::Movdqu => sse_move::whole_handler(false, form),
        M::Movss => sse_move::scalar_handler(32, false, form),
        M::Movsd => sse_move::scalar_handler(64, false, form),
        M::Movd | M::Movq if general(0) => {
            sse_move::general_handler(false, width_of(instruction, 0))
        }
        M::Movd | M::Movq if form == form::RR && general(1) => {
            sse_move::general_handler(true, width_of(instruction, 1))
        }
        M::Movd => sse_move::scalar_handler(32, true, form),
        M::Movq => {
            // With REX.W, MOVD's opcodes have a memory operand of 64 bits too.
            sse_move::scalar_handler(64, true, form)
        }
        M::Movlps | M::Movlpd | M::Movhlps => sse_move::half_handler(false, form),
        M::Movhps | M::Movhpd | M::Movlhps => sse_move::half_handler(true, form),
        M::Pmovmskb | M::Movmskps | M::Movmskpd if is_xmm(1) => sse_move::signs_handler(mnemonic),
        // SSE4.1's form has a memory operand, too.
        M::Pextrw
            if matches!(
                instruction.code(),
                Code::Pextrw_r32_xmm_imm8 | Code::Pextrw_r64_xmm_imm8
            ) =>
        {
            Some(sse_move::pextrw)
        }
        M::Pinsrw if is_xmm(0) => sse_move::pinsrw_handler(form),
        M::Cvtsi2ss | M::Cvtsi2sd => {
            sse_convert::from_integer_handler(mnemonic, width_of(instruction, 1), form)
        }
        M::Cvtss2si | M::Cvtsd2si | M::Cvttss2si | M::Cvttsd2si => {
            sse_convert::to_integer_handler(mnemonic, width_of(instruction, 0), form)
        }
        _ if form == form::RI => sse_shuffle::shift_immediate_handler(mnemonic),
        _ => sse::packed_handler(mnemonic, form)
            .or_else(|| sse::float_handler(mnemonic, form))
            .or_else(|| sse_convert::compare_handler(mnemonic, form))
            .or_else(|| sse_convert::compare_to_flags_handler(mnemonic, form))
            .or_else(|| sse_shuffle::shuffle_handler(mnemonic, form))
            .or_else(|| sse::estimate_handler(mnemonic, form)),
    }
}

/// The handler of an instruction that traps: undefined, sensitive, or a system call.
fn traps(instruction: &Instruction) -> Option<Handler> {
    Some(match instruction.mnemonic() {
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => system::undefined,
        Mnemonic::Int3 => system::breakpoint,
        Mnemonic::Int => system::interrupt,
        Mnemonic::Syscall => system::syscall,
        _ if crate::arch::op::is_sensitive(instruction) => system::sensitive,
        _ => return None,
    })
}
