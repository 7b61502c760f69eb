//! `needless-flush` (cost): a flush with no obligation behind it.

use crate::arch::addr::Gpa;
use crate::arch::cr3::{self, NOFLUSH};
use crate::arch::happened::Happened;
use crate::arch::tlb::Effect;
use crate::arch::vcpu::cr4;
use crate::event::Event;
use crate::oracle::{About, Replica};
use serde::Serialize;

/// About the rule.
pub static ABOUT: About = About {
    name: "needless-flush",
    statement: "(cost) A flush, or a flushing load, with no obligation behind it: it removed \
                entries, none of them stale and none of them of another root. A load without \
                PCIDs, which must flush, is none.",
    source: "SDM vol. 3, 4.10.4.3: where invalidation is optional",
    violated_by: "mark-consumed --cpu pcid --policy split --inject \"clear noflush@return\"",
    near_miss: "mark-consumed --cpu pcid --policy split --inject \"repeat mark#1\"",
    hint: "leave it out, or keep the PCID with NOFLUSH: nothing that it removed was stale",
    is_cost: true,
};

/// One needless flush.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NeedlessFlush {
    /// The event.
    pub seq: u64,
    /// Entries that it removed; none where all that it removed was what a fill that is complete holds
    /// without its being stored.
    pub removed: usize,
}

/// Whether the event, which removed nothing stale, was a needless flush; `before` is the root that its
/// PCID had before it.
#[must_use]
pub fn observe(
    event: &Event,
    replica: &Replica,
    effect: &Effect,
    before: Option<Gpa>,
) -> Option<NeedlessFlush> {
    let flushes = match *event.happened()? {
        Happened::Invlpg { .. } | Happened::Invpcid { .. } => true,
        Happened::LoadCr3 { value, .. } => {
            // A slot that gets another root owes the flush.
            let reused = before.is_some_and(|root| root != cr3::root(value));
            replica.cpu(event.cpu).paging().pcide && value & NOFLUSH == 0 && !reused
        }
        Happened::WriteCr4 { old, new } => (old ^ new) & (cr4::PGE | cr4::PCIDE) != 0,
        _ => false,
    };
    let removed = effect.removed;
    (flushes && effect.removes_any()).then_some(NeedlessFlush { seq: event.seq, removed })
}
