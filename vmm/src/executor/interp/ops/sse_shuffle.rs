//! Shifts by an immediate, and shuffles.

use super::sse::{Packed, packed_operations};
use super::{Engine, Handler, Trapped, Uop};
use crate::executor::interp::engine::mask;
use crate::executor::interp::uop::form;
use iced_x86::Mnemonic;

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
    let b = e.sse_source::<FORM>(u, 16)?;
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
