//! `eager`: the user PCID is flushed at once, never deferred. INVPCID reaches it from the kernel
//! CR3; without INVPCID the trampoline hops to the user CR3 and back.
//!
//! A hop goes to the user PCID of the *loaded* address space and nowhere else: under another
//! PCID the processor would cache translations of the wrong root.

use super::Policy;
use crate::arch::{cpu, hop, percpu};
use crate::config::config;
use crate::paging::is_trampoline;
use stalemate_shared::pcid::user_pcid;

/// The policy.
pub struct Eager;

impl Policy for Eager {
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

/// The user half has a PCID of its own.
pub(super) fn has_user_pcid() -> bool {
    config().pti && config().pcid
}

/// The user PCID of the loaded address space.
pub(super) fn loaded_user_pcid() -> u16 {
    user_pcid(percpu::loaded_mm_asid() as u16)
}

fn flush_user_page(va: u64) {
    if config().invpcid {
        cpu::invpcid_address(loaded_user_pcid(), va);
    } else {
        hop::invlpg_user(va);
    }
}

/// One user page of the loaded address space, in both its PCIDs.
#[inline(never)]
pub fn flush_tlb_one_user(va: u64) {
    cpu::invlpg(va);
    if has_user_pcid() {
        flush_user_page(va);
    }
}

/// One kernel page: the other ASIDs at their next switch, as in `split`.
#[inline(never)]
pub fn flush_tlb_one_kernel(va: u64) {
    cpu::invlpg(va);
    if has_user_pcid() && !config().pge && is_trampoline(va) {
        flush_user_page(va);
    }
    if config().pcid && !config().kernel_global {
        percpu::set_invalidate_other(1);
    }
}

/// Both PCIDs of the loaded address space.
#[inline(never)]
pub fn flush_tlb_mm() {
    if has_user_pcid() && !config().invpcid {
        hop::flush_pair();
        return;
    }
    if has_user_pcid() {
        cpu::invpcid_single(loaded_user_pcid());
    }
    cpu::load_cr3(cpu::read_cr3());
}

/// Everything. Without INVPCID and PGE the other ASIDs flush both their PCIDs at their next switch.
#[inline(never)]
pub fn flush_tlb_all() {
    if config().invpcid {
        cpu::invpcid_all();
    } else if config().pge {
        super::split::toggle_pge();
    } else {
        if config().pcid {
            percpu::set_invalidate_other(1);
        }
        flush_tlb_mm();
    }
}

/// Loads `cr3` and empties both PCIDs of its slot. The load comes first, so that a hop goes to the
/// new address space.
#[inline(never)]
pub fn switch_mm_flush(cr3: u64, asid: u16) {
    cpu::load_cr3(cr3);
    if config().pti {
        if config().invpcid {
            cpu::invpcid_single(user_pcid(asid));
        } else {
            hop::flush_user();
        }
    }
}
