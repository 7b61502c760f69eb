//! What a run leaves in memory: what two runs are compared by.

use super::{Layout, Steps};
use crate::arch::addr::{CpuId, Gpa};
use crate::arch::walk::entry;
use crate::machine::Machine;
use crate::memory::GuestMemory;
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

impl FinalMemory {
    /// What a machine has in memory now.
    pub(super) fn of<I>(machine: &Machine<Steps, I>) -> Self {
        let memory = &machine.memory;
        let mut frames = BTreeMap::new();
        for (number, bytes) in memory.delta().pages() {
            let at = number * PAGE_SIZE;
            if (TABLE_FRAMES..TABLE_FRAMES_END).contains(&at) {
                let now = without_bookkeeping(bytes);
                // A table that differs in those bits alone does not differ.
                if memory.base(number).map(without_bookkeeping).as_ref() != Some(&now) {
                    frames.insert(number, Rc::new(now));
                }
            } else if is_test_frame(at) {
                frames.insert(number, Rc::clone(bytes));
            }
        }
        let layout = machine.kernel.info().map(|info| info.layout);
        let of = |layout: Layout| {
            (0..layout.cpus).map(|cpu| FinalState::of(memory, &layout, CpuId(cpu))).collect()
        };
        Self { frames, states: layout.map_or_else(Vec::new, of) }
    }
}

/// The generation of the address space with this context id; 0 where there is none.
fn tlb_gen(memory: &GuestMemory, layout: &Layout, ctx_id: u64) -> i64 {
    let word = |mm: usize, field: usize| {
        memory.read_word(Gpa(layout.mm_states.0 + (mm * size_of::<MmState>() + field) as u64))
    };
    let is = |mm: &usize| word(*mm, offset_of!(MmState, ctx_id)) == ctx_id && ctx_id != 0;
    let found = (0..MM_STATES).find(is);
    found.map_or(0, |mm| word(mm, offset_of!(MmState, tlb_gen)) as i64)
}

impl FinalState {
    fn of(memory: &GuestMemory, layout: &Layout, cpu: CpuId) -> Self {
        let at = layout.of(cpu);
        let word = |offset: usize| memory.read_word(Gpa(at.0 + offset as u64));
        let marks = word(offset_of!(TlbState, user_pcid_flush_mask));
        let slot = |asid: usize| {
            let slot = offset_of!(TlbState, slots) + asid * size_of::<Slot>();
            let mark = marks >> kernel_pcid(asid as u16) & 1 != 0;
            let owner = word(slot + offset_of!(Slot, ctx_id));
            let generation = word(slot + offset_of!(Slot, tlb_gen)) as i64;
            (owner, tlb_gen(memory, layout, owner) - generation, mark)
        };
        let known: u64 = (0..ASID_SLOTS as u16).map(|asid| 1 << kernel_pcid(asid)).sum();
        Self {
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
