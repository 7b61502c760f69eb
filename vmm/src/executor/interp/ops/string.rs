//! MOVS, STOS, LODS, CMPS, SCAS. With REP each element is an instruction of its own to faults
//! and interrupts: RIP stays until the last.

use super::alu::{compute, op as alu_op};
use super::{Engine, Handler, STACK, Trapped, Uop, width};
use crate::arch::vcpu::gpr::{RCX, RDI, RSI};
use crate::executor::interp::uop::{ADDRESS_32, REP};

/// Elements before the loop looks at what it was told to look at again, and at code that was written.
const ROUND: u64 = 4096;

/// Operations.
pub mod op {
    pub const MOVS: u8 = 0;
    pub const STOS: u8 = 1;
    pub const LODS: u8 = 2;
    pub const CMPS: u8 = 3;
    pub const SCAS: u8 = 4;
}

fn pointer(e: &Engine, u: &Uop, number: usize) -> u64 {
    let value = e.regs[number];
    if u.bits & ADDRESS_32 != 0 { value & 0xffff_ffff } else { value }
}

fn advance(e: &mut Engine, u: &Uop, number: usize, step: u64) {
    let value = e.regs[number].wrapping_add(step);
    e.regs[number] = if u.bits & ADDRESS_32 != 0 { value & 0xffff_ffff } else { value };
}

#[inline(always)]
fn element<const OP: u8, const BITS: u32>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let size = u64::from(BITS / 8);
    let step = if e.backwards { size.wrapping_neg() } else { size };
    let from = pointer(e, u, RSI).wrapping_add(e.regs[usize::from(u.segment)]);
    let to = pointer(e, u, RDI);
    let stack = u.bits & STACK != 0;
    match OP {
        op::MOVS => {
            let value = e.load_at::<BITS>(from, stack)?;
            e.store_at::<BITS>(to, false, value)?;
        }
        op::STOS => {
            let value = e.read::<BITS>(0);
            e.store_at::<BITS>(to, false, value)?;
        }
        op::LODS => {
            let value = e.load_at::<BITS>(from, stack)?;
            e.write::<BITS>(0, value);
        }
        op::CMPS => {
            let a = e.load_at::<BITS>(from, stack)?;
            let b = e.load_at::<BITS>(to, false)?;
            compute::<{ alu_op::CMP }, BITS>(e, a, b);
        }
        _ => {
            let a = e.read::<BITS>(0);
            let b = e.load_at::<BITS>(to, false)?;
            compute::<{ alu_op::CMP }, BITS>(e, a, b);
        }
    }
    if matches!(OP, op::MOVS | op::LODS | op::CMPS) {
        advance(e, u, RSI, step);
    }
    if OP != op::LODS {
        advance(e, u, RDI, step);
    }
    Ok(())
}

fn string<const OP: u8, const BITS: u32>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    if !u.repeats() {
        return element::<OP, BITS>(e, u);
    }
    // Each element counts as an instruction, wherever traps come in between: the clock is that count.
    let most = e.limit.saturating_sub(e.retired).clamp(1, ROUND);
    for round in 0..most {
        if pointer(e, u, RCX) == 0 {
            // A 32-bit count is written back, and so is nothing of it.
            return Ok(());
        }
        if let Err(trapped) = element::<OP, BITS>(e, u) {
            e.retired += round;
            return Err(trapped);
        }
        advance(e, u, RCX, u64::MAX);
        let differs = match OP {
            op::CMPS | op::SCAS => e.flags.zero() != (u.bits & REP != 0),
            _ => false,
        };
        let is_over = differs || pointer(e, u, RCX) == 0;
        // A processor that overwrites this very instruction goes on with it: it was decoded already.
        if is_over || round + 1 == most || e.memory.is_visible() {
            e.retired += round;
            if !is_over {
                e.set_rip(e.rip().wrapping_sub(u64::from(u.len)));
            }
            return Ok(());
        }
    }
    Ok(())
}

/// The handler of `operation`, one of [`op`].
pub fn handler(operation: u8, bits: u32) -> Option<Handler> {
    match operation {
        op::MOVS => width!(bits, string::<[{ op::MOVS },] _ []>),
        op::STOS => width!(bits, string::<[{ op::STOS },] _ []>),
        op::LODS => width!(bits, string::<[{ op::LODS },] _ []>),
        op::CMPS => width!(bits, string::<[{ op::CMPS },] _ []>),
        op::SCAS => width!(bits, string::<[{ op::SCAS },] _ []>),
        _ => None,
    }
}
