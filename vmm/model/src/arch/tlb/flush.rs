//! What each operation must invalidate (SDM vol. 3, 4.10.4.1; vol. 2, INVLPG and INVPCID).
//! Everything else stays: a processor may drop more at any time, the model never does.

use super::entry::{Entry, Tag};
use super::set::{EntrySet, Removed, StructureSet};
use super::{Fill, Tagged, Tlb};
use crate::arch::addr::{Gpa, Gva, Pcid};
use crate::arch::features::Paging;
use crate::arch::vcpu::cr4;
use crate::arch::walk::{PageSize, Start, Tables, Translation, walk};
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
    /// Entries removed that were stored.
    pub removed: usize,
    /// It removed what was held without being stored, too, which speculation brings back at once.
    pub implied: bool,
}

impl Effect {
    /// Whether it removed anything.
    #[must_use]
    pub fn removes_any(&self) -> bool {
        self.removed > 0 || self.implied
    }
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
        if let Some(old) = self.root(Tag::Global) {
            self.store_globals(tables, old, Some(root));
        }
        if flush {
            effect = self.clear(tables, paging, &[pcid], false);
        } else if self.holds_other(pcid, root, paging) {
            self.store_all(tables, pcid);
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
            implicit: None,
            touched: BTreeSet::new(),
            followed: None,
        });
        tagged.root = root;
        tagged.followed = None;
        self.current = pcid;
    }

    /// Whether what `pcid` holds without its being stored is not what walks of `root` give.
    fn holds_other(&self, pcid: Pcid, root: Gpa, paging: Paging) -> bool {
        self.tagged.get(&pcid).is_some_and(|tagged| {
            let implicit = tagged.implicit.as_ref();
            implicit.is_some_and(|held| tagged.root != root || !held.paging.walks_like(paging))
        })
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
        let implied = self.implied_at(tables, self.current, va);
        let mut own = self.remove_page(tables, paging, Tag::Pcid(self.current), va);
        let globals = match keeps_globals {
            true => (Tag::Global, Removed::default()),
            false => self.remove_page(tables, paging, Tag::Global, va),
        };
        let gone = implied.filter(|held| !(held.global && keeps_globals));
        own.1.parts.extend(gone.and_then(|held| self.untouch(self.current, &held)));
        self.remove_structures(self.current, None);
        let effect = self.effect(tables, paging, vec![own, globals]);
        Effect { implied: gone.is_some(), ..effect }
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
                let mut removed = self.remove_page(tables, paging, Tag::Pcid(pcid), va);
                self.remove_structures(pcid, Some(va));
                let gone = match pcid == self.current {
                    true => self.implied_at(tables, pcid, va).filter(|held| !held.global),
                    false => self.make_absent(tables, pcid, va),
                };
                if let Some(gone) = gone {
                    let touched = self.untouch(pcid, &gone);
                    let absent = (pcid != self.current).then_some((gone.page, gone.size));
                    removed.1.parts.extend(touched.or(absent));
                }
                let effect = self.effect(tables, paging, vec![removed]);
                Effect { implied: gone.is_some(), ..effect }
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
        let implied = self.implied_at(tables, self.current, va);
        let mut own = self.remove_page(tables, paging, Tag::Pcid(self.current), va);
        own.1.parts.extend(implied.and_then(|held| self.untouch(self.current, &held)));
        let mut removed = vec![own];
        if !paging.pcide {
            removed.push(self.remove_page(tables, paging, Tag::Global, va));
        }
        self.remove_structures(self.current, Some(va));
        self.effect(tables, paging, removed)
    }

    /// Removes the paging-structure entries that are stored under `pcid` and used for `va`, or all of
    /// them.
    fn remove_structures(&mut self, pcid: Pcid, va: Option<Gva>) {
        let tagged = self.tagged.get_mut(&pcid).filter(|tagged| !tagged.structures.is_empty());
        let Some(tagged) = tagged else { return };
        match va {
            Some(va) => tagged.structures.remove_used(va),
            None => tagged.structures.clear(),
        }
        self.structure_changes += 1;
    }

    /// The next access of the page, under `pcid`, is the first again; the page, if there was one.
    fn untouch(&mut self, pcid: Pcid, held: &Translation) -> Option<(Gva, PageSize)> {
        let Translation { page, size, global, .. } = *held;
        let touched = self.touched_mut(global, pcid)?;
        let last = Gva(page.0 + (size.bytes() - 1));
        let gone: Vec<Gva> = touched.range(page..=last).copied().collect();
        for page in &gone {
            touched.remove(page);
        }
        (!gone.is_empty()).then_some((page, size))
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
        let live_lost = self.live(tables, paging, &removed);
        Effect { live_lost, removed: removed.len(), scope, implied: false }
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
                self.structure_changes += u64::from(!tagged.structures.is_empty());
                tagged.structures.clear();
                tagged.touched.clear();
                effect.implied |= tagged.implicit.take().is_some();
            }
        }
        if globals {
            self.globals.clear();
            self.touched_globals.clear();
        }
        effect
    }
}
