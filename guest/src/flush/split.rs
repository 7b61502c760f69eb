//! `split`: the little hammer in the kernel PCID now; the user PCID marked and flushed when its
//! tables are next loaded, or one address of it at once where the CPU has INVPCID. A kernel page
//! makes the other ASIDs flush at their next switch.

use super::Policy;
use crate::arch::{cpu, percpu};
use crate::config::config;
use crate::paging::is_trampoline;
use stalemate_shared::pcid::{ASID_SLOTS, user_pcid};

const CR4_PGE: u64 = 1 << 7;

/// The policy.
pub struct Split;

impl Policy for Split {
    fn flush_tlb_one_user(&self, va: u64) {
        flush_tlb_one_user(va);
    }

    fn flush_tlb_one_kernel(&self, va: u64) {
        flush_tlb_one_kernel(va);
    }

    fn flush_tlb_mm(&self) {
        flush_tlb_mm();
    }

    fn flush_tlb_all(&self) {
        flush_tlb_all();
    }

    fn switch_mm_flush(&self, cr3: u64, asid: u16) {
        switch_mm_flush(cr3, asid);
    }
}

fn loaded_asid() -> u16 {
    percpu::loaded_mm_asid() as u16
}

/// One user page of the loaded address space, in both its PCIDs.
#[inline(never)]
pub fn flush_tlb_one_user(va: u64) {
    cpu::invlpg(va);
    if config().pti && config().pcid {
        if config().invpcid {
            cpu::invpcid_address(user_pcid(loaded_asid()), va);
        } else {
            percpu::mark(loaded_asid());
        }
    }
}

/// One kernel page. INVLPG reaches globals in every PCID; where kernel pages are not global the
/// other ASIDs hold entries of their own.
#[inline(never)]
pub fn flush_tlb_one_kernel(va: u64) {
    cpu::invlpg(va);
    if config().pcid && config().pti && !config().pge && is_trampoline(va) {
        percpu::mark(loaded_asid());
    }
    if config().pcid && !config().kernel_global {
        percpu::set_invalidate_other(1);
    }
}

/// The loaded address space: the user PCID is marked, the kernel PCID flushed by a CR3 load.
#[inline(never)]
pub fn flush_tlb_mm() {
    if config().pti && config().pcid {
        percpu::mark(loaded_asid());
    }
    cpu::load_cr3(cpu::read_cr3());
}

/// Everything, by the biggest hammer that the CPU has. A CR3 load alone would not reach the other
/// PCIDs: without INVPCID and PGE they are marked, and flushed at their next switch.
#[inline(never)]
pub fn flush_tlb_all() {
    if config().invpcid {
        cpu::invpcid_all();
    } else if config().pge {
        toggle_pge();
    } else {
        if config().pcid {
            if config().pti {
                (0..ASID_SLOTS as u16).for_each(percpu::mark);
            }
            percpu::set_invalidate_other(1);
        }
        cpu::load_cr3(cpu::read_cr3());
    }
}

/// A change of CR4.PGE empties everything, globals too; the second change puts it back.
pub(super) fn toggle_pge() {
    let cr4 = percpu::cr4();
    cpu::write_cr4(cr4 ^ CR4_PGE);
    cpu::write_cr4(cr4);
}

/// Loads `cr3`, which flushes the kernel PCID of slot `asid`. The user PCID is marked before the
/// load, so that no return can come between.
#[inline(never)]
pub fn switch_mm_flush(cr3: u64, asid: u16) {
    if config().pti {
        percpu::mark(asid);
    }
    cpu::load_cr3(cr3);
}
