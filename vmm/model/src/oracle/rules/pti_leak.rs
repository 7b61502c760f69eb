//! `pti-leak`: user mode cannot reach the kernel's translations.

use crate::arch::addr::Gva;
use crate::arch::happened::Happened;
use crate::arch::key::StateKey;
use crate::arch::tlb::Tag;
use crate::oracle::rule::{Context, Finding, Held, Memory, Rule};
use crate::oracle::{About, KERNEL_HALF};

/// About the rule.
pub static ABOUT: About = About {
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

#[derive(Clone)]
struct PtiLeak;

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(PtiLeak)
}

impl Rule for PtiLeak {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn put(&self, _key: &mut StateKey) -> Memory {
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let kernel = &context.replica.kernel;
        if context.event.happened() != Some(&Happened::UserEntry) || !kernel.isolated {
            return Vec::new();
        }
        let allowed = |page: Gva| {
            let inside = |&(start, end): &(Gva, Gva)| start <= page && page < end;
            kernel.trampoline.iter().any(inside)
        };
        if !kernel.is_user_root(context.cpu().cr3) {
            return vec![Finding::new("user mode is entered on a kernel root".to_owned())];
        }
        // Of a kernel that has not said what it keeps mapped there nothing can be said.
        if kernel.runs_freely {
            return Vec::new();
        }
        for tag in [Tag::Pcid(context.cpu().pcid()), Tag::Global] {
            let tables = &context.replica.tables;
            let held = context.cpu().tlb.held_in(tables, tag, KERNEL_HALF, Gva(u64::MAX));
            if let Some(entry) = held.into_iter().find(|entry| !allowed(entry.translation.page)) {
                let page = entry.translation.page;
                return vec![Finding {
                    held: Some(Held { tag, entry }),
                    message: format!(
                        "user mode is entered while {tag} translates kernel address {page}"
                    ),
                    ..Finding::default()
                }];
            }
        }
        Vec::new()
    }
}
