//! The obligations of which something is still cached, found by where that is: what an event costs does
//! not grow with what is owed elsewhere.

use super::obligation::{Obligation, ObligationId};
use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::tlb::{EntryId, StructureKey, Tag};
use crate::arch::walk::PageSize;
use std::collections::{BTreeMap, BTreeSet};

type Ids = BTreeSet<ObligationId>;

/// Those under one tag of one CPU.
#[derive(Clone, Debug, Default)]
struct Under {
    all: Ids,
    /// By the first address of each entry, and of the page that they are said to be of.
    by_page: BTreeMap<Gva, Ids>,
    /// Those with paging-structure entries, by level and first address of each.
    structural: BTreeMap<(u8, Gva), Ids>,
}

impl Under {
    /// Those with a paging-structure entry that translates an address of `[base, last]`.
    fn structural_at(&self, base: Gva, last: Gva) -> impl Iterator<Item = ObligationId> {
        let of_level = move |level| {
            let keys = StructureKey::range(level, base, last);
            let (first, last) = (keys.start().base, keys.end().base);
            self.structural.range((level, first)..=(level, last)).flat_map(|(_, ids)| ids)
        };
        (2..=4).flat_map(of_level).copied()
    }
}

/// The obligations of which something is still cached.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    all: BTreeMap<ObligationId, Obligation>,
    under: BTreeMap<(CpuId, Tag), Under>,
    owners: BTreeMap<(CpuId, Tag, EntryId), Ids>,
    /// By the first frame of each entry that was stale at first, and by the tables that paging-structure
    /// entries led to.
    by_frame: BTreeMap<Gpa, Ids>,
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

    /// Those under a tag of a CPU with paging-structure entries.
    pub(super) fn structural(&self, cpu: CpuId, tag: Tag) -> impl Iterator<Item = ObligationId> {
        let under = self.under.get(&(cpu, tag)).into_iter();
        under.flat_map(|under| under.structural.values().flatten().copied())
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
        // Larger pages that begin before.
        for first in larger(base.0).map(Gva) {
            into.extend(under.by_page.get(&first).into_iter().flatten());
        }
        into.extend(under.by_page.range(base..=last).flat_map(|(_, ids)| ids));
        into.extend(under.structural_at(base, last));
    }

    /// Those with a paging-structure entry that translates `va`.
    pub(super) fn through(
        &self,
        cpu: CpuId,
        tag: Tag,
        va: Gva,
    ) -> impl Iterator<Item = ObligationId> {
        let under = self.under.get(&(cpu, tag)).into_iter();
        under.flat_map(move |under| under.structural_at(va, va))
    }

    /// Those that may have an entry which leads to a frame: all that have, and some others.
    pub(super) fn of_frame(&self, frame: Gpa) -> impl Iterator<Item = &Obligation> {
        let mut firsts = BTreeSet::from(larger(frame.0).map(Gpa));
        firsts.insert(frame);
        let ids = firsts.into_iter().filter_map(|first| self.by_frame.get(&first)).flatten();
        ids.filter_map(|id| self.all.get(id))
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
        for key in &obligation.structures {
            let place = (key.level, key.base);
            let ids = under.structural.entry(place).or_default();
            note(ids);
            if ids.is_empty() {
                under.structural.remove(&place);
            }
        }
        for page in obligation.entries.iter().map(|(page, _)| *page).chain([obligation.page]) {
            let ids = under.by_page.entry(page).or_default();
            note(ids);
            if ids.is_empty() {
                under.by_page.remove(&page);
            }
        }
        for frame in &obligation.frames {
            let ids = self.by_frame.entry(*frame).or_default();
            note(ids);
            if ids.is_empty() {
                self.by_frame.remove(frame);
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

/// Where larger pages begin that `address` may be in.
fn larger(address: u64) -> [u64; 2] {
    [PageSize::Huge, PageSize::Large].map(|size| address & !(size.bytes() - 1))
}
