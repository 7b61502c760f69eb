//! The TLB as the set of translations that a processor *may* hold.
//!
//! The model never forgets on its own: an entry stays until an operation that *must* remove it
//! (SDM vol. 3, 4.10.4.1). With [`Fill::WorstCase`] it also holds whatever a speculating
//! processor may have filled: everything that the current root, and the cached paging-structure
//! entries of the current PCID, reach. Of that only what walks no longer give is stored, each entry
//! with the root it came from (`implicit`, `stored`, `globals`).

mod choices;
mod entry;
mod fill;
mod flush;
mod globals;
mod implicit;
mod key;
mod reachable;
mod seeded;
mod set;
mod stored;

pub use choices::{FILLS, Fill, TlbModel, split_mix};
pub use entry::{Entry, EntryId, StructureEntry, StructureKey, Tag};
pub use flush::{Effect, Scope};
pub use seeded::Chosen;

use super::addr::{Gpa, Gva, Pcid};
use super::features::Paging;
use super::walk::{
    Access, Meaning, Rights, Start, Tables, Translation, Walk, entry as bits, meaning, shift, walk,
};
use globals::GlobalsApart;
use implicit::{Accessed, Implicit};
use reachable::Reachable;
use set::{EntrySet, StructureSet};
use std::collections::{BTreeMap, BTreeSet};

/// A store to a paging-structure entry that has just been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Store {
    /// Where.
    pub slot: Gpa,
    /// The entry before.
    pub old: u64,
    /// The entry after.
    pub new: u64,
}

/// What is tagged with one PCID.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tagged {
    root: Gpa,
    entries: EntrySet,
    structures: StructureSet,
    /// What it holds beside these, where speculation fills all that it may.
    implicit: Option<Implicit>,
    /// Of that, the pages that were accessed under it, where speculation waits for A.
    touched: BTreeSet<Gva>,
    /// The table generation at which walks that begin at the paging-structure entries stored were last
    /// made; none if these have changed since.
    followed: Option<u64>,
}

/// One CPU's TLB and paging-structure caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlb {
    model: TlbModel,
    current: Pcid,
    tagged: BTreeMap<Pcid, Tagged>,
    globals: EntrySet,
    /// Of the globals that are not stored, the pages that were accessed, where speculation waits for A.
    touched_globals: BTreeSet<Gva>,
    next_id: u64,
    /// What was stored since the last speculation of this TLB, or since somebody began to ask: tags and
    /// first addresses.
    latest: Vec<(Tag, Gva)>,
    /// Rises with every change of what paging-structure entries are stored.
    structure_changes: u64,
    /// Rises with every change of a paging-structure entry.
    generation: u64,
    /// By root.
    accessed: BTreeMap<Gpa, Accessed>,
    globals_apart: GlobalsApart,
    /// Tables reach more than is followed, so that it does not hold all that a processor may.
    beyond: bool,
}

/// What a look-up finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// A translation that is stored grants the access.
    Hit(Translation),
    /// One does that is held without its being stored.
    Implied(Translation),
    /// None does: the processor walks.
    Miss,
}

impl Tlb {
    /// An empty TLB; no root is loaded before the first [`Tlb::load_cr3`].
    #[must_use]
    pub fn new(model: TlbModel) -> Self {
        Self {
            model,
            current: Pcid::new(0),
            tagged: BTreeMap::new(),
            globals: EntrySet::default(),
            touched_globals: BTreeSet::new(),
            next_id: 0,
            latest: Vec::new(),
            structure_changes: 0,
            generation: 0,
            accessed: BTreeMap::new(),
            globals_apart: BTreeMap::new(),
            beyond: false,
        }
    }

    /// How it chooses.
    #[must_use]
    pub fn model(&self) -> TlbModel {
        self.model
    }

    /// The PCID that is current.
    #[must_use]
    pub fn current(&self) -> Pcid {
        self.current
    }

    /// Whether tables that it follows reach more than it holds: they lead to themselves, or to one table
    /// again and again.
    #[must_use]
    pub fn is_beyond(&self) -> bool {
        self.beyond
    }

    /// What was stored since [`Tlb::forget_latest`]: tags and first addresses of entries and of
    /// paging-structure entries.
    #[must_use]
    pub fn latest(&self) -> &[(Tag, Gva)] {
        &self.latest
    }

    /// What is stored from now on is the latest.
    pub fn forget_latest(&mut self) {
        self.latest.clear();
    }

    /// Rises with every change of what paging-structure entries are stored.
    #[must_use]
    pub fn structure_changes(&self) -> u64 {
        self.structure_changes
    }

    /// The root last loaded under `tag`; for globals that of the current PCID.
    #[must_use]
    pub fn root(&self, tag: Tag) -> Option<Gpa> {
        let pcid = match tag {
            Tag::Pcid(pcid) => pcid,
            Tag::Global => self.current,
        };
        self.tagged.get(&pcid).map(|tagged| tagged.root)
    }

    /// The roots last loaded under all PCIDs.
    pub fn roots(&self) -> impl Iterator<Item = Gpa> + '_ {
        self.tagged.values().map(|tagged| tagged.root)
    }

    /// Every tag there is.
    pub fn tags(&self) -> impl Iterator<Item = Tag> + '_ {
        self.tagged.keys().map(|&pcid| Tag::Pcid(pcid)).chain([Tag::Global])
    }

    /// The entries that are stored under `tag`, by page and age: with a fill that is complete those that
    /// walks may give no longer, and [`Tlb::held_in`] has all.
    pub fn entries(&self, tag: Tag) -> impl Iterator<Item = &Entry> {
        self.set(tag).into_iter().flat_map(EntrySet::iter)
    }

    /// The entries that are stored under `tag` and translate some address of `[start, end]`.
    pub fn entries_in(&self, tag: Tag, start: Gva, end: Gva) -> impl Iterator<Item = &Entry> {
        self.set(tag).into_iter().flat_map(move |set| set.range(start, end))
    }

    /// The entry with this id, if it is still held.
    #[must_use]
    pub fn entry(&self, tag: Tag, page: Gva, id: EntryId) -> Option<&Entry> {
        self.set(tag)?.get(page, id)
    }

    /// The paging-structure entries that are stored under `pcid`; [`Tlb::held_structures`] has all.
    pub fn structures(&self, pcid: Pcid) -> impl Iterator<Item = &StructureEntry> {
        self.tagged.get(&pcid).into_iter().flat_map(|tagged| tagged.structures.iter())
    }

    /// The paging-structure entries that are stored under `pcid` and translate an address of
    /// `[start, last]`.
    pub fn structures_in(
        &self,
        pcid: Pcid,
        start: Gva,
        last: Gva,
    ) -> impl Iterator<Item = &StructureEntry> {
        let tagged = self.tagged.get(&pcid).into_iter();
        tagged.flat_map(move |tagged| tagged.structures.range(start, last))
    }

    /// The paging-structure entry with this key, if it is stored.
    #[must_use]
    pub fn structure(&self, pcid: Pcid, key: StructureKey) -> Option<&StructureEntry> {
        self.tagged.get(&pcid)?.structures.get(key)
    }

    fn set(&self, tag: Tag) -> Option<&EntrySet> {
        match tag {
            Tag::Pcid(pcid) => self.tagged.get(&pcid).map(|tagged| &tagged.entries),
            Tag::Global => Some(&self.globals),
        }
    }

    /// The first address at which `entry`, held under `tag`, grants more than a walk of the
    /// tag's root does today; none if it is not stale.
    #[must_use]
    pub fn stale_at(
        &self,
        tables: &dyn Tables,
        paging: Paging,
        tag: Tag,
        entry: &Entry,
    ) -> Option<Gva> {
        let root = self.root(tag)?;
        grants_more_at(entry, paging, |va| (walk(tables, Start::root(root), va, paging), true))
    }

    /// Whether a walk that begins at a cached paging-structure entry comes, somewhere, to a
    /// translation that grants more than a walk of its PCID's root does today. One that leads to a
    /// table which maps nothing does no harm as long as that is so.
    #[must_use]
    pub fn structure_is_stale(
        &self,
        tables: &dyn Tables,
        paging: Paging,
        structure: &StructureEntry,
    ) -> bool {
        let tag = Tag::Pcid(structure.pcid);
        let Some(root) = self.root(tag) else { return false };
        if !self.structure_leads_elsewhere(tables, paging, structure) {
            return false;
        }
        let mut found = Reachable::default();
        found.below(tables, paging, structure.start(), structure.base.0);
        let id = structure.id;
        found.leaves.into_iter().any(|translation| {
            let entry = Entry::new(id, translation, root);
            self.stale_at(tables, paging, tag, &entry).is_some()
        })
    }

    /// Whether a cached paging-structure entry gives another table, or more rights, than a walk of
    /// its PCID's root today.
    #[must_use]
    pub fn structure_leads_elsewhere(
        &self,
        tables: &dyn Tables,
        paging: Paging,
        structure: &StructureEntry,
    ) -> bool {
        let Some(root) = self.root(Tag::Pcid(structure.pcid)) else { return false };
        today(tables, paging, root, structure).is_none_or(|today| {
            today.table != structure.table || structure.rights.exceed(&today.rights, paging)
        })
    }

    /// The tables that cached paging-structure entries reach, with their levels.
    #[must_use]
    pub fn reached_tables(&self) -> BTreeSet<(Gpa, u8)> {
        self.tagged
            .values()
            .flat_map(|tagged| tagged.structures.iter())
            .map(|structure| (structure.table, structure.level - 1))
            .collect()
    }

    /// Looks `va` up for an access in the current PCID. Execution uses the oldest entry; one that
    /// does not grant the access is used no more, but stays in the set for the rules.
    pub fn lookup(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
        va: Gva,
        access: Access,
    ) -> Lookup {
        let grants = |translation: &Translation| {
            let needs_dirty = access.kind == super::walk::AccessKind::Write && !translation.dirty;
            translation.check(access, paging).is_ok() && !needs_dirty
        };
        while let Some((tag, page, id)) = self.selected(self.current, va) {
            let Some(entry) = self.entry_mut(tag, page, id) else { return Lookup::Miss };
            if grants(&entry.translation) {
                return Lookup::Hit(entry.translation);
            }
            entry.skipped = true;
        }
        // What walks give is the youngest.
        let implied = self.implied_at(tables, self.current, va).filter(grants);
        implied.map_or(Lookup::Miss, Lookup::Implied)
    }

    /// What execution under `pcid` uses for `va` now, if something is cached, and an access has found
    /// it where speculation waits for one.
    #[must_use]
    pub fn peek(&self, tables: &dyn Tables, pcid: Pcid, va: Gva) -> Option<Translation> {
        if let Some((tag, page, id)) = self.selected(pcid, va) {
            return self.entry(tag, page, id).map(|entry| entry.translation);
        }
        let page = va.page();
        let is_found = |found: &Translation| {
            let touched = match found.global {
                true => Some(&self.touched_globals),
                false => self.tagged.get(&pcid).map(|tagged| &tagged.touched),
            };
            !self.is_lazy() || touched.is_some_and(|touched| touched.contains(&page))
        };
        self.implied_at(tables, pcid, va).filter(is_found)
    }

    fn selected(&self, pcid: Pcid, va: Gva) -> Option<(Tag, Gva, EntryId)> {
        let oldest = |tag| {
            let found = self.set(tag)?.at(va).filter(|entry| !entry.skipped);
            found.map(|entry| (entry.id, entry.translation.page, tag)).min()
        };
        let own = oldest(Tag::Pcid(pcid));
        let (id, page, tag) = own.into_iter().chain(oldest(Tag::Global)).min()?;
        Some((tag, page, id))
    }

    fn entry_mut(&mut self, tag: Tag, page: Gva, id: EntryId) -> Option<&mut Entry> {
        match tag {
            Tag::Pcid(pcid) => self.tagged.get_mut(&pcid)?.entries.get_mut(page, id),
            Tag::Global => self.globals.get_mut(page, id),
        }
    }
}

/// The first address at which `entry` grants more than `walks` give, of which it says too whether they
/// count; none if it nowhere does.
fn grants_more_at(
    entry: &Entry,
    paging: Paging,
    walks: impl Fn(Gva) -> (Walk, bool),
) -> Option<Gva> {
    let mut at = entry.translation.page;
    while entry.translation.contains(at) {
        let (today, counts) = walks(at);
        // All that goes through the entry read last is translated alike.
        let span = today.path.last().map_or(1 << 12, |step| 1 << shift(step.level));
        // The topmost page ends where addresses do.
        let last = Gva(at.0 + (span.min(entry.translation.size.bytes()) - 1));
        let today = today.result.as_ref().ok().filter(|_| counts);
        let stale = entry.translation.grants_more(at, today, paging);
        if let Some(page) = entry.pages_in(at, last).next().filter(|_| stale) {
            return Some(page);
        }
        at = Gva(last.0.checked_add(1)?);
    }
    None
}

/// What a walk gives today where a cached paging-structure entry was made.
struct Today {
    table: Gpa,
    rights: Rights,
    /// A is set all the way down to it.
    accessed: bool,
}

fn today(
    tables: &dyn Tables,
    paging: Paging,
    root: Gpa,
    structure: &StructureEntry,
) -> Option<Today> {
    let walked = walk(tables, Start::root(root), structure.base, paging);
    let (mut rights, mut accessed) = (Rights::ALL, true);
    for step in &walked.path {
        rights = rights.and(step.entry);
        accessed &= step.entry & bits::ACCESSED != 0;
        if step.level == structure.level {
            return match meaning(step.entry, step.level, paging) {
                Meaning::Table(table) => Some(Today { table, rights, accessed }),
                _ => None,
            };
        }
    }
    None
}
