//! Shifts and rotates. Where a count makes OF undefined it is what AMD and Intel processors
//! give for a count of 1.

use super::{Engine, Handler, Trapped, Uop, forms, modify};
use crate::executor::interp::engine::{extend, mask};
use crate::executor::interp::uop::form;

/// Operations as instructions encode them.
pub mod op {
    pub const ROL: u8 = 0;
    pub const ROR: u8 = 1;
    pub const RCL: u8 = 2;
    pub const RCR: u8 = 3;
    pub const SHL: u8 = 4;
    pub const SHR: u8 = 5;
    pub const SAR: u8 = 7;
}

/// The count: CL for RR and MR, else immediate.
#[inline(always)]
fn count<const BITS: u32, const FORM: u8>(e: &Engine, u: &Uop) -> u32 {
    let raw = match FORM {
        form::RR | form::MR => e.regs[1],
        _ => u.imm as u64,
    };
    (raw & if BITS == 64 { 0x3f } else { 0x1f }) as u32
}

fn shift<const OP: u8, const BITS: u32, const FORM: u8>(
    e: &mut Engine,
    u: &Uop,
) -> Result<(), Trapped> {
    let count = count::<BITS, FORM>(e, u);
    modify::<BITS, FORM>(e, u, |e, a| {
        if count == 0 {
            return a;
        }
        let top = |value: u64| value >> (BITS - 1) & 1 != 0;
        match OP {
            op::SHL => {
                let wide = u128::from(a) << count;
                let result = wide as u64 & mask::<BITS>();
                let carry = wide >> BITS & 1 != 0;
                e.flags.shifted(BITS, result, carry, top(result) != carry);
                result
            }
            op::SHR => {
                let carry = u128::from(a) >> (count - 1) & 1 != 0;
                let result = (u128::from(a) >> count) as u64;
                e.flags.shifted(BITS, result, carry, top(a));
                result
            }
            op::SAR => {
                let signed = extend::<BITS>(a) as i64;
                let carry = signed >> (count - 1).min(63) & 1 != 0;
                let result = (signed >> count.min(63)) as u64 & mask::<BITS>();
                e.flags.shifted(BITS, result, carry, false);
                result
            }
            op::ROL => {
                let by = count % BITS;
                let result = rotate_left::<BITS>(a, by);
                let carry = result & 1 != 0;
                e.flags.rotated(carry, top(result) != carry);
                result
            }
            op::ROR => {
                let by = count % BITS;
                let result = rotate_left::<BITS>(a, (BITS - by) % BITS);
                let carry = top(result);
                e.flags.rotated(carry, carry != (result >> (BITS - 2) & 1 != 0));
                result
            }
            op::RCL => {
                let by = count % (BITS + 1);
                let (result, carry) = rotate_carry_left::<BITS>(a, e.flags.carry(), by);
                e.flags.rotated(carry, top(result) != carry);
                result
            }
            _ => {
                let by = count % (BITS + 1);
                let left = (BITS + 1 - by) % (BITS + 1);
                let (result, carry) = rotate_carry_left::<BITS>(a, e.flags.carry(), left);
                e.flags.rotated(carry, top(result) != (result >> (BITS - 2) & 1 != 0));
                result
            }
        }
    })
}

fn rotate_left<const BITS: u32>(value: u64, by: u32) -> u64 {
    if by == 0 { value } else { (value << by | value >> (BITS - by)) & mask::<BITS>() }
}

/// Rotates CF and `value` as one number of `BITS` + 1 bits, CF on top.
fn rotate_carry_left<const BITS: u32>(value: u64, carry: bool, by: u32) -> (u64, bool) {
    let whole = u128::from(carry) << BITS | u128::from(value);
    let rotated = whole << by | whole >> (BITS + 1 - by);
    (rotated as u64 & mask::<BITS>(), rotated >> BITS & 1 != 0)
}

fn of_op<const OP: u8>(bits: u32, form: u8) -> Option<Handler> {
    match bits {
        8 => forms!(form, [RR, MR, RI, MI], shift, [OP, 8]),
        16 => forms!(form, [RR, MR, RI, MI], shift, [OP, 16]),
        32 => forms!(form, [RR, MR, RI, MI], shift, [OP, 32]),
        64 => forms!(form, [RR, MR, RI, MI], shift, [OP, 64]),
        _ => None,
    }
}

/// The handler of `operation`, one of [`op`]; RR and MR shift by CL.
pub fn handler(operation: u8, bits: u32, form: u8) -> Option<Handler> {
    match operation {
        op::ROL => of_op::<{ op::ROL }>(bits, form),
        op::ROR => of_op::<{ op::ROR }>(bits, form),
        op::RCL => of_op::<{ op::RCL }>(bits, form),
        op::RCR => of_op::<{ op::RCR }>(bits, form),
        op::SHL => of_op::<{ op::SHL }>(bits, form),
        op::SHR => of_op::<{ op::SHR }>(bits, form),
        op::SAR => of_op::<{ op::SAR }>(bits, form),
        _ => None,
    }
}

/// SHLD (`LEFT`) and SHRD; the count is CL where `BY_CL`.
fn double<const LEFT: bool, const BY_CL: bool, const BITS: u32, const FORM: u8>(
    e: &mut Engine,
    u: &Uop,
) -> Result<(), Trapped> {
    let raw = if BY_CL { e.regs[1] } else { u.imm as u64 };
    let count = (raw & if BITS == 64 { 0x3f } else { 0x1f }) as u32;
    let filler = e.read::<BITS>(u.src);
    modify::<BITS, FORM>(e, u, |e, a| {
        if count == 0 {
            return a;
        }
        // A count beyond 16 in 16 bits takes from the destination again, as processors do.
        let (a_wide, b_wide) = (u128::from(a), u128::from(filler));
        let (result, carry) = if LEFT {
            let whole = match BITS {
                16 => (a_wide << 32 | b_wide << 16 | a_wide) << count,
                _ => (a_wide << BITS | b_wide) << count,
            };
            let at = if BITS == 16 { 32 } else { BITS };
            let carried =
                if BITS == 64 { a >> (64 - count) & 1 != 0 } else { whole >> (at + BITS) & 1 != 0 };
            ((whole >> at) as u64 & mask::<BITS>(), carried)
        } else {
            let whole = match BITS {
                16 => a_wide << 32 | b_wide << 16 | a_wide,
                _ => b_wide << BITS | a_wide,
            };
            ((whole >> count) as u64 & mask::<BITS>(), whole >> (count - 1) & 1 != 0)
        };
        let overflow = (result ^ a) >> (BITS - 1) & 1 != 0;
        e.flags.shifted(BITS, result, carry, overflow);
        result
    })
}

/// SHLD or SHRD.
pub fn double_handler(left: bool, by_cl: bool, bits: u32, form: u8) -> Option<Handler> {
    macro_rules! all {
        ($($left:literal, $by_cl:literal, $bits:literal;)*) => {
            match (left, by_cl, bits) {
                $(($left, $by_cl, $bits) => {
                    forms!(form, [RR, MR], double, [$left, $by_cl, $bits])
                })*
                _ => None,
            }
        };
    }
    all! {
        true, true, 16; true, true, 32; true, true, 64;
        true, false, 16; true, false, 32; true, false, 64;
        false, true, 16; false, true, 32; false, true, 64;
        false, false, 16; false, false, 32; false, false, 64;
    }
}
