//! The trampoline: what user roots map of the kernel half. Entry code, the data that it and the
//! processor read, and the stacks that the processor switches to.

use super::memory;
use core::ops::Range;
use stalemate_shared::layout::{ENTRY_STACKS, KERNEL_BASE, PAGE_SIZE, STACKS};

/// Guest-physical addresses of the stacks of `cpus` CPUs.
#[must_use]
pub fn stacks(cpus: u64) -> Range<u64> {
    STACKS..STACKS + cpus * ENTRY_STACKS * PAGE_SIZE
}

/// Kernel addresses of the trampoline of `cpus` CPUs.
#[must_use]
pub fn ranges(cpus: u64) -> [Range<u64>; 3] {
    let stacks = stacks(cpus);
    let stacks = stacks.start + KERNEL_BASE..stacks.end + KERNEL_BASE;
    [memory::trampoline_text(), memory::trampoline_data(), stacks]
}

/// Whether the kernel address `va` is in the trampoline of `cpus` CPUs.
#[must_use]
pub fn contains(va: u64, cpus: u64) -> bool {
    ranges(cpus).iter().any(|range| range.contains(&va))
}
