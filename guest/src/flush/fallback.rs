//! `fallback`: as `split`, but a kernel page is flushed by the big hammer wherever the little one
//! does not reach every ASID (Lutomirski, 1 Nov 2017: let `__flush_tlb_one_kernel` do
//! `__flush_tlb_all` under KAISER). The report says how often that was.

use super::{Policy, split};
use crate::config::config;

/// The policy.
pub struct Fallback;

impl Policy for Fallback {
    fn flush_tlb_one_user(&self, va: u64) {
        split::flush_tlb_one_user(va);
    }

    fn flush_tlb_one_kernel(&self, va: u64) {
        flush_tlb_one_kernel(va);
    }

    fn flush_tlb_mm(&self) {
        split::flush_tlb_mm();
    }

    fn flush_tlb_all(&self) {
        split::flush_tlb_all();
    }

    fn switch_mm_flush(&self, cr3: u64, asid: u16) {
        split::switch_mm_flush(cr3, asid);
    }
}

/// One kernel page: everything, where other ASIDs may hold the page under PCIDs of their own.
#[inline(never)]
pub fn flush_tlb_one_kernel(va: u64) {
    if config().pcid && !config().kernel_global {
        split::flush_tlb_all();
    } else {
        split::flush_tlb_one_kernel(va);
    }
}
