//! `lost-dirty`: an edit of a present entry keeps the D that a processor set meanwhile.
//!
//! A alone is not judged. A processor that finds A clear sets it again at the next walk, and one that has
//! the translation cached need not (SDM vol. 3, 4.8): a kernel that misses an A takes a page in use for one
//! that is not, which costs time and loses nothing. A page whose D is lost is never written back.

use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::cr3::ROOT_MASK;
use crate::arch::happened::Happened;
use crate::arch::key::StateKey;
use crate::arch::walk::entry::{DIRTY, PRESENT};
use crate::event::Announcement;
use crate::oracle::About;
use crate::oracle::rule::{Because, Context, Finding, Memory, Rule};
use std::collections::{BTreeMap, BTreeSet};

/// About the rule.
pub static ABOUT: About = About {
    name: "lost-dirty",
    statement: "A store that edits a present entry keeps the D that a processor has set in it since the \
                kernel read it, for the same frame. Judged where the kernel says that it has read an \
                entry for a plain edit; a lost A is no mistake.",
    source: "SDM vol. 3, 4.8 (a processor sets A and D at any time, by a locked cycle); Linux \
             ptep_get_and_clear, ptep_modify_prot_start",
    violated_by: "lost-dirty --cpu pcid",
    near_miss: "dirty-before-edit --cpu pcid",
    hint: "edit entries that are present by one atomic operation: LOCK CMPXCHG of what was read, or XCHG \
           with 0 and a look at what comes back",
    is_cost: false,
};

/// A processor has set D.
#[derive(Clone, Copy)]
struct Set {
    seq: u64,
    rip: Gva,
}

#[derive(Clone, Default)]
struct LostDirty {
    /// Entries that a CPU has read with D clear, and not stored to since.
    read: BTreeSet<(CpuId, Gpa)>,
    /// Entries that a processor has set D in, and nobody has stored to since.
    set: BTreeMap<Gpa, Set>,
}

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(LostDirty::default())
}

impl LostDirty {
    fn follow(&mut self, here: CpuId, said: &Announcement) {
        match *said {
            Announcement::EntryRead { slot, value } => {
                if value & PRESENT != 0 && value & DIRTY == 0 {
                    self.read.insert((here, slot));
                } else {
                    self.read.remove(&(here, slot));
                }
            }
            // An edit is not left half done from one task to the next.
            Announcement::TaskEnds { .. } => self.read.retain(|(cpu, _)| *cpu != here),
            _ => {}
        }
    }

    /// A store to the entry at `slot`, and the D that it loses: one that is there now and was not when
    /// the CPU that stores has read the entry.
    fn stored(&mut self, by: CpuId, slot: Gpa, old: u64, new: u64) -> Option<Finding> {
        let was_clear = self.read.remove(&(by, slot));
        let set = self.set.remove(&slot)?;
        let keeps = new & DIRTY != 0 && (old ^ new) & ROOT_MASK == 0;
        let because = Because { seq: set.seq, rip: set.rip, what: "a processor set D" };
        (was_clear && !keeps).then(|| Finding {
            because: Some(because),
            message: format!(
                "the store of {new:#x} to the entry at {slot} loses the D that a processor set since \
                 it was read"
            ),
            ..Finding::default()
        })
    }
}

impl Rule for LostDirty {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn put(&self, key: &mut StateKey) -> Memory {
        key.put((&self.read, self.set.keys().collect::<Vec<_>>()));
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let event = context.event;
        for said in event.announcements() {
            self.follow(event.cpu, said);
        }
        match event.happened() {
            Some(&Happened::AccessedDirty { slot, old, new }) if (old ^ new) & DIRTY != 0 => {
                self.set.insert(slot, Set { seq: event.seq, rip: event.rip });
                Vec::new()
            }
            Some(&Happened::TableStore { slot, old, new }) => {
                self.stored(event.cpu, slot, old, new).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }
}
