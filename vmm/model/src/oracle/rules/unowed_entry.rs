//! `unowed-entry`: the oracle's check of itself.

use crate::arch::addr::{CpuId, Gva};
use crate::arch::happened::Happened;
use crate::arch::key::StateKey;
use crate::arch::tlb::{EntryId, StructureKey, Tag};
use crate::oracle::replica::{Replica, ReplicaCpu};
use crate::oracle::rule::{Context, Finding, Memory, Rule};
use crate::oracle::{About, Obligation};
use std::collections::BTreeSet;

/// About the rule. It is none of [`super::RULES`]: what it finds is a defect of the oracle, not of
/// a kernel.
static ABOUT: About = About {
    name: "unowed-entry",
    statement: "After every event, every stale entry and every stale paging-structure entry of \
                every CPU belongs to an obligation, and what an obligation is still held for is \
                still cached.",
    source: "SDM vol. 3, 4.10.4: what may be cached is cached until it must not be",
    violated_by: "",
    near_miss: "",
    hint: "this is a defect of Stalemate: no rule speaks of that entry, whatever its kernel does",
    is_cost: false,
};

#[derive(Clone)]
struct UnowedEntry;

/// A rule that holds the oracle itself to its word, for [`crate::oracle::Oracle::add_rule`]: it
/// walks the tables for each cached entry after each event, whatever the ledger believes.
#[must_use]
pub fn self_check() -> Box<dyn Rule> {
    Box::new(UnowedEntry)
}

impl Rule for UnowedEntry {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn put(&self, _key: &mut StateKey) -> Memory {
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let changes_nothing = matches!(context.event.happened(), None | Some(Happened::UserEntry))
            && context.deadlines.is_empty();
        if changes_nothing {
            return Vec::new();
        }
        let held = context.ledger.held();
        let owed: BTreeSet<(CpuId, Tag, EntryId)> = held
            .flat_map(|owed| owed.ids().map(|id| (owed.cpu, owed.tag, id)).collect::<Vec<_>>())
            .collect();
        let gone = context.ledger.held().filter(|owed| !is_cached(context.replica, owed));
        let mut found: Vec<Finding> = gone
            .map(|owed| {
                Finding::new(format!(
                    "what is owed for {} under {} of CPU {} is cached no longer",
                    owed.page, owed.tag, owed.cpu.0
                ))
            })
            .collect();
        for (cpu, state) in context.replica.numbered() {
            for tag in state.tlb.tags() {
                let is_owed = |id| owed.contains(&(cpu, tag, id));
                found.extend(unowed(context.replica, state, tag, &is_owed).map(|page| {
                    Finding::new(format!(
                        "{tag} of CPU {} holds a stale entry for {page} that is in no obligation",
                        cpu.0
                    ))
                }));
            }
        }
        found
    }
}

/// Whether what an obligation is held for is cached, all of it.
fn is_cached(replica: &Replica, owed: &Obligation) -> bool {
    let tlb = &replica.cpu(owed.cpu).tlb;
    let entry = |&(page, id): &(Gva, EntryId)| tlb.entry(owed.tag, page, id).is_some();
    let structure = |key: &StructureKey| match owed.tag {
        Tag::Pcid(pcid) => tlb.structure(pcid, *key).is_some(),
        Tag::Global => false,
    };
    owed.entries.iter().all(entry) && owed.structures.iter().all(structure)
}

/// The page of something stale under `tag` that is in no obligation.
fn unowed(
    replica: &Replica,
    cpu: &ReplicaCpu,
    tag: Tag,
    is_owed: &dyn Fn(EntryId) -> bool,
) -> Option<Gva> {
    let (tlb, paging) = (&cpu.tlb, cpu.paging());
    let mut entries = tlb.entries(tag).filter(|entry| !is_owed(entry.id));
    if let Some(page) = entries.find_map(|entry| tlb.stale_at(&replica.tables, paging, tag, entry))
    {
        return Some(page);
    }
    let Tag::Pcid(pcid) = tag else { return None };
    let stale = |structure: &&_| tlb.structure_is_stale(&replica.tables, paging, structure);
    let mut structures = tlb.structures(pcid).filter(|structure| !is_owed(structure.id));
    structures.find(stale).map(|structure| structure.base)
}
