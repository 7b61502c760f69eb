//! Paging-structure entries: which bits the kernel gives its pages.

use stalemate_shared::step::flags;
use x86_64::structures::paging::PageTableFlags as F;

/// What a table entry that references another table allows: everything; leaves decide.
#[must_use]
pub fn table(frame: u64) -> u64 {
    frame | (F::PRESENT | F::WRITABLE | F::USER_ACCESSIBLE | F::ACCESSED).bits()
}

/// A table of the kernel half.
#[must_use]
pub fn kernel_table(frame: u64) -> u64 {
    frame | (F::PRESENT | F::WRITABLE | F::ACCESSED).bits()
}

/// The kernel root's entry for the user half under PTI: user code cannot run on it, so that a
/// return with the wrong CR3 faults at once.
#[must_use]
pub fn poisoned(entry: u64) -> u64 {
    entry | F::NO_EXECUTE.bits()
}

/// Permissions of a page of the kernel's direct map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Code.
    Execute,
    /// Constants.
    Read,
    /// Everything else.
    Write,
}

/// A leaf of the direct map. A and D are set at once: the kernel never looks at them.
#[must_use]
pub fn direct(frame: u64, protection: Protection, global: bool) -> u64 {
    let flags = match protection {
        Protection::Execute => F::empty(),
        Protection::Read => F::NO_EXECUTE,
        Protection::Write => F::NO_EXECUTE | F::WRITABLE | F::DIRTY,
    };
    let global = if global { F::GLOBAL } else { F::empty() };
    frame | (F::PRESENT | F::ACCESSED | flags | global).bits()
}

/// The leaf of the page of user code.
#[must_use]
pub fn user_code(frame: u64) -> u64 {
    frame | (F::PRESENT | F::USER_ACCESSIBLE | F::ACCESSED).bits()
}

/// The leaf of a test page: A and D clear unless `flags::DIRTY` says otherwise.
#[must_use]
pub fn test_page(frame: u64, step_flags: u64, user: bool, global: bool) -> u64 {
    let mut bits = F::PRESENT | F::NO_EXECUTE;
    bits.set(F::USER_ACCESSIBLE, user);
    bits.set(F::GLOBAL, global && !user);
    bits.set(F::WRITABLE, step_flags & flags::WRITABLE != 0);
    bits.set(F::HUGE_PAGE, step_flags & flags::LARGE != 0);
    bits.set(F::ACCESSED | F::DIRTY, step_flags & flags::DIRTY != 0);
    frame | bits.bits()
}

/// `entry` with R/W as the step says.
#[must_use]
pub fn protected(entry: u64, step_flags: u64) -> u64 {
    let writable = F::WRITABLE.bits();
    entry & !writable | if step_flags & flags::WRITABLE != 0 { writable } else { 0 }
}

/// Bit 9, which is software's: the page is shared, and copied at the first store.
const COPY_ON_WRITE: F = F::BIT_9;

/// `entry` as a copy of it that both owners may only read.
#[must_use]
pub fn shared(entry: u64) -> u64 {
    match F::from_bits_retain(entry).contains(F::WRITABLE) {
        true => entry & !F::WRITABLE.bits() | COPY_ON_WRITE.bits(),
        false => entry,
    }
}

/// Whether a store makes a copy of the page.
#[must_use]
pub fn is_shared(entry: u64) -> bool {
    entry & COPY_ON_WRITE.bits() != 0
}

/// `entry` for the copy in `frame`: writable, D clear.
#[must_use]
pub fn copied(entry: u64, frame: u64) -> u64 {
    let kept = entry & !(stalemate_shared::pcid::ROOT_MASK | COPY_ON_WRITE.bits());
    clean(kept) | frame | F::WRITABLE.bits()
}

/// `entry` with another frame.
#[must_use]
pub fn moved(entry: u64, frame: u64) -> u64 {
    entry & !stalemate_shared::pcid::ROOT_MASK | frame
}

/// The 4 KiB part `index` of the large page `entry`.
#[must_use]
pub fn part(entry: u64, index: u64) -> u64 {
    (entry & !F::HUGE_PAGE.bits()) + (index << 12)
}

/// The large page whose first 4 KiB part is `first`.
#[must_use]
pub fn joined(first: u64) -> u64 {
    first | F::HUGE_PAGE.bits()
}

/// A.
pub const ACCESSED: u64 = F::ACCESSED.bits();
/// D.
pub const DIRTY: u64 = F::DIRTY.bits();

/// Whether P is set.
#[must_use]
pub fn is_present(entry: u64) -> bool {
    entry & F::PRESENT.bits() != 0
}

/// Whether user mode may use it.
#[must_use]
pub fn is_user(entry: u64) -> bool {
    entry & F::USER_ACCESSIBLE.bits() != 0
}

/// Whether it may be written.
#[must_use]
pub fn is_writable(entry: u64) -> bool {
    entry & F::WRITABLE.bits() != 0
}

/// Whether it maps a large page.
#[must_use]
pub fn is_large(entry: u64) -> bool {
    entry & F::HUGE_PAGE.bits() != 0
}

/// `entry` with D clear.
#[must_use]
pub fn clean(entry: u64) -> u64 {
    entry & !F::DIRTY.bits()
}

/// `entry` with A clear.
#[must_use]
pub fn aged(entry: u64) -> u64 {
    entry & !F::ACCESSED.bits()
}

/// The frame that an entry references.
#[must_use]
pub fn frame(entry: u64) -> u64 {
    entry & stalemate_shared::pcid::ROOT_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_only_user_page_is_not_executable_and_not_accessed() {
        assert_eq!(test_page(0x5000, 0, true, true), 0x8000_0000_0000_5005);
    }

    #[test]
    fn kernel_test_pages_are_global_where_kernel_pages_are() {
        assert_eq!(test_page(0x5000, flags::WRITABLE, false, true), 0x8000_0000_0000_5103);
    }

    #[test]
    fn a_copy_is_writable_again_and_clean() {
        let entry = test_page(0x5000, flags::WRITABLE | flags::DIRTY, true, false);
        let shared = shared(entry);
        assert!(is_shared(shared) && shared & 2 == 0);
        assert_eq!(copied(shared, 0x9000), clean(entry) - 0x5000 + 0x9000);
        assert_eq!(super::shared(entry & !2), entry & !2, "what nobody may write is just shared");
    }

    #[test]
    fn a_large_page_comes_apart_and_together() {
        let entry = test_page(0x20_0000, flags::LARGE | flags::WRITABLE, true, false);
        assert_eq!(part(entry, 3), test_page(0x20_3000, flags::WRITABLE, true, false));
        assert_eq!(joined(part(entry, 0)), entry);
    }

    #[test]
    fn protecting_changes_one_bit() {
        let entry = test_page(0x5000, flags::WRITABLE, true, false);
        assert_eq!(entry ^ protected(entry, 0), 2);
        assert_eq!(protected(protected(entry, 0), flags::WRITABLE), entry);
    }
}
