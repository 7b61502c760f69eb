//! Jumps, calls, returns and loops. A relative target is a distance from the next instruction.

use super::{Engine, Handler, Trapped, Uop, condition, forms};
use crate::executor::interp::uop::{ADDRESS_32, form};

fn jump(e: &mut Engine, u: &Uop) {
    e.set_rip(e.rip().wrapping_add(u.imm as u64));
}

fn jcc<const CC: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    if e.flags.condition::<CC>() {
        jump(e, u);
    }
    Ok(())
}

/// Jcc.
pub fn jcc_handler(cc: u8) -> Handler {
    condition!(cc, jcc)
}

/// JMP rel.
pub fn jmp(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    jump(e, u);
    Ok(())
}

fn target<const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<u64, Trapped> {
    match FORM {
        form::MI => e.load_operand::<64>(u),
        _ => Ok(e.read::<64>(u.dst)),
    }
}

fn jmp_indirect<const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let target = target::<FORM>(e, u)?;
    e.set_rip(target);
    Ok(())
}

/// JMP r/m64; RI for a register, MI for memory.
pub fn jmp_indirect_handler(form: u8) -> Option<Handler> {
    forms!(form, [RI, MI], jmp_indirect, [])
}

/// CALL rel.
pub fn call(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let back = e.rip();
    e.push::<64>(back)?;
    jump(e, u);
    Ok(())
}

fn call_indirect<const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let target = target::<FORM>(e, u)?;
    let back = e.rip();
    e.push::<64>(back)?;
    e.set_rip(target);
    Ok(())
}

/// CALL r/m64; RI for a register, MI for memory.
pub fn call_indirect_handler(form: u8) -> Option<Handler> {
    forms!(form, [RI, MI], call_indirect, [])
}

/// RET, and RET imm16.
pub fn ret(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let target = e.load_at::<64>(e.rsp(), true)?;
    e.regs[4] = e.rsp().wrapping_add(8).wrapping_add(u.imm as u64);
    e.set_rip(target);
    Ok(())
}

fn counter(e: &Engine, u: &Uop) -> u64 {
    if u.bits & ADDRESS_32 != 0 { e.read::<32>(1) } else { e.regs[1] }
}

/// JRCXZ and JECXZ.
pub fn jrcxz(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    if counter(e, u) == 0 {
        jump(e, u);
    }
    Ok(())
}

/// LOOP, and with `ZF` at 0 or 1 LOOPNE and LOOPE.
fn loop_<const ZF: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let left = counter(e, u).wrapping_sub(1);
    if u.bits & ADDRESS_32 != 0 {
        e.write::<32>(1, left);
    } else {
        e.regs[1] = left;
    }
    let goes_on = match ZF {
        0 => !e.flags.zero(),
        1 => e.flags.zero(),
        _ => true,
    };
    if goes_on && counter(e, u) != 0 {
        jump(e, u);
    }
    Ok(())
}

/// LOOP.
pub const LOOP: Handler = loop_::<2>;
/// LOOPE.
pub const LOOPE: Handler = loop_::<1>;
/// LOOPNE.
pub const LOOPNE: Handler = loop_::<0>;
