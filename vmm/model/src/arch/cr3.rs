//! The fields of CR3 with CR4.PCIDE=1 (SDM vol. 3, table 4-12, and 2.5).

use super::addr::{Gpa, Pcid};

/// Bit 63 of a load's operand: keep what is tagged with the new PCID. Never stored in CR3.
pub const NOFLUSH: u64 = 1 << 63;
/// The PCID.
pub const PCID_MASK: u64 = 0xfff;
/// The physical address of the root table.
pub const ROOT_MASK: u64 = 0x000f_ffff_ffff_f000;

/// The root table that a value of CR3 names.
#[must_use]
pub const fn root(value: u64) -> Gpa {
    Gpa(value & ROOT_MASK)
}

/// The PCID that a value of CR3 makes current: 0 without CR4.PCIDE.
#[must_use]
pub const fn pcid(value: u64, pcide: bool) -> Pcid {
    Pcid::new(if pcide { (value & PCID_MASK) as u16 } else { 0 })
}
