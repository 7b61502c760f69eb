//! What is owed within the addresses of a flush, or of a frame.

use super::Ledger;
use crate::arch::addr::Gpa;
use crate::arch::tlb::{Entry, StructureEntry, Tag};
use crate::event::Flush;
use crate::oracle::obligation::{Obligation, ObligationId};
use crate::oracle::replica::Replica;
use std::collections::BTreeSet;

impl Ledger {
    /// What is of addresses that a flush is of, on all CPUs and under all tags, and some others.
    pub(super) fn in_range(&self, flush: &Flush, replica: &Replica) -> BTreeSet<ObligationId> {
        let mut found = BTreeSet::new();
        for (cpu, state) in replica.numbered() {
            for tag in state.tlb.tags() {
                self.held.near(cpu, tag, flush.start, flush.end, &mut found);
            }
        }
        found
    }

    /// What is open and is about an entry that leads to a frame, with that entry.
    pub fn open_of_frame<'l>(
        &'l self,
        frame: Gpa,
        replica: &'l Replica,
    ) -> impl Iterator<Item = (&'l Obligation, &'l Entry)> {
        let open = self.held.of_frame(frame).filter(|owed| owed.is_open());
        open.filter_map(move |owed| {
            let tlb = &replica.cpu(owed.cpu).tlb;
            let mut cached =
                owed.entries.iter().filter_map(|&(page, id)| tlb.entry(owed.tag, page, id));
            Some((owed, cached.find(|entry| entry.translation.maps(frame))?))
        })
    }

    /// What is open of paging-structure entries that lead to a table, each with the first of them.
    pub fn open_through<'l>(
        &'l self,
        table: Gpa,
        replica: &'l Replica,
    ) -> impl Iterator<Item = (&'l Obligation, &'l StructureEntry)> {
        let open = self.held.of_frame(table).filter(|owed| owed.is_open());
        open.filter_map(move |owed| {
            let Tag::Pcid(pcid) = owed.tag else { return None };
            let tlb = &replica.cpu(owed.cpu).tlb;
            let mut cached = owed.structures.iter().filter_map(|key| tlb.structure(pcid, *key));
            Some((owed, cached.find(|structure| structure.table == table)?))
        })
    }

    /// What is open of addresses that a flush is of, and may be used on some CPU as it is now.
    pub fn open_in(&self, flush: &Flush, replica: &Replica) -> Vec<&Obligation> {
        let mut found = BTreeSet::new();
        for (cpu, state) in replica.numbered() {
            for tag in [Tag::Pcid(state.pcid()), Tag::Global] {
                self.held.near(cpu, tag, flush.start, flush.end, &mut found);
            }
        }
        let open = found.into_iter().filter_map(|id| self.held.get(id));
        open.filter(|owed| owed.is_open()).collect()
    }
}
