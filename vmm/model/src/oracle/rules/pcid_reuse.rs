//! `pcid-reuse`: a PCID is emptied before it serves another root.

use crate::arch::happened::Happened;
use crate::arch::key::StateKey;
use crate::arch::tlb::Tag;
use crate::oracle::About;
use crate::oracle::rule::{Context, Finding, Held, Memory, Rule};

/// About the rule.
pub static ABOUT: About = About {
    name: "pcid-reuse",
    statement: "A PCID never becomes current for a root while it holds entries of another root.",
    source: "SDM vol. 3, 4.10.4.2: reusing a PCID needs bit 63 clear or INVPCID",
    violated_by: "pcid-reuse --cpu pcid --policy split --inject \"set noflush@switch#6\"",
    near_miss: "pcid-reuse --cpu pcid --policy split --inject \"repeat cr3@switch#6\"",
    hint: "when a slot changes hands, load its kernel PCID without NOFLUSH and mark its \
           user PCID, before the new address space runs under them",
    is_cost: false,
};

#[derive(Clone)]
struct PcidReuse;

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(PcidReuse)
}

impl Rule for PcidReuse {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn put(&self, _key: &mut StateKey) -> Memory {
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let Some(Happened::LoadCr3 { .. }) = context.event.happened() else { return Vec::new() };
        let (cpu, pcid) = (context.event.cpu, context.cpu().pcid());
        let (tag, tlb) = (Tag::Pcid(pcid), &context.cpu().tlb);
        let Some(root) = tlb.root(tag) else { return Vec::new() };
        let foreign = tlb.entries(tag).find(|entry| entry.root != root);
        let Some(entry) = foreign else { return Vec::new() };
        // What is stale because of this very load is this rule's.
        let mut owed = context.ledger.open();
        let owed = owed
            .find(|owed| (owed.cpu, owed.tag, owed.downgrade.seq) == (cpu, tag, context.event.seq));
        vec![Finding {
            obligation: owed.map(|owed| owed.id),
            held: Some(Held { tag, entry: entry.clone() }),
            message: format!(
                "{tag} becomes current for root {root} while it holds entries of root {}",
                entry.root
            ),
            ..Finding::default()
        }]
    }
}
