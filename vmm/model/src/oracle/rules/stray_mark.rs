//! `stray-mark`: a mark is of a PCID that a return path looks at.

use crate::arch::key::StateKey;
use crate::event::Announcement;
use crate::oracle::About;
use crate::oracle::rule::{Context, Finding, Memory, Rule};

/// About the rule.
pub static ABOUT: About = About {
    name: "stray-mark",
    statement: "A mark is the bit of a slot's kernel PCID; no return consumes another.",
    source: "invariant U5 of the protocol; Linux invalidate_user_asid (kern_pcid, not asid)",
    violated_by: "user-flush-on-next-return --cpu pcid --policy split --inject \"alter mark#1\"",
    near_miss: "user-flush-on-next-return --cpu pcid --policy split --inject \"repeat mark#1\"",
    hint: "index `user_pcid_flush_mask` by the kernel PCID when the mark is set, as the \
           return does when it consumes it",
    is_cost: false,
};

#[derive(Clone)]
struct StrayMark;

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(StrayMark)
}

impl Rule for StrayMark {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn put(&self, _key: &mut StateKey) -> Memory {
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let slots = &context.header.kernel.slots;
        if slots.is_empty() {
            // A kernel that describes none may mark what it will.
            return Vec::new();
        }
        let stray = |announcement: &Announcement| match *announcement {
            Announcement::Marked { pcid, .. } if slots.iter().all(|slot| slot.user != pcid) => {
                Some(Finding::new(format!("PCID {pcid} is marked, which is of no slot")))
            }
            _ => None,
        };
        // One store is one mistake, however many bits it sets.
        context.event.announcements().iter().find_map(stray).into_iter().collect()
    }
}
