//! `big-hammer` (cost): a flush removed more than its downgrade asked for.

use crate::arch::cr3::NOFLUSH;
use crate::arch::happened::Happened;
use crate::arch::tlb::Effect;
use crate::event::Event;
use crate::oracle::{About, Replica};
use serde::Serialize;

/// About the rule.
pub static ABOUT: About = About {
    name: "big-hammer",
    statement: "(cost) A flush removed more than its downgrade asked for; says how many live \
                entries were lost.",
    source: "Hansen, 27 Nov 2017: a small hammer silently made big hides bugs",
    violated_by: "user-half --cpu pcid --policy full",
    near_miss: "user-half --cpu pcid-invpcid --policy split --inject \"repeat invlpg#2\"",
    hint: "invalidate the page alone: INVLPG in the current PCID, INVPCID of one address \
           in another, or a mark for the user PCID",
    is_cost: true,
};

/// One big hammer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BigHammer {
    /// The event.
    pub seq: u64,
    /// Live entries that it removed although nobody asked for them. Counted under on-demand
    /// filling only.
    pub live_lost: usize,
}

/// Whether the event was a big hammer: an invalidation of a whole PCID, or of everything, inside
/// a flush primitive or because of a mark.
#[must_use]
pub fn observe(
    event: &Event,
    replica: &Replica,
    effect: &Effect,
    consuming: bool,
) -> Option<BigHammer> {
    let flush = replica.works_for(event.cpu).map(|open| open.flush);
    let big = match *event.happened()? {
        Happened::Invpcid { kind, .. } => kind != 0,
        Happened::LoadCr3 { value, .. } => value & NOFLUSH == 0,
        Happened::WriteCr4 { .. } => effect.removes_any(),
        _ => false,
    };
    if !big || flush.is_none() && !consuming {
        return None;
    }
    let requested = |page| flush.is_some_and(|flush| flush.covers(page));
    let lost = effect.live_lost.iter().filter(|(_, page)| !requested(*page));
    Some(BigHammer { seq: event.seq, live_lost: lost.count() })
}
