//! `eager`: the user PCID is flushed at once, never deferred. INVPCID reaches it from the kernel
//! CR3; without INVPCID the trampoline hops to the user CR3 and back.
//!
//! A hop goes to the user PCID of the *loaded* address space and nowhere else: under another
//! PCID the processor would cache translations of the wrong root.

use super::contract::Policy;
use super::split::toggle_pge;
use crate::arch::{cpu, hop, percpu, trampoline};
use crate::config::config;
use stalemate_shared::pcid::user_pcid;

/// The policy.
pub struct Eager;

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

impl Policy for Eager {
    fn flush_tlb_one_user(&self, va: u64) {
        cpu::invlpg(va);
        if has_user_pcid() {
            flush_user_page(va);
        }
    }

    /// The other ASIDs at their next switch, as in `split`.
    fn flush_tlb_one_kernel(&self, va: u64) {
        cpu::invlpg(va);
        if has_user_pcid() && !config().pge && trampoline::contains(va, config().cpus) {
            flush_user_page(va);
        }
        if config().pcid && !config().kernel_global {
            percpu::set_invalidate_other(1);
        }
    }

    #[inline(never)]
    fn flush_tlb_mm(&self) {
        if has_user_pcid() && !config().invpcid {
            hop::flush_pair();
            return;
        }
        if has_user_pcid() {
            cpu::invpcid_single(loaded_user_pcid());
        }
        cpu::load_cr3(cpu::read_cr3());
    }

    /// Without INVPCID and PGE the other ASIDs flush both their PCIDs at their next switch.
    #[inline(never)]
    fn flush_tlb_all(&self) {
        if config().invpcid {
            cpu::invpcid_all();
        } else if config().pge {
            toggle_pge();
        } else {
            if config().pcid {
                percpu::set_invalidate_other(1);
            }
            self.flush_tlb_mm();
        }
    }

    /// The load comes first, so that a hop goes to the new address space.
    #[inline(never)]
    fn switch_mm_flush(&self, cr3: u64, asid: u16) {
        cpu::load_cr3(cr3);
        if config().pti {
            if config().invpcid {
                cpu::invpcid_single(user_pcid(asid));
            } else {
                hop::flush_user();
            }
        }
    }
}
