//! What instructions do, by kind.

pub mod alu;
pub mod bits;
pub mod branch;
pub mod data;
pub mod multiply;
pub mod shift;
pub mod sse;
pub mod sse_convert;
pub mod sse_move;
pub mod sse_shuffle;
pub mod stack;
pub mod string;
pub mod system;
pub mod x87;

/// Picks the instance of a handler for an operand width given at run time:
/// `width!(bits, alu::<OP, _, FORM>)` with the width where `_` stands.
macro_rules! width {
    ($bits:expr, $f:ident $(:: < [$($before:tt)*] _ [$($after:tt)*] >)?) => {
        match $bits {
            8 => Some($f::<$($($before)*)? 8 $($($after)*)?> as super::Handler),
            16 => Some($f::<$($($before)*)? 16 $($($after)*)?> as super::Handler),
            32 => Some($f::<$($($before)*)? 32 $($($after)*)?> as super::Handler),
            64 => Some($f::<$($($before)*)? 64 $($($after)*)?> as super::Handler),
            _ => None,
        }
    };
}
pub(crate) use width;

/// As [`width`], for the form of the operands: register and memory destinations or sources.
macro_rules! forms {
    ($form:expr, [$($name:ident),*], $f:ident, $arguments:tt) => {
        match $form {
            $(super::super::uop::form::$name => Some(forms!(@ $name $f $arguments)),)*
            _ => None,
        }
    };
    (@ $name:ident $f:ident []) => {
        $f::<{ super::super::uop::form::$name }> as super::Handler
    };
    (@ $name:ident $f:ident [$($argument:tt)+]) => {
        $f::<$($argument)+, { super::super::uop::form::$name }> as super::Handler
    };
}
pub(crate) use forms;

/// The instance of a handler for one of sixteen conditions.
macro_rules! condition {
    ($cc:expr, $f:ident $(, $($after:tt)*)?) => {
        match $cc {
            0 => $f::<0 $($($after)*)?> as super::Handler,
            1 => $f::<1 $($($after)*)?>,
            2 => $f::<2 $($($after)*)?>,
            3 => $f::<3 $($($after)*)?>,
            4 => $f::<4 $($($after)*)?>,
            5 => $f::<5 $($($after)*)?>,
            6 => $f::<6 $($($after)*)?>,
            7 => $f::<7 $($($after)*)?>,
            8 => $f::<8 $($($after)*)?>,
            9 => $f::<9 $($($after)*)?>,
            10 => $f::<10 $($($after)*)?>,
            11 => $f::<11 $($($after)*)?>,
            12 => $f::<12 $($($after)*)?>,
            13 => $f::<13 $($($after)*)?>,
            14 => $f::<14 $($($after)*)?>,
            _ => $f::<15 $($($after)*)?>,
        }
    };
}
pub(crate) use condition;

use super::engine::{Engine, Trapped};
use super::uop::{Handler, STACK, Uop};

/// The second operand of RR, RM and RI, which is the first of MR and MI where it is in memory.
#[inline(always)]
fn source<const BITS: u32, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<u64, Trapped> {
    use super::engine::mask;
    use super::uop::form;
    match FORM {
        form::RR | form::MR => Ok(e.read::<BITS>(u.src)),
        form::RM => e.load_operand::<BITS>(u),
        _ => Ok(u.imm as u64 & mask::<BITS>()),
    }
}

/// Reads and replaces the first operand, which is a register or in memory.
#[inline(always)]
fn modify<const BITS: u32, const FORM: u8>(
    e: &mut Engine,
    u: &Uop,
    change: impl FnOnce(&mut Engine, u64) -> u64,
) -> Result<(), Trapped> {
    use super::uop::form;
    match FORM {
        form::MR | form::MI => {
            let address = e.address(u);
            e.modify_at::<BITS, ()>(address, u.bits & STACK != 0, |e, old| (change(e, old), ()))
        }
        _ => {
            let old = e.read::<BITS>(u.dst);
            let new = change(e, old);
            e.write::<BITS>(u.dst, new);
            Ok(())
        }
    }
}

/// Reads the first operand, which is a register or in memory.
#[inline(always)]
fn first<const BITS: u32, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<u64, Trapped> {
    use super::uop::form;
    match FORM {
        form::MR | form::MI => e.load_operand::<BITS>(u),
        _ => Ok(e.read::<BITS>(u.dst)),
    }
}
