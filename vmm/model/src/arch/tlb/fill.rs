//! Filling: what an access brings in, and what a speculating processor may have brought in.

use super::entry::{Entry, EntryId, StructureEntry, Tag};
use super::reachable::{Reachable, Walked};
use super::set::Inserted;
use super::{Fill, Tlb};
use crate::arch::addr::{Gpa, Gva, Pcid};
use crate::arch::census::Reach;
use crate::arch::features::Paging;
use crate::arch::walk::{
    Meaning, Rights, Start, Tables, Translation, Walk, entry, meaning, shift, slot as walk_slot,
    walk,
};

/// An A bit that the speculating processor sets: the slot, its entry, and that entry with A.
pub type AccessedUpdate = (Gpa, u64, u64);

impl Tlb {
    /// Caches what an access's walk found (A is set along its path). Whether that must be told, since
    /// speculation alone need not have found it.
    pub fn fill(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
        walked: &Walk,
        translation: &Translation,
    ) -> bool {
        let va = translation.page;
        if self.model.fill.is_complete() {
            self.touch(va, translation);
            // What a walk found that began at the root is what walks give.
            if walked.path.first().is_some_and(|step| step.level < 4) {
                let through = self.walked_through(tables, paging, walked, va);
                self.store_found(tables, &through, &[*translation]);
            }
            return self.model.fill == Fill::LazyA;
        }
        if self.model.structure_caches {
            for (level, va, table, rights) in self.walked_through(tables, paging, walked, va) {
                self.hold_structure(self.current, level, va, table, rights);
            }
        }
        self.hold(self.current, *translation);
        true
    }

    /// The paging-structure entries that a walk for `va` went through.
    fn walked_through(
        &self,
        tables: &dyn Tables,
        paging: Paging,
        walked: &Walk,
        va: Gva,
    ) -> Vec<Walked> {
        let start = self.walk_start(tables, va);
        let mut rights = start.map_or(Rights::ALL, |start| start.rights);
        let mut through = Vec::new();
        for step in &walked.path {
            rights = rights.and(step.entry);
            if let Meaning::Table(table) = meaning(step.entry, step.level, paging) {
                let base = Gva(va.0 & !((1 << shift(step.level)) - 1));
                through.push((step.level, base, table, rights));
            }
        }
        through
    }

    /// Caches what a recorded fill says.
    pub fn fill_recorded(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
        translation: &Translation,
    ) {
        let Some(start) = self.walk_start(tables, translation.page) else { return };
        let walked = walk(tables, start, translation.page, paging);
        self.fill(tables, paging, &walked, translation);
    }

    /// Stores a translation under `pcid`, or among globals.
    pub(super) fn hold(&mut self, pcid: Pcid, translation: Translation) {
        let id = EntryId(self.next_id);
        let accessed = !self.model.fill.is_complete() || self.is_touched(pcid, &translation);
        let Some(tagged) = self.tagged.get_mut(&pcid) else { return };
        // Globals belong to no root.
        let root = if translation.global { Gpa(0) } else { tagged.root };
        let mut new = Entry::new(id, translation, root);
        new.accessed = accessed;
        let set = if translation.global { &mut self.globals } else { &mut tagged.entries };
        let inserted = set.insert(new);
        self.next_id += u64::from(inserted == Inserted::New);
        if inserted != Inserted::Known {
            let tag = if translation.global { Tag::Global } else { Tag::Pcid(pcid) };
            self.latest.push((tag, translation.page));
        }
    }

    pub(super) fn hold_structure(
        &mut self,
        pcid: Pcid,
        level: u8,
        base: Gva,
        table: Gpa,
        rights: Rights,
    ) {
        let id = EntryId(self.next_id);
        if let Some(tagged) = self.tagged.get_mut(&pcid) {
            let new = StructureEntry { level, base, id, pcid, table, rights };
            if tagged.structures.insert(new) {
                tagged.followed = None;
                self.next_id += 1;
                self.structure_changes += 1;
                self.latest.push((Tag::Pcid(pcid), base));
            }
        }
    }
}

/// What one slot of the root's tables leads to.
pub(super) fn harvest_slot(
    tables: &dyn Tables,
    paging: Paging,
    reach: Reach,
    found: &mut Reachable,
) {
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
