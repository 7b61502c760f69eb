//! What a run leaves in memory: what two runs are compared by.

use super::Machine;
use crate::arch::addr::Gpa;
use crate::arch::walk::entry;
use stalemate_shared::layout::{COLOUR_FRAMES, MEMORY_SIZE, PAGE_SIZE, TABLE_FRAMES};
use stalemate_shared::layout::{COLOURS, LARGE_COLOUR_FRAMES, TABLE_FRAMES_END};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The frames of page tables, of test pages and of `TlbState` that differ from the booted guest's,
/// by number.
///
/// Without what no flush decides: A bits, which a processor may set at any time where it may cache
/// (SDM vol. 3, 4.8), and the D bits of frames that are the kernel's own, such as its stacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinalMemory {
    frames: BTreeMap<u64, Rc<[u8; 4096]>>,
}

impl Machine {
    pub(super) fn final_memory(&self) -> FinalMemory {
        let state = self.info.as_ref().map(|info| info.tlb_state);
        let mut frames = BTreeMap::new();
        for (number, bytes) in self.memory.delta().pages() {
            let at = number * PAGE_SIZE;
            if (TABLE_FRAMES..TABLE_FRAMES_END).contains(&at) {
                let now = without_bookkeeping(bytes);
                // A table that differs in those bits alone does not differ.
                if self.memory.base(number).map(without_bookkeeping).as_ref() != Some(&now) {
                    frames.insert(number, Rc::new(now));
                }
            } else if is_test_frame(at) || state == Some(Gpa(at)) {
                frames.insert(number, Rc::clone(bytes));
            }
        }
        FinalMemory { frames }
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
