//! `needless-flush` (cost): a flush with no obligation behind it.

use crate::arch::addr::Gpa;
use crate::arch::vcpu::cr4;
use crate::event::Kind;
use crate::oracle::rule::{About, Context, RuleId};
use serde::Serialize;
use stalemate_shared::pcid::{NOFLUSH, ROOT_MASK};

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::NeedlessFlush,
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
    /// Entries that it removed.
    pub removed: usize,
}

/// Whether the event was a needless flush; `before` is the root that its PCID had before it.
#[must_use]
pub fn observe(context: &Context<'_>, before: Option<Gpa>) -> Option<NeedlessFlush> {
    let flushes = match context.event.kind {
        Kind::Invlpg { .. } | Kind::InvlpgKeptGlobals { .. } | Kind::Invpcid { .. } => true,
        Kind::LoadCr3 { value, .. } => {
            // A slot that gets another root owes the flush.
            let reused = before.is_some_and(|root| root != Gpa(value & ROOT_MASK));
            context.cpu().paging().pcide && value & NOFLUSH == 0 && !reused
        }
        Kind::WriteCr4 { old, new } => (old ^ new) & (cr4::PGE | cr4::PCIDE) != 0,
        _ => false,
    };
    let removed = context.effect.removed;
    let needless = flushes && removed > 0 && !context.ledger.was_served();
    needless.then_some(NeedlessFlush { seq: context.event.seq, removed })
}
