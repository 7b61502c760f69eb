//! `fallback`: as `split`, but a kernel page is flushed by the big hammer wherever the little one
//! does not reach every ASID (Lutomirski, 1 Nov 2017: let `__flush_tlb_one_kernel` do
//! `__flush_tlb_all` under KAISER). The report says how often that was.

use super::contract::Policy;
use super::split::Split;
use crate::config::config;

/// The policy.
pub struct Fallback;

impl Policy for Fallback {
    fn flush_tlb_one_user(&self, va: u64) {
        Split.flush_tlb_one_user(va);
    }

    /// Everything, where other ASIDs may hold the page under PCIDs of their own.
    fn flush_tlb_one_kernel(&self, va: u64) {
        if config().pcid && !config().kernel_global {
            Split.flush_tlb_all();
        } else {
            Split.flush_tlb_one_kernel(va);
        }
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
