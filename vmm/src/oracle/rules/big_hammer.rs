//! `big-hammer` (cost): a flush removed more than its downgrade asked for.

use crate::event::Kind;
use crate::oracle::rule::{About, Context, RuleId};
use serde::Serialize;
use stalemate_shared::pcid::NOFLUSH;

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::BigHammer,
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
pub fn observe(context: &Context<'_>, consuming: bool) -> Option<BigHammer> {
    let primitive = context.shadow.works_for(context.event.cpu).map(|(_, primitive)| primitive);
    let big = match context.event.kind {
        Kind::Invpcid { kind, .. } => kind != 0,
        Kind::LoadCr3 { value, .. } => consuming || primitive.is_some() && value & NOFLUSH == 0,
        Kind::WriteCr4 { .. } => context.effect.removed > 0,
        _ => false,
    };
    if !big || primitive.is_none() && !consuming {
        return None;
    }
    let asked = |page| primitive.is_some_and(|primitive| primitive.covers(page));
    let lost = context.effect.live_lost.iter().filter(|(_, page)| !asked(*page));
    Some(BigHammer { seq: context.event.seq, live_lost: lost.count() })
}
