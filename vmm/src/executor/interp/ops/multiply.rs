//! MUL, IMUL, DIV, IDIV.

use super::{Engine, Handler, Trapped, Uop, first, forms, source};
use crate::executor::interp::engine::{extend, mask};

/// #DE's vector.
const DIVIDE_ERROR: u8 = 0;

/// Operations on the accumulator.
pub mod op {
    pub const MUL: u8 = 0;
    pub const IMUL: u8 = 1;
    pub const DIV: u8 = 2;
    pub const IDIV: u8 = 3;
}

/// The upper and lower halves go to AH:AL, DX:AX, EDX:EAX or RDX:RAX.
fn write_pair<const BITS: u32>(e: &mut Engine, low: u64, high: u64) {
    if BITS == 8 {
        e.write::<16>(0, (high & 0xff) << 8 | low & 0xff);
    } else {
        e.write::<BITS>(0, low);
        e.write::<BITS>(2, high);
    }
}

fn read_pair<const BITS: u32>(e: &Engine) -> u128 {
    if BITS == 8 {
        u128::from(e.read::<16>(0))
    } else {
        u128::from(e.read::<BITS>(2)) << BITS | u128::from(e.read::<BITS>(0))
    }
}

fn accumulator<const OP: u8, const BITS: u32, const FORM: u8>(
    e: &mut Engine,
    u: &Uop,
) -> Result<(), Trapped> {
    let b = first::<BITS, FORM>(e, u)?;
    match OP {
        op::MUL | op::IMUL => {
            let a = e.read::<BITS>(0);
            let (product, fits) = if OP == op::MUL {
                let product = u128::from(a) * u128::from(b);
                (product, product >> BITS == 0)
            } else {
                signed_product::<BITS>(a, b)
            };
            write_pair::<BITS>(
                e,
                product as u64 & mask::<BITS>(),
                (product >> BITS) as u64 & mask::<BITS>(),
            );
            e.flags.rotated(!fits, !fits);
            Ok(())
        }
        op::DIV => {
            let dividend = read_pair::<BITS>(e);
            let quotient = dividend.checked_div(u128::from(b));
            let Some(quotient) = quotient.filter(|&q| q <= u128::from(mask::<BITS>())) else {
                return e.divide_error();
            };
            let remainder = dividend % u128::from(b);
            write_pair::<BITS>(e, quotient as u64, remainder as u64);
            Ok(())
        }
        _ => {
            let unused = 128 - 2 * BITS;
            let dividend = ((read_pair::<BITS>(e) << unused) as i128) >> unused;
            let divisor = i128::from(extend::<BITS>(b) as i64);
            let quotient = dividend.checked_div(divisor);
            let (min, max) = (-(1i128 << (BITS - 1)), (1i128 << (BITS - 1)) - 1);
            let Some(quotient) = quotient.filter(|q| (min..=max).contains(q)) else {
                return e.divide_error();
            };
            let remainder = dividend % divisor;
            write_pair::<BITS>(
                e,
                quotient as u64 & mask::<BITS>(),
                remainder as u64 & mask::<BITS>(),
            );
            Ok(())
        }
    }
}

fn signed_product<const BITS: u32>(a: u64, b: u64) -> (u128, bool) {
    let (a, b) = (extend::<BITS>(a) as i64, extend::<BITS>(b) as i64);
    let product = i128::from(a) * i128::from(b);
    let fits = product == i128::from(extend::<BITS>(product as u64) as i64);
    (product as u128, fits)
}

/// MUL, IMUL, DIV and IDIV with one operand; RI for a register, MI for memory.
pub fn handler(operation: u8, bits: u32, form: u8) -> Option<Handler> {
    macro_rules! all {
        ($($op:ident),*) => {
            match (operation, bits) {
                $(
                    (op::$op, 8) => forms!(form, [RI, MI], accumulator, [{ op::$op }, 8]),
                    (op::$op, 16) => forms!(form, [RI, MI], accumulator, [{ op::$op }, 16]),
                    (op::$op, 32) => forms!(form, [RI, MI], accumulator, [{ op::$op }, 32]),
                    (op::$op, 64) => forms!(form, [RI, MI], accumulator, [{ op::$op }, 64]),
                )*
                _ => None,
            }
        };
    }
    all!(MUL, IMUL, DIV, IDIV)
}

/// IMUL of two operands, or of the second and an immediate where `BY_IMMEDIATE`.
fn imul<const BY_IMMEDIATE: bool, const BITS: u32, const FORM: u8>(
    e: &mut Engine,
    u: &Uop,
) -> Result<(), Trapped> {
    let a = source::<BITS, FORM>(e, u)?;
    let b = if BY_IMMEDIATE { u.imm as u64 } else { e.read::<BITS>(u.dst) };
    let (product, fits) = signed_product::<BITS>(a, b);
    e.write::<BITS>(u.dst, product as u64);
    e.flags.rotated(!fits, !fits);
    Ok(())
}

/// IMUL of two or three operands.
pub fn imul_handler(by_immediate: bool, bits: u32, form: u8) -> Option<Handler> {
    match (by_immediate, bits) {
        (false, 16) => forms!(form, [RR, RM], imul, [false, 16]),
        (false, 32) => forms!(form, [RR, RM], imul, [false, 32]),
        (false, 64) => forms!(form, [RR, RM], imul, [false, 64]),
        (true, 16) => forms!(form, [RR, RM], imul, [true, 16]),
        (true, 32) => forms!(form, [RR, RM], imul, [true, 32]),
        (true, 64) => forms!(form, [RR, RM], imul, [true, 64]),
        _ => None,
    }
}

impl Engine {
    #[cold]
    fn divide_error<T>(&mut self) -> Result<T, Trapped> {
        self.raise(DIVIDE_ERROR, 0)
    }
}
