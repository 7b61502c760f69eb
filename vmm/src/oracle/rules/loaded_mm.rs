//! `loaded-mm`: CR3 holds the address space that `TlbState` says is loaded.

use crate::arch::addr::Gpa;
use crate::event::Kind;
use crate::oracle::rule::{About, Context, Finding, Rule, RuleId};
use stalemate_shared::pcid::{ROOT_MASK, USER_ROOT_BIT};
use stalemate_shared::tlb_state::TlbState;
use std::collections::BTreeMap;

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::LoadedMm,
    name: "loaded-mm",
    statement: "When `loaded_mm` is set, CR3 holds the root of that address space: of none that is \
                known by another context id, and the one that this id had before.",
    source: "invariant S1 of the protocol; Linux switch_mm_irqs_off, which checks it in debug builds",
    violated_by: "two-spaces with `drop cr3@switch`",
    is_cost: false,
};

/// The rule.
#[derive(Clone, Default)]
pub struct LoadedMm {
    roots: BTreeMap<u64, Gpa>,
    before: Option<Gpa>,
}

impl Rule for LoadedMm {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }

    fn id(&self) -> RuleId {
        ABOUT.id
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let kernel = |cr3: u64| Gpa(cr3 & ROOT_MASK & !USER_ROOT_BIT);
        let before = *self.before.get_or_insert(kernel(context.header.cr3));
        let Kind::StateStore { offset, old, new } = context.event.kind else { return Vec::new() };
        if offset != std::mem::offset_of!(TlbState, loaded_mm) as u64 {
            return Vec::new();
        }
        let root = kernel(context.shadow.cr3);
        // The first switch tells whose root the run began with.
        if self.roots.is_empty() {
            self.roots.insert(old, before);
        }
        let other = self.roots.iter().any(|(id, known)| *id != new && *known == root);
        let moved = self.roots.get(&new).is_some_and(|known| *known != root);
        if !other && !moved {
            self.roots.insert(new, root);
            return Vec::new();
        }
        vec![Finding {
            message: format!(
                "loaded_mm is set to context {new} while CR3 holds root {root} of another"
            ),
            ..Finding::default()
        }]
    }
}
