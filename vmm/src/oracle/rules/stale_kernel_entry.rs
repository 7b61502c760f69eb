//! `stale-kernel-entry`: a flush primitive does what it was called for before it returns.

use crate::oracle::rule::{About, Context, Finding, Rule, RuleId};

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::StaleKernelEntry,
    name: "stale-kernel-entry",
    statement: "When a flush primitive returns, no entry it covers is stale in the current \
                kernel PCID or among globals.",
    source: "SDM vol. 3, 4.10.4.2; Linux flush_tlb_one_user, flush_tlb_one_kernel",
    violated_by: "unmap --cpu pcid --policy split --inject \"drop invlpg#1\"",
    near_miss: "unmap --cpu pcid --policy split --inject \"repeat invlpg#1\"",
    hint: "invalidate the page in the kernel PCID after the store and before the \
           primitive returns; INVLPG reaches the current PCID and globals, a CR3 load no \
           globals",
    is_cost: false,
};

/// The rule.
#[derive(Clone)]
pub struct StaleKernelEntry;

impl Rule for StaleKernelEntry {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }

    fn id(&self) -> RuleId {
        ABOUT.id
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let Some((since, primitive)) = context.ended else { return Vec::new() };
        context
            .open_here()
            .filter(|(_, obligation)| context.is_usable(obligation.cpu, obligation.tag))
            .filter(|(_, obligation)| obligation.is_asked_of(context.event.cpu, since, &primitive))
            .map(|(number, obligation)| Finding {
                obligation: Some(number),
                message: format!(
                    "{} returns while {} still holds a stale entry for {}",
                    primitive.name(),
                    obligation.tag,
                    obligation.page
                ),
                ..Finding::default()
            })
            .collect()
    }
}
