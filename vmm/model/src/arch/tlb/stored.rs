//! Storing what is held and walks give no longer: when a table changes, when walks come to mean something
//! else, and when they begin at stale paging-structure entries.

use super::entry::{Entry, EntryId, StructureEntry, Tag};
use super::fill::harvest_slot;
use super::implicit::PENDING;
use super::reachable::Walked;
use super::{Store, Tagged, Tlb, grants_more_at, today};
use crate::arch::addr::{Gpa, Gva, Pcid};
use crate::arch::census::{Census, Reach, is_beyond};
use crate::arch::features::Paging;
use crate::arch::walk::{Start, Tables, Translation, entry as bits, walk};
use std::collections::BTreeSet;

/// Tables as they were before a store.
struct Before<'a> {
    tables: &'a dyn Tables,
    store: Store,
}

impl Tables for Before<'_> {
    fn entry(&self, slot: Gpa) -> Option<u64> {
        if slot == self.store.slot { Some(self.store.old) } else { self.tables.entry(slot) }
    }

    fn present(&self, table: Gpa) -> Vec<(u64, u64)> {
        let mut found = self.tables.present(table);
        if table.page() == self.store.slot.page() {
            let index = self.store.slot.0 >> 3 & 0x1ff;
            found.retain(|(other, _)| *other != index);
            if self.store.old != 0 {
                found.push((index, self.store.old));
                found.sort_unstable();
            }
        }
        found
    }
}

impl Tlb {
    /// A paging-structure entry was changed by software; memory already holds the new one.
    pub fn table_store(&mut self, tables: &dyn Tables, census: &Census, store: Store) {
        if store.old != store.new && census.is_table(store.slot.page()) {
            self.changed(tables, &census.reaches(store.slot), store);
        }
    }

    /// The processor set A or D in an entry: nothing becomes stale, and D may be cached now; with A, where
    /// speculation waits for it, whatever the entry leads to.
    pub fn accessed_dirty(&mut self, tables: &dyn Tables, census: &Census, store: Store) {
        let counts = bits::DIRTY | if self.is_lazy() { bits::ACCESSED } else { 0 };
        if (store.old ^ store.new) & counts != 0 {
            self.changed(tables, &census.reaches(store.slot), store);
        }
    }

    fn changed(&mut self, tables: &dyn Tables, reaches: &BTreeSet<Reach>, store: Store) {
        self.beyond |= is_beyond(reaches);
        self.generation += 1;
        if self.model.fill.is_complete() {
            self.replaced(tables, reaches, store);
        }
    }

    /// A paging-structure entry was changed: stores what it gave, under each PCID that may hold it.
    pub(super) fn replaced(
        &mut self,
        tables: &dyn Tables,
        reaches: &BTreeSet<Reach>,
        store: Store,
    ) {
        let before = Before { tables, store };
        for reach in reaches {
            self.forget_globals_apart(tables, &before, *reach);
            if let Some(known) = self.accessed.get_mut(&reach.root) {
                known.pending.insert(*reach);
                if known.pending.len() > PENDING {
                    self.accessed.remove(&reach.root);
                }
            }
            let has_it = |(&pcid, tagged): (&Pcid, &Tagged)| {
                let implicit = tagged.implicit.as_ref().filter(|_| tagged.root == reach.root)?;
                Some((pcid, implicit.paging))
            };
            let holders: Vec<(Pcid, Paging)> = self.tagged.iter().filter_map(has_it).collect();
            for (pcid, paging) in holders {
                self.replaced_under(tables, &before, *reach, pcid, paging);
            }
        }
    }

    fn replaced_under(
        &mut self,
        tables: &dyn Tables,
        before: &Before<'_>,
        reach: Reach,
        pcid: Pcid,
        paging: Paging,
    ) {
        let mut found = self.reachable();
        harvest_slot(before, paging, reach, &mut found);
        self.beyond |= found.is_full();
        if pcid == self.current {
            return self.store_found(tables, &found.walked, &found.leaves);
        }
        // What comes instead it does not hold before it is current again.
        for &walked in &found.walked {
            self.store_structure(tables, pcid, walked, false);
        }
        for &translation in &found.leaves {
            self.store_leaf(tables, pcid, translation, false);
        }
        let tagged = self.tagged.get_mut(&pcid);
        if let Some(implicit) = tagged.and_then(|tagged| tagged.implicit.as_mut()) {
            implicit.absent.insert((reach.level, reach.base));
        }
    }

    /// Stores a translation that `pcid` holds and walks may give no longer. Where `today` counts, that it
    /// is held anyway is enough.
    fn store_leaf(
        &mut self,
        tables: &dyn Tables,
        pcid: Pcid,
        translation: Translation,
        today: bool,
    ) {
        let Some(tagged) = self.tagged.get(&pcid) else { return };
        let global = translation.global;
        // Globals are held once, for what is current.
        let held = pcid == self.current || !global;
        let implicit = tagged.implicit.as_ref();
        if !held || !implicit.is_some_and(|implicit| implicit.has(translation.page)) {
            return;
        }
        if today && self.is_given(tables, pcid, &Entry::new(EntryId(0), translation, Gpa(0))) {
            return;
        }
        self.hold(pcid, translation);
    }

    fn store_structure(
        &mut self,
        tables: &dyn Tables,
        pcid: Pcid,
        (level, base, table, rights): Walked,
        today: bool,
    ) {
        let tagged = self.tagged.get(&pcid).filter(|_| self.model.structure_caches);
        let Some(implicit) = tagged.and_then(|tagged| tagged.implicit.as_ref()) else { return };
        let new = StructureEntry { level, base, id: EntryId(0), pcid, table, rights };
        let given = today && self.is_implied(tables, implicit.paging, &new);
        if implicit.has_structure(level, base) && !given {
            self.hold_structure(pcid, level, base, table, rights);
        }
    }

    /// Whether walks of the PCID's root give, everywhere, as much as `entry` does, under whatever control
    /// bits it is looked at.
    fn is_given(&self, tables: &dyn Tables, pcid: Pcid, entry: &Entry) -> bool {
        let Some(tagged) = self.tagged.get(&pcid) else { return false };
        let Some(implicit) = &tagged.implicit else { return false };
        let strict = Paging { wp: false, smep: true, ..implicit.paging };
        let walks = |va| {
            let walked = walk(tables, Start::root(tagged.root), va, implicit.paging);
            let is_accessed = walked.path.iter().all(|step| step.entry & bits::ACCESSED != 0);
            let is_alike =
                walked.result.is_ok_and(|found| found.global == entry.translation.global);
            (walked, is_alike && (is_accessed || !self.is_lazy()))
        };
        grants_more_at(entry, strict, walks).is_none()
    }

    /// Whether a paging-structure entry is what a walk of its PCID's root gives, with A as far as that
    /// counts.
    pub(super) fn is_implied(
        &self,
        tables: &dyn Tables,
        paging: Paging,
        structure: &StructureEntry,
    ) -> bool {
        let Some(root) = self.root(Tag::Pcid(structure.pcid)) else { return false };
        today(tables, paging, root, structure).is_some_and(|today| {
            (today.table, today.rights) == (structure.table, structure.rights)
                && (today.accessed || !self.is_lazy())
        })
    }

    /// Of addresses whose tables changed while `pcid` was not current, what is stored and walks give
    /// again is not needed, unless something beside it is: the oldest is used.
    pub(super) fn prune(&mut self, tables: &dyn Tables, pcid: Pcid, (first, last): (Gva, Gva)) {
        let tag = Tag::Pcid(pcid);
        let stored = || self.entries_in(tag, first, last);
        if stored().all(|entry| entry.missing.is_empty() && self.is_given(tables, pcid, entry)) {
            let keys: Vec<_> = stored().map(|entry| (entry.translation.page, entry.id)).collect();
            if let Some(tagged) = self.tagged.get_mut(&pcid) {
                keys.into_iter().for_each(|(page, id)| tagged.entries.remove(page, id));
            }
        }
    }

    /// Stores all that `pcid` holds, since walks will be of another root, or mean something else.
    pub(super) fn store_all(&mut self, tables: &dyn Tables, pcid: Pcid) {
        let Some(tagged) = self.tagged.get(&pcid) else { return };
        let Some(implicit) = tagged.implicit.clone() else { return };
        let mut found = self.reachable();
        found.below(tables, implicit.paging, Start::root(tagged.root), 0);
        self.beyond |= found.is_full();
        for (level, base, table, rights) in found.walked {
            if self.model.structure_caches && implicit.has_structure(level, base) {
                self.hold_structure(pcid, level, base, table, rights);
            }
        }
        for translation in found.leaves {
            if !translation.global && implicit.has(translation.page) {
                self.hold(pcid, translation);
            }
        }
        if let Some(tagged) = self.tagged.get_mut(&pcid) {
            tagged.implicit = None;
        }
    }

    /// Stores what walks found that began at a cached paging-structure entry of the current PCID. What
    /// those that begin at the root find is what walks give.
    pub(super) fn store_found(
        &mut self,
        tables: &dyn Tables,
        walked: &[Walked],
        leaves: &[Translation],
    ) {
        for &walked in walked {
            self.store_structure(tables, self.current, walked, true);
        }
        for &translation in leaves {
            self.store_leaf(tables, self.current, translation, true);
        }
    }
}
