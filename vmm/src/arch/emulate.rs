//! Stores to watched frames, carried out on the virtual CPU: page tables and `TlbState` are
//! read-only for natively running code, so that each of their stores is seen.

use super::addr::Gva;
use super::core::Core;
use super::fault::{Fault, Stop};
use super::flags::{Flags, borrows_of_difference, carries_of_sum};
use super::op::{effective_address, gpr_number, register_value};
use super::vcpu::{flags, gpr};
use super::walk::AccessKind;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// Carries out `instruction`, which stores to a watched frame, and moves RIP past it (a REP form
/// does one element a call and stays until RCX is 0).
///
/// # Errors
/// A fault of one of its accesses, or [`Stop::Unsupported`] for any form that is not listed.
pub fn emulate_store(core: &mut Core<'_>, instruction: &Instruction) -> Result<(), Fault> {
    let done = match instruction.mnemonic() {
        Mnemonic::Stosb
        | Mnemonic::Stosd
        | Mnemonic::Stosq
        | Mnemonic::Stosw
        | Mnemonic::Movsb
        | Mnemonic::Movsw
        | Mnemonic::Movsq => string(core, instruction)?,
        // MOVSD is also an SSE2 instruction; only the string form has a memory operand 1.
        Mnemonic::Movsd if instruction.is_string_instruction() => string(core, instruction)?,
        _ => {
            read_modify_write(core, instruction)?;
            true
        }
    };
    if done {
        core.vcpu.rip = instruction.next_ip();
    }
    Ok(())
}

fn unsupported(core: &mut Core<'_>, instruction: &Instruction) -> Fault {
    let mut bytes = [0u8; 15];
    let bytes = &mut bytes[..instruction.len()];
    let access = core.access(AccessKind::Execute);
    if let Err(fault) = core.read(Gva(instruction.ip()), bytes, access) {
        return fault;
    }
    Stop::unsupported(bytes, instruction, "a store to a watched frame in this form").into()
}

/// The operations with a destination in memory.
fn read_modify_write(core: &mut Core<'_>, instruction: &Instruction) -> Result<(), Fault> {
    let size = instruction.memory_size().size();
    let fits = matches!(size, 1 | 2 | 4 | 8) && instruction.op0_kind() == OpKind::Memory;
    let Some(mut va) = effective_address(core.vcpu, instruction, 0).filter(|_| fits) else {
        return Err(unsupported(core, instruction));
    };
    let mnemonic = instruction.mnemonic();
    let Some(source) = source_operand(core, instruction, size) else {
        return Err(unsupported(core, instruction));
    };
    let bits = size as u32 * 8;
    if matches!(mnemonic, Mnemonic::Bts | Mnemonic::Btr) && is_register(instruction, 1) {
        // A register bit offset reaches beyond the operand (SDM vol. 2, BTS).
        let words = sign_extend(source, size).div_euclid(i64::from(bits));
        va = Gva(va.0.wrapping_add((words * size as i64) as u64));
    }
    let old = if mnemonic == Mnemonic::Mov { 0 } else { load(core, va, size)? };
    let mask = mask(size);
    let rax = core.vcpu.gpr[gpr::RAX] & mask;
    let bit = 1u64 << (source & u64::from(bits - 1));
    let new = match mnemonic {
        Mnemonic::Mov | Mnemonic::Xchg => source,
        Mnemonic::And => old & source,
        Mnemonic::Or => old | source,
        Mnemonic::Xadd => old.wrapping_add(source) & mask,
        Mnemonic::Cmpxchg if rax == old => source,
        Mnemonic::Cmpxchg => old,
        Mnemonic::Bts => old | bit,
        Mnemonic::Btr => old & !bit,
        _ => return Err(unsupported(core, instruction)),
    };
    store(core, va, size, new)?;
    match mnemonic {
        Mnemonic::Xchg | Mnemonic::Xadd => {
            write_register(core, instruction.op1_register(), old);
        }
        Mnemonic::Cmpxchg if rax != old => {
            let accumulator = [Register::AL, Register::AX, Register::EAX, Register::RAX];
            write_register(core, accumulator[size.trailing_zeros() as usize], old);
        }
        _ => {}
    }
    let mut status = Flags::new(core.vcpu.rflags);
    match mnemonic {
        Mnemonic::And | Mnemonic::Or => status.logical(bits, new),
        Mnemonic::Xadd => status.arithmetic(bits, new, carries_of_sum(old, source, new)),
        Mnemonic::Cmpxchg => {
            let difference = rax.wrapping_sub(old) & mask;
            status.arithmetic(bits, difference, borrows_of_difference(rax, old, difference));
        }
        Mnemonic::Bts | Mnemonic::Btr => status.set_carry(old & bit != 0),
        _ => {}
    }
    core.vcpu.rflags = core.vcpu.rflags & !flags::ARITHMETIC | status.get();
    Ok(())
}

/// One element of STOS or MOVS; whether the instruction is done.
fn string(core: &mut Core<'_>, instruction: &Instruction) -> Result<bool, Fault> {
    let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    if instruction.memory_index() != Register::None || !is_64_bit_string(instruction) {
        return Err(unsupported(core, instruction));
    }
    if repeats && core.vcpu.gpr[gpr::RCX] == 0 {
        return Ok(true);
    }
    let size = instruction.memory_size().size();
    let backwards = core.vcpu.rflags & flags::DF != 0;
    let step = if backwards { (size as u64).wrapping_neg() } else { size as u64 };
    let moves = instruction.op1_kind() == OpKind::MemorySegRSI;
    let value = if moves {
        let base = register_value(core.vcpu, instruction.memory_segment()).unwrap_or(0);
        let from = Gva(core.vcpu.gpr[gpr::RSI].wrapping_add(base));
        load(core, from, size)?
    } else {
        core.vcpu.gpr[gpr::RAX] & mask(size)
    };
    store(core, Gva(core.vcpu.gpr[gpr::RDI]), size, value)?;
    let pointers = if moves { &[gpr::RDI, gpr::RSI][..] } else { &[gpr::RDI][..] };
    for &pointer in pointers {
        core.vcpu.gpr[pointer] = core.vcpu.gpr[pointer].wrapping_add(step);
    }
    if repeats {
        core.vcpu.gpr[gpr::RCX] -= 1;
    }
    Ok(!repeats || core.vcpu.gpr[gpr::RCX] == 0)
}

fn is_64_bit_string(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::MemoryESRDI
        && matches!(instruction.op1_kind(), OpKind::MemorySegRSI | OpKind::Register)
}

fn is_register(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Register
}

fn source_operand(core: &Core<'_>, instruction: &Instruction, size: usize) -> Option<u64> {
    let value = if is_register(instruction, 1) {
        read_register(core, instruction.op1_register())?
    } else {
        instruction.try_immediate(1).ok()?
    };
    Some(value & mask(size))
}

fn read_register(core: &Core<'_>, register: Register) -> Option<u64> {
    let value = core.vcpu.gpr[gpr_number(register)?];
    Some(match register {
        Register::AH | Register::BH | Register::CH | Register::DH => value >> 8,
        _ => value,
    })
}

fn write_register(core: &mut Core<'_>, register: Register, value: u64) {
    let Some(number) = gpr_number(register) else { return };
    let old = core.vcpu.gpr[number];
    core.vcpu.gpr[number] = match (register, register.size()) {
        (Register::AH | Register::BH | Register::CH | Register::DH, _) => {
            old & !0xff00 | (value & 0xff) << 8
        }
        (_, 1) => old & !0xff | value & 0xff,
        (_, 2) => old & !0xffff | value & 0xffff,
        // A 32-bit result clears the upper half (SDM vol. 1, 3.4.1.1).
        (_, 4) => value & 0xffff_ffff,
        _ => value,
    };
}

fn load(core: &mut Core<'_>, va: Gva, size: usize) -> Result<u64, Fault> {
    let mut bytes = [0u8; 8];
    let access = core.access(AccessKind::Read);
    core.read(va, &mut bytes[..size], access)?;
    Ok(u64::from_le_bytes(bytes))
}

fn store(core: &mut Core<'_>, va: Gva, size: usize, value: u64) -> Result<(), Fault> {
    let access = core.access(AccessKind::Write);
    core.write(va, &value.to_le_bytes()[..size], access)
}

fn mask(size: usize) -> u64 {
    u64::MAX >> (64 - size * 8)
}

fn sign_extend(value: u64, size: usize) -> i64 {
    let unused = 64 - size as u32 * 8;
    ((value << unused) as i64) >> unused
}
