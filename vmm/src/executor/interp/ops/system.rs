//! What traps, flags in AH, single flags, and what does nothing.

use super::{Engine, Trapped, Uop};
use crate::arch::fault::vector;
use crate::arch::vcpu::flags::OF;
use crate::executor::Trap;

/// A sensitive instruction: the model's to carry out.
pub fn sensitive(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    e.general_protection()
}

/// INT n: its gate is not for virtual CPL 3 to use, but for INT 3's.
pub fn interrupt(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    if u.imm == i64::from(vector::BREAKPOINT) {
        return breakpoint(e, u);
    }
    e.raise(vector::GENERAL_PROTECTION, (u.imm as u32 & 0xff) << 3 | 2)
}

/// What no processor executes, UD2 among them.
pub fn undefined(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    e.raise(vector::INVALID_OPCODE, 0)
}

/// What this interpreter does not execute.
pub fn unsupported(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    e.trap = Trap::Unsupported;
    Err(Trapped)
}

/// SYSCALL.
pub fn syscall(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    e.trap = Trap::Syscall { landed: None };
    Err(Trapped)
}

/// INT3, whose trap comes after it.
pub fn breakpoint(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    e.trap_after = true;
    e.raise(vector::BREAKPOINT, 0)
}

/// NOP, PAUSE, fences, prefetches: one CPU at a time sees memory in order.
pub fn nothing(_: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    Ok(())
}

/// LAHF.
pub fn lahf(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    let flags = e.flags.get() & 0xd5 | 2;
    e.regs[0] = e.regs[0] & !0xff00 | flags << 8;
    Ok(())
}

/// SAHF.
pub fn sahf(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    let kept = e.flags.get() & OF;
    e.flags.set(kept | e.regs[0] >> 8 & 0xd5);
    Ok(())
}

/// CLC.
pub fn clc(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    e.flags.set_carry(false);
    Ok(())
}

/// STC.
pub fn stc(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    e.flags.set_carry(true);
    Ok(())
}

/// CMC.
pub fn cmc(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    let carry = e.flags.carry();
    e.flags.set_carry(!carry);
    Ok(())
}

/// CLD.
pub fn cld(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    e.backwards = false;
    Ok(())
}

/// STD.
pub fn std(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    e.backwards = true;
    Ok(())
}

/// XLATB.
pub fn xlatb(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let mut offset = e.regs[3].wrapping_add(e.regs[0] & 0xff);
    if u.bits & crate::executor::interp::uop::ADDRESS_32 != 0 {
        offset &= 0xffff_ffff;
    }
    let address = offset.wrapping_add(e.regs[usize::from(u.segment)]);
    let value = e.load_at::<8>(address, false)?;
    e.write::<8>(0, value);
    Ok(())
}
