//! What a run leaves in memory: what two runs are compared by.

use super::Machine;
use crate::arch::addr::{CpuId, Gpa};
use crate::arch::core::Watched;
use crate::arch::walk::entry;
use stalemate_shared::layout::{COLOUR_FRAMES, MEMORY_SIZE, PAGE_SIZE, TABLE_FRAMES};
use stalemate_shared::layout::{COLOURS, LARGE_COLOUR_FRAMES, MM_STATES, TABLE_FRAMES_END};
use stalemate_shared::pcid::{ASID_SLOTS, kernel_pcid};
use stalemate_shared::tlb_state::{MmState, Slot, TlbState};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;
use std::rc::Rc;

/// The frames of page tables, of test pages and of `TlbState` that differ from the booted guest's,
/// by number.
///
/// Without what no flush decides: A bits, which a processor may set at any time where it may cache
/// (SDM vol. 3, 4.8), and the D bits of frames that are the kernel's own, such as its stacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinalMemory {
    frames: BTreeMap<u64, Rc<[u8; 4096]>>,
    /// By CPU.
    states: Vec<FinalState>,
}

/// `TlbState`, its slots by their owners and not by their numbers: which slot the round-robin
/// allocator gave is no difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FinalState {
    loaded_mm: u64,
    invalidate_other: u64,
    cr4: u64,
    /// Owner, by how much it lags behind that one's generation, and mark. The numbers themselves
    /// mean nothing.
    slots: BTreeSet<(u64, i64, bool)>,
    /// Marks of no slot.
    stray: u64,
}

impl Machine {
    pub(super) fn final_memory(&self) -> FinalMemory {
        let mut frames = BTreeMap::new();
        for (number, bytes) in self.memory.delta().pages() {
            let at = number * PAGE_SIZE;
            if (TABLE_FRAMES..TABLE_FRAMES_END).contains(&at) {
                let now = without_bookkeeping(bytes);
                // A table that differs in those bits alone does not differ.
                if self.memory.base(number).map(without_bookkeeping).as_ref() != Some(&now) {
                    frames.insert(number, Rc::new(now));
                }
            } else if is_test_frame(at) {
                frames.insert(number, Rc::clone(bytes));
            }
        }
        let watched = self.info.as_ref().map(|info| info.watched);
        let of = |watched: Watched| {
            (0..watched.cpus).map(|cpu| self.final_state(watched.of(CpuId(cpu)))).collect()
        };
        FinalMemory { frames, states: watched.map_or_else(Vec::new, of) }
    }
}

impl Machine {
    /// The generation of the address space with this context id; 0 where there is none.
    fn tlb_gen(&self, ctx_id: u64) -> i64 {
        let Some(info) = &self.info else { return 0 };
        let word = |mm: usize, field: usize| {
            let at = info.watched.mm_states.0 + (mm * size_of::<MmState>() + field) as u64;
            self.memory.read_word(Gpa(at))
        };
        let is = |mm: &usize| word(*mm, offset_of!(MmState, ctx_id)) == ctx_id && ctx_id != 0;
        let found = (0..MM_STATES).find(is);
        found.map_or(0, |mm| word(mm, offset_of!(MmState, tlb_gen)) as i64)
    }

    fn final_state(&self, at: Gpa) -> FinalState {
        let word = |offset: usize| self.memory.read_word(Gpa(at.0 + offset as u64));
        let marks = word(offset_of!(TlbState, user_pcid_flush_mask));
        let slot = |asid: usize| {
            let slot = offset_of!(TlbState, slots) + asid * size_of::<Slot>();
            let mark = marks >> kernel_pcid(asid as u16) & 1 != 0;
            let owner = word(slot + offset_of!(Slot, ctx_id));
            let lag = self.tlb_gen(owner) - word(slot + offset_of!(Slot, tlb_gen)) as i64;
            (owner, lag, mark)
        };
        let known: u64 = (0..ASID_SLOTS as u16).map(|asid| 1 << kernel_pcid(asid)).sum();
        FinalState {
            loaded_mm: word(offset_of!(TlbState, loaded_mm)),
            invalidate_other: word(offset_of!(TlbState, invalidate_other)),
            cr4: word(offset_of!(TlbState, cr4)),
            slots: (0..ASID_SLOTS).map(slot).collect(),
            stray: marks & !known,
        }
    }
}

fn is_test_frame(at: u64) -> bool {
    let small = COLOUR_FRAMES..COLOUR_FRAMES + COLOURS.len() as u64 * PAGE_SIZE;
    small.contains(&at) || (LARGE_COLOUR_FRAMES..MEMORY_SIZE).contains(&at)
}

fn without_bookkeeping(table: &[u8; 4096]) -> [u8; 4096] {
    let mut kept = *table;
    for word in kept.as_chunks_mut::<8>().0 {
        let bits = u64::from_le_bytes(*word);
        let dirty = if is_test_frame(bits & entry::FRAME) { 0 } else { entry::DIRTY };
        *word = (bits & !entry::ACCESSED & !dirty).to_le_bytes();
    }
    kept
}
