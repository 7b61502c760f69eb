//! SSE and SSE2. What computes is computed by the host's own instruction on the same operands
//! and, where it matters, under the guest's MXCSR: it cannot round otherwise.

use super::{Engine, Handler, STACK, Trapped, Uop, forms};
use crate::executor::interp::uop::form;
use iced_x86::Mnemonic;
use std::arch::asm;
use std::arch::x86_64::__m128i;

/// #XM's vector.
const SIMD_EXCEPTION: u8 = 19;
/// MXCSR: all exceptions masked.
pub(super) const ALL_MASKED: u32 = 0x1f80;
/// MXCSR's exception flags, and those found before computing: invalid, denormal, divide.
pub(super) const RAISED: u32 = 0x3f;
const RAISED_BEFORE: u32 = 0x7;

pub(super) fn register(value: u128) -> __m128i {
    // SAFETY: both are 16 bytes without invalid values.
    unsafe { std::mem::transmute::<u128, __m128i>(value) }
}

pub(super) fn number(value: __m128i) -> u128 {
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

    /// The second operand: a register, or `bytes` bytes of memory, which 16 must be aligned.
    #[inline(always)]
    pub(super) fn sse_source<const FORM: u8>(
        &mut self,
        u: &Uop,
        bytes: u32,
    ) -> Result<u128, Trapped> {
        match FORM {
            form::RR => Ok(self.fpu.xmm[usize::from(u.src)]),
            _ => self.load_scalar(u, bytes),
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
    pub(super) fn raised(&mut self, raised: u32) -> Result<(), Trapped> {
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
pub(super) trait Packed {
    fn apply(a: u128, b: u128) -> u128;
}

fn packed<P: Packed, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let b = e.sse_source::<FORM>(u, 16)?;
    let a = &mut e.fpu.xmm[usize::from(u.dst)];
    *a = P::apply(*a, b);
    Ok(())
}

macro_rules! packed_operations {
    ($($name:ident $text:literal)*) => {
        pub(super) mod packed_operations {
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
            match mnemonic {
                $(Mnemonic::$name => {
                    forms!(form, [RR, RM], packed, [packed_operations::$name])
                })*
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
            let b = e.sse_source::<FORM>(u, 4)?;
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
    match mnemonic {
        Mnemonic::Rcpss => forms!(form, [RR, RM], rcpss, []),
        Mnemonic::Rsqrtss => forms!(form, [RR, RM], rsqrtss, []),
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
    let b = e.sse_source::<FORM>(u, BYTES)?;
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
        let mut guest = $mxcsr & !super::sse::RAISED | super::sse::ALL_MASKED;
        let mut host = 0u32;
        // SAFETY: an SSE2 instruction on registers; MXCSR is put back before the block ends.
        unsafe {
            std::arch::asm!(
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
        guest & super::sse::RAISED
    }};
}
pub(super) use under_mxcsr;

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
            match mnemonic {
                $(Mnemonic::$name => {
                    forms!(form, [RR, RM], float, [float_operations::$name, $bytes])
                })*
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
