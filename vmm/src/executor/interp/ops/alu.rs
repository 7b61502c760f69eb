//! ADD to CMP, TEST, INC, DEC, NEG, NOT.

use super::super::flags::{borrows_of_difference, carries_of_sum};
use super::{Engine, Handler, Trapped, Uop, first, forms, modify, source, width};
use crate::executor::interp::engine::mask;
use crate::executor::interp::uop::form;

/// Operations as instructions encode them; TEST stands behind.
pub mod op {
    pub const ADD: u8 = 0;
    pub const OR: u8 = 1;
    pub const ADC: u8 = 2;
    pub const SBB: u8 = 3;
    pub const AND: u8 = 4;
    pub const SUB: u8 = 5;
    pub const XOR: u8 = 6;
    pub const CMP: u8 = 7;
    pub const TEST: u8 = 8;
}

/// Operations with one operand.
pub mod unary {
    pub const INC: u8 = 0;
    pub const DEC: u8 = 1;
    pub const NEG: u8 = 2;
    pub const NOT: u8 = 3;
}

/// `a OP b` in `BITS` bits; sets the flags.
#[inline(always)]
pub fn compute<const OP: u8, const BITS: u32>(e: &mut Engine, a: u64, b: u64) -> u64 {
    let carry = match OP {
        op::ADC | op::SBB => u64::from(e.flags.carry()),
        _ => 0,
    };
    let result = match OP {
        op::ADD | op::ADC => a.wrapping_add(b).wrapping_add(carry),
        op::OR => a | b,
        op::AND | op::TEST => a & b,
        op::XOR => a ^ b,
        _ => a.wrapping_sub(b).wrapping_sub(carry),
    } & mask::<BITS>();
    match OP {
        op::ADD | op::ADC => e.flags.arithmetic(BITS, result, carries_of_sum(a, b, result)),
        op::SUB | op::SBB | op::CMP => {
            e.flags.arithmetic(BITS, result, borrows_of_difference(a, b, result));
        }
        _ => e.flags.logical(BITS, result),
    }
    result
}

fn alu<const OP: u8, const BITS: u32, const FORM: u8>(
    e: &mut Engine,
    u: &Uop,
) -> Result<(), Trapped> {
    let b = source::<BITS, FORM>(e, u)?;
    match OP {
        op::CMP | op::TEST => {
            let a = first::<BITS, FORM>(e, u)?;
            compute::<OP, BITS>(e, a, b);
            Ok(())
        }
        _ => modify::<BITS, FORM>(e, u, |e, a| compute::<OP, BITS>(e, a, b)),
    }
}

fn of_width<const OP: u8, const BITS: u32>(form: u8) -> Option<Handler> {
    forms!(form, [RR, RM, MR, RI, MI], alu, [OP, BITS])
}

fn of_op<const OP: u8>(bits: u32, form: u8) -> Option<Handler> {
    match bits {
        8 => of_width::<OP, 8>(form),
        16 => of_width::<OP, 16>(form),
        32 => of_width::<OP, 32>(form),
        64 => of_width::<OP, 64>(form),
        _ => None,
    }
}

/// The handler of `operation`, one of [`op`].
pub fn handler(operation: u8, bits: u32, form: u8) -> Option<Handler> {
    match operation {
        op::ADD => of_op::<{ op::ADD }>(bits, form),
        op::OR => of_op::<{ op::OR }>(bits, form),
        op::ADC => of_op::<{ op::ADC }>(bits, form),
        op::SBB => of_op::<{ op::SBB }>(bits, form),
        op::AND => of_op::<{ op::AND }>(bits, form),
        op::SUB => of_op::<{ op::SUB }>(bits, form),
        op::XOR => of_op::<{ op::XOR }>(bits, form),
        op::CMP => of_op::<{ op::CMP }>(bits, form),
        op::TEST => of_op::<{ op::TEST }>(bits, form),
        _ => None,
    }
}

fn one_operand<const OP: u8, const BITS: u32, const FORM: u8>(
    e: &mut Engine,
    u: &Uop,
) -> Result<(), Trapped> {
    modify::<BITS, FORM>(e, u, |e, a| {
        let m = mask::<BITS>();
        match OP {
            unary::INC => {
                let result = a.wrapping_add(1) & m;
                e.flags.keeping_carry(BITS, result, carries_of_sum(a, 1, result));
                result
            }
            unary::DEC => {
                let result = a.wrapping_sub(1) & m;
                e.flags.keeping_carry(BITS, result, borrows_of_difference(a, 1, result));
                result
            }
            unary::NEG => compute::<{ op::SUB }, BITS>(e, 0, a),
            _ => !a & m,
        }
    })
}

fn unary_of_width<const OP: u8, const BITS: u32>(form: u8) -> Option<Handler> {
    forms!(form, [RI, MI], one_operand, [OP, BITS])
}

/// The handler of `operation`, one of [`unary`]; `form` is RI for a register, MI for memory.
pub fn unary_handler(operation: u8, bits: u32, form: u8) -> Option<Handler> {
    macro_rules! all {
        ($($op:ident),*) => {
            match (operation, bits) {
                $(
                    (unary::$op, 8) => unary_of_width::<{ unary::$op }, 8>(form),
                    (unary::$op, 16) => unary_of_width::<{ unary::$op }, 16>(form),
                    (unary::$op, 32) => unary_of_width::<{ unary::$op }, 32>(form),
                    (unary::$op, 64) => unary_of_width::<{ unary::$op }, 64>(form),
                )*
                _ => None,
            }
        };
    }
    all!(INC, DEC, NEG, NOT)
}

fn xadd<const BITS: u32, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let b = e.read::<BITS>(u.src);
    let mut old = 0;
    if FORM == form::RR {
        // The exchange comes first: with one register twice the sum stays.
        old = e.read::<BITS>(u.dst);
        let sum = compute::<{ op::ADD }, BITS>(e, old, b);
        e.write::<BITS>(u.src, old);
        e.write::<BITS>(u.dst, sum);
        return Ok(());
    }
    modify::<BITS, FORM>(e, u, |e, a| {
        old = a;
        compute::<{ op::ADD }, BITS>(e, a, b)
    })?;
    e.write::<BITS>(u.src, old);
    Ok(())
}

fn cmpxchg<const BITS: u32, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let accumulator = e.read::<BITS>(0);
    let new = e.read::<BITS>(u.src);
    if FORM == form::RR {
        // A register that differs is not written: its upper half stays, too.
        let old = e.read::<BITS>(u.dst);
        compute::<{ op::CMP }, BITS>(e, accumulator, old);
        match old == accumulator {
            true => e.write::<BITS>(u.dst, new),
            false => e.write::<BITS>(0, old),
        }
        return Ok(());
    }
    let mut seen = None;
    modify::<BITS, FORM>(e, u, |e, old| {
        compute::<{ op::CMP }, BITS>(e, accumulator, old);
        if old == accumulator {
            new
        } else {
            seen = Some(old);
            old
        }
    })?;
    if let Some(old) = seen {
        e.write::<BITS>(0, old);
    }
    Ok(())
}

/// XADD's handler.
pub fn xadd_handler(bits: u32, form: u8) -> Option<Handler> {
    match form {
        form::RR => width!(bits, xadd::<[] _ [, { form::RR }]>),
        form::MR => width!(bits, xadd::<[] _ [, { form::MR }]>),
        _ => None,
    }
}

/// CMPXCHG's handler.
pub fn cmpxchg_handler(bits: u32, form: u8) -> Option<Handler> {
    match form {
        form::RR => width!(bits, cmpxchg::<[] _ [, { form::RR }]>),
        form::MR => width!(bits, cmpxchg::<[] _ [, { form::MR }]>),
        _ => None,
    }
}

/// CMPXCHG8B.
pub fn cmpxchg8b(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let expected = e.read::<32>(2) << 32 | e.read::<32>(0);
    let new = e.read::<32>(1) << 32 | e.read::<32>(3);
    let address = e.address(u);
    let stack = u.bits & super::STACK != 0;
    let old = e.modify_at::<64, u64>(address, stack, |_, old| {
        (if old == expected { new } else { old }, old)
    })?;
    e.flags.set_zero(old == expected);
    if old != expected {
        e.write::<32>(0, old);
        e.write::<32>(2, old >> 32);
    }
    Ok(())
}

/// CMPXCHG16B.
pub fn cmpxchg16b(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let wide = |low: u64, high: u64| u128::from(high) << 64 | u128::from(low);
    let expected = wide(e.regs[0], e.regs[2]);
    let new = wide(e.regs[3], e.regs[1]);
    let address = e.address(u);
    let stack = u.bits & super::STACK != 0;
    if !address.is_multiple_of(16) {
        return e.misaligned(address, stack);
    }
    // What can be written can be read: a failing access is the store's.
    e.modify_at::<64, ()>(address, stack, |_, low| (low, ()))?;
    let old = e.load_wide(address, stack)?;
    let equal = old == expected;
    e.store_wide(address, stack, if equal { new } else { old })?;
    e.flags.set_zero(equal);
    if !equal {
        e.regs[0] = old as u64;
        e.regs[2] = (old >> 64) as u64;
    }
    Ok(())
}
