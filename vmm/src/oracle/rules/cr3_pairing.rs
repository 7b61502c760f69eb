//! `cr3-pairing`: the user PCID goes with the user root.

use crate::event::Kind;
use crate::oracle::rule::{About, Context, Finding, Rule, RuleId};
use stalemate_shared::pcid::{USER_PCID_BIT, USER_ROOT_BIT};

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::Cr3Pairing,
    name: "cr3-pairing",
    statement: "With PCID and PTI on, bits 11 and 12 of CR3 agree at every load; without PTI bit 11, \
                which tells user PCIDs, is never set.",
    source: "Linux calling.h, ADJUST_KERNEL_CR3 and SWITCH_TO_USER_CR3 (8a09317b895f)",
    violated_by: "mark-consumed --cpu pcid --policy split --inject \"alter pcid@return#1\"",
    near_miss: "mark-consumed --cpu pcid --policy split --inject \"clear noflush@return\"",
    hint: "make the user CR3 from the kernel CR3 by setting bits 11 and 12 together, and \
           clear both together on entry",
    is_cost: false,
};

/// The rule.
#[derive(Clone)]
pub struct Cr3Pairing;

impl Rule for Cr3Pairing {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }

    fn id(&self) -> RuleId {
        ABOUT.id
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let Kind::LoadCr3 { value, .. } = context.event.kind else { return Vec::new() };
        if !context.cpu().paging().pcide {
            return Vec::new();
        }
        if !context.header.pti {
            let message = format!("CR3 load {value:#x} has a user PCID, and there is no PTI");
            let user = value & USER_PCID_BIT != 0;
            return user.then(|| Finding { message, ..Finding::default() }).into_iter().collect();
        }
        if (value & USER_PCID_BIT != 0) == (value & USER_ROOT_BIT != 0) {
            return Vec::new();
        }
        let half = |user: bool| if user { "user" } else { "kernel" };
        vec![Finding {
            message: format!(
                "CR3 load {value:#x} pairs the {} root with a {} PCID",
                half(value & USER_ROOT_BIT != 0),
                half(value & USER_PCID_BIT != 0)
            ),
            ..Finding::default()
        }]
    }
}
