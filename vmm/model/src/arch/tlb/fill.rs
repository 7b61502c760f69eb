//! Filling: what an access brings in, and what a speculating processor may have brought in.

use super::entry::{Entry, EntryId, StructureEntry};
use super::reachable::Reachable;
use super::set::Inserted;
use super::{Fill, FillCache, Store, Tlb, today};
use crate::arch::addr::{Gpa, Gva};
use crate::arch::census::{Census, Reach, is_beyond};
use crate::arch::features::Paging;
use crate::arch::walk::{
    Meaning, Rights, Start, Tables, Translation, Walk, entry, meaning, shift, slot as walk_slot,
    walk,
};
use std::collections::BTreeSet;

/// Table changes that are remembered, so that a PCID which was away for so long is filled by them
/// alone and not all over.
const REMEMBERED_CHANGES: usize = 64;

/// An A bit that the speculating processor sets: the slot, its entry, and that entry with A.
pub type AccessedUpdate = (Gpa, u64, u64);

impl Tlb {
    /// Caches what an access's walk found (A is set along its path). Whether that must be told,
    /// since speculation alone need not have found it.
    pub fn fill(&mut self, paging: Paging, walked: &Walk, translation: &Translation) -> bool {
        if self.model.structure_caches {
            let va = translation.page;
            let start = self.walk_start(va);
            let mut rights = start.map_or(Rights::ALL, |start| start.rights);
            for step in &walked.path {
                rights = rights.and(step.entry);
                if let Meaning::Table(table) = meaning(step.entry, step.level, paging) {
                    self.hold_structure(step.level, va, table, rights);
                }
            }
        }
        self.hold(*translation);
        self.model.fill != Fill::WorstCase
    }

    /// Caches what a recorded fill says.
    pub fn fill_recorded(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
        translation: &Translation,
    ) {
        let Some(start) = self.walk_start(translation.page) else { return };
        let walked = walk(tables, start, translation.page, paging);
        self.fill(paging, &walked, translation);
    }

    /// Lets a speculating processor fill all that it may reach; returns the A bits that it sets
    /// on the way. Nothing under other fill choices.
    pub fn speculate(&mut self, tables: &dyn Tables, paging: Paging) -> Vec<AccessedUpdate> {
        if !self.model.fill.is_complete() {
            return Vec::new();
        }
        let generation = self.generation;
        let Some(tagged) = self.tagged.get_mut(&self.current) else { return Vec::new() };
        let (root, filled) = (tagged.root, tagged.filled.replace((generation, paging)));
        if filled == Some((generation, paging)) {
            return Vec::new();
        }
        let cached: Vec<StructureEntry> = tagged.structures.iter().copied().collect();
        let empty = tagged.entries.is_empty() && cached.is_empty();
        let lazy = self.model.fill == Fill::LazyA;
        let mut found = Reachable { lazy, ..Reachable::default() };
        // Under other control bits all that walks give may be another thing.
        let filled = filled.filter(|(_, by)| *by == paging);
        match filled.and_then(|(filled, _)| self.changes_since(filled)) {
            Some(changes) => {
                for reach in changes.into_iter().filter(|reach| reach.root == root) {
                    harvest_slot(tables, paging, reach, &mut found);
                }
                self.take(&found, false);
            }
            None => match empty.then(|| self.cached_fill(tables, paging, root)).flatten() {
                Some(updates) => found.updates = updates,
                None => {
                    found.below(tables, paging, Start::root(root), 0);
                    self.take(&found, empty);
                    if empty {
                        self.remember(root, paging, &found);
                    }
                }
            },
        }
        let mut beyond = Reachable { lazy, ..Reachable::default() };
        for structure in cached {
            // Walks that begin at a fresh entry have just been made from the root, unless they
            // stopped above it, where A is clear.
            let found = today(tables, paging, root, &structure);
            let stopped = lazy && found.is_some_and(|found| !found.accessed);
            if stopped || self.structure_leads_elsewhere(tables, paging, &structure) {
                beyond.below(tables, paging, structure.start(), structure.base.0);
            }
        }
        self.take(&beyond, false);
        self.beyond |= found.is_full() || beyond.is_full();
        found.updates.append(&mut beyond.updates);
        found.updates
    }

    /// Caches what was harvested; `new` says that none of it is cached yet, and that each page was
    /// met once.
    fn take(&mut self, found: &Reachable, new: bool) {
        if self.model.structure_caches {
            for &(level, va, table, rights) in &found.walked {
                self.hold_structure(level, va, table, rights);
            }
        }
        if !new {
            found.leaves.iter().for_each(|&translation| self.hold(translation));
            return;
        }
        let mut fresh = Vec::with_capacity(found.leaves.len());
        for &translation in &found.leaves {
            if translation.global {
                self.hold(translation);
                continue;
            }
            let id = EntryId(self.next_id);
            self.next_id += 1;
            let Some(tagged) = self.tagged.get(&self.current) else { return };
            fresh.push(Entry {
                id,
                translation,
                root: tagged.root,
                skipped: false,
                missing: Vec::new(),
            });
        }
        if let Some(tagged) = self.tagged.get_mut(&self.current) {
            self.fills += fresh.len() as u64;
            tagged.entries.extend(fresh);
        }
    }

    /// Keeps what the current PCID holds, all of it just harvested from its root, for when that
    /// root is next harvested into an empty PCID.
    fn remember(&mut self, root: Gpa, paging: Paging, found: &Reachable) {
        let Some(tagged) = self.tagged.get(&self.current) else { return };
        let fill_cache = FillCache {
            generation: self.generation,
            paging,
            entries: tagged.entries.clone(),
            structures: tagged.structures.clone(),
            globals: found.leaves.iter().filter(|leaf| leaf.global).copied().collect(),
        };
        self.fill_cache.insert(root, fill_cache);
    }

    /// Fills the current PCID, which is empty, with what its root gave when it was last
    /// harvested, put right by the changes of single pages since; none if more has changed. The
    /// A bits that were set.
    fn cached_fill(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
        root: Gpa,
    ) -> Option<Vec<AccessedUpdate>> {
        let mut known = self.fill_cache.remove(&root).filter(|known| known.paging == paging)?;
        let mut updates = Vec::new();
        for reach in self.changes_since(known.generation)? {
            if reach.root != root {
                continue;
            }
            let lazy = self.model.fill == Fill::LazyA;
            let mut found = Reachable { lazy, ..Reachable::default() };
            harvest_slot(tables, paging, reach, &mut found);
            let global = found
                .leaves
                .iter()
                .chain(&known.globals)
                .any(|leaf| leaf.global && leaf.contains(reach.base));
            if reach.level != 1 || global {
                return None;
            }
            known.entries.remove_page(reach.base, None);
            for translation in found.leaves {
                let id = EntryId(self.next_id);
                self.next_id += 1;
                known.entries.insert(Entry {
                    id,
                    translation,
                    root,
                    skipped: false,
                    missing: Vec::new(),
                });
            }
            updates.append(&mut found.updates);
        }
        known.generation = self.generation;
        let pcid = self.current;
        if let Some(tagged) = self.tagged.get_mut(&pcid) {
            tagged.entries = known.entries.clone();
            tagged.structures = known.structures.clone().under(pcid);
            self.fills += 1;
        }
        known.globals.iter().for_each(|&translation| self.hold(translation));
        self.fill_cache.insert(root, known);
        Some(updates)
    }

    /// Where tables were changed after `generation`, if that is still known.
    fn changes_since(&self, generation: u64) -> Option<BTreeSet<Reach>> {
        let first = self.changes.front().map_or(self.generation, |(number, _)| number - 1);
        (first <= generation).then(|| {
            let later = self.changes.iter().filter(|(number, _)| *number > generation);
            later.flat_map(|(_, reaches)| reaches.iter().copied()).collect()
        })
    }

    /// A paging-structure entry was changed by software; memory already holds the new one.
    pub fn table_store(&mut self, census: &Census, store: Store) {
        if store.old != store.new && census.is_table(store.slot.page()) {
            self.changed(census.reaches(store.slot));
        }
    }

    /// The processor set A or D in an entry: nothing becomes stale, and D may be cached now; with
    /// A, where speculation waits for it, whatever the entry leads to.
    pub fn accessed_dirty(&mut self, census: &Census, slot: Gpa, old: u64, new: u64) {
        let lazy = self.model.fill == Fill::LazyA;
        let counts = entry::DIRTY | if lazy { entry::ACCESSED } else { 0 };
        if (old ^ new) & counts != 0 {
            self.changed(census.reaches(slot));
        }
    }

    /// The census forgets all roots but these: how the tables of another one change is no longer
    /// seen, so that what it gave once says nothing of what it gives when it is loaded again.
    pub fn keep_roots(&mut self, kept: &BTreeSet<Gpa>) {
        self.fill_cache.retain(|root, _| kept.contains(root));
    }

    fn changed(&mut self, reaches: BTreeSet<Reach>) {
        self.beyond |= is_beyond(&reaches);
        self.generation += 1;
        self.changes.push_back((self.generation, reaches));
        if self.changes.len() > REMEMBERED_CHANGES {
            self.changes.pop_front();
        }
    }

    pub(super) fn hold(&mut self, translation: Translation) {
        let id = EntryId(self.next_id);
        let Some(tagged) = self.tagged.get_mut(&self.current) else { return };
        // Globals belong to no root.
        let root = if translation.global { Gpa(0) } else { tagged.root };
        let new = Entry { id, translation, root, skipped: false, missing: Vec::new() };
        let set = if translation.global { &mut self.globals } else { &mut tagged.entries };
        let inserted = set.insert(new);
        self.next_id += u64::from(inserted == Inserted::New);
        self.fills += u64::from(inserted != Inserted::Known);
    }

    fn hold_structure(&mut self, level: u8, va: Gva, table: Gpa, rights: Rights) {
        let id = EntryId(self.next_id);
        let pcid = self.current;
        let base = Gva(va.0 & !((1 << shift(level)) - 1));
        if let Some(tagged) = self.tagged.get_mut(&pcid) {
            let new = StructureEntry { level, base, id, pcid, table, rights };
            let is_new = u64::from(tagged.structures.insert(new));
            self.next_id += is_new;
            self.fills += is_new;
        }
    }
}

/// What one slot of the root's tables leads to.
fn harvest_slot(tables: &dyn Tables, paging: Paging, reach: Reach, found: &mut Reachable) {
    let mut start = Start::root(reach.root);
    while start.level > reach.level {
        let bits = tables.entry(walk_slot(start.table, start.level, reach.base)).unwrap_or(0);
        let Meaning::Table(table) = meaning(bits, start.level, paging) else { return };
        if found.lazy && bits & entry::ACCESSED == 0 {
            return;
        }
        start = Start { table, level: start.level - 1, rights: start.rights.and(bits) };
    }
    let index = reach.base.0 >> shift(reach.level) & 0x1ff;
    let base = reach.base.0 & !(0x1ff << shift(reach.level));
    let bits = tables.entry(Gpa(start.table.0 + index * 8)).unwrap_or(0);
    found.entry(tables, paging, start, base, (index, bits));
}
