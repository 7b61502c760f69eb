//! SSE and SSE2. What computes is computed by the host's own instruction on the same operands
//! and, where it matters, under the guest's MXCSR: it cannot round otherwise.

use super::{Engine, Handler, STACK, Trapped, Uop};
use crate::executor::interp::engine::mask;
use crate::executor::interp::uop::form;
use iced_x86::Mnemonic;
use std::arch::asm;
use std::arch::x86_64::__m128i;

/// #XM's vector.
const SIMD_EXCEPTION: u8 = 19;
/// MXCSR: all exceptions masked.
const ALL_MASKED: u32 = 0x1f80;
/// MXCSR's exception flags, and those found before computing: invalid, denormal, divide.
const RAISED: u32 = 0x3f;
const RAISED_BEFORE: u32 = 0x7;

fn register(value: u128) -> __m128i {
    // SAFETY: both are 16 bytes without invalid values.
    unsafe { std::mem::transmute::<u128, __m128i>(value) }
}

fn number(value: __m128i) -> u128 {
    // SAFETY: both are 16 bytes without invalid values.
    unsafe { std::mem::transmute::<__m128i, u128>(value) }
}

impl Engine {
    /// Loads a 128-bit operand, which must be aligned.
    #[inline(always)]
    fn load_aligned(&mut self, u: &Uop) -> Result<u128, Trapped> {
        let address = self.address(u);
        if !address.is_multiple_of(16) {
            return self.misaligned(address, u.bits & STACK != 0);
        }
        self.load_wide(address, u.bits & STACK != 0)
    }

    /// What a misaligned operand gives: #GP(0), or #SS(0) for one that is not canonical either.
    #[cold]
    pub fn misaligned<T>(&mut self, address: u64, stack: bool) -> Result<T, Trapped> {
        if crate::executor::interp::memory::is_canonical(address) {
            self.general_protection()
        } else {
            self.not_canonical(stack)
        }
    }

    fn load_scalar(&mut self, u: &Uop, bytes: u32) -> Result<u128, Trapped> {
        match bytes {
            4 => self.load_operand::<32>(u).map(u128::from),
            8 => self.load_operand::<64>(u).map(u128::from),
            _ => self.load_aligned(u),
        }
    }

    /// Takes the exception flags of a computation into MXCSR; #XM for an unmasked one.
    #[inline(always)]
    fn raised(&mut self, raised: u32) -> Result<(), Trapped> {
        let unmasked = raised & !(self.fpu.mxcsr >> 7) & RAISED;
        if unmasked == 0 {
            self.fpu.mxcsr |= raised;
            return Ok(());
        }
        let before = unmasked & RAISED_BEFORE != 0;
        self.fpu.mxcsr |= if before { raised & RAISED_BEFORE } else { raised };
        self.raise(SIMD_EXCEPTION, 0)
    }
}

/// A computation on two registers.
trait Packed {
    fn apply(a: u128, b: u128) -> u128;
}

fn packed<P: Packed, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let b = match FORM {
        form::RR => e.fpu.xmm[usize::from(u.src)],
        _ => e.load_aligned(u)?,
    };
    let a = &mut e.fpu.xmm[usize::from(u.dst)];
    *a = P::apply(*a, b);
    Ok(())
}

macro_rules! packed_operations {
    ($($name:ident $text:literal)*) => {
        mod packed_operations {
            $(pub struct $name;)*
        }
        $(impl Packed for packed_operations::$name {
            #[inline(always)]
            fn apply(a: u128, b: u128) -> u128 {
                let mut a = register(a);
                // SAFETY: an SSE2 instruction on two registers, with no other effect.
                unsafe {
                    asm!(
                        concat!($text, " {a}, {b}"),
                        a = inout(xmm_reg) a, b = in(xmm_reg) register(b),
                        options(pure, nomem, nostack, preserves_flags),
                    );
                }
                number(a)
            }
        })*

        /// The handler of a computation that MXCSR has no part in.
        pub fn packed_handler(mnemonic: Mnemonic, form: u8) -> Option<Handler> {
            match (mnemonic, form) {
                $(
                    (Mnemonic::$name, form::RR) => {
                        Some(packed::<packed_operations::$name, { form::RR }>)
                    }
                    (Mnemonic::$name, form::RM) => {
                        Some(packed::<packed_operations::$name, { form::RM }>)
                    }
                )*
                _ => None,
            }
        }
    };
}

packed_operations! {
    Paddb "paddb" Paddw "paddw" Paddd "paddd" Paddq "paddq"
    Psubb "psubb" Psubw "psubw" Psubd "psubd" Psubq "psubq"
    Paddsb "paddsb" Paddsw "paddsw" Paddusb "paddusb" Paddusw "paddusw"
    Psubsb "psubsb" Psubsw "psubsw" Psubusb "psubusb" Psubusw "psubusw"
    Pmullw "pmullw" Pmulhw "pmulhw" Pmulhuw "pmulhuw" Pmuludq "pmuludq"
    Pmaddwd "pmaddwd" Psadbw "psadbw" Pavgb "pavgb" Pavgw "pavgw"
    Pminub "pminub" Pmaxub "pmaxub" Pminsw "pminsw" Pmaxsw "pmaxsw"
    Pcmpeqb "pcmpeqb" Pcmpeqw "pcmpeqw" Pcmpeqd "pcmpeqd"
    Pcmpgtb "pcmpgtb" Pcmpgtw "pcmpgtw" Pcmpgtd "pcmpgtd"
    Pand "pand" Pandn "pandn" Por "por" Pxor "pxor"
    Packsswb "packsswb" Packssdw "packssdw" Packuswb "packuswb"
    Punpcklbw "punpcklbw" Punpcklwd "punpcklwd" Punpckldq "punpckldq"
    Punpcklqdq "punpcklqdq" Punpckhbw "punpckhbw" Punpckhwd "punpckhwd"
    Punpckhdq "punpckhdq" Punpckhqdq "punpckhqdq"
    Psllw "psllw" Pslld "pslld" Psllq "psllq" Psrlw "psrlw" Psrld "psrld" Psrlq "psrlq"
    Psraw "psraw" Psrad "psrad"
    Andps "andps" Andpd "andpd" Andnps "andnps" Andnpd "andnpd"
    Orps "orps" Orpd "orpd" Xorps "xorps" Xorpd "xorpd"
    Unpcklps "unpcklps" Unpcklpd "unpcklpd" Unpckhps "unpckhps" Unpckhpd "unpckhpd"
    Rcpps "rcpps" Rsqrtps "rsqrtps"
}

macro_rules! scalar_estimates {
    ($($name:ident $text:literal)*) => {
        $(fn $name<const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
            let b = match FORM {
                form::RR => e.fpu.xmm[usize::from(u.src)],
                _ => e.load_scalar(u, 4)?,
            };
            let mut a = register(e.fpu.xmm[usize::from(u.dst)]);
            // SAFETY: an SSE instruction on two registers, with no other effect.
            unsafe {
                asm!(
                    concat!($text, " {a}, {b}"),
                    a = inout(xmm_reg) a, b = in(xmm_reg) register(b),
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            e.fpu.xmm[usize::from(u.dst)] = number(a);
            Ok(())
        })*
    };
}
scalar_estimates! { rcpss "rcpss" rsqrtss "rsqrtss" }

/// RCPSS and RSQRTSS.
pub fn estimate_handler(mnemonic: Mnemonic, form: u8) -> Option<Handler> {
    match (mnemonic, form) {
        (Mnemonic::Rcpss, form::RR) => Some(rcpss::<{ form::RR }>),
        (Mnemonic::Rcpss, form::RM) => Some(rcpss::<{ form::RM }>),
        (Mnemonic::Rsqrtss, form::RR) => Some(rsqrtss::<{ form::RR }>),
        (Mnemonic::Rsqrtss, form::RM) => Some(rsqrtss::<{ form::RM }>),
        _ => None,
    }
}

/// A computation under an MXCSR; gives the exception flags it raised, too.
trait Float {
    fn apply(a: u128, b: u128, mxcsr: u32) -> (u128, u32);
}

fn float<F: Float, const BYTES: u32, const FORM: u8>(
    e: &mut Engine,
    u: &Uop,
) -> Result<(), Trapped> {
    let b = match FORM {
        form::RR => e.fpu.xmm[usize::from(u.src)],
        _ => e.load_scalar(u, BYTES)?,
    };
    let a = e.fpu.xmm[usize::from(u.dst)];
    let (result, raised) = F::apply(a, b, e.fpu.mxcsr);
    e.raised(raised)?;
    e.fpu.xmm[usize::from(u.dst)] = result;
    Ok(())
}

/// Runs an instruction under the guest's rounding and flushing, all exceptions masked, and gives
/// the exceptions raised.
macro_rules! under_mxcsr {
    ($mxcsr:expr, $text:expr, $($operands:tt)*) => {{
        let mut guest = $mxcsr & !RAISED | ALL_MASKED;
        let mut host = 0u32;
        // SAFETY: an SSE2 instruction on registers; MXCSR is put back before the block ends.
        unsafe {
            asm!(
                "stmxcsr [{host}]",
                "ldmxcsr [{guest}]",
                $text,
                "stmxcsr [{guest}]",
                "ldmxcsr [{host}]",
                host = in(reg) &raw mut host,
                guest = in(reg) &raw mut guest,
                $($operands)*
                options(nostack),
            );
        }
        guest & RAISED
    }};
}

macro_rules! float_operations {
    ($($name:ident $text:literal $bytes:literal)*) => {
        mod float_operations {
            $(pub struct $name;)*
        }
        $(impl Float for float_operations::$name {
            #[inline(always)]
            fn apply(a: u128, b: u128, mxcsr: u32) -> (u128, u32) {
                let mut a = register(a);
                let raised = under_mxcsr!(
                    mxcsr, concat!($text, " {a}, {b}"),
                    a = inout(xmm_reg) a, b = in(xmm_reg) register(b),
                );
                (number(a), raised)
            }
        })*

        /// The handler of a computation under MXCSR.
        pub fn float_handler(mnemonic: Mnemonic, form: u8) -> Option<Handler> {
            match (mnemonic, form) {
                $(
                    (Mnemonic::$name, form::RR) => {
                        Some(float::<float_operations::$name, $bytes, { form::RR }>)
                    }
                    (Mnemonic::$name, form::RM) => {
                        Some(float::<float_operations::$name, $bytes, { form::RM }>)
                    }
                )*
                _ => None,
            }
        }
    };
}

float_operations! {
    Addps "addps" 16 Addpd "addpd" 16 Addss "addss" 4 Addsd "addsd" 8
    Subps "subps" 16 Subpd "subpd" 16 Subss "subss" 4 Subsd "subsd" 8
    Mulps "mulps" 16 Mulpd "mulpd" 16 Mulss "mulss" 4 Mulsd "mulsd" 8
    Divps "divps" 16 Divpd "divpd" 16 Divss "divss" 4 Divsd "divsd" 8
    Minps "minps" 16 Minpd "minpd" 16 Minss "minss" 4 Minsd "minsd" 8
    Maxps "maxps" 16 Maxpd "maxpd" 16 Maxss "maxss" 4 Maxsd "maxsd" 8
    Sqrtps "sqrtps" 16 Sqrtpd "sqrtpd" 16 Sqrtss "sqrtss" 4 Sqrtsd "sqrtsd" 8
    Cvtps2pd "cvtps2pd" 8 Cvtpd2ps "cvtpd2ps" 16 Cvtss2sd "cvtss2sd" 4 Cvtsd2ss "cvtsd2ss" 8
    Cvtdq2ps "cvtdq2ps" 16 Cvtps2dq "cvtps2dq" 16 Cvttps2dq "cvttps2dq" 16
    Cvtdq2pd "cvtdq2pd" 8 Cvtpd2dq "cvtpd2dq" 16 Cvttpd2dq "cvttpd2dq" 16
}

macro_rules! compare {
    ($($name:ident $handler:ident $text:literal $bytes:literal)*) => {
        $(
            fn $name<const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
                let b = match FORM {
                    form::RR => e.fpu.xmm[usize::from(u.src)],
                    _ => e.load_scalar(u, $bytes)?,
                };
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
            match (mnemonic, form) {
                $(
                    (Mnemonic::$handler, form::RR) => Some($name::<{ form::RR }>),
                    (Mnemonic::$handler, form::RM) => Some($name::<{ form::RM }>),
                )*
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
                let b = match FORM {
                    form::RR => e.fpu.xmm[usize::from(u.src)],
                    _ => e.load_scalar(u, $bytes)?,
                };
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
            match (mnemonic, form) {
                $(
                    (Mnemonic::$mnemonic, form::RR) => Some($name::<{ form::RR }>),
                    (Mnemonic::$mnemonic, form::RM) => Some($name::<{ form::RM }>),
                )*
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
                let b = match FORM {
                    form::RR => e.fpu.xmm[usize::from(u.src)],
                    _ => e.load_scalar(u, $bytes)?,
                };
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
            match (mnemonic, bits, form) {
                $(
                    (Mnemonic::$mnemonic, 32, form::RR) => Some($name::<32, { form::RR }>),
                    (Mnemonic::$mnemonic, 32, form::RM) => Some($name::<32, { form::RM }>),
                    (Mnemonic::$mnemonic, 64, form::RR) => Some($name::<64, { form::RR }>),
                    (Mnemonic::$mnemonic, 64, form::RM) => Some($name::<64, { form::RM }>),
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
            match (mnemonic, bits, form) {
                $(
                    (Mnemonic::$mnemonic, 32, form::RR) => Some($name::<32, { form::RR }>),
                    (Mnemonic::$mnemonic, 32, form::RM) => Some($name::<32, { form::RM }>),
                    (Mnemonic::$mnemonic, 64, form::RR) => Some($name::<64, { form::RR }>),
                    (Mnemonic::$mnemonic, 64, form::RM) => Some($name::<64, { form::RM }>),
                )*
                _ => None,
            }
        }
    };
}
from_integer! { cvtsi2ss Cvtsi2ss "cvtsi2ss" cvtsi2sd Cvtsi2sd "cvtsi2sd" }

/// A shift by an immediate, done as the shift by a register.
fn shift_immediate<P: Packed>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let a = &mut e.fpu.xmm[usize::from(u.dst)];
    *a = P::apply(*a, (u.imm as u64 & mask::<8>()).into());
    Ok(())
}

/// PSLLW to PSRAD by an immediate.
pub fn shift_immediate_handler(mnemonic: Mnemonic) -> Option<Handler> {
    use packed_operations::{Pslld, Psllq, Psllw, Psrad, Psraw, Psrld, Psrlq, Psrlw};
    Some(match mnemonic {
        Mnemonic::Psllw => shift_immediate::<Psllw>,
        Mnemonic::Pslld => shift_immediate::<Pslld>,
        Mnemonic::Psllq => shift_immediate::<Psllq>,
        Mnemonic::Psrlw => shift_immediate::<Psrlw>,
        Mnemonic::Psrld => shift_immediate::<Psrld>,
        Mnemonic::Psrlq => shift_immediate::<Psrlq>,
        Mnemonic::Psraw => shift_immediate::<Psraw>,
        Mnemonic::Psrad => shift_immediate::<Psrad>,
        Mnemonic::Pslldq => pslldq,
        Mnemonic::Psrldq => psrldq,
        _ => return None,
    })
}

fn pslldq(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let a = &mut e.fpu.xmm[usize::from(u.dst)];
    *a = a.checked_shl((u.imm as u32 & 0xff) * 8).unwrap_or(0);
    Ok(())
}

fn psrldq(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let a = &mut e.fpu.xmm[usize::from(u.dst)];
    *a = a.checked_shr((u.imm as u32 & 0xff) * 8).unwrap_or(0);
    Ok(())
}

/// How an immediate picks elements: of `width` bits each, from both operands.
mod shuffle {
    pub const PSHUFD: u8 = 0;
    pub const PSHUFLW: u8 = 1;
    pub const PSHUFHW: u8 = 2;
    pub const SHUFPS: u8 = 3;
    pub const SHUFPD: u8 = 4;
}

fn shuffle<const KIND: u8, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let b = match FORM {
        form::RR => e.fpu.xmm[usize::from(u.src)],
        _ => e.load_aligned(u)?,
    };
    let a = e.fpu.xmm[usize::from(u.dst)];
    let pick = |index: u32| (u.imm as u32 >> (2 * index)) & 3;
    let dword = |from: u128, at: u32| from >> (32 * at) & 0xffff_ffff;
    let word = |at: u32| b >> (16 * at) & 0xffff;
    let mut result = 0;
    for index in 0..4 {
        result |= match KIND {
            shuffle::PSHUFD => dword(b, pick(index)) << (32 * index),
            shuffle::PSHUFLW => word(pick(index)) << (16 * index),
            shuffle::PSHUFHW => word(4 + pick(index)) << (64 + 16 * index),
            shuffle::SHUFPS => dword(if index < 2 { a } else { b }, pick(index)) << (32 * index),
            _ if index < 2 => {
                let from = if index == 0 { a } else { b };
                let at = (u.imm as u32 >> index) & 1;
                (from >> (64 * at) & u128::from(u64::MAX)) << (64 * index)
            }
            _ => 0,
        };
    }
    result |= match KIND {
        shuffle::PSHUFLW => b & !u128::from(u64::MAX),
        shuffle::PSHUFHW => b & u128::from(u64::MAX),
        _ => 0,
    };
    e.fpu.xmm[usize::from(u.dst)] = result;
    Ok(())
}

/// PSHUFD, PSHUFLW, PSHUFHW, SHUFPS, SHUFPD.
pub fn shuffle_handler(mnemonic: Mnemonic, form: u8) -> Option<Handler> {
    use shuffle::{PSHUFD, PSHUFHW, PSHUFLW, SHUFPD, SHUFPS};
    let memory = match form {
        form::RR => false,
        form::RM => true,
        _ => return None,
    };
    Some(match (mnemonic, memory) {
        (Mnemonic::Pshufd, false) => shuffle::<PSHUFD, 0>,
        (Mnemonic::Pshufd, true) => shuffle::<PSHUFD, 1>,
        (Mnemonic::Pshuflw, false) => shuffle::<PSHUFLW, 0>,
        (Mnemonic::Pshuflw, true) => shuffle::<PSHUFLW, 1>,
        (Mnemonic::Pshufhw, false) => shuffle::<PSHUFHW, 0>,
        (Mnemonic::Pshufhw, true) => shuffle::<PSHUFHW, 1>,
        (Mnemonic::Shufps, false) => shuffle::<SHUFPS, 0>,
        (Mnemonic::Shufps, true) => shuffle::<SHUFPS, 1>,
        (Mnemonic::Shufpd, false) => shuffle::<SHUFPD, 0>,
        (Mnemonic::Shufpd, true) => shuffle::<SHUFPD, 1>,
        _ => return None,
    })
}
