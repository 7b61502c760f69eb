//! The obligations of which something is still cached, found by where that is: what an event costs does
//! not grow with what is owed elsewhere.

use super::obligation::{Obligation, ObligationId};
use crate::arch::addr::{CpuId, Gva};
use crate::arch::tlb::{EntryId, Tag};
use crate::arch::walk::PageSize;
use std::collections::{BTreeMap, BTreeSet};

type Ids = BTreeSet<ObligationId>;

/// Those under one tag of one CPU.
#[derive(Clone, Debug, Default)]
struct Under {
    all: Ids,
    /// By the first address of each entry, and of the page that they are said to be of.
    by_page: BTreeMap<Gva, Ids>,
    /// Those with paging-structure entries.
    structural: Ids,
}

/// The obligations of which something is still cached.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    all: BTreeMap<ObligationId, Obligation>,
    under: BTreeMap<(CpuId, Tag), Under>,
    owners: BTreeMap<(CpuId, Tag, EntryId), Ids>,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn get(&self, id: ObligationId) -> Option<&Obligation> {
        self.all.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Obligation> {
        self.all.values()
    }

    /// All of them, for what is not about entries.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Obligation> {
        self.all.values_mut()
    }

    /// One of them, for the same.
    pub(super) fn get_mut(&mut self, id: ObligationId) -> Option<&mut Obligation> {
        self.all.get_mut(&id)
    }

    /// Those under a tag of a CPU.
    pub(super) fn under(&self, cpu: CpuId, tag: Tag) -> impl Iterator<Item = &Obligation> {
        let ids = self.under.get(&(cpu, tag)).into_iter().flat_map(|under| &under.all);
        ids.filter_map(|id| self.all.get(id))
    }

    /// Those with paging-structure entries.
    pub(super) fn structural(&self) -> impl Iterator<Item = &Obligation> {
        let ids = self.under.values().flat_map(|under| &under.structural);
        ids.filter_map(|id| self.all.get(id))
    }

    /// Those which a cached entry belongs to.
    pub(super) fn owners(
        &self,
        cpu: CpuId,
        tag: Tag,
        entry: EntryId,
    ) -> impl Iterator<Item = &Obligation> {
        let ids = self.owners.get(&(cpu, tag, entry)).into_iter().flatten();
        ids.filter_map(|id| self.all.get(id))
    }

    /// Those under a tag of a CPU that may be about addresses from `base` to `last`: all whose entries
    /// are, and some others.
    pub(super) fn near(&self, cpu: CpuId, tag: Tag, base: Gva, last: Gva, into: &mut Ids) {
        let Some(under) = self.under.get(&(cpu, tag)) else { return };
        // The largest page that may begin before.
        let first = Gva(base.0 & !(PageSize::Huge.bytes() - 1));
        into.extend(under.by_page.range(first..=last).flat_map(|(_, ids)| ids));
        into.extend(&under.structural);
    }

    pub(super) fn insert(&mut self, obligation: Obligation) {
        self.index(&obligation, true);
        self.all.insert(obligation.id, obligation);
    }

    pub(super) fn remove(&mut self, id: ObligationId) -> Option<Obligation> {
        let obligation = self.all.remove(&id)?;
        self.index(&obligation, false);
        Some(obligation)
    }

    /// Changes the entries of one.
    pub(super) fn change(&mut self, id: ObligationId, change: impl FnOnce(&mut Obligation)) {
        if let Some(mut obligation) = self.remove(id) {
            change(&mut obligation);
            self.insert(obligation);
        }
    }

    fn index(&mut self, obligation: &Obligation, is_there: bool) {
        let Obligation { id, cpu, tag, .. } = *obligation;
        let note = |ids: &mut Ids| match is_there {
            true => ids.insert(id),
            false => ids.remove(&id),
        };
        let under = self.under.entry((cpu, tag)).or_default();
        note(&mut under.all);
        if !obligation.structures.is_empty() {
            note(&mut under.structural);
        }
        for page in obligation.entries.iter().map(|(page, _)| *page).chain([obligation.page]) {
            let ids = under.by_page.entry(page).or_default();
            note(ids);
            if ids.is_empty() {
                under.by_page.remove(&page);
            }
        }
        for entry in obligation.ids() {
            let ids = self.owners.entry((cpu, tag, entry)).or_default();
            note(ids);
            if ids.is_empty() {
                self.owners.remove(&(cpu, tag, entry));
            }
        }
    }
}
