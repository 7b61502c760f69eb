//! `pti-leak`: user mode cannot reach the kernel's translations.

use crate::arch::addr::Gva;
use crate::arch::tlb::Tag;
use crate::event::Kind;
use crate::oracle::rule::{About, Context, Finding, Held, Rule, RuleId};
use stalemate_shared::pcid::USER_ROOT_BIT;

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::PtiLeak,
    name: "pti-leak",
    statement: "In user mode no entry of the active PCID, and no global entry, translates a \
                kernel address outside the trampoline.",
    source: "CVE-2017-5754; Linux aa8c6248f8c7 (PTI infrastructure)",
    violated_by: "global-under-pti --cpu pcid --policy split",
    near_miss: "nmi-window --cpu pcid --policy split --inject nmi@after-user-cr3",
    hint: "leave the page out of the user root, and make no kernel page global while PTI \
           is on, but for the trampoline",
    is_cost: false,
};

/// The rule.
#[derive(Clone)]
pub struct PtiLeak;

impl Rule for PtiLeak {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }

    fn id(&self) -> RuleId {
        ABOUT.id
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        if context.event.kind != Kind::UserEntry || !context.header.pti {
            return Vec::new();
        }
        let allowed = |page: Gva| {
            let inside = |&(start, end): &(Gva, Gva)| start <= page && page < end;
            context.header.trampoline.iter().any(inside)
        };
        if context.cpu().cr3 & USER_ROOT_BIT == 0 {
            let message = "user mode is entered on a kernel root".to_owned();
            return vec![Finding { message, ..Finding::default() }];
        }
        let kernel = (Gva(0xffff_8000_0000_0000), Gva(u64::MAX));
        for tag in [Tag::Pcid(context.cpu().pcid()), Tag::Global] {
            let mut held = context.cpu().tlb.entries_in(tag, kernel.0, kernel.1);
            if let Some(entry) = held.find(|entry| !allowed(entry.translation.page)) {
                return vec![Finding {
                    held: Some(Held { tag, entry: entry.clone() }),
                    message: format!(
                        "user mode is entered while {tag} translates kernel address {}",
                        entry.translation.page
                    ),
                    ..Finding::default()
                }];
            }
        }
        Vec::new()
    }
}
