//! What of a TLB the future depends on.

use super::entry::{Entry, EntryId, StructureKey, Tag};
use super::{Tagged, Tlb};
use crate::arch::addr::{Gva, Pcid};
use crate::arch::key::StateKey;

impl Tlb {
    /// Adds all that it holds. Ids are told by the order that look-ups ask for: how many entries that
    /// overlap an entry are older.
    pub fn put(&self, key: &mut StateKey) {
        key.put((self.current, self.beyond, self.tagged.len()));
        for (&pcid, tagged) in &self.tagged {
            let Tagged { root, entries, structures, implicit, touched, followed } = tagged;
            key.put((pcid, root, implicit, touched));
            key.put(*followed == Some(self.generation));
            key.put(entries.len());
            for entry in entries.iter() {
                self.put_entry(Tag::Pcid(pcid), entry, key);
            }
            key.put(structures.iter().count());
            for structure in structures.iter() {
                self.put_structure(pcid, structure.key(), key);
            }
        }
        key.put((&self.touched_globals, &self.accessed));
        key.put(self.globals.len());
        for entry in self.globals.iter() {
            self.put_entry(Tag::Global, entry, key);
        }
    }

    /// Adds the entry that is held under `tag` with this id, or that there is none.
    pub fn put_held(&self, tag: Tag, page: Gva, id: EntryId, key: &mut StateKey) {
        let entry = self.entry(tag, page, id);
        key.put(entry.is_some());
        if let Some(entry) = entry {
            self.put_entry(tag, entry, key);
        }
    }

    /// Adds the paging-structure entry that is held under `pcid` with this key, or that there is none.
    pub fn put_structure(&self, pcid: Pcid, of: StructureKey, key: &mut StateKey) {
        let structure = self.structure(pcid, of);
        key.put(structure.is_some());
        if let Some(structure) = structure {
            let same = StructureKey::range(structure.level, structure.base, structure.base);
            let older = self.structures_in(pcid, structure.base, structure.base);
            let older = older.filter(|other| same.contains(&other.key()) && other.id < of.id);
            key.put((structure.level, structure.base, structure.table, structure.rights));
            key.put(older.count());
        }
    }

    fn put_entry(&self, tag: Tag, entry: &Entry, key: &mut StateKey) {
        let Entry { id, translation, root, skipped, accessed, missing } = entry;
        let last = Gva(translation.page.0 + (translation.size.bytes() - 1));
        let older = |tag| {
            let held = self.entries_in(tag, translation.page, last);
            held.filter(|other| other.id < *id).count()
        };
        key.put((translation, root, skipped, accessed, missing));
        // Globals are used beside those of each PCID.
        match tag {
            Tag::Pcid(_) => key.put((older(tag), older(Tag::Global))),
            Tag::Global => {
                for &pcid in self.tagged.keys() {
                    key.put(older(Tag::Pcid(pcid)));
                }
                key.put(older(Tag::Global));
            }
        }
    }
}
