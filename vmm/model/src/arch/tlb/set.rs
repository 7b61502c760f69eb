//! Sets of cached entries, by page and age.

use super::entry::{Entry, EntryId, StructureEntry, StructureKey};
use crate::arch::addr::Gva;
use crate::arch::walk::{PageSize, Translation};
use std::collections::BTreeMap;
use std::rc::Rc;

type Entries = BTreeMap<(Gva, EntryId), Entry>;

/// The page sizes, in the order of the maps of an [`EntrySet`].
const SIZES: [PageSize; 3] = [PageSize::Small, PageSize::Large, PageSize::Huge];

/// Translations under one tag, by size. Clones share what neither has changed since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EntrySet {
    by_size: [Rc<Entries>; 3],
}

/// What an insertion did to a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// An entry that grants the same was there.
    Known,
    /// So it was, but for its D, or look-ups skipped it.
    Changed,
    /// It is there now.
    New,
}

/// What went of a set.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// Whole entries.
    pub(super) entries: Vec<Entry>,
    /// Parts of entries that stay: first address and size.
    pub(super) parts: Vec<(Gva, PageSize)>,
}

fn index_of(size: PageSize) -> usize {
    match size {
        PageSize::Small => 0,
        PageSize::Large => 1,
        PageSize::Huge => 2,
    }
}

impl EntrySet {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.by_size.iter().flat_map(|map| map.values())
    }

    pub(super) fn len(&self) -> usize {
        self.by_size.iter().map(|map| map.len()).sum()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The entries that translate `va`.
    pub(super) fn at(&self, va: Gva) -> impl Iterator<Item = &Entry> {
        self.range(va.page(), va.page()).filter(move |entry| entry.covers(va))
    }

    /// The entries of pages that overlap `[start, end]`.
    pub(super) fn range(&self, start: Gva, end: Gva) -> impl Iterator<Item = &Entry> {
        self.by_size.iter().zip(SIZES).flat_map(move |(map, size)| {
            let first = (Gva(start.0 & !(size.bytes() - 1)), EntryId(0));
            map.range(first..=(end, EntryId(u64::MAX))).map(|(_, entry)| entry)
        })
    }

    pub(super) fn get(&self, page: Gva, id: EntryId) -> Option<&Entry> {
        self.by_size.iter().find_map(|map| map.get(&(page, id)))
    }

    pub(super) fn get_mut(&mut self, page: Gva, id: EntryId) -> Option<&mut Entry> {
        let key = (page, id);
        let map = self.by_size.iter_mut().find(|map| map.contains_key(&key))?;
        Rc::make_mut(map).get_mut(&key)
    }

    /// Holds `new`, unless an entry that grants the same is there: that one takes over its D.
    pub(super) fn insert(&mut self, new: Entry) -> Inserted {
        let page = new.translation.page;
        let map = &mut self.by_size[index_of(new.translation.size)];
        let same = map
            .range((page, EntryId(0))..=(page, EntryId(u64::MAX)))
            .find(|(_, entry)| {
                let upgraded = Translation { dirty: true, ..new.translation };
                let held = Translation { dirty: true, ..entry.translation };
                let keeps = !entry.translation.dirty || new.translation.dirty;
                held == upgraded && keeps && entry.root == new.root && entry.missing.is_empty()
            })
            .map(|(key, entry)| {
                let news = new.accessed && !entry.accessed;
                (*key, entry.skipped || news || entry.translation != new.translation)
            });
        if let Some((key, changes)) = same {
            if changes && let Some(entry) = Rc::make_mut(map).get_mut(&key) {
                entry.translation.dirty = new.translation.dirty;
                entry.skipped = false;
                entry.accessed |= new.accessed;
                return Inserted::Changed;
            }
            return Inserted::Known;
        }
        Rc::make_mut(map).insert((page, new.id), new);
        Inserted::New
    }

    /// Removes the entry with this id.
    pub(super) fn remove(&mut self, page: Gva, id: EntryId) {
        for map in self.by_size.iter_mut().filter(|map| map.contains_key(&(page, id))) {
            Rc::make_mut(map).remove(&(page, id));
        }
    }

    /// Removes the entries of pages, of any size, that begin at `page`.
    pub(super) fn remove_beginning(&mut self, page: Gva) {
        for map in &mut self.by_size {
            Rc::make_mut(map).retain(|(base, _), _| *base != page);
        }
    }

    /// Removes what INVLPG, INVPCID of an address or a page fault at `va` must remove.
    /// `today` is the size of the page that memory now translates `va` by: of a larger one the
    /// fractures that are not `va`'s may stay.
    pub(super) fn remove_page(&mut self, va: Gva, today: Option<PageSize>) -> Removed {
        let mut removed = Removed::default();
        let key = |entry: &Entry| ((entry.translation.page, entry.id), entry.translation.size);
        let keys: Vec<_> = self.at(va).map(key).collect();
        for (key, size) in keys {
            let map = &mut self.by_size[index_of(size)];
            if let Some(part) = today.filter(|today| today.bytes() < size.bytes()) {
                let entry = Rc::make_mut(map).get_mut(&key);
                if entry.is_some_and(|entry| entry.drop_part(va, part)) {
                    removed.parts.push((part.base(va), part));
                    continue;
                }
            }
            removed.entries.extend(Rc::make_mut(map).remove(&key));
        }
        removed
    }
}

/// Paging-structure entries under one PCID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StructureSet {
    entries: BTreeMap<StructureKey, StructureEntry>,
}

impl StructureSet {
    pub(super) fn iter(&self) -> impl Iterator<Item = &StructureEntry> {
        self.entries.values()
    }

    pub(super) fn get(&self, key: StructureKey) -> Option<&StructureEntry> {
        self.entries.get(&key)
    }

    /// Those that translate an address of `[start, last]`, of the lowest levels first.
    pub(super) fn range(&self, start: Gva, last: Gva) -> impl Iterator<Item = &StructureEntry> {
        (2..=4).flat_map(move |level| {
            self.entries.range(StructureKey::range(level, start, last)).map(|(_, entry)| entry)
        })
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Holds `new`, unless one that gives the same is there.
    pub(super) fn insert(&mut self, new: StructureEntry) -> bool {
        let here = self.entries.range(StructureKey::range(new.level, new.base, new.base));
        let same = |entry: &StructureEntry| StructureEntry { id: new.id, ..*entry } == new;
        let grows = !here.map(|(_, entry)| entry).any(same);
        if grows {
            self.entries.insert(new.key(), new);
        }
        grows
    }

    /// Removes those that are used for `va`.
    pub(super) fn remove_used(&mut self, va: Gva) {
        let gone: Vec<StructureKey> = self.range(va, va).map(StructureEntry::key).collect();
        for key in &gone {
            self.entries.remove(key);
        }
    }

    /// The deepest entry for `va`, and of those the oldest.
    pub(super) fn deepest(&self, va: Gva) -> Option<&StructureEntry> {
        self.range(va, va).next()
    }
}
