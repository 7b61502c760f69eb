//! `stray-mark`: a mark is of a PCID that a return path looks at.

use crate::event::Kind;
use crate::oracle::rule::{About, Context, Finding, Rule, RuleId};
use stalemate_shared::pcid::{ASID_SLOTS, kernel_pcid};
use stalemate_shared::tlb_state::USER_PCID_FLUSH_MASK;

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::StrayMark,
    name: "stray-mark",
    statement: "A mark is the bit of a slot's kernel PCID; no return consumes another.",
    source: "invariant U5 of the protocol; Linux invalidate_user_asid (kern_pcid, not asid)",
    violated_by: "user-flush-on-next-return --cpu pcid --policy split --inject \"alter mark#1\"",
    near_miss: "user-flush-on-next-return --cpu pcid --policy split --inject \"repeat mark#1\"",
    hint: "index `user_pcid_flush_mask` by the kernel PCID when the mark is set, as the \
           return does when it consumes it",
    is_cost: false,
};

/// The rule.
#[derive(Clone)]
pub struct StrayMark;

impl Rule for StrayMark {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }

    fn id(&self) -> RuleId {
        ABOUT.id
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let Kind::StateStore { offset: USER_PCID_FLUSH_MASK, old, new, .. } = context.event.kind
        else {
            return Vec::new();
        };
        let known: u64 = (0..ASID_SLOTS as u16).map(|asid| 1 << kernel_pcid(asid)).sum();
        let stray = new & !old & !known;
        if stray == 0 {
            return Vec::new();
        }
        let message = format!("bit {} is marked, which is of no slot", stray.trailing_zeros());
        vec![Finding { message, ..Finding::default() }]
    }
}
