//! Comparisons of floating-point numbers, and conversions between them and integers in
//! general-purpose registers.

use super::sse::{number, register, under_mxcsr};
use super::{Engine, Handler, Trapped, Uop, forms};
use crate::executor::interp::uop::form;
use iced_x86::Mnemonic;

macro_rules! compare {
    ($($name:ident $handler:ident $text:literal $bytes:literal)*) => {
        $(
            fn $name<const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
                let b = e.sse_source::<FORM>(u, $bytes)?;
                let mut a = register(e.fpu.xmm[usize::from(u.dst)]);
                // Ordered and unordered predicates 0 to 7 (SDM vol. 2, table 3-1).
                macro_rules! predicate {
                    ($number:literal) => {
                        under_mxcsr!(
                            e.fpu.mxcsr, concat!($text, " {a}, {b}, ", $number),
                            a = inout(xmm_reg) a, b = in(xmm_reg) register(b),
                        )
                    };
                }
                let raised = match u.imm & 7 {
                    0 => predicate!(0),
                    1 => predicate!(1),
                    2 => predicate!(2),
                    3 => predicate!(3),
                    4 => predicate!(4),
                    5 => predicate!(5),
                    6 => predicate!(6),
                    _ => predicate!(7),
                };
                e.raised(raised)?;
                e.fpu.xmm[usize::from(u.dst)] = number(a);
                Ok(())
            }
        )*

        /// CMPPS, CMPPD, CMPSS and CMPSD; the predicate is the immediate.
        pub fn compare_handler(mnemonic: Mnemonic, form: u8) -> Option<Handler> {
            match mnemonic {
                $(Mnemonic::$handler => forms!(form, [RR, RM], $name, []),)*
                _ => None,
            }
        }
    };
}
compare! {
    cmpps Cmpps "cmpps" 16 cmppd Cmppd "cmppd" 16 cmpss Cmpss "cmpss" 4 cmpsd Cmpsd "cmpsd" 8
}

macro_rules! compare_to_flags {
    ($($name:ident $mnemonic:ident $text:literal $bytes:literal)*) => {
        $(
            fn $name<const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
                let b = e.sse_source::<FORM>(u, $bytes)?;
                let a = register(e.fpu.xmm[usize::from(u.dst)]);
                let (zero, parity, carry): (u8, u8, u8);
                let raised = under_mxcsr!(
                    e.fpu.mxcsr,
                    concat!($text, " {a}, {b}\nsetz {zero}\nsetp {parity}\nsetc {carry}"),
                    a = in(xmm_reg) a, b = in(xmm_reg) register(b),
                    zero = out(reg_byte) zero, parity = out(reg_byte) parity,
                    carry = out(reg_byte) carry,
                );
                e.raised(raised)?;
                e.flags.set(u64::from(zero) << 6 | u64::from(parity) << 2 | u64::from(carry));
                Ok(())
            }
        )*

        /// COMISS to UCOMISD.
        pub fn compare_to_flags_handler(mnemonic: Mnemonic, form: u8) -> Option<Handler> {
            match mnemonic {
                $(Mnemonic::$mnemonic => forms!(form, [RR, RM], $name, []),)*
                _ => None,
            }
        }
    };
}
compare_to_flags! {
    comiss Comiss "comiss" 4 comisd Comisd "comisd" 8
    ucomiss Ucomiss "ucomiss" 4 ucomisd Ucomisd "ucomisd" 8
}

macro_rules! to_integer {
    ($($name:ident $mnemonic:ident $text:literal $bytes:literal)*) => {
        $(
            fn $name<const BITS: u32, const FORM: u8>(
                e: &mut Engine,
                u: &Uop,
            ) -> Result<(), Trapped> {
                let b = e.sse_source::<FORM>(u, $bytes)?;
                let value: u64;
                let raised = match BITS {
                    64 => under_mxcsr!(
                        e.fpu.mxcsr, concat!($text, " {to:r}, {b}"),
                        to = out(reg) value, b = in(xmm_reg) register(b),
                    ),
                    _ => under_mxcsr!(
                        e.fpu.mxcsr, concat!($text, " {to:e}, {b}"),
                        to = out(reg) value, b = in(xmm_reg) register(b),
                    ),
                };
                e.raised(raised)?;
                e.write::<BITS>(u.dst, value);
                Ok(())
            }
        )*

        /// CVTSS2SI to CVTTSD2SI.
        pub fn to_integer_handler(mnemonic: Mnemonic, bits: u32, form: u8) -> Option<Handler> {
            match (mnemonic, bits) {
                $(
                    (Mnemonic::$mnemonic, 32) => forms!(form, [RR, RM], $name, [32]),
                    (Mnemonic::$mnemonic, 64) => forms!(form, [RR, RM], $name, [64]),
                )*
                _ => None,
            }
        }
    };
}
to_integer! {
    cvtss2si Cvtss2si "cvtss2si" 4 cvtsd2si Cvtsd2si "cvtsd2si" 8
    cvttss2si Cvttss2si "cvttss2si" 4 cvttsd2si Cvttsd2si "cvttsd2si" 8
}

macro_rules! from_integer {
    ($($name:ident $mnemonic:ident $text:literal)*) => {
        $(
            fn $name<const BITS: u32, const FORM: u8>(
                e: &mut Engine,
                u: &Uop,
            ) -> Result<(), Trapped> {
                let value = match FORM {
                    form::RR => e.read::<BITS>(u.src),
                    _ => e.load_operand::<BITS>(u)?,
                };
                let mut a = register(e.fpu.xmm[usize::from(u.dst)]);
                let raised = match BITS {
                    64 => under_mxcsr!(
                        e.fpu.mxcsr, concat!($text, " {a}, {from:r}"),
                        from = in(reg) value, a = inout(xmm_reg) a,
                    ),
                    _ => under_mxcsr!(
                        e.fpu.mxcsr, concat!($text, " {a}, {from:e}"),
                        from = in(reg) value, a = inout(xmm_reg) a,
                    ),
                };
                e.raised(raised)?;
                e.fpu.xmm[usize::from(u.dst)] = number(a);
                Ok(())
            }
        )*

        /// CVTSI2SS and CVTSI2SD.
        pub fn from_integer_handler(mnemonic: Mnemonic, bits: u32, form: u8) -> Option<Handler> {
            match (mnemonic, bits) {
                $(
                    (Mnemonic::$mnemonic, 32) => forms!(form, [RR, RM], $name, [32]),
                    (Mnemonic::$mnemonic, 64) => forms!(form, [RR, RM], $name, [64]),
                )*
                _ => None,
            }
        }
    };
}
from_integer! { cvtsi2ss Cvtsi2ss "cvtsi2ss" cvtsi2sd Cvtsi2sd "cvtsi2sd" }
