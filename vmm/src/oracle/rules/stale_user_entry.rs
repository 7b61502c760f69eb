//! `stale-user-entry`: user-flush-on-next-return.

use crate::event::Kind;
use crate::oracle::rule::{About, Context, Finding, Rule, RuleId};

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::StaleUserEntry,
    name: "stale-user-entry",
    statement: "At entry to user mode, no due-stale entry of the active PCID, and no due-stale \
                global, is one that user mode, or the entry path before its CR3 switch, could \
                use.",
    source: "Linux 6fd166aae78c; SDM vol. 3, 4.10.4.2 and 4.10.5",
    violated_by: "user-flush-on-next-return --cpu pcid --policy split --inject \"drop mark#1\"",
    near_miss: "user-flush-on-next-return --cpu pcid --policy split --inject \"repeat mark#1\"",
    hint: "set the bit of this ASID in `user_pcid_flush_mask` after the store, and load \
           the user CR3 without NOFLUSH while it is set; or invalidate the address in the \
           user PCID with INVPCID",
    is_cost: false,
};

/// The rule.
#[derive(Clone)]
pub struct StaleUserEntry;

impl Rule for StaleUserEntry {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }

    fn id(&self) -> RuleId {
        ABOUT.id
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        if context.event.kind != Kind::UserEntry {
            return Vec::new();
        }
        context
            .open_here()
            .filter(|(_, obligation)| context.is_usable(obligation.cpu, obligation.tag))
            .filter(|(_, obligation)| obligation.is_due())
            // Under PTI the entry path runs on the user root until it has switched CR3: it may
            // use supervisor entries of the user PCID.
            .filter(|(_, obligation)| context.header.pti || obligation.user_may_use())
            .map(|(number, obligation)| Finding {
                obligation: Some(number),
                message: format!(
                    "user mode is entered while {} still holds a stale entry for {}",
                    obligation.tag, obligation.page
                ),
                ..Finding::default()
            })
            .collect()
    }
}
