//! PUSH, POP, LEAVE.

use super::{Engine, Handler, Trapped, Uop, forms};
use crate::arch::vcpu::gpr::{RBP, RSP};
use crate::executor::interp::uop::form;

impl Engine {
    /// Pushes `BITS` bits.
    #[inline(always)]
    pub fn push<const BITS: u32>(&mut self, value: u64) -> Result<(), Trapped> {
        let rsp = self.rsp().wrapping_sub(u64::from(BITS / 8));
        self.store_at::<BITS>(rsp, true, value)?;
        self.regs[RSP] = rsp;
        Ok(())
    }
}

fn push<const BITS: u32, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let value = match FORM {
        form::RR => e.read::<BITS>(u.dst),
        form::RM => e.load_operand::<BITS>(u)?,
        _ => u.imm as u64,
    };
    e.push::<BITS>(value)
}

/// PUSH; RR for a register, RM for memory, RI for an immediate.
pub fn push_handler(bits: u32, form: u8) -> Option<Handler> {
    match bits {
        64 => forms!(form, [RR, RM, RI], push, [64]),
        16 => forms!(form, [RR, RM, RI], push, [16]),
        _ => None,
    }
}

fn pop<const BITS: u32, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let rsp = e.rsp();
    let value = e.load_at::<BITS>(rsp, true)?;
    e.regs[RSP] = rsp.wrapping_add(u64::from(BITS / 8));
    if FORM == form::RR {
        e.write::<BITS>(u.dst, value);
        return Ok(());
    }
    // A destination relative to RSP is computed with RSP incremented (SDM vol. 2, POP).
    e.store_operand::<BITS>(u, value).inspect_err(|_| e.regs[RSP] = rsp)
}

/// POP; RR for a register, MR for memory.
pub fn pop_handler(bits: u32, form: u8) -> Option<Handler> {
    match bits {
        64 => forms!(form, [RR, MR], pop, [64]),
        16 => forms!(form, [RR, MR], pop, [16]),
        _ => None,
    }
}

/// LEAVE.
pub fn leave(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    let frame = e.regs[RBP];
    e.regs[RBP] = e.load_at::<64>(frame, true)?;
    e.regs[RSP] = frame.wrapping_add(8);
    Ok(())
}
