//! PCID and CR3 arithmetic: which hardware tags an ASID slot owns and what goes into CR3.
//!
//! The number spaces are those of Linux (`arch/x86/mm/tlb.c`): an ASID slot `a` owns the kernel
//! PCID `a + 1` and the user PCID `(a + 1) | 1 << 11`. PCID 0 is left to code that knows no PCIDs.

/// Number of ASID slots per CPU.
pub const ASID_SLOTS: usize = 6;
/// CR3 bit 63: keep what is tagged with the new PCID. Never stored in CR3.
pub const NOFLUSH: u64 = 1 << 63;
/// The PCID field of CR3.
pub const PCID_MASK: u64 = 0xfff;
/// The physical address field of CR3.
pub const ROOT_MASK: u64 = 0x000f_ffff_ffff_f000;
/// The bit of the PCID field that tells a user PCID from its kernel PCID.
pub const USER_PCID_BIT: u64 = 1 << 11;
/// The CR3 bit that tells a user root from its kernel root: the pair lies 4 KiB apart.
pub const USER_ROOT_BIT: u64 = 1 << 12;

/// The kernel PCID of slot `asid`.
#[must_use]
pub const fn kernel_pcid(asid: u16) -> u16 {
    asid + 1
}

/// The user PCID of slot `asid`.
#[must_use]
pub const fn user_pcid(asid: u16) -> u16 {
    kernel_pcid(asid) | USER_PCID_BIT as u16
}

/// The bit of `user_pcid_flush_mask` that marks slot `asid`. The return path computes the same
/// index from CR3, so it is the kernel PCID and not the ASID.
#[must_use]
pub const fn mark_bit(asid: u16) -> u64 {
    1 << kernel_pcid(asid)
}
