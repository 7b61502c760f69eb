//! `joined`: the kernel and user PCIDs of an ASID are always flushed together, and no mark stands
//! for one of them; other contexts at their next switch (Hansen's patch of November 2017).
//!
//! That patch used PCIDs only where the CPU has INVPCID. Without INVPCID no single instruction
//! reaches a page in both PCIDs: here the pair is then flushed whole, by two CR3 loads.

use super::contract::Policy;
use super::eager::{Eager, has_user_pcid, loaded_user_pcid};
use crate::arch::{cpu, hop, percpu};
use crate::config::config;

/// The policy.
pub struct Joined;

impl Policy for Joined {
    fn flush_tlb_one_user(&self, va: u64) {
        if has_user_pcid() && !config().invpcid {
            hop::flush_pair();
            return;
        }
        cpu::invlpg(va);
        if has_user_pcid() {
            cpu::invpcid_address(loaded_user_pcid(), va);
        }
    }

    /// In both PCIDs as well. INVLPG is for globals, which no CR3 load reaches.
    fn flush_tlb_one_kernel(&self, va: u64) {
        cpu::invlpg(va);
        if has_user_pcid() {
            if config().invpcid {
                cpu::invpcid_address(loaded_user_pcid(), va);
            } else {
                hop::flush_pair();
            }
        }
        if config().pcid && !config().kernel_global {
            percpu::set_invalidate_other(1);
        }
    }

    fn flush_tlb_mm(&self) {
        Eager.flush_tlb_mm();
    }

    fn flush_tlb_all(&self) {
        Eager.flush_tlb_all();
    }

    fn switch_mm_flush(&self, cr3: u64, asid: u16) {
        Eager.switch_mm_flush(cr3, asid);
    }
}
