//! MOV and its kin, LEA, XCHG, BSWAP, the sign extensions of the accumulator.

use super::{Engine, Handler, STACK, Trapped, Uop, condition, first, forms, source, width};
use crate::executor::interp::engine::extend;
use crate::executor::interp::uop::form;

fn mov<const BITS: u32, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let value = source::<BITS, FORM>(e, u)?;
    match FORM {
        form::MR | form::MI => e.store_operand::<BITS>(u, value),
        _ => {
            e.write::<BITS>(u.dst, value);
            Ok(())
        }
    }
}

/// MOV between registers, memory and immediates.
pub fn mov_handler(bits: u32, form: u8) -> Option<Handler> {
    match bits {
        8 => forms!(form, [RR, RM, MR, RI, MI], mov, [8]),
        16 => forms!(form, [RR, RM, MR, RI, MI], mov, [16]),
        32 => forms!(form, [RR, RM, MR, RI, MI], mov, [32]),
        64 => forms!(form, [RR, RM, MR, RI, MI], mov, [64]),
        _ => None,
    }
}

fn mov_offset<const BITS: u32, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let address = (u.imm as u64).wrapping_add(e.regs[usize::from(u.segment)]);
    if FORM == form::MR {
        return e.store_at::<BITS>(address, false, e.regs[0]);
    }
    let value = e.load_at::<BITS>(address, false)?;
    e.write::<BITS>(0, value);
    Ok(())
}

/// MOV between the accumulator and an absolute address; RM loads, MR stores.
pub fn mov_offset_handler(bits: u32, form: u8) -> Option<Handler> {
    match bits {
        8 => forms!(form, [RM, MR], mov_offset, [8]),
        16 => forms!(form, [RM, MR], mov_offset, [16]),
        32 => forms!(form, [RM, MR], mov_offset, [32]),
        64 => forms!(form, [RM, MR], mov_offset, [64]),
        _ => None,
    }
}

/// What [`super::super::Flaw::OperandSizeOfMov`] makes of a 32-bit MOV: the upper half stays.
pub fn mov_flawed(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let high = e.regs[usize::from(u.dst)] & !0xffff_ffff;
    let value = e.regs[usize::from(u.src)] & 0xffff_ffff;
    e.regs[usize::from(u.dst)] = high | value;
    Ok(())
}

fn movzx<const FROM: u32, const TO: u32, const FORM: u8>(
    e: &mut Engine,
    u: &Uop,
) -> Result<(), Trapped> {
    let value = source::<FROM, FORM>(e, u)?;
    e.write::<TO>(u.dst, value);
    Ok(())
}

fn movsx<const FROM: u32, const TO: u32, const FORM: u8>(
    e: &mut Engine,
    u: &Uop,
) -> Result<(), Trapped> {
    let value = source::<FROM, FORM>(e, u)?;
    e.write::<TO>(u.dst, extend::<FROM>(value));
    Ok(())
}

macro_rules! extending {
    ($name:ident, $f:ident, $doc:literal) => {
        #[doc = $doc]
        pub fn $name(from: u32, to: u32, form: u8) -> Option<Handler> {
            match (from, to) {
                (8, 16) => forms!(form, [RR, RM], $f, [8, 16]),
                (8, 32) => forms!(form, [RR, RM], $f, [8, 32]),
                (8, 64) => forms!(form, [RR, RM], $f, [8, 64]),
                (16, 16) => forms!(form, [RR, RM], $f, [16, 16]),
                (16, 32) => forms!(form, [RR, RM], $f, [16, 32]),
                (16, 64) => forms!(form, [RR, RM], $f, [16, 64]),
                (32, 32) => forms!(form, [RR, RM], $f, [32, 32]),
                (32, 64) => forms!(form, [RR, RM], $f, [32, 64]),
                _ => None,
            }
        }
    };
}
extending!(movzx_handler, movzx, "MOVZX.");
extending!(movsx_handler, movsx, "MOVSX and MOVSXD.");

fn lea<const BITS: u32>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let address = e.address(u);
    e.write::<BITS>(u.dst, address);
    Ok(())
}

/// LEA; its segment has base 0.
pub fn lea_handler(bits: u32) -> Option<Handler> {
    width!(bits, lea)
}

fn xchg<const BITS: u32, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let new = e.read::<BITS>(u.src);
    let old = match FORM {
        form::MR => {
            let address = e.address(u);
            e.modify_at::<BITS, u64>(address, u.bits & STACK != 0, |_, old| (new, old))?
        }
        _ => {
            let old = e.read::<BITS>(u.dst);
            e.write::<BITS>(u.dst, new);
            old
        }
    };
    e.write::<BITS>(u.src, old);
    Ok(())
}

/// XCHG.
pub fn xchg_handler(bits: u32, form: u8) -> Option<Handler> {
    match form {
        form::RR => width!(bits, xchg::<[] _ [, { form::RR }]>),
        form::MR => width!(bits, xchg::<[] _ [, { form::MR }]>),
        _ => None,
    }
}

fn bswap<const BITS: u32>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let value = e.read::<BITS>(u.dst);
    e.write::<BITS>(u.dst, value.swap_bytes() >> (64 - BITS));
    Ok(())
}

/// BSWAP of 32 or 64 bits.
pub fn bswap_handler(bits: u32) -> Option<Handler> {
    match bits {
        32 => Some(bswap::<32>),
        64 => Some(bswap::<64>),
        _ => None,
    }
}

fn widen<const TO: u32>(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    let value = match TO {
        16 => extend::<8>(e.read::<8>(0)),
        32 => extend::<16>(e.read::<16>(0)),
        _ => extend::<32>(e.read::<32>(0)),
    };
    e.write::<TO>(0, value);
    Ok(())
}

/// CBW, CWDE and CDQE, by the width that they make.
pub fn widen_handler(to: u32) -> Option<Handler> {
    match to {
        16 => Some(widen::<16>),
        32 => Some(widen::<32>),
        64 => Some(widen::<64>),
        _ => None,
    }
}

fn sign<const BITS: u32>(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    let value = extend::<BITS>(e.read::<BITS>(0));
    e.write::<BITS>(2, (value as i64 >> 63) as u64);
    Ok(())
}

/// CWD, CDQ and CQO.
pub fn sign_handler(bits: u32) -> Option<Handler> {
    width!(bits, sign)
}

fn setcc<const CC: u8, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let value = u64::from(e.flags.condition::<CC>());
    match FORM {
        form::MI => e.store_operand::<8>(u, value),
        _ => {
            e.write::<8>(u.dst, value);
            Ok(())
        }
    }
}

/// SETcc; RI for a register, MI for memory.
pub fn setcc_handler(cc: u8, form: u8) -> Option<Handler> {
    match form {
        form::RI => Some(condition!(cc, setcc, , { form::RI })),
        form::MI => Some(condition!(cc, setcc, , { form::MI })),
        _ => None,
    }
}

fn cmov<const CC: u8, const BITS: u32, const FORM: u8>(
    e: &mut Engine,
    u: &Uop,
) -> Result<(), Trapped> {
    // The source is loaded, and 32 bits clear the upper half, whatever the condition.
    let new = source::<BITS, FORM>(e, u)?;
    let old = first::<BITS, { form::RR }>(e, u)?;
    e.write::<BITS>(u.dst, if e.flags.condition::<CC>() { new } else { old });
    Ok(())
}

/// CMOVcc.
pub fn cmov_handler(cc: u8, bits: u32, form: u8) -> Option<Handler> {
    match (bits, form) {
        (16, form::RR) => Some(condition!(cc, cmov, , 16, { form::RR })),
        (32, form::RR) => Some(condition!(cc, cmov, , 32, { form::RR })),
        (64, form::RR) => Some(condition!(cc, cmov, , 64, { form::RR })),
        (16, form::RM) => Some(condition!(cc, cmov, , 16, { form::RM })),
        (32, form::RM) => Some(condition!(cc, cmov, , 32, { form::RM })),
        (64, form::RM) => Some(condition!(cc, cmov, , 64, { form::RM })),
        _ => None,
    }
}
