//! Moves between SSE registers, general-purpose registers and memory; FXSAVE, MXCSR.

use super::{Engine, Handler, STACK, Trapped, Uop, forms};
use crate::executor::interp::memory::is_canonical;
use crate::executor::interp::uop::form;
use iced_x86::Mnemonic;

/// What FXSAVE stores.
const IMAGE: usize = 416;
/// Bytes of memory that FXSAVE and FXRSTOR need (SDM vol. 2, FXSAVE).
const AREA: u64 = 512;

fn replace_low(old: u128, new: u128, bytes: u32) -> u128 {
    let mask = u128::MAX >> (128 - 8 * bytes);
    old & !mask | new & mask
}

fn whole<const ALIGNED: bool, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    if FORM == form::RR {
        e.fpu.xmm[usize::from(u.dst)] = e.fpu.xmm[usize::from(u.src)];
        return Ok(());
    }
    let (address, stack) = (e.address(u), u.bits & STACK != 0);
    if ALIGNED && !address.is_multiple_of(16) {
        return e.misaligned(address, stack);
    }
    if FORM == form::RM {
        e.fpu.xmm[usize::from(u.dst)] = e.load_wide(address, stack)?;
        return Ok(());
    }
    let value = e.fpu.xmm[usize::from(u.src)];
    e.store_wide(address, stack, value)
}

/// MOVAPS and its kin, and the moves without alignment.
pub fn whole_handler(aligned: bool, form: u8) -> Option<Handler> {
    match (aligned, form) {
        (_, form::RR) => Some(whole::<true, { form::RR }>),
        (true, form::RM) => Some(whole::<true, { form::RM }>),
        (true, form::MR) => Some(whole::<true, { form::MR }>),
        (false, form::RM) => Some(whole::<false, { form::RM }>),
        (false, form::MR) => Some(whole::<false, { form::MR }>),
        _ => None,
    }
}

/// MOVSS, MOVSD: between registers the rest stays, from memory it is cleared. MOVQ and MOVD
/// (`CLEARS`) clear it always.
fn scalar<const BITS: u32, const CLEARS: bool, const FORM: u8>(
    e: &mut Engine,
    u: &Uop,
) -> Result<(), Trapped> {
    match FORM {
        form::RR => {
            let from = e.fpu.xmm[usize::from(u.src)];
            let to = &mut e.fpu.xmm[usize::from(u.dst)];
            *to = replace_low(if CLEARS { 0 } else { *to }, from, BITS / 8);
            Ok(())
        }
        form::RM => {
            e.fpu.xmm[usize::from(u.dst)] = e.load_operand::<BITS>(u)?.into();
            Ok(())
        }
        _ => e.store_operand::<BITS>(u, e.fpu.xmm[usize::from(u.src)] as u64),
    }
}

/// MOVSS, MOVSD, and with `clears` MOVQ and MOVD, between SSE registers and memory.
pub fn scalar_handler(bits: u32, clears: bool, form: u8) -> Option<Handler> {
    match (bits, clears, form) {
        (32, false, form::RR) => Some(scalar::<32, false, { form::RR }>),
        (64, false, form::RR) => Some(scalar::<64, false, { form::RR }>),
        (64, true, form::RR) => Some(scalar::<64, true, { form::RR }>),
        (32, _, form::RM) => Some(scalar::<32, true, { form::RM }>),
        (64, _, form::RM) => Some(scalar::<64, true, { form::RM }>),
        (32, _, form::MR) => Some(scalar::<32, true, { form::MR }>),
        (64, _, form::MR) => Some(scalar::<64, true, { form::MR }>),
        _ => None,
    }
}

fn from_general<const BITS: u32>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    e.fpu.xmm[usize::from(u.dst)] = e.read::<BITS>(u.src).into();
    Ok(())
}

fn to_general<const BITS: u32>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    e.write::<BITS>(u.dst, e.fpu.xmm[usize::from(u.src)] as u64);
    Ok(())
}

/// MOVD and MOVQ from a general-purpose register (`to_sse`) or to one.
pub fn general_handler(to_sse: bool, bits: u32) -> Option<Handler> {
    match (to_sse, bits) {
        (true, 32) => Some(from_general::<32>),
        (true, 64) => Some(from_general::<64>),
        (false, 32) => Some(to_general::<32>),
        (false, 64) => Some(to_general::<64>),
        _ => None,
    }
}

/// Moves of one half, `HIGH` or low; between registers MOVHLPS (to low) and MOVLHPS (to high).
fn half<const HIGH: bool, const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let shift = if HIGH { 64 } else { 0 };
    if FORM == form::MR {
        return e.store_operand::<64>(u, (e.fpu.xmm[usize::from(u.src)] >> shift) as u64);
    }
    let new = match FORM {
        form::RM => e.load_operand::<64>(u)?,
        _ => (e.fpu.xmm[usize::from(u.src)] >> (64 - shift)) as u64,
    };
    let to = &mut e.fpu.xmm[usize::from(u.dst)];
    *to = *to & !(u128::from(u64::MAX) << shift) | u128::from(new) << shift;
    Ok(())
}

/// MOVLPS, MOVHPS, MOVLPD, MOVHPD, MOVHLPS, MOVLHPS.
pub fn half_handler(high: bool, form: u8) -> Option<Handler> {
    match high {
        false => forms!(form, [RR, RM, MR], half, [false]),
        true => forms!(form, [RR, RM, MR], half, [true]),
    }
}

/// The top bit of each element of `BITS` bits.
fn signs<const BITS: u32>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let value = e.fpu.xmm[usize::from(u.src)];
    let signs = (0..128 / BITS)
        .map(|index| (value >> (BITS * (index + 1) - 1) & 1) as u64 * (1 << index))
        .sum();
    e.write::<64>(u.dst, signs);
    Ok(())
}

/// PMOVMSKB, MOVMSKPS and MOVMSKPD.
pub fn signs_handler(mnemonic: Mnemonic) -> Option<Handler> {
    match mnemonic {
        Mnemonic::Pmovmskb => Some(signs::<8>),
        Mnemonic::Movmskps => Some(signs::<32>),
        Mnemonic::Movmskpd => Some(signs::<64>),
        _ => None,
    }
}

/// PEXTRW.
pub fn pextrw(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let value = e.fpu.xmm[usize::from(u.src)] >> (16 * (u.imm & 7)) & 0xffff;
    e.write::<64>(u.dst, value as u64);
    Ok(())
}

fn pinsrw<const FORM: u8>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let new = match FORM {
        form::RM => e.load_operand::<16>(u)?,
        _ => e.read::<16>(u.src),
    };
    let shift = 16 * (u.imm & 7);
    let to = &mut e.fpu.xmm[usize::from(u.dst)];
    *to = *to & !(0xffff << shift) | u128::from(new) << shift;
    Ok(())
}

/// PINSRW.
pub fn pinsrw_handler(form: u8) -> Option<Handler> {
    forms!(form, [RR, RM], pinsrw, [])
}

/// STMXCSR.
pub fn stmxcsr(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    e.store_operand::<32>(u, e.fpu.mxcsr.into())
}

/// LDMXCSR.
pub fn ldmxcsr(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let value = e.load_operand::<32>(u)? as u32;
    if value & !e.fpu.mxcsr_mask != 0 {
        return e.general_protection();
    }
    e.fpu.mxcsr = value;
    Ok(())
}

fn image_address(e: &mut Engine, u: &Uop) -> Result<(u64, bool), Trapped> {
    let (address, stack) = (e.address(u), u.bits & STACK != 0);
    if address.is_multiple_of(16) {
        return Ok((address, stack));
    }
    if is_canonical(address) { e.general_protection() } else { e.not_canonical(stack) }
}

/// FXSAVE64 with WIDE, else FXSAVE.
pub fn fxsave<const WIDE: bool>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let (address, stack) = image_address(e, u)?;
    // The area's end is not written, and must be writable.
    e.modify_at::<8, ()>(address.wrapping_add(AREA - 1), stack, |_, last| (last, ()))?;
    let image = if WIDE { e.fpu.image() } else { e.fpu.short_image() };
    e.store_bytes(address, &image, stack)
}

/// FXRSTOR64 with WIDE, else FXRSTOR.
pub fn fxrstor<const WIDE: bool>(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    let (address, stack) = image_address(e, u)?;
    e.load_at::<8>(address.wrapping_add(AREA - 1), stack)?;
    let mut image = [0; IMAGE];
    e.load_bytes(address, &mut image, stack)?;
    let loaded = if WIDE { e.fpu.load(&image) } else { e.fpu.load_short(&image) };
    if loaded { Ok(()) } else { e.general_protection() }
}
