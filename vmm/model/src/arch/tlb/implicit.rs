//! What a TLB holds without its being stored: whatever walks give today, a processor that fills all that
//! it may holds anyway. Only what differs is stored, when it comes to differ: a store to a table makes an
//! entry of each translation that it replaces, under each PCID that may hold it. So the cost follows the
//! stores and flushes, and not how much is mapped, nor how often a root is loaded.

use super::entry::{Entry, EntryId, StructureEntry, Tag};
use super::fill::{AccessedUpdate, harvest_slot};
use super::reachable::Reachable;
use super::{Fill, Tagged, Tlb};
use crate::arch::addr::{Gpa, Gva, Pcid};
use crate::arch::census::Reach;
use crate::arch::features::Paging;
use crate::arch::walk::{Meaning, Start, Tables, Translation, entry as bits, meaning, shift, walk};
use std::collections::BTreeSet;

/// Changes of a root's tables whose A bits are still to be set, at most: past that all of it is walked.
pub(super) const PENDING: usize = 64;

/// What one PCID holds without its being stored: all that walks of its root give.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Implicit {
    /// The control bits by which it was filled.
    pub(super) paging: Paging,
    /// Addresses of which it has nothing, since what they are translated by was replaced, or invalidated,
    /// while it was not current: all that one entry of this level translates, and the first of them.
    pub(super) absent: BTreeSet<(u8, Gva)>,
    /// Levels and addresses of paging-structure entries that were invalidated then.
    absent_structures: BTreeSet<(u8, Gva)>,
}

impl Implicit {
    fn new(paging: Paging) -> Self {
        Self { paging, absent: BTreeSet::new(), absent_structures: BTreeSet::new() }
    }

    pub(super) fn has(&self, va: Gva) -> bool {
        self.has_above(1, va)
    }

    pub(super) fn has_structure(&self, level: u8, base: Gva) -> bool {
        self.has_above(level, base) && !self.absent_structures.contains(&(level, base))
    }

    /// Whether nothing of this level and above that translates `va` is absent.
    fn has_above(&self, level: u8, va: Gva) -> bool {
        self.absent.is_empty()
            || (level..=4).all(|level| !self.absent.contains(&(level, first(level, va))))
    }

    fn is_whole(&self) -> bool {
        self.absent.is_empty() && self.absent_structures.is_empty()
    }
}

/// The A bits that speculation sets below one root.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Accessed {
    paging: Paging,
    /// Changes since they were all set.
    pub(super) pending: BTreeSet<Reach>,
}

/// The first address that an entry of this level which translates `va` does.
fn first(level: u8, va: Gva) -> Gva {
    Gva(va.0 & !((1 << shift(level)) - 1))
}

/// The last one, where `base` is the first.
fn last(level: u8, base: Gva) -> Gva {
    Gva(base.0 | ((1 << shift(level)) - 1))
}

impl Tlb {
    pub(super) fn is_lazy(&self) -> bool {
        self.model.fill == Fill::LazyA
    }

    pub(super) fn reachable(&self) -> Reachable {
        Reachable { lazy: self.is_lazy(), ..Reachable::default() }
    }

    /// What walks of a root give for `va` today, as far as speculation goes.
    pub(super) fn given(
        &self,
        tables: &dyn Tables,
        root: Gpa,
        paging: Paging,
        va: Gva,
    ) -> Option<Translation> {
        let walked = walk(tables, Start::root(root), va, paging);
        let is_accessed = || walked.path.iter().all(|step| step.entry & bits::ACCESSED != 0);
        walked.result.ok().filter(|_| !self.is_lazy() || is_accessed())
    }

    /// What `pcid` holds of `va` without its being stored.
    pub(super) fn implied_at(
        &self,
        tables: &dyn Tables,
        pcid: Pcid,
        va: Gva,
    ) -> Option<Translation> {
        let tagged = self.tagged.get(&pcid)?;
        let implicit = tagged.implicit.as_ref().filter(|implicit| implicit.has(va))?;
        self.given(tables, tagged.root, implicit.paging, va)
    }

    /// All that is held under `tag` of `[start, end]`, whether it is stored or what walks give; of what
    /// walks give the ids mean nothing.
    #[must_use]
    pub fn held_in(&self, tables: &dyn Tables, tag: Tag, start: Gva, end: Gva) -> Vec<Entry> {
        let mut held: Vec<Entry> = self.entries_in(tag, start, end).cloned().collect();
        let pcid = match tag {
            Tag::Pcid(pcid) => pcid,
            Tag::Global => self.current,
        };
        let Some(tagged) = self.tagged.get(&pcid) else { return held };
        let Some(implicit) = &tagged.implicit else { return held };
        let mut found = Reachable { within: Some((start, end)), ..self.reachable() };
        found.below(tables, implicit.paging, Start::root(tagged.root), 0);
        let is_global = tag == Tag::Global;
        let leaves = found.leaves.into_iter().filter(|leaf| leaf.global == is_global);
        let root = if is_global { Gpa(0) } else { tagged.root };
        for translation in leaves.filter(|leaf| implicit.has(leaf.page)) {
            let new = Entry::new(EntryId(self.next_id), translation, root);
            let whole =
                |other: &Entry| other.missing.is_empty() && other.translation == translation;
            if !held.iter().any(whole) {
                held.push(new);
            }
        }
        held
    }

    /// All paging-structure entries that `pcid` holds, whether they are stored or what walks give.
    #[must_use]
    pub fn held_structures(&self, tables: &dyn Tables, pcid: Pcid) -> Vec<StructureEntry> {
        let mut held: Vec<StructureEntry> = self.structures(pcid).copied().collect();
        let Some(tagged) = self.tagged.get(&pcid) else { return held };
        let Some(implicit) = tagged.implicit.as_ref().filter(|_| self.model.structure_caches)
        else {
            return held;
        };
        let mut found = self.reachable();
        found.below(tables, implicit.paging, Start::root(tagged.root), 0);
        for (level, base, table, rights) in found.walked {
            let id = EntryId(self.next_id);
            let new = StructureEntry { level, base, id, pcid, table, rights };
            let same = |other: &StructureEntry| StructureEntry { id, ..*other } == new;
            if implicit.has_structure(level, base) && !held.iter().any(same) {
                held.push(new);
            }
        }
        held
    }

    /// Where the walk for a miss of `va` begins: the deepest cached paging-structure entry, the oldest of
    /// them, or the root.
    #[must_use]
    pub fn walk_start(&self, tables: &dyn Tables, va: Gva) -> Option<Start> {
        let tagged = self.tagged.get(&self.current)?;
        let root = Start::root(tagged.root);
        let Some(cached) = tagged.structures.deepest(va) else { return Some(root) };
        // What walks give is held too: a deeper one of these comes to what a walk of the root does.
        let deeper = tagged.implicit.as_ref().is_some_and(|implicit| {
            let mut walked = walk(tables, root, va, implicit.paging).path.into_iter();
            let mut goes_on = |level: u8| {
                walked.next().is_some_and(|step| {
                    let counts = !self.is_lazy() || step.entry & bits::ACCESSED != 0;
                    let table = meaning(step.entry, level, implicit.paging);
                    counts && matches!(table, Meaning::Table(_))
                })
            };
            (cached.level - 1..=4).rev().all(&mut goes_on) && cached.level > 2
        });
        Some(if deeper { root } else { cached.start() })
    }

    /// Lets a speculating processor fill all that it may reach; returns the A bits that it sets on the
    /// way. Nothing under other fill choices.
    pub fn speculate(&mut self, tables: &dyn Tables, paging: Paging) -> Vec<AccessedUpdate> {
        self.forget_latest();
        let mut updates = self.set_accessed(tables, paging);
        updates.extend(self.follow(tables, paging));
        updates
    }

    /// The A bits of what the current root reaches that are still clear, if speculation sets them.
    fn set_accessed(&mut self, tables: &dyn Tables, paging: Paging) -> Vec<AccessedUpdate> {
        if self.model.fill != Fill::WorstCase {
            return Vec::new();
        }
        let Some(root) = self.tagged.get(&self.current).map(|tagged| tagged.root) else {
            return Vec::new();
        };
        let mut found = self.reachable();
        let known = self.accessed.get_mut(&root).filter(|known| known.paging.walks_like(paging));
        match known {
            Some(known) => {
                for reach in std::mem::take(&mut known.pending) {
                    harvest_slot(tables, paging, reach, &mut found);
                }
            }
            None => {
                found.below(tables, paging, Start::root(root), 0);
                self.accessed.insert(root, Accessed { paging, pending: BTreeSet::new() });
            }
        }
        self.beyond |= found.is_full();
        found.updates
    }

    /// Lets what the current PCID holds be what walks of its root give now, and what walks that begin at
    /// stale paging-structure entries do; the A bits that these set.
    pub fn follow(&mut self, tables: &dyn Tables, paging: Paging) -> Vec<AccessedUpdate> {
        if !self.model.fill.is_complete() {
            return Vec::new();
        }
        let pcid = self.current;
        let Some(tagged) = self.tagged.get_mut(&pcid) else { return Vec::new() };
        match &tagged.implicit {
            Some(held) if held.paging.walks_like(paging) => {
                if !held.is_whole() {
                    let before = tagged.implicit.replace(Implicit::new(paging));
                    let absent = before.map(|before| before.absent).unwrap_or_default();
                    for (level, base) in absent {
                        self.prune(tables, pcid, (base, last(level, base)));
                    }
                }
            }
            held => {
                let (changes, root) = (held.is_some(), tagged.root);
                if changes {
                    self.store_by_other_bits(tables, root, paging);
                }
                if let Some(tagged) = self.tagged.get_mut(&pcid) {
                    tagged.implicit = Some(Implicit::new(paging));
                }
            }
        }
        self.walk_stale_structures(tables, paging)
    }

    /// Under other control bits walks give something else: stores what every PCID holds.
    fn store_by_other_bits(&mut self, tables: &dyn Tables, root: Gpa, paging: Paging) {
        self.store_globals(tables, root, None);
        self.globals_apart.clear();
        let other = |tagged: &Tagged| {
            tagged.implicit.as_ref().is_some_and(|held| !held.paging.walks_like(paging))
        };
        let holders = self.tagged.iter().filter(|(_, tagged)| other(tagged));
        for pcid in holders.map(|(pcid, _)| *pcid).collect::<Vec<_>>() {
            self.store_all(tables, pcid);
        }
    }

    /// What walks that begin at cached paging-structure entries come to, where that is not what walks of
    /// the root do.
    fn walk_stale_structures(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
    ) -> Vec<AccessedUpdate> {
        let Some(tagged) = self.tagged.get_mut(&self.current) else { return Vec::new() };
        if tagged.structures.is_empty() || tagged.followed == Some(self.generation) {
            return Vec::new();
        }
        let mut found = self.reachable();
        for structure in self.structures(self.current).copied().collect::<Vec<_>>() {
            if !self.is_implied(tables, paging, &structure) {
                found.below(tables, paging, structure.start(), structure.base.0);
            }
        }
        self.beyond |= found.is_full();
        self.store_found(tables, &found.walked, &found.leaves);
        if let Some(tagged) = self.tagged.get_mut(&self.current) {
            tagged.followed = Some(self.generation);
        }
        found.updates
    }

    /// Notes an access of a page, under the current PCID or through a global; whether it is the first since
    /// the page was flushed. Noted only where speculation waits for A: elsewhere nobody asks.
    pub fn touch(&mut self, va: Gva, through: &Translation) -> bool {
        let lazy = self.is_lazy();
        let touched = self.touched_mut(through.global, self.current).filter(|_| lazy);
        touched.is_some_and(|touched| touched.insert(va.page()))
    }

    /// Whether the page of a translation that is held under `pcid`, or among globals, was accessed since
    /// it was last flushed.
    #[must_use]
    pub fn is_touched(&self, pcid: Pcid, translation: &Translation) -> bool {
        let Translation { page, size, global, .. } = *translation;
        let touched = match global {
            true => Some(&self.touched_globals),
            false => self.tagged.get(&pcid).map(|tagged| &tagged.touched),
        };
        let last = Gva(page.0 + (size.bytes() - 1));
        touched.is_some_and(|touched| touched.range(page..=last).next().is_some())
    }

    pub(super) fn touched_mut(&mut self, global: bool, pcid: Pcid) -> Option<&mut BTreeSet<Gva>> {
        match global {
            true => Some(&mut self.touched_globals),
            false => self.tagged.get_mut(&pcid).map(|tagged| &mut tagged.touched),
        }
    }

    /// INVPCID of an address in a PCID that is not current: nothing of it is held until that is. What was
    /// held, and not stored.
    pub(super) fn make_absent(
        &mut self,
        tables: &dyn Tables,
        pcid: Pcid,
        va: Gva,
    ) -> Option<Translation> {
        let held = self.implied_at(tables, pcid, va).filter(|held| !held.global);
        let implicit = self.tagged.get_mut(&pcid)?.implicit.as_mut()?;
        let level = held.map_or(1, |held| held.size.level());
        implicit.absent.insert((level, first(level, va)));
        implicit.absent_structures.extend((2..=4).map(|level| (level, first(level, va))));
        held
    }

    /// The census forgets all roots but these: how the tables of another one change is no longer seen, so
    /// that what it gave once says nothing of what it gives when it is loaded again.
    pub fn keep_roots(&mut self, kept: &BTreeSet<Gpa>) {
        self.accessed.retain(|root, _| kept.contains(root));
        self.globals_apart.retain(|(one, other), _| kept.contains(one) && kept.contains(other));
    }
}
