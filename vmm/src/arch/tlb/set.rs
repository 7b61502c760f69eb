//! Sets of cached entries, by page and age.

use super::entry::{Entry, EntryId, StructureEntry};
use crate::arch::addr::Gva;
use crate::arch::walk::{PageSize, Translation};
use std::collections::BTreeMap;

const LARGE: u64 = PageSize::Large.bytes();

/// Translations under one tag. A 1 GiB page is held as 2 MiB ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EntrySet {
    small: BTreeMap<(Gva, EntryId), Entry>,
    large: BTreeMap<(Gva, EntryId), Entry>,
}

impl EntrySet {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.small.values().chain(self.large.values())
    }

    pub(super) fn len(&self) -> usize {
        self.small.len() + self.large.len()
    }

    pub(super) fn clear(&mut self) {
        self.small.clear();
        self.large.clear();
    }

    /// The entries that translate `va`.
    pub(super) fn at(&self, va: Gva) -> impl Iterator<Item = &Entry> {
        self.range(va.page(), va.page()).filter(move |entry| entry.covers(va))
    }

    /// The entries of pages that overlap `[start, end]`.
    pub(super) fn range(&self, start: Gva, end: Gva) -> impl Iterator<Item = &Entry> {
        let first = (Gva(start.0 & !0xfff), EntryId(0));
        let last = (end, EntryId(u64::MAX));
        let first_large = (Gva(start.0 & !(LARGE - 1)), EntryId(0));
        let small = self.small.range(first..=last).map(|(_, entry)| entry);
        small.chain(self.large.range(first_large..=last).map(|(_, entry)| entry))
    }

    pub(super) fn get(&self, page: Gva, id: EntryId) -> Option<&Entry> {
        self.small.get(&(page, id)).or_else(|| self.large.get(&(page, id)))
    }

    pub(super) fn get_mut(&mut self, page: Gva, id: EntryId) -> Option<&mut Entry> {
        let key = (page, id);
        self.small.get_mut(&key).or_else(|| self.large.get_mut(&key))
    }

    /// Holds `new`, unless an entry that grants the same is there: that one takes over its D.
    /// Whether the set has grown.
    pub(super) fn insert(&mut self, new: Entry) -> bool {
        let page = new.translation.page;
        let map = if new.is_large() { &mut self.large } else { &mut self.small };
        let same = map
            .range_mut((page, EntryId(0))..=(page, EntryId(u64::MAX)))
            .map(|(_, entry)| entry)
            .find(|entry| {
                let upgraded = Translation { dirty: true, ..new.translation };
                let held = Translation { dirty: true, ..entry.translation };
                let keeps = !entry.translation.dirty || new.translation.dirty;
                held == upgraded && keeps && entry.root == new.root && entry.missing.is_none()
            });
        if let Some(entry) = same {
            entry.translation.dirty = new.translation.dirty;
            entry.demoted = false;
            return false;
        }
        map.insert((page, new.id), new);
        true
    }

    /// Removes what INVLPG, INVPCID of an address or a page fault at `va` must remove.
    /// `split` says that memory now translates `va` by a 4 KiB page: then the other fractures
    /// of a large entry may stay. Returns the entries that went.
    pub(super) fn remove_page(&mut self, va: Gva, split: bool) -> Vec<Entry> {
        let mut removed = Vec::new();
        let key = |entry: &Entry| (entry.translation.page, entry.id);
        let keys: Vec<_> = self.at(va).map(|entry| (key(entry), entry.is_large())).collect();
        for (key, large) in keys {
            if large && split {
                let remains = self.large.get_mut(&key).is_some_and(|entry| entry.drop_fracture(va));
                if remains {
                    continue;
                }
            }
            let map = if large { &mut self.large } else { &mut self.small };
            removed.extend(map.remove(&key));
        }
        removed
    }
}

/// Paging-structure entries under one PCID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StructureSet {
    entries: Vec<StructureEntry>,
}

impl StructureSet {
    pub(super) fn iter(&self) -> impl Iterator<Item = &StructureEntry> {
        self.entries.iter()
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Holds `new`, unless one that gives the same is there.
    pub(super) fn insert(&mut self, new: StructureEntry) -> bool {
        let same = |entry: &StructureEntry| StructureEntry { id: new.id, ..*entry } == new;
        let grows = !self.entries.iter().any(same);
        if grows {
            self.entries.push(new);
        }
        grows
    }

    /// Removes those with these ids.
    pub(super) fn remove(&mut self, ids: &[EntryId]) {
        self.entries.retain(|entry| !ids.contains(&entry.id));
    }

    /// The deepest entry for `va`, and of those the oldest.
    pub(super) fn deepest(&self, va: Gva) -> Option<&StructureEntry> {
        let covering = self.entries.iter().filter(|entry| entry.covers(va));
        covering.min_by_key(|entry| (entry.level, entry.id))
    }
}
