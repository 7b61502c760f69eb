//! `full`: every flush is the big hammer.

use super::contract::Policy;
use super::split::Split;

/// The policy.
pub struct Full;

impl Policy for Full {
    fn flush_tlb_one_user(&self, _: u64) {
        Split.flush_tlb_all();
    }

    fn flush_tlb_one_kernel(&self, _: u64) {
        Split.flush_tlb_all();
    }

    fn flush_tlb_mm(&self) {
        Split.flush_tlb_all();
    }

    fn flush_tlb_all(&self) {
        Split.flush_tlb_all();
    }

    fn switch_mm_flush(&self, cr3: u64, asid: u16) {
        Split.switch_mm_flush(cr3, asid);
    }
}
