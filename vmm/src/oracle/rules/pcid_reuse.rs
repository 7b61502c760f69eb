//! `pcid-reuse`: a PCID is emptied before it serves another root.

use crate::arch::addr::{CpuId, Gpa, Pcid};
use crate::arch::tlb::Tag;
use crate::event::Kind;
use crate::oracle::rule::{About, Context, Finding, Held, Rule, RuleId};
use std::collections::BTreeSet;

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::PcidReuse,
    name: "pcid-reuse",
    statement: "A PCID never becomes current for a root while it holds entries of another root.",
    source: "SDM vol. 3, 4.10.4.2: reusing a PCID needs bit 63 clear or INVPCID",
    violated_by: "pcid-reuse --cpu pcid --policy split --inject \"set noflush@switch#6\"",
    near_miss: "pcid-reuse --cpu pcid --policy split --inject \"repeat cr3@switch#6\"",
    hint: "when a slot changes hands, load its kernel PCID without NOFLUSH and mark its \
           user PCID, before the new address space runs under them",
    is_cost: false,
};

/// The rule.
#[derive(Clone, Default)]
pub struct PcidReuse {
    told: BTreeSet<(CpuId, Pcid, Gpa)>,
}

impl Rule for PcidReuse {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }

    fn id(&self) -> RuleId {
        ABOUT.id
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let Kind::LoadCr3 { .. } = context.event.kind else { return Vec::new() };
        let (cpu, pcid) = (context.event.cpu, context.cpu().pcid());
        let (tag, tlb) = (Tag::Pcid(pcid), &context.cpu().tlb);
        let Some(root) = tlb.root(tag) else { return Vec::new() };
        let foreign = tlb.entries(tag).find(|entry| entry.root != root);
        let Some(entry) = foreign else {
            self.told.retain(|(of, told, _)| (*of, *told) != (cpu, pcid));
            return Vec::new();
        };
        if !self.told.insert((cpu, pcid, entry.root)) {
            return Vec::new();
        }
        vec![Finding {
            held: Some(Held { tag, entry: entry.clone() }),
            message: format!(
                "{tag} becomes current for root {root} while it holds entries of root {}",
                entry.root
            ),
            ..Finding::default()
        }]
    }
}
