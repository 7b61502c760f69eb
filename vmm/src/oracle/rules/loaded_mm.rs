//! `loaded-mm`: CR3 holds the address space that `TlbState` says is loaded.

use crate::arch::addr::Gpa;
use crate::event::Kind;
use crate::oracle::rule::{About, Context, Finding, Rule, RuleId};
use stalemate_shared::pcid::USER_ROOT_BIT;
use stalemate_shared::tlb_state::{LOADED_MM, SWITCHING};

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::LoadedMm,
    name: "loaded-mm",
    statement: "When `loaded_mm` is set to an address space, CR3 holds its root.",
    source: "invariant S1 of the protocol; Linux switch_mm_irqs_off, which checks it in debug builds",
    violated_by: "two-spaces --cpu pcid --policy split --inject \"drop cr3@switch#1\"",
    near_miss: "two-spaces --cpu pcid --policy split --inject \"repeat cr3@switch#1\"",
    hint: "hold the marker of a switch in `loaded_mm` until CR3 holds the new root, and set it \
           after that",
    is_cost: false,
};

/// The rule.
#[derive(Clone)]
pub struct LoadedMm;

impl Rule for LoadedMm {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }

    fn id(&self) -> RuleId {
        ABOUT.id
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let Kind::StateStore { owner, offset: LOADED_MM, new, .. } = context.event.kind else {
            return Vec::new();
        };
        let root = Gpa(context.shadow.cpu(owner).root().0 & !USER_ROOT_BIT);
        let mm = context.shadow.mm_states().find(|mm| mm.ctx_id == new);
        // The marker of a switch is of no address space.
        let Some(mm) = mm.filter(|mm| new != SWITCHING && Gpa(mm.kernel_root) != root) else {
            return Vec::new();
        };
        vec![Finding {
            message: format!(
                "loaded_mm of CPU {} is set to context {new}, whose root is {}, while CR3 holds \
                 root {root}",
                owner.0,
                Gpa(mm.kernel_root)
            ),
            ..Finding::default()
        }]
    }
}
