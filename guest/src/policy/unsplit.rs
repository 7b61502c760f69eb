//! `unsplit`: the user half as `split`, but one function for user and kernel pages, as it was
//! before the split (Linux before 1299ef1d8870). `invalidate_other` is never set: other ASIDs
//! keep what they hold of a kernel page that is not global.

use super::contract::Policy;
use super::split::Split;

/// The policy.
pub struct Unsplit;

impl Policy for Unsplit {
    fn flush_tlb_one_user(&self, va: u64) {
        Split.flush_tlb_one_user(va);
    }

    fn flush_tlb_one_kernel(&self, va: u64) {
        Split.flush_tlb_one_user(va);
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
