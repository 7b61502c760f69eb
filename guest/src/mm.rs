//! Switching address spaces.

use crate::arch::{cpu, percpu};
use crate::asid;
use crate::flush::{config, policy};
use stalemate_shared::pcid::{ASID_SLOTS, NOFLUSH, kernel_pcid};
use stalemate_shared::tlb_state::{MmState, Slot};

/// The first address space is in CR3, in slot 0, and flushed.
pub fn adopt_first() {
    let first = percpu::mm_state(0);
    percpu::set_slot(0, Slot { ctx_id: first.ctx_id, tlb_gen: first.tlb_gen });
    percpu::set_next_asid(1);
    percpu::set_loaded_mm(first.ctx_id);
}

/// Whether the address space is the one in CR3.
#[must_use]
pub fn is_loaded(mm: &MmState) -> bool {
    percpu::loaded_mm() == mm.ctx_id
}

/// Loads address space `number`, if it is not loaded: in the slot that it has, flushed where its
/// generation lags; else in the next slot, flushed.
#[inline(never)]
pub fn switch_mm(number: usize) {
    let next = percpu::mm_state(number);
    if is_loaded(&next) {
        return;
    }
    if !config().pcid {
        // Without PCIDs every CR3 load flushes.
        percpu::set_slot(0, Slot { ctx_id: next.ctx_id, tlb_gen: next.tlb_gen });
        cpu::load_cr3(next.kernel_root);
        percpu::set_loaded_mm(next.ctx_id);
        return;
    }
    if percpu::invalidate_other() != 0 {
        clear_asid_other();
    }
    let slots = percpu::slots();
    let choice = asid::choose(&slots, percpu::next_asid(), next.ctx_id, next.tlb_gen);
    if choice.taken {
        percpu::set_next_asid((u64::from(choice.asid) + 1) % ASID_SLOTS as u64);
    }
    let cr3 = next.kernel_root | u64::from(kernel_pcid(choice.asid));
    if choice.need_flush {
        percpu::set_slot(choice.asid, Slot { ctx_id: next.ctx_id, tlb_gen: next.tlb_gen });
        policy().switch_mm_flush(cr3, choice.asid);
    } else {
        cpu::load_cr3(cr3 | NOFLUSH);
    }
    percpu::set_loaded_mm(next.ctx_id);
    percpu::set_loaded_mm_asid(u64::from(choice.asid));
}

/// Kernel entries in the other ASIDs are stale: whoever owns their slots must flush.
fn clear_asid_other() {
    let loaded = percpu::loaded_mm_asid() as u16;
    for asid in (0..ASID_SLOTS as u16).filter(|&asid| asid != loaded) {
        percpu::set_slot(asid, Slot { ctx_id: 0, ..percpu::slot(asid) });
    }
    percpu::set_invalidate_other(0);
}
