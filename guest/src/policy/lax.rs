//! `lax`: as `split`, but the user half of one page is always marked, never flushed by INVPCID.

use super::contract::Policy;
use super::split::Split;
use crate::arch::{cpu, percpu};
use crate::config::config;

/// The policy.
pub struct Lax;

impl Policy for Lax {
    /// Now in the kernel PCID, later in the user PCID.
    fn flush_tlb_one_user(&self, va: u64) {
        cpu::invlpg(va);
        if config().pti && config().pcid {
            percpu::mark(percpu::loaded_mm_asid() as u16);
        }
    }

    fn flush_tlb_one_kernel(&self, va: u64) {
        Split.flush_tlb_one_kernel(va);
    }

    fn flush_tlb_mm(&self) {
        Split.flush_tlb_mm();
    }

    fn flush_tlb_all(&self) {
        Split.flush_tlb_all();
    }

    fn switch_mm_flush(&self, cr3: u64, asid: u16) {
        Split.switch_mm_flush(cr3, asid);
    }
}
