//! Switching address spaces.

use crate::arch::memory::Word;
use crate::arch::{cpu, fence, percpu};
use crate::asid;
use crate::config::config;
use crate::fence::{LAZY_EXIT, SWITCH};
use crate::policy::policy;
use crate::variant;
use stalemate_shared::layout::{MAX_CPUS, MM_COUNT};
use stalemate_shared::pcid::{ASID_SLOTS, NOFLUSH, kernel_pcid};
use stalemate_shared::tlb_state::{MmState, Slot};
use stalemate_shared::variant::Variant;

/// The address space without a user half.
pub const INIT: usize = MM_COUNT;

/// The context id of address space `number`.
#[must_use]
pub fn ctx_id(number: usize) -> u64 {
    number as u64 + 1
}

/// Address space `number` is in CR3, in slot 0, and flushed.
pub fn adopt_first(number: usize) {
    let first = percpu::mm_state(number);
    percpu::set_slot(0, Slot { ctx_id: first.ctx_id, tlb_gen: first.tlb_gen });
    percpu::set_next_asid(1);
    percpu::join(number);
    percpu::set_loaded_mm(first.ctx_id);
}

/// Whether the address space is the one in CR3.
#[must_use]
pub fn is_loaded(mm: &MmState) -> bool {
    percpu::loaded_mm() == mm.ctx_id
}

/// A kernel thread runs on whatever address space is loaded.
pub fn enter_lazy_tlb() {
    if percpu::loaded_mm() != ctx_id(INIT) {
        percpu::set_is_lazy(1);
    }
}

/// Loads address space `number`, if it is not loaded: in the slot that it has, flushed where its
/// generation lags; else in the next slot, flushed.
///
/// Promises: it is loaded, this CPU is not lazy, and its kernel PCID holds nothing stale that an
/// earlier flush of the address space was for.
///
/// Does not promise yet: the same of its user PCID, until user mode is next entered.
#[inline(never)]
pub fn switch_mm(number: usize) {
    let early = variant::is(Variant::CatchesUpWhileLazy) && percpu::is_lazy() != 0;
    if early && is_loaded(&percpu::mm_state(number)) {
        catch_up(&percpu::mm_state(number));
    }
    let was_lazy = match variant::is(Variant::LazyStays) {
        true => percpu::is_lazy() != 0,
        false => percpu::leave_lazy(),
    };
    if is_loaded(&percpu::mm_state(number)) {
        // Nobody has told a lazy CPU of flushes.
        if was_lazy && !early && !variant::is(Variant::LazyDoesNotCatchUp) {
            // A flush that found this CPU lazy has raised the generation before it looked.
            fence::mfence::<LAZY_EXIT>();
            catch_up(&percpu::mm_state_after::<LAZY_EXIT>(number));
        }
        return;
    }
    let previous = percpu::loaded_mm();
    // From here to the end CR3 and `loaded_mm` may disagree: whoever flushes must not pass over
    // this CPU.
    let open = variant::is(Variant::SwitchWithInterrupts);
    if open {
        cpu::enable_interrupts();
    } else {
        percpu::begin_switch();
    }
    let early = variant::is(Variant::GenerationBeforeCpumask);
    let early = early.then(|| percpu::mm_state(number));
    percpu::join(number);
    // Read after the cpumask was written, and `loaded_mm`: a flush that saw neither has raised it
    // before.
    fence::mfence::<SWITCH>();
    let next = early.unwrap_or_else(|| percpu::mm_state_after::<SWITCH>(number));
    let previous = (previous as usize).checked_sub(1);
    let early = variant::is(Variant::LeavesEarly);
    if let Some(previous) = previous.filter(|_| early) {
        percpu::leave(previous);
    }
    load(number, &next);
    if open {
        cpu::disable_interrupts();
    }
    percpu::set_loaded_mm(next.ctx_id);
    USER_RAN[percpu::number() as usize].set(0);
    // Only now can the CPU's walks no longer reach the tables of the previous one.
    if let Some(previous) = previous.filter(|_| !early) {
        percpu::leave(previous);
    }
}

/// Whether user mode has run since this CPU loaded its address space.
static USER_RAN: [Word; MAX_CPUS] = [const { Word::new(0) }; MAX_CPUS];

/// User mode runs now.
pub fn user_runs() {
    USER_RAN[percpu::number() as usize].set(1);
}

/// Whether user mode has run since this CPU loaded its address space. It says nothing of what
/// the processor has cached.
#[must_use]
pub fn user_has_run() -> bool {
    USER_RAN[percpu::number() as usize].get() != 0
}

/// Loads CR3 with the address space's root.
fn load(number: usize, next: &MmState) {
    if !config().pcid {
        // Without PCIDs every CR3 load flushes.
        percpu::set_slot(0, Slot { ctx_id: next.ctx_id, tlb_gen: next.tlb_gen });
        cpu::load_cr3(next.kernel_root);
        return;
    }
    if percpu::invalidate_other() != 0 {
        clear_asid_other();
    }
    let slots = percpu::slots();
    let mut choice = asid::choose(&slots, percpu::next_asid(), next.ctx_id, next.tlb_gen);
    if variant::is(Variant::SlotNotFlushed) {
        choice.need_flush &= !choice.taken;
    }
    if variant::is(Variant::SlotByNumber) {
        let asid = (number % ASID_SLOTS) as u16;
        choice = asid::Choice { asid, need_flush: false, taken: false };
    }
    if choice.taken {
        percpu::set_next_asid((u64::from(choice.asid) + 1) % ASID_SLOTS as u64);
    }
    let cr3 = next.kernel_root | u64::from(kernel_pcid(choice.asid));
    if variant::is(Variant::FlushedWhileLoaded) && choice.taken {
        let asid = percpu::loaded_mm_asid() as u16;
        percpu::set_slot(asid, Slot { ctx_id: next.ctx_id, tlb_gen: next.tlb_gen });
        policy().flush_tlb_mm();
        cpu::load_cr3(next.kernel_root | u64::from(kernel_pcid(asid)) | NOFLUSH);
        return;
    }
    if choice.need_flush {
        percpu::set_slot(choice.asid, Slot { ctx_id: next.ctx_id, tlb_gen: next.tlb_gen });
        policy().switch_mm_flush(cr3, choice.asid);
    } else {
        cpu::load_cr3(cr3 | NOFLUSH);
    }
    percpu::set_loaded_mm_asid(u64::from(choice.asid));
}

/// Flushes the loaded address space, whose state is `mm`, where its slot lags behind it.
///
/// Promises, and does not promise yet: as [`switch_mm`].
pub fn catch_up(mm: &MmState) {
    let asid = percpu::loaded_mm_asid() as u16;
    if percpu::slot(asid).tlb_gen < mm.tlb_gen {
        policy().flush_tlb_mm();
        percpu::set_slot(asid, Slot { ctx_id: mm.ctx_id, tlb_gen: mm.tlb_gen });
    }
}

/// Kernel entries in the other ASIDs are stale: whoever owns their slots must flush.
fn clear_asid_other() {
    let loaded = percpu::loaded_mm_asid() as u16;
    let slots = ASID_SLOTS - usize::from(variant::is(Variant::LastSlotKept));
    for asid in (0..slots as u16).filter(|&asid| asid != loaded) {
        percpu::set_slot(asid, Slot { ctx_id: 0, ..percpu::slot(asid) });
    }
    percpu::set_invalidate_other(0);
}
