//! What a run leaves in memory: what two runs are compared by.

use super::{Layout, Steps};
use crate::arch::addr::CpuId;
use crate::arch::walk::entry;
use crate::event::SlotPcids;
use crate::machine::Machine;
use crate::memory::GuestMemory;
use stalemate_shared::layout::{COLOUR_FRAMES, MEMORY_SIZE, PAGE_SIZE, TABLE_FRAMES};
use stalemate_shared::layout::{COLOURS, LARGE_COLOUR_FRAMES, TABLE_FRAMES_END};
use stalemate_shared::words::Meaning;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The frames of page tables and of test pages that differ from the booted guest's,
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

/// What a kernel's words say of a CPU, its slots by their owners and not by their numbers: which slot a
/// round-robin allocator gave is no difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FinalState {
    loaded: u64,
    others_stale: u64,
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
        let of = |layout: &Layout| {
            layout.cpus().map(|cpu| FinalState::of(memory, layout, cpu)).collect()
        };
        let states = machine.kernel.info().map_or_else(Vec::new, |info| of(&info.layout));
        Self { frames, states }
    }
}

/// The generation of the address space with this number; 0 where there is none.
fn generation(memory: &GuestMemory, layout: &Layout, number: u64) -> i64 {
    let word = |meaning, space| layout.value(memory, meaning, CpuId(0), space);
    let is = |space: &u16| word(Meaning::SpaceNumber, *space) == number && number != 0;
    let found = (0..layout.count(Meaning::SpaceNumber)).find(is);
    found.map_or(0, |space| word(Meaning::SpaceGeneration, space) as i64)
}

impl FinalState {
    fn of(memory: &GuestMemory, layout: &Layout, cpu: CpuId) -> Self {
        let word = |meaning, slot| layout.value(memory, meaning, cpu, slot);
        let pcids = layout.slots();
        let slot = |(number, pcids): (u16, &SlotPcids)| {
            let owner = word(Meaning::SlotOwner, number);
            let flushed = word(Meaning::SlotGeneration, number) as i64;
            let lag = generation(memory, layout, owner) - flushed;
            (owner, lag, layout.is_marked(memory, cpu, pcids.user))
        };
        Self {
            loaded: word(Meaning::Loaded, 0),
            others_stale: word(Meaning::OthersStale, 0),
            slots: (0..).zip(&pcids).map(slot).collect(),
            stray: layout.marked_beside(memory, cpu, &pcids),
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
