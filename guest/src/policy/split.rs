//! `split`: the little hammer in the kernel PCID now; the user PCID marked and flushed when its
//! tables are next loaded, or one address of it at once where the CPU has INVPCID. A kernel page
//! makes the other ASIDs flush at their next switch.
//!
//! Other policies call these methods. They are not inlined, so that a report names the one that a
//! flush was in.

use super::contract::Policy;
use crate::arch::{cpu, percpu, trampoline};
use crate::config::config;
use stalemate_shared::pcid::{ASID_SLOTS, user_pcid};

const CR4_PGE: u64 = 1 << 7;

/// The policy.
pub struct Split;

fn loaded_asid() -> u16 {
    percpu::loaded_mm_asid() as u16
}

impl Policy for Split {
    #[inline(never)]
    fn flush_tlb_one_user(&self, va: u64) {
        cpu::invlpg(va);
        if config().pti && config().pcid {
            if config().invpcid {
                cpu::invpcid_address(user_pcid(loaded_asid()), va);
            } else {
                percpu::mark(loaded_asid());
            }
        }
    }

    /// INVLPG reaches globals in every PCID; where kernel pages are not global the other ASIDs hold
    /// entries of their own.
    #[inline(never)]
    fn flush_tlb_one_kernel(&self, va: u64) {
        cpu::invlpg(va);
        let in_trampoline = || trampoline::contains(va, config().cpus);
        if config().pcid && config().pti && !config().pge && in_trampoline() {
            percpu::mark(loaded_asid());
        }
        if config().pcid && !config().kernel_global {
            percpu::set_invalidate_other(1);
        }
    }

    /// The user PCID is marked, the kernel PCID flushed by a CR3 load.
    #[inline(never)]
    fn flush_tlb_mm(&self) {
        if config().pti && config().pcid {
            percpu::mark(loaded_asid());
        }
        cpu::load_cr3(cpu::read_cr3());
    }

    /// By the biggest hammer that the CPU has. A CR3 load alone would not reach the other PCIDs:
    /// without INVPCID and PGE they are marked, and flushed at their next switch.
    #[inline(never)]
    fn flush_tlb_all(&self) {
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

    /// The load flushes the kernel PCID. The user PCID is marked before it, so that no return can
    /// come between.
    #[inline(never)]
    fn switch_mm_flush(&self, cr3: u64, asid: u16) {
        if config().pti {
            percpu::mark(asid);
        }
        cpu::load_cr3(cr3);
    }
}

/// A change of CR4.PGE empties everything, globals too; the second change puts it back.
pub(super) fn toggle_pge() {
    let cr4 = percpu::cr4();
    cpu::write_cr4(cr4 ^ CR4_PGE);
    cpu::write_cr4(cr4);
}
