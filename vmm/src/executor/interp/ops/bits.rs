//! BT to BTC, BSF, BSR, TZCNT.

use super::{Engine, Handler, STACK, Trapped, Uop, first, forms, modify, source};
use crate::executor::interp::engine::extend;
use crate::executor::interp::uop::form;

/// Operations as instructions encode them.
pub mod op {
    pub const BT: u8 = 0;
    pub const BTS: u8 = 1;
    pub const BTR: u8 = 2;
    pub const BTC: u8 = 3;
}

fn changed<const OP: u8>(old: u64, bit: u64) -> u64 {
    match OP {
        op::BT => old,
        op::BTS => old | bit,
        op::BTR => old & !bit,
        _ => old ^ bit,
    }
}

fn bit_test<const OP: u8, const BITS: u32, const FORM: u8>(
    e: &mut Engine,
    u: &Uop,
) -> Result<(), Trapped> {
    let offset = source::<BITS, FORM>(e, u)?;
    let bit = 1u64 << (offset & u64::from(BITS - 1));
    if FORM == form::MR {
        // A register offset reaches beyond the operand (SDM vol. 2, BT).
        let words = extend::<BITS>(offset) as i64 >> BITS.trailing_zeros();
        let distance = words.wrapping_mul(i64::from(BITS / 8));
        let address = e.address_beside(u, distance as u64);
        let stack = u.bits & STACK != 0;
        let old = match OP {
            op::BT => e.load_at::<BITS>(address, stack)?,
            _ => {
                e.modify_at::<BITS, u64>(address, stack, |_, old| (changed::<OP>(old, bit), old))?
            }
        };
        e.flags.set_carry(old & bit != 0);
        return Ok(());
    }
    if OP == op::BT {
        let old = first::<BITS, FORM>(e, u)?;
        e.flags.set_carry(old & bit != 0);
        return Ok(());
    }
    modify::<BITS, FORM>(e, u, |e, old| {
        e.flags.set_carry(old & bit != 0);
        changed::<OP>(old, bit)
    })
}

fn of_op<const OP: u8>(bits: u32, form: u8) -> Option<Handler> {
    match bits {
        16 => forms!(form, [RR, MR, RI, MI], bit_test, [OP, 16]),
        32 => forms!(form, [RR, MR, RI, MI], bit_test, [OP, 32]),
        64 => forms!(form, [RR, MR, RI, MI], bit_test, [OP, 64]),
        _ => None,
    }
}

/// The handler of `operation`, one of [`op`].
pub fn handler(operation: u8, bits: u32, form: u8) -> Option<Handler> {
    match operation {
        op::BT => of_op::<{ op::BT }>(bits, form),
        op::BTS => of_op::<{ op::BTS }>(bits, form),
        op::BTR => of_op::<{ op::BTR }>(bits, form),
        _ => of_op::<{ op::BTC }>(bits, form),
    }
}

/// BSF (`FORWARD`) and BSR. A source of 0 leaves the destination alone, 32 bits included, and
/// sets ZF.
fn scan<const FORWARD: bool, const BITS: u32, const FORM: u8>(
    e: &mut Engine,
    u: &Uop,
) -> Result<(), Trapped> {
    let value = source::<BITS, FORM>(e, u)?;
    e.flags.set_zero(value == 0);
    if value != 0 {
        let bit = if FORWARD { value.trailing_zeros() } else { 63 - value.leading_zeros() };
        e.write::<BITS>(u.dst, u64::from(bit));
    }
    Ok(())
}

/// BSF or BSR.
pub fn scan_handler(forward: bool, bits: u32, form: u8) -> Option<Handler> {
    match (forward, bits) {
        (true, 16) => forms!(form, [RR, RM], scan, [true, 16]),
        (true, 32) => forms!(form, [RR, RM], scan, [true, 32]),
        (true, 64) => forms!(form, [RR, RM], scan, [true, 64]),
        (false, 16) => forms!(form, [RR, RM], scan, [false, 16]),
        (false, 32) => forms!(form, [RR, RM], scan, [false, 32]),
        (false, 64) => forms!(form, [RR, RM], scan, [false, 64]),
        _ => None,
    }
}

fn tzcnt<const BITS: u32, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let value = source::<BITS, FORM>(e, u)?;
    let count = u64::from(value.trailing_zeros().min(BITS));
    e.flags.set_zero(count == 0);
    e.flags.set_carry(value == 0);
    e.write::<BITS>(u.dst, count);
    Ok(())
}

/// TZCNT, which is BSF on a processor without BMI1.
pub fn tzcnt_handler(bits: u32, form: u8) -> Option<Handler> {
    if !std::arch::is_x86_feature_detected!("bmi1") {
        return scan_handler(true, bits, form);
    }
    match bits {
        16 => forms!(form, [RR, RM], tzcnt, [16]),
        32 => forms!(form, [RR, RM], tzcnt, [32]),
        64 => forms!(form, [RR, RM], tzcnt, [64]),
        _ => None,
    }
}
