//! Sets of cached entries, by page and age.

use super::entry::{Entry, EntryId, StructureEntry};
use crate::arch::addr::{Gva, Pcid};
use crate::arch::walk::{PageSize, Translation};
use std::collections::BTreeMap;
use std::rc::Rc;

const LARGE: u64 = PageSize::Large.bytes();

type Entries = BTreeMap<(Gva, EntryId), Entry>;

/// Translations under one tag. A 1 GiB page is held as 2 MiB ones. Clones share what neither has
/// changed since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EntrySet {
    small: Rc<Entries>,
    large: Rc<Entries>,
}

impl EntrySet {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.small.values().chain(self.large.values())
    }

    pub(super) fn len(&self) -> usize {
        self.small.len() + self.large.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Holds new entries of pages that the set has none of.
    pub(super) fn extend(&mut self, new: Vec<Entry>) {
        let keyed = |entry: Entry| ((entry.translation.page, entry.id), entry);
        let (large, small): (Vec<Entry>, Vec<Entry>) = new.into_iter().partition(Entry::is_large);
        for (map, new) in [(&mut self.small, small), (&mut self.large, large)] {
            if map.is_empty() {
                *map = Rc::new(new.into_iter().map(keyed).collect());
            } else if !new.is_empty() {
                Rc::make_mut(map).extend(new.into_iter().map(keyed));
            }
        }
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
        let map = if self.small.contains_key(&key) { &mut self.small } else { &mut self.large };
        Rc::make_mut(map).get_mut(&key)
    }

    /// Holds `new`, unless an entry that grants the same is there: that one takes over its D.
    /// Whether the set has grown.
    pub(super) fn insert(&mut self, new: Entry) -> bool {
        let page = new.translation.page;
        let map = if new.is_large() { &mut self.large } else { &mut self.small };
        let same = map
            .range((page, EntryId(0))..=(page, EntryId(u64::MAX)))
            .find(|(_, entry)| {
                let upgraded = Translation { dirty: true, ..new.translation };
                let held = Translation { dirty: true, ..entry.translation };
                let keeps = !entry.translation.dirty || new.translation.dirty;
                held == upgraded && keeps && entry.root == new.root && entry.missing.is_none()
            })
            .map(|(key, entry)| (*key, entry.demoted || entry.translation != new.translation));
        if let Some((key, changes)) = same {
            if changes && let Some(entry) = Rc::make_mut(map).get_mut(&key) {
                entry.translation.dirty = new.translation.dirty;
                entry.demoted = false;
            }
            return false;
        }
        Rc::make_mut(map).insert((page, new.id), new);
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
                let entry = Rc::make_mut(&mut self.large).get_mut(&key);
                let remains = entry.is_some_and(|entry| entry.drop_fracture(va));
                if remains {
                    continue;
                }
            }
            let map = if large { &mut self.large } else { &mut self.small };
            removed.extend(Rc::make_mut(map).remove(&key));
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

    /// The same, tagged with `pcid`.
    pub(super) fn under(mut self, pcid: Pcid) -> Self {
        self.entries.iter_mut().for_each(|entry| entry.pcid = pcid);
        self
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
