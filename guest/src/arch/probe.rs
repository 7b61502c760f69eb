//! Accesses in kernel mode that may fault.

use super::memory::symbol;
use core::arch::global_asm;

// Kernel accesses that may fault: RAX the value or error code, RDX 1 if it faulted.
global_asm!(
    ".section .text.probe, \"ax\"",
    ".global probe_read_asm, probe_write_asm",
    "probe_begin:",
    "probe_read_asm:",
    "mov rax, [rdi]",
    "xor edx, edx",
    "ret",
    "probe_write_asm:",
    "mov [rdi], rsi",
    "xor eax, eax",
    "xor edx, edx",
    "ret",
    "probe_end:",
    "probe_faulted:",
    "mov edx, 1",
    "ret",
    ".global probe_begin, probe_end, probe_faulted",
);

#[repr(C)]
struct Probed {
    value: u64,
    faulted: u64,
}

unsafe extern "C" {
    fn probe_read_asm(va: u64) -> Probed;
    fn probe_write_asm(va: u64, value: u64) -> Probed;
}

impl Probed {
    fn result(self) -> Result<u64, (u64, u64)> {
        match self.faulted {
            0 => Ok(self.value),
            _ => Err((self.value, super::cpu::read_cr2())),
        }
    }
}

/// Loads a word at `va` in kernel mode.
///
/// # Errors
/// The page fault's error code and CR2.
pub fn probe_read(va: u64) -> Result<u64, (u64, u64)> {
    // SAFETY: a fault of the load is caught by `kernel_fault`; test pages hold plain words.
    unsafe { probe_read_asm(va) }.result()
}

/// Stores a word at `va` in kernel mode.
///
/// # Errors
/// The page fault's error code and CR2.
pub fn probe_write(va: u64, value: u64) -> Result<u64, (u64, u64)> {
    // SAFETY: as in `probe_read`; no Rust object lives in a test page.
    unsafe { probe_write_asm(va, value) }.result()
}

/// Where a fault at `rip` goes on, if that is one of the accesses.
pub(super) fn fixup(rip: u64) -> Option<u64> {
    let inside = (symbol!(probe_begin)..symbol!(probe_end)).contains(&rip);
    inside.then(|| symbol!(probe_faulted))
}
