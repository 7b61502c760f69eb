//! The hop: to the user CR3 of the loaded address space and back, by code that both roots map. Only
//! with PTI and PCIDs.

use core::arch::global_asm;

global_asm!(
    ".section .trampoline.text, \"ax\"",
    // One user page. Both loads are NOFLUSH.
    ".global hop_invlpg_user",
    ".type hop_invlpg_user, @function",
    "hop_invlpg_user:",
    "mov rcx, cr3",
    "bts rcx, 63",
    "mov rax, rcx",
    "or rax, 0x1800",
    ".global cr3_hop_out",
    "cr3_hop_out:",
    "mov cr3, rax",
    "invlpg [rdi]",
    ".global cr3_hop_back",
    "cr3_hop_back:",
    "mov cr3, rcx",
    "ret",
    ".size hop_invlpg_user, . - hop_invlpg_user",
    // The whole user PCID: the load on the way out is not NOFLUSH.
    ".global hop_flush_user",
    ".type hop_flush_user, @function",
    "hop_flush_user:",
    "mov rcx, cr3",
    "mov rax, rcx",
    "or rax, 0x1800",
    "bts rcx, 63",
    "mov cr3, rax",
    "mov cr3, rcx",
    "ret",
    ".size hop_flush_user, . - hop_flush_user",
    // The user and the kernel PCID: neither load is.
    ".global hop_flush_pair",
    ".type hop_flush_pair, @function",
    "hop_flush_pair:",
    "mov rcx, cr3",
    "mov rax, rcx",
    "or rax, 0x1800",
    "mov cr3, rax",
    "mov cr3, rcx",
    "ret",
    ".size hop_flush_pair, . - hop_flush_pair",
);

unsafe extern "C" {
    fn hop_invlpg_user(va: u64);
    fn hop_flush_user();
    fn hop_flush_pair();
}

/// INVLPG in the user PCID.
pub fn invlpg_user(va: u64) {
    // SAFETY: the assembly is in the trampoline, uses no stack on the user CR3, and comes back
    // to the CR3 it found; only cached translations go.
    unsafe { hop_invlpg_user(va) };
}

/// Flushes the user PCID.
pub fn flush_user() {
    // SAFETY: as in `invlpg_user`.
    unsafe { hop_flush_user() };
}

/// Flushes the user PCID, and the kernel PCID on the way back.
pub fn flush_pair() {
    // SAFETY: as in `invlpg_user`.
    unsafe { hop_flush_pair() };
}
