//! What each operation must invalidate (SDM vol. 3, 4.10.4.1; vol. 2, INVLPG and INVPCID).
//! Everything else stays: a processor may drop more at any time, the model never does.

use super::entry::{Entry, EntryId, StructureEntry, Tag};
use super::set::{EntrySet, Removed, StructureSet};
use super::{Fill, Tagged, Tlb, today};
use crate::arch::addr::{Gpa, Gva, Pcid};
use crate::arch::features::Paging;
use crate::arch::vcpu::cr4;
use crate::arch::walk::{PageSize, Start, Tables, entry, walk};
use std::collections::BTreeSet;

/// Which cached translations an operation may have taken away or changed the selection of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// None.
    #[default]
    Nothing,
    /// Those of these pages, under any tag.
    Pages(Vec<Gva>),
    /// Everything under one PCID.
    Pcid(Pcid),
    /// Everything.
    Everything,
}

/// What an operation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// What to revalidate.
    pub scope: Scope,
    /// Entries removed that a walk would bring back the same: live ones.
    pub live_lost: Vec<(Tag, Gva)>,
    /// Entries removed.
    pub removed: usize,
}

impl Tlb {
    /// MOV to CR3. With CR4.PCIDE=0 the caller passes PCID 0 and `flush`.
    pub fn load_cr3(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
        pcid: Pcid,
        root: Gpa,
        flush: bool,
    ) -> Effect {
        let mut effect = Effect::default();
        if flush {
            effect = self.clear(tables, paging, &[pcid], false);
        }
        self.make_current(pcid, root);
        effect
    }

    /// From now on `root` is walked, and `pcid` tags what comes of it.
    fn make_current(&mut self, pcid: Pcid, root: Gpa) {
        let tagged = self.tagged.entry(pcid).or_insert_with(|| Tagged {
            root,
            entries: EntrySet::default(),
            structures: StructureSet::default(),
            filled: None,
        });
        if tagged.root != root {
            tagged.root = root;
            tagged.filled = None;
        }
        self.current = pcid;
    }

    /// INVLPG: the page in the current PCID and among globals, unless an erratum keeps those, and
    /// every paging-structure entry of the current PCID.
    pub fn invlpg(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
        va: Gva,
        keeps_globals: bool,
    ) -> Effect {
        let own = self.remove_page(tables, paging, Tag::Pcid(self.current), va);
        let globals = match keeps_globals {
            true => (Tag::Global, Removed::default()),
            false => self.remove_page(tables, paging, Tag::Global, va),
        };
        if !globals.1.entries.is_empty() || !globals.1.parts.is_empty() {
            // The refill is of the current root; what another maps there comes back with it.
            let current = self.current;
            let others = self.tagged.iter_mut().filter(|(pcid, _)| **pcid != current);
            others.for_each(|(_, tagged)| tagged.filled = None);
        }
        self.remove_structures(tables, paging, self.current, None);
        self.refill(tables, paging, va);
        self.effect(tables, paging, vec![own, globals])
    }

    /// INVPCID: 0 an address in a PCID, 1 a PCID, 2 everything, 3 everything but globals.
    pub fn invpcid(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
        kind: u64,
        pcid: Pcid,
        va: Gva,
    ) -> Effect {
        match kind {
            0 => {
                let removed = self.remove_page(tables, paging, Tag::Pcid(pcid), va);
                self.remove_structures(tables, paging, pcid, Some(va));
                if pcid == self.current {
                    self.refill(tables, paging, va);
                } else if let Some(tagged) = self.tagged.get_mut(&pcid) {
                    tagged.filled = None;
                }
                self.effect(tables, paging, vec![removed])
            }
            1 => self.clear(tables, paging, &[pcid], false),
            kind => {
                let all: Vec<Pcid> = self.tagged.keys().copied().collect();
                self.clear(tables, paging, &all, kind == 2)
            }
        }
    }

    /// MOV to CR4: a change of PGE, or PCIDE 1→0, removes everything; a change of PAE, or SMEP 0→1, all
    /// that was cached for the current PCID (SDM vol. 3, 4.10.4.1). Globals that may have been cached
    /// under another PCID may stay.
    pub fn write_cr4(&mut self, tables: &dyn Tables, paging: Paging, old: u64, new: u64) -> Effect {
        let changed = old ^ new;
        let clears_pcide = old & !new & cr4::PCIDE != 0;
        if changed & cr4::PGE != 0 || clears_pcide {
            let all: Vec<Pcid> = self.tagged.keys().copied().collect();
            let effect = self.clear(tables, paging, &all, true);
            if let Some(root) = self.root(Tag::Global).filter(|_| clears_pcide) {
                // Without PCIDs the current one is 0 (SDM vol. 3, 4.10.1), whatever CR3 holds.
                self.make_current(Pcid::new(0), root);
            }
            return effect;
        }
        if changed & cr4::PAE != 0 || new & !old & cr4::SMEP != 0 {
            let alone = self.tagged.keys().all(|pcid| *pcid == self.current);
            let mut effect = self.clear(tables, paging, &[self.current], alone);
            effect.scope = Scope::Everything;
            return effect;
        }
        Effect::default()
    }

    /// An architectural page fault: the page in the current PCID, and the paging-structure
    /// entries used for it; without PCIDs the page among globals too.
    pub fn page_fault(&mut self, tables: &dyn Tables, paging: Paging, va: Gva) -> Effect {
        let mut removed = vec![self.remove_page(tables, paging, Tag::Pcid(self.current), va)];
        if !paging.pcide {
            removed.push(self.remove_page(tables, paging, Tag::Global, va));
        }
        self.remove_structures(tables, paging, self.current, Some(va));
        self.refill(tables, paging, va);
        self.effect(tables, paging, removed)
    }

    /// Removes the paging-structure entries of `pcid` that are used for `va`, or all of them.
    /// Those that a speculating processor would fill again at once, just the same, stay.
    fn remove_structures(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
        pcid: Pcid,
        va: Option<Gva>,
    ) {
        let lazy = self.model.fill == Fill::LazyA;
        let root = self.root(Tag::Pcid(pcid)).filter(|_| pcid == self.current);
        let refilled = |structure: &StructureEntry| {
            let found = root.and_then(|root| today(tables, paging, root, structure));
            self.model.fill.is_complete()
                && found.is_some_and(|found| {
                    (found.table, found.rights) == (structure.table, structure.rights)
                        && (found.accessed || !lazy)
                })
        };
        let gone: Vec<EntryId> = self
            .structures(pcid)
            .filter(|structure| va.is_none_or(|va| structure.covers(va)))
            .filter(|structure| !refilled(structure))
            .map(|structure| structure.id)
            .collect();
        if let Some(tagged) = self.tagged.get_mut(&pcid) {
            tagged.structures.remove(&gone);
        }
    }

    /// Fills one page of the current PCID again, as speculation may at once.
    fn refill(&mut self, tables: &dyn Tables, paging: Paging, va: Gva) {
        let begun = |tagged: &&Tagged| tagged.filled.is_some();
        let root = self.tagged.get(&self.current).filter(begun).map(|tagged| tagged.root);
        // Where nothing is filled yet, the next speculation does it; else that looks at what has
        // changed alone.
        let Some(root) = root.filter(|_| self.model.fill.is_complete()) else { return };
        let walked = walk(tables, Start::root(root), va, paging);
        let lazy = self.model.fill == Fill::LazyA;
        if lazy && walked.path.iter().any(|step| step.entry & entry::ACCESSED == 0) {
            return;
        }
        if let Ok(translation) = walked.result {
            self.hold(translation);
        }
    }

    fn remove_page(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
        tag: Tag,
        va: Gva,
    ) -> (Tag, Removed) {
        let today = self.root(tag).map(|root| walk(tables, Start::root(root), va, paging));
        let today = today.and_then(|walk| walk.result.ok()).map(|today| today.size);
        let set = match tag {
            Tag::Pcid(pcid) => self.tagged.get_mut(&pcid).map(|tagged| &mut tagged.entries),
            Tag::Global => Some(&mut self.globals),
        };
        (tag, set.map_or_else(Removed::default, |set| set.remove_page(va, today)))
    }

    /// The effect of removing entries of single pages, or parts of them.
    fn effect(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
        removed: Vec<(Tag, Removed)>,
    ) -> Effect {
        let parts: Vec<(Gva, PageSize)> =
            removed.iter().flat_map(|(_, removed)| removed.parts.iter().copied()).collect();
        let tagged = |(tag, removed): (Tag, Removed)| {
            removed.entries.into_iter().map(move |entry| (tag, entry))
        };
        let removed: Vec<(Tag, Entry)> = removed.into_iter().flat_map(tagged).collect();
        // A 1 GiB page has more 4 KiB ones than everything that is mapped.
        let huge = removed.iter().any(|(_, entry)| entry.translation.size == PageSize::Huge);
        let scope = if huge {
            Scope::Everything
        } else {
            let of_part = |(base, size): (Gva, PageSize)| {
                (0..size.bytes()).step_by(4096).map(move |offset| Gva(base.0 + offset))
            };
            let whole = removed.iter().flat_map(|(_, entry)| entry.pages());
            let pages: BTreeSet<Gva> = whole.chain(parts.into_iter().flat_map(of_part)).collect();
            Scope::Pages(pages.into_iter().collect())
        };
        Effect { live_lost: self.live(tables, paging, &removed), removed: removed.len(), scope }
    }

    /// Of removed entries, those that were not stale. Only on-demand fills make a number of it
    /// that means something.
    fn live(
        &self,
        tables: &dyn Tables,
        paging: Paging,
        removed: &[(Tag, Entry)],
    ) -> Vec<(Tag, Gva)> {
        if self.model.fill != Fill::OnDemand {
            return Vec::new();
        }
        removed
            .iter()
            .filter(|(tag, entry)| self.stale_at(tables, paging, *tag, entry).is_none())
            .map(|(tag, entry)| (*tag, entry.translation.page))
            .collect()
    }

    /// Removes everything under `pcids`, and globals if asked.
    fn clear(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
        pcids: &[Pcid],
        globals: bool,
    ) -> Effect {
        let on_demand = self.model.fill == Fill::OnDemand;
        let mut effect = Effect::default();
        let tags = pcids.iter().map(|&pcid| Tag::Pcid(pcid));
        let tags: Vec<Tag> = tags.chain(globals.then_some(Tag::Global)).collect();
        for &tag in &tags {
            if on_demand {
                let entries = self.entries(tag).cloned().map(|entry| (tag, entry));
                let entries: Vec<_> = entries.collect();
                effect.live_lost.extend(self.live(tables, paging, &entries));
            }
            effect.removed += self.set(tag).map_or(0, EntrySet::len);
        }
        effect.scope = match tags[..] {
            [] => Scope::Nothing,
            [Tag::Pcid(pcid)] => Scope::Pcid(pcid),
            _ => Scope::Everything,
        };
        for pcid in pcids {
            if let Some(tagged) = self.tagged.get_mut(pcid) {
                tagged.entries.clear();
                tagged.structures.clear();
                tagged.filled = None;
            }
        }
        if globals {
            self.globals.clear();
            // Whatever was filled, its global part has gone.
            self.tagged.values_mut().for_each(|tagged| tagged.filled = None);
        }
        effect
    }
}
