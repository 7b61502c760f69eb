//! Which of all instructions the interpreter executes, asked of the decoder with a sample of each.

use super::decode::executes;
use iced_x86::{Code, EncodingKind, Instruction, OpCodeOperandKind as K, OpKind, Register};

/// Whether the interpreter executes `code` itself; what is sensitive traps, and the rest is
/// unsupported.
#[must_use]
pub fn is_supported(code: Code) -> bool {
    sample(code).is_some_and(|instruction| executes(&instruction, None).is_some())
}

/// An instruction with registers, or memory at RAX where there must be some, for operands.
fn sample(code: Code) -> Option<Instruction> {
    let info = code.op_code();
    let legacy = info.encoding() == EncodingKind::Legacy && info.mode64() && info.is_instruction();
    if !legacy {
        return None;
    }
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    for operand in 0..info.op_count() {
        let register = match info.op_kind(operand) {
            K::r8_or_mem | K::r8_reg | K::r8_opcode | K::al => Register::AL,
            K::cl => Register::CL,
            K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode | K::ax => Register::AX,
            K::r32_or_mem | K::r32_reg | K::r32_rm | K::r32_opcode | K::eax => Register::EAX,
            K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_opcode | K::rax => Register::RAX,
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm => Register::XMM0,
            K::mem_offs => {
                instruction.set_op_kind(operand, OpKind::Memory);
                instruction.set_memory_displ_size(8);
                continue;
            }
            K::mem => {
                instruction.set_op_kind(operand, OpKind::Memory);
                instruction.set_memory_base(Register::RAX);
                continue;
            }
            K::br64_1 | K::br64_4 => {
                instruction.set_op_kind(operand, OpKind::NearBranch64);
                continue;
            }
            K::seg_rSI => {
                instruction.set_op_kind(operand, OpKind::MemorySegRSI);
                continue;
            }
            K::es_rDI => {
                instruction.set_op_kind(operand, OpKind::MemoryESRDI);
                continue;
            }
            K::imm8
            | K::imm8_const_1
            | K::imm16
            | K::imm32
            | K::imm64
            | K::imm8sex16
            | K::imm8sex32
            | K::imm8sex64
            | K::imm32sex64
            | K::imm4_m2z
            | K::seg_rBX_al => {
                instruction.set_op_kind(
                    operand,
                    match info.op_kind(operand) {
                        K::imm16 => OpKind::Immediate16,
                        K::imm32 => OpKind::Immediate32,
                        K::imm64 => OpKind::Immediate64,
                        K::imm8sex16 => OpKind::Immediate8to16,
                        K::imm8sex32 => OpKind::Immediate8to32,
                        K::imm8sex64 => OpKind::Immediate8to64,
                        K::imm32sex64 => OpKind::Immediate32to64,
                        K::seg_rBX_al => OpKind::Memory,
                        _ => OpKind::Immediate8,
                    },
                );
                continue;
            }
            _ => return None,
        };
        instruction.set_op_kind(operand, OpKind::Register);
        instruction.set_op_register(operand, register);
    }
    Some(instruction)
}
