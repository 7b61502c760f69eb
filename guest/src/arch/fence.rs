//! Barriers, and the accesses that they are between: each of these instructions is noted in the
//! section `.fences`, so that a test finds it, and a variant of the kernel can leave it out. See
//! [`crate::fence`].

use super::memory::{symbol, write_bytes};
use crate::fence::{AFTER, BARRIER, Barrier, FENCES, Record, STORE};
use core::arch::asm;
use stalemate_shared::variant::Variant;

/// The directives that note the next instruction, as `kind` of barrier `number`, both operands.
macro_rules! noted {
    () => {
        ".pushsection .fences, \"a\"\n.quad 2f, {number}, {kind}\n.popsection\n2:"
    };
}
pub(super) use noted;

/// MFENCE.
#[inline(always)]
pub fn mfence<const NUMBER: u64>() {
    // SAFETY: orders memory accesses and changes nothing.
    unsafe {
        asm!(noted!(), "mfence", number = const NUMBER, kind = const BARRIER,
             options(nostack, preserves_flags));
    };
}

/// MFENCE and LFENCE.
#[inline(always)]
pub fn mfence_lfence<const NUMBER: u64>() {
    mfence::<NUMBER>();
    // SAFETY: as in `mfence`.
    unsafe { asm!("lfence", options(nostack, preserves_flags)) };
}

/// Writes the word at kernel-virtual `va`, with one MOV: what the barrier is after.
#[inline(always)]
pub(super) fn store<const NUMBER: u64>(va: u64, value: u64) {
    // SAFETY: as in `memory::write_word`.
    unsafe {
        asm!(noted!(), "mov qword ptr [{at}], {value}", number = const NUMBER,
             kind = const STORE, at = in(reg) va, value = in(reg) value,
             options(nostack, preserves_flags));
    };
}

/// Reads the word at kernel-virtual `va`, with one MOV: what the barrier is before.
#[inline(always)]
pub(super) fn load<const NUMBER: u64>(va: u64) -> u64 {
    let value;
    // SAFETY: as in `memory::read_word`.
    unsafe {
        asm!(noted!(), "mov {value}, qword ptr [{at}]", number = const NUMBER,
             kind = const AFTER, at = in(reg) va, value = out(reg) value,
             options(nostack, preserves_flags));
    };
    value
}

/// Writes a model-specific register, which the barrier is before.
#[inline(always)]
pub(super) fn wrmsr_after<const NUMBER: u64>(register: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: as in `cpu::wrmsr`; callers write the interrupt command register.
    unsafe {
        asm!(noted!(), "wrmsr", number = const NUMBER, kind = const AFTER, in("ecx") register,
             in("eax") low, in("edx") high, options(nostack, preserves_flags));
    };
}

/// Patches the barrier out that a variant of the kernel leaves out, before anything but boot code
/// has run.
pub fn leave_out(variant: Option<Variant>) {
    let Some(fence) = FENCES.iter().find(|fence| Some(fence.variant) == variant) else { return };
    let (mut at, end) = (symbol!(__fences_start), symbol!(__fences_end));
    while at < end {
        // SAFETY: the linker has put whole records there, and nothing writes them.
        let record = unsafe { *(at as *const Record) };
        if record.number == fence.number && record.kind == BARRIER {
            match fence.instruction {
                Barrier::Mfence => write_bytes(record.address, &LONG_NOP),
                Barrier::MfenceLfence => {
                    write_bytes(record.address, &LONG_NOP);
                    write_bytes(record.address + 3, &LONG_NOP);
                }
                Barrier::Lock => write_bytes(record.address, &NOP),
            }
        }
        at += size_of::<Record>() as u64;
    }
}

/// NOP in the length of MFENCE.
const LONG_NOP: [u8; 3] = [0x0f, 0x1f, 0x00];
/// NOP in the length of a LOCK prefix.
const NOP: [u8; 1] = [0x90];
