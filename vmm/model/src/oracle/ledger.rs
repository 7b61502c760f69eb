//! The ledger: the obligations of a run. What is open is looked at; what is closed is kept aside, so
//! that the cost of an event does not grow with what has happened before.

use super::RuleId;
use super::obligation::{Cover, Discharger, Downgrade, Obligation, ObligationId, State};
use super::replica::{OpenFlush, Replica, ReplicaCpu};
use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::census::Reach;
use crate::arch::cr3::NOFLUSH;
use crate::arch::happened::Happened;
use crate::arch::tlb::{Entry, EntryId, StructureEntry, Tag};
use crate::arch::walk::entry::{DIRTY, PRESENT};
use crate::event::{Announcement, Event, SpaceId};
use std::collections::{BTreeMap, BTreeSet};

/// All obligations of a run.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    next: u64,
    /// Of these something is still cached, whether a rule has spoken or not.
    held: BTreeMap<ObligationId, Obligation>,
    /// Of these nothing is.
    closed: Vec<Obligation>,
    /// The last event removed something that an obligation is about.
    last_event_flushed_stale: bool,
}

impl Ledger {
    /// All of them, in order of their downgrades.
    #[must_use]
    pub fn obligations(&self) -> Vec<&Obligation> {
        let mut all: Vec<&Obligation> = self.closed.iter().chain(self.held.values()).collect();
        all.sort_by_key(|obligation| obligation.id);
        all
    }

    /// Whether there ever was one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.held.is_empty()
    }

    /// One of them, of which something is still cached.
    #[must_use]
    pub fn get(&self, id: ObligationId) -> Option<&Obligation> {
        self.held.get(&id)
    }

    /// Those of which something is still cached.
    pub fn held(&self) -> impl Iterator<Item = &Obligation> {
        self.held.values()
    }

    /// Those of them that no rule has spoken of.
    pub fn open(&self) -> impl Iterator<Item = &Obligation> {
        self.held().filter(|obligation| obligation.is_open())
    }

    /// Whether the last event removed something that an obligation, open or violated, is about.
    #[must_use]
    pub fn last_event_flushed_stale(&self) -> bool {
        self.last_event_flushed_stale
    }

    /// Notes that a rule has spoken.
    pub fn violate(&mut self, id: ObligationId, rule: RuleId, seq: u64) {
        if let Some(obligation) = self.held.get_mut(&id) {
            obligation.state = State::Violated { rule, seq };
        }
    }

    fn open_mut(&mut self) -> impl Iterator<Item = &mut Obligation> {
        self.held.values_mut().filter(|obligation| obligation.is_open())
    }

    /// Follows one event that `replica` has applied. `consuming` says that it loaded a user CR3
    /// without NOFLUSH because of a mark.
    pub fn apply(&mut self, event: &Event, replica: &Replica, consuming: bool) {
        self.last_event_flushed_stale = false;
        for announcement in event.announcements() {
            self.announced(event.cpu, announcement, replica);
        }
        match event.happened() {
            Some(&Happened::TableStore { slot, old, new }) => {
                self.settle(event, replica, Discharger::Restored, true);
                let downgrade = Downgrade {
                    seq: event.seq,
                    cpu: event.cpu,
                    rip: event.rip,
                    task: replica.task(),
                    slot,
                    old,
                    new,
                };
                if new & PRESENT != 0 {
                    self.remapped(&replica.census.reaches(slot));
                }
                self.downgrade(downgrade, replica);
            }
            // A D that a processor sets again makes what has it right again.
            Some(Happened::AccessedDirty { old, new, .. }) if (old ^ new) & DIRTY != 0 => {
                self.settle(event, replica, Discharger::Restored, true);
            }
            Some(happened) => {
                if let Some(discharger) = discharger(happened, consuming) {
                    self.settle(event, replica, discharger, false);
                }
            }
            None => {}
        }
    }

    fn announced(&mut self, by: CpuId, announcement: &Announcement, replica: &Replica) {
        match announcement {
            Announcement::Acknowledged { by, to } => {
                if let Some(open) = replica.flush_on(*to) {
                    let task = replica.cpu(*to).task;
                    self.cover(&open, Cover { flush: open.flush, task }, Some(*by), replica);
                }
            }
            Announcement::Generation { space, generation } => {
                self.generation(by, *space, *generation, replica);
            }
            Announcement::Deferred(flush) => {
                let deferred = |obligation: &&mut Obligation| {
                    let same = flush.root.is_none_or(|root| replica.is_pair(root, obligation.root));
                    same && flush.covers(obligation.page)
                };
                self.open_mut()
                    .filter(deferred)
                    .for_each(|obligation| obligation.deferred = Some(by));
            }
            _ => {}
        }
    }

    /// A page whose flush is deferred is mapped anew: what is cached of it is no longer of a page that
    /// is gone, and is owed like any other.
    fn remapped(&mut self, reaches: &BTreeSet<Reach>) {
        let deferred = self.open_mut().filter(|obligation| {
            let here =
                |reach: &Reach| reach.root == obligation.root && reach.contains(obligation.page);
            obligation.waits() && reaches.iter().any(here)
        });
        deferred.for_each(|obligation| obligation.remapped = true);
    }

    /// An address space's generation is raised, for what the flush under way covers, or outside of
    /// one for what was deferred.
    fn generation(&mut self, cpu: CpuId, space: SpaceId, generation: u64, replica: &Replica) {
        let Some(root) = replica.space(space).map(|space| space.root) else { return };
        let open = replica.flush_on(cpu);
        for obligation in self.held.values_mut() {
            let meant = match &open {
                Some(open) => obligation.is_requested_of(open, replica),
                None => obligation.deferred == Some(cpu),
            };
            let same = replica.is_pair(root, obligation.root);
            if meant && obligation.generation.is_none() && same {
                obligation.generation = Some(generation);
            }
        }
    }

    /// A flush returns.
    pub fn returned(&mut self, open: &OpenFlush, replica: &Replica) {
        let cover = Cover { flush: open.flush, task: replica.task() };
        self.cover(open, cover, None, replica);
    }

    /// What `open` is of is covered, on every CPU or on one.
    fn cover(&mut self, open: &OpenFlush, cover: Cover, on: Option<CpuId>, replica: &Replica) {
        for obligation in self.held.values_mut() {
            let meant = on.is_none_or(|cpu| obligation.cpu == cpu);
            if meant && obligation.covered.is_none() && obligation.is_requested_of(open, replica) {
                obligation.covered = Some(cover);
            }
        }
    }

    /// Closes the obligations of which nothing is left.
    fn settle(&mut self, event: &Event, replica: &Replica, by: Discharger, look: bool) {
        let mut gone = Vec::new();
        // An invalidation reaches the CPU that makes it, a store what every CPU holds. What a rule
        // has spoken of is followed all the same.
        let concerned = |obligation: &&mut Obligation| look || obligation.cpu == event.cpu;
        for obligation in self.held.values_mut().filter(concerned) {
            let held = obligation.held();
            let tag = obligation.tag;
            let cpu = replica.cpu(obligation.cpu);
            let (tlb, paging) = (&cpu.tlb, cpu.paging());
            obligation.entries.retain(|&(page, id)| {
                tlb.entry(tag, page, id).is_some_and(|entry| {
                    !look || tlb.stale_at(&replica.tables, paging, tag, entry).is_some()
                })
            });
            if let Tag::Pcid(pcid) = tag {
                obligation.structures.retain(|&id| {
                    tlb.structures(pcid).any(|structure| {
                        structure.id == id
                            && (!look || tlb.structure_is_stale(&replica.tables, paging, structure))
                    })
                });
            }
            self.last_event_flushed_stale |= obligation.held() != held;
            if obligation.held() == 0 {
                gone.push(obligation.id);
            }
        }
        for id in gone {
            let Some(mut obligation) = self.held.remove(&id) else { continue };
            if obligation.is_open() {
                let task = replica.task();
                obligation.state = State::Discharged { by, seq: event.seq, task };
            }
            self.closed.push(obligation);
        }
    }

    /// Finds what a store made stale, CPU by CPU and tag by tag.
    fn downgrade(&mut self, downgrade: Downgrade, replica: &Replica) {
        let reaches = replica.census.reaches(downgrade.slot);
        if reaches.is_empty() {
            return;
        }
        let owed: BTreeSet<(CpuId, Tag, EntryId)> = self
            .open()
            .flat_map(|obligation| {
                let entries = obligation.entries.iter().map(|(_, id)| *id);
                let all = entries.chain(obligation.structures.iter().copied());
                all.map(|id| (obligation.cpu, obligation.tag, id)).collect::<Vec<_>>()
            })
            .collect();
        for (cpu, of_cpu) in replica.numbered() {
            for tag in of_cpu.tlb.tags() {
                let is_new = |id: EntryId| !owed.contains(&(cpu, tag, id));
                let Some(found) = stale(replica, of_cpu, tag, &reaches, &is_new) else { continue };
                let id = ObligationId(self.next);
                self.next += 1;
                let obligation = Obligation {
                    id,
                    downgrade,
                    cpu,
                    tag,
                    root: found.root,
                    entry: found.entry,
                    structure: found.structure,
                    page: found.page,
                    covered: None,
                    deferred: None,
                    remapped: false,
                    generation: None,
                    state: State::Open,
                    entries: found.entries,
                    structures: found.structures,
                };
                self.held.insert(id, obligation);
            }
        }
    }
}

/// What is stale under one tag of one CPU.
struct Stale {
    root: Gpa,
    entry: Option<Entry>,
    structure: Option<StructureEntry>,
    page: Gva,
    entries: Vec<(Gva, EntryId)>,
    structures: Vec<EntryId>,
}

/// What is stale under `tag` at the places that `reaches` names.
fn stale(
    replica: &Replica,
    cpu: &ReplicaCpu,
    tag: Tag,
    reaches: &BTreeSet<Reach>,
    is_new: &dyn Fn(EntryId) -> bool,
) -> Option<Stale> {
    let (tlb, paging) = (&cpu.tlb, cpu.paging());
    let root = tlb.root(tag)?;
    let mut entries = Vec::new();
    let mut structures = Vec::new();
    let (mut first, mut page) = (None, None);
    let mut first_structure = None;
    for reach in reaches.iter().filter(|reach| reach.root == root) {
        let end = Gva(reach.base.0 + (reach.span() - 1));
        for entry in tlb.entries_in(tag, reach.base, end).filter(|entry| is_new(entry.id)) {
            if let Some(at) = tlb.stale_at(&replica.tables, paging, tag, entry) {
                entries.push((entry.translation.page, entry.id));
                page.get_or_insert(at);
                first.get_or_insert_with(|| entry.clone());
            }
        }
        let Tag::Pcid(pcid) = tag else { continue };
        for structure in tlb.structures(pcid).filter(|structure| is_new(structure.id)) {
            let here = reach.contains(structure.base) || structure.covers(reach.base);
            if here && tlb.structure_is_stale(&replica.tables, paging, structure) {
                structures.push(structure.id);
                first_structure.get_or_insert(*structure);
                page.get_or_insert(reach.base);
            }
        }
    }
    let structure = first_structure.filter(|_| first.is_none());
    page.map(|page| Stale { root, entry: first, structure, page, entries, structures })
}

fn discharger(happened: &Happened, consuming: bool) -> Option<Discharger> {
    Some(match happened {
        Happened::Invlpg { .. } => Discharger::Invlpg,
        Happened::Invpcid { kind: 0, .. } => Discharger::Invpcid,
        Happened::Invpcid { .. } | Happened::WriteCr4 { .. } => Discharger::BigHammer,
        Happened::LoadCr3 { .. } if consuming => Discharger::Consume,
        Happened::LoadCr3 { value, .. } if value & NOFLUSH == 0 => Discharger::Cr3Load,
        Happened::PageFault { .. } => Discharger::PageFault,
        Happened::Evict { .. } => Discharger::Eviction,
        _ => return None,
    })
}
