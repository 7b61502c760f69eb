//! `stale-other-asid`: what one ASID's flush could not reach is flushed before another ASID runs.

use crate::arch::tlb::Tag;
use crate::event::Kind;
use crate::oracle::rule::{About, Context, Finding, Rule, RuleId};

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::StaleOtherAsid,
    name: "stale-other-asid",
    statement: "No CR3 load makes current a PCID that, after the load took effect, holds a \
                due-stale entry.",
    source: "Zijlstra's audit of 30 Nov 2017 \
             (20171130124319.ovyierac7ywxzhjy); Linux 2ea907c4fe7b",
    violated_by: "parked-kernel --cpu pcid --policy unsplit",
    near_miss: "parked-kernel --cpu nopcid --policy unsplit",
    hint: "a kernel page that is not global is cached under every PCID: set \
           `invalidate_other` when one is flushed, so that other ASIDs are flushed at \
           their next switch",
    is_cost: false,
};

/// The rule.
#[derive(Clone)]
pub struct StaleOtherAsid;

impl Rule for StaleOtherAsid {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }

    fn id(&self) -> RuleId {
        ABOUT.id
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let Kind::LoadCr3 { old, value } = context.event.kind else { return Vec::new() };
        let cpu = context.event.cpu;
        if !context.shadow.changes_asid(context.header.pti, cpu, old, value) {
            return Vec::new();
        }
        let current = Tag::Pcid(context.cpu().pcid());
        context
            .open_here()
            // Until the flush that was asked for is over, either the old page or the new one may
            // be used (SDM vol. 3, 4.10.5); who never asks is `never-flushed`'s.
            .filter(|(_, obligation)| obligation.tag == current && obligation.covered.is_some())
            .map(|(number, obligation)| Finding {
                obligation: Some(number),
                message: format!(
                    "a CR3 load makes {} current, which still holds a stale entry for {}",
                    obligation.tag, obligation.page
                ),
                ..Finding::default()
            })
            .collect()
    }
}
