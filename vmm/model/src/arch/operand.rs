//! The operands of the instructions that trap, as the processor reads them.

use super::addr::Gva;
use super::segment::{SegmentRegister, Source};
use super::sensitive::Destination;
use super::vcpu::{Vcpu, gpr};
use iced_x86::{Instruction, OpKind, Register};

/// The number in [`Vcpu::gpr`] of the full register that holds `register`, if it is a
/// general-purpose one.
#[must_use]
pub fn gpr_number(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register() as usize - Register::RAX as usize)
}

/// The value of a register for effective addresses; segments have base 0 but for FS and GS.
#[must_use]
pub fn register_value(vcpu: &Vcpu, register: Register) -> Option<u64> {
    match register {
        Register::FS => Some(vcpu.fs_base),
        Register::GS => Some(vcpu.gs_base),
        Register::ES | Register::CS | Register::SS | Register::DS => Some(0),
        Register::RIP => Some(vcpu.rip),
        _ => {
            let value = vcpu.gpr[gpr_number(register)?];
            Some(if register.is_gpr32() { value & 0xffff_ffff } else { value })
        }
    }
}

/// The linear address of memory operand `operand`.
#[must_use]
pub fn effective_address(vcpu: &Vcpu, instruction: &Instruction, operand: u32) -> Option<Gva> {
    instruction
        .virtual_address(operand, 0, |register, _, _| register_value(vcpu, register))
        .map(Gva)
}

/// The port that operand `operand` of IN or OUT names, and the bytes of the other operand.
pub(super) fn port(vcpu: &Vcpu, instruction: &Instruction, operand: u32) -> Option<(u16, u8)> {
    let port = match instruction.op_kind(operand) {
        OpKind::Register => vcpu.gpr[gpr::RDX] as u16,
        _ => u16::from(instruction.immediate8()),
    };
    Some((port, instruction.op_register(1 - operand).size().try_into().ok()?))
}

/// The selector that operand `operand` is.
pub(super) fn selector(vcpu: &Vcpu, instruction: &Instruction, operand: u32) -> Option<Source> {
    Some(match instruction.op_kind(operand) {
        OpKind::Register => {
            Source::Value(vcpu.gpr[gpr_number(instruction.op_register(operand))?] as u16)
        }
        _ => Source::Memory(effective_address(vcpu, instruction, operand)?),
    })
}

/// Where the first operand is.
pub(super) fn destination(vcpu: &Vcpu, instruction: &Instruction) -> Option<Destination> {
    Some(match instruction.op0_kind() {
        OpKind::Register => {
            let register = instruction.op0_register();
            Destination::Register { number: gpr_number(register)?, size: register.size() }
        }
        _ => Destination::Memory(effective_address(vcpu, instruction, 0)?),
    })
}

/// The segment register, which is not CS.
pub(super) fn segment_register(register: Register) -> Option<SegmentRegister> {
    Some(match register {
        Register::ES => SegmentRegister::Es,
        Register::SS => SegmentRegister::Ss,
        Register::DS => SegmentRegister::Ds,
        Register::FS => SegmentRegister::Fs,
        Register::GS => SegmentRegister::Gs,
        _ => return None,
    })
}

/// The number of a debug register.
pub(super) fn debug_register(register: Register) -> Option<usize> {
    register.is_dr().then(|| register.number()).filter(|number| *number < 8)
}
