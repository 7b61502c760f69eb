//! The ledger: the obligations of a run. What is open is looked at; what is closed is kept aside, so
//! that the cost of an event does not grow with what has happened before.

mod within;

use super::held::Held;
use super::obligation::{
    Cause, Cover, Deferral, Discharger, Downgrade, Obligation, ObligationId, Stale, State,
};
use super::replica::{OpenFlush, Replica, ReplicaCpu};
use super::{Before, RuleId};
use crate::arch::addr::{CpuId, Gva};
use crate::arch::census::Reach;
use crate::arch::cr3::{self, NOFLUSH};
use crate::arch::happened::Happened;
use crate::arch::tlb::{EntryId, Store, StructureKey, Tag};
use crate::arch::vcpu::{cr0, cr4, efer};
use crate::arch::walk::entry::{DIRTY, PRESENT};
use crate::event::{Announcement, Event, SpaceId, TaskId, Until};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// All obligations of a run.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    next: u64,
    /// Of these something is still cached, whether a rule has spoken or not.
    held: Held,
    /// Of these nothing is. They change no more, so that clones share them.
    closed: Vec<Rc<Obligation>>,
    /// What the last event removed of what obligations are about.
    last_flushed: Vec<(ObligationId, Vec<EntryId>)>,
    /// Some of that had been accessed.
    flushed_accessed: bool,
    /// Of a kernel that runs freely, what each task has made stale since it was last in user mode.
    begun: BTreeMap<TaskId, Vec<ObligationId>>,
}

impl Ledger {
    /// All of them, in order of their downgrades.
    #[must_use]
    pub fn obligations(&self) -> Vec<&Obligation> {
        let mut all: Vec<&Obligation> =
            self.closed.iter().map(Rc::as_ref).chain(self.held.iter()).collect();
        all.sort_by_key(|obligation| obligation.id);
        all
    }

    /// Those of which nothing is cached any more, in the order in which that came.
    #[must_use]
    pub fn closed(&self) -> &[Rc<Obligation>] {
        &self.closed
    }

    /// Whether there ever was one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.held.is_empty()
    }

    /// One of them, of which something is still cached.
    #[must_use]
    pub fn get(&self, id: ObligationId) -> Option<&Obligation> {
        self.held.get(id)
    }

    /// Those of which something is still cached.
    pub fn held(&self) -> impl Iterator<Item = &Obligation> {
        self.held.iter()
    }

    /// Those of them that no rule has spoken of.
    pub fn open(&self) -> impl Iterator<Item = &Obligation> {
        self.held().filter(|obligation| obligation.is_open())
    }

    /// Of those, the ones under a tag of a CPU.
    pub fn open_under(&self, cpu: CpuId, tag: Tag) -> impl Iterator<Item = &Obligation> {
        self.held.under(cpu, tag).filter(|obligation| obligation.is_open())
    }

    /// Of those, the ones that are about an address which a store to a slot with these `reaches` may
    /// have changed, under the tags that walks of the slot's roots make.
    pub fn open_at(&self, replica: &Replica, reaches: &BTreeSet<Reach>) -> Vec<&Obligation> {
        let near = self.near(replica, reaches).into_iter();
        let open = near.filter_map(|id| self.held.get(id)).filter(|owed| owed.is_open());
        open.collect()
    }

    /// Whether the last event removed something that an obligation, open or violated, is about.
    #[must_use]
    pub fn last_event_flushed_stale(&self) -> bool {
        !self.last_flushed.is_empty()
    }

    /// Whether the last event removed such a thing that somebody had accessed before it became stale: no
    /// processor need have speculated to hold it.
    #[must_use]
    pub fn last_event_flushed_accessed(&self) -> bool {
        self.flushed_accessed
    }

    /// What the last event removed of what obligations, open or violated, are about.
    #[must_use]
    pub fn last_flushed(&self) -> &[(ObligationId, Vec<EntryId>)] {
        &self.last_flushed
    }

    /// Notes that a rule has spoken.
    pub fn violate(&mut self, id: ObligationId, rule: RuleId, seq: u64) {
        if let Some(obligation) = self.held.get_mut(id) {
            obligation.state = State::Violated { rule, seq };
        }
    }

    fn open_mut(&mut self) -> impl Iterator<Item = &mut Obligation> {
        self.held.iter_mut().filter(|obligation| obligation.is_open())
    }

    /// Follows one event that `replica` has applied.
    pub(super) fn apply(&mut self, event: &Event, replica: &Replica, before: &Before) {
        self.last_flushed.clear();
        self.flushed_accessed = false;
        for announcement in event.announcements() {
            self.announced(event.cpu, announcement, replica);
        }
        match event.happened() {
            Some(&Happened::TableStore { slot, old, new }) => {
                let reaches = replica.census.reaches(slot);
                let near = self.near(replica, &reaches);
                self.settle(event, replica, Discharger::Restored, near, true);
                let cause = Cause::Store(Store { slot, old, new });
                let downgrade = Downgrade::new(event, replica, cause);
                if old & PRESENT == 0 && new & PRESENT != 0 {
                    self.mapped_anew(event.cpu, &reaches, replica);
                }
                self.downgrade(downgrade, &reaches, replica);
            }
            // A D that a processor sets again makes what has it right again.
            Some(Happened::AccessedDirty { slot, old, new }) if (old ^ new) & DIRTY != 0 => {
                let near = self.near(replica, &replica.census.reaches(*slot));
                self.settle(event, replica, Discharger::Restored, near, true);
            }
            Some(happened) => {
                if let Some(discharger) = discharger(happened, before.consuming) {
                    let near = self.invalidated(event.cpu, happened, replica);
                    self.settle(event, replica, discharger, near, false);
                }
                match *happened {
                    Happened::UserEntry => {
                        self.operation_over(replica.cpu(event.cpu).task);
                    }
                    Happened::LoadCr3 { old, value } => {
                        self.root_loaded(event, (old, value), replica, before);
                    }
                    Happened::WriteCr0 { old, new } if (old ^ new) & cr0::WP != 0 => {
                        self.control(event, "CR0", (old, new), replica);
                    }
                    Happened::WriteCr4 { old, new } if (old ^ new) & cr4::SMEP != 0 => {
                        self.control(event, "CR4", (old, new), replica);
                    }
                    Happened::WriteEfer { old, new } if (old ^ new) & efer::NXE != 0 => {
                        self.control(event, "EFER", (old, new), replica);
                    }
                    _ => {}
                }
            }
            None => {}
        }
        self.adopt(replica);
    }

    fn announced(&mut self, by: CpuId, announcement: &Announcement, replica: &Replica) {
        match announcement {
            Announcement::Acknowledged { by, to } => {
                if let Some(open) = replica.flush_on(*to) {
                    let task = replica.cpu(*to).task;
                    let cover = Cover { id: open.id, flush: open.flush, task };
                    self.cover(&open, cover, Some(*by), replica);
                }
            }
            Announcement::Generation { space, generation } => {
                self.generation(by, *space, *generation, replica);
            }
            Announcement::TaskEnds { task, .. } => self.operation_over(Some(*task)),
            Announcement::Deferred { root, start, end, until } => {
                let deferral = Deferral { by, until: *until };
                let deferred = |obligation: &&mut Obligation| {
                    let same = root.is_none_or(|root| replica.is_pair(root, obligation.root));
                    same && *start <= obligation.page && obligation.page < *end
                };
                self.open_mut()
                    .filter(deferred)
                    .for_each(|obligation| obligation.deferred = Some(deferral));
            }
            _ => {}
        }
    }

    /// Adds what was cached late because of the obligation `id`; the obligation that it belongs to, if
    /// more may come of it.
    fn add_late(&mut self, id: ObligationId, late: Stale) -> Option<ObligationId> {
        let next = ObligationId(self.next);
        let parent = self.held.get(id)?;
        let leads_on = !late.structures.is_empty();
        if !parent.is_open() && parent.tag == late.tag {
            self.held.change(id, |parent| {
                parent.entries.extend(late.entries);
                parent.frames.extend(late.frames);
                parent.structures.extend(late.structures);
            });
            return leads_on.then_some(id);
        }
        let child = parent.with_late(next, late);
        self.next += 1;
        self.begin(&child);
        self.held.insert(child);
        leads_on.then_some(next)
    }

    /// `cpu` maps a page anew: what is still cached of it is no longer of a page that is gone, and
    /// `cpu` owes its flush too, whether that was deferred, or another CPU's task left it out. One
    /// that is still at work on the page may be about to flush.
    fn mapped_anew(&mut self, cpu: CpuId, reaches: &BTreeSet<Reach>, replica: &Replica) {
        let here = |owed: &Obligation| {
            let here = |reach: &Reach| reach.root == owed.root && reach.contains(owed.page);
            reaches.iter().any(here)
        };
        let by_itself = |owed: &Obligation| {
            let Downgrade { cpu, task, .. } = owed.downgrade;
            owed.deferred.is_none() && task.is_some_and(|task| replica.cpu(cpu).is_in(task))
        };
        for id in self.near(replica, reaches) {
            let Some(owed) = self.held.get_mut(id).filter(|owed| owed.is_open()) else { continue };
            // Of addresses that each CPU uses for itself the others' entries wait for their own.
            let waits = owed.is_deferred(Until::ReuseHere) && owed.cpu != cpu;
            if owed.covered.is_none() && here(owed) && !by_itself(owed) && !waits {
                owed.taken_over.insert(cpu);
            }
        }
    }

    /// An address space's generation is raised, for what the flush under way covers, or outside of
    /// one for what was deferred.
    fn generation(&mut self, cpu: CpuId, space: SpaceId, generation: u64, replica: &Replica) {
        let Some(root) = replica.space(space).map(|space| space.root) else { return };
        let open = replica.flush_on(cpu);
        for obligation in self.held.iter_mut() {
            let meant = match &open {
                Some(open) => obligation.is_requested_of(open, replica),
                None => obligation.is_batched_by(cpu),
            };
            let same = replica.is_pair(root, obligation.root);
            if meant && obligation.generation.is_none() && same {
                obligation.generation = Some(generation);
            }
        }
    }

    /// A flush returns.
    pub fn returned(&mut self, open: &OpenFlush, replica: &Replica) {
        let cover = Cover { id: open.id, flush: open.flush, task: replica.task() };
        self.cover(open, cover, None, replica);
    }

    /// What `open` is of is covered, on every CPU or on one.
    fn cover(&mut self, open: &OpenFlush, cover: Cover, on: Option<CpuId>, replica: &Replica) {
        for id in self.in_range(&open.flush, replica) {
            let Some(obligation) = self.held.get_mut(id) else { continue };
            let meant = on.is_none_or(|cpu| obligation.cpu == cpu);
            if meant && obligation.covered.is_none() && obligation.is_requested_of(open, replica) {
                obligation.covered = Some(cover);
            }
        }
    }

    /// A load of CR3: of what it makes usable, all that the new root does not grant is stale.
    fn root_loaded(
        &mut self,
        event: &Event,
        (old, new): (u64, u64),
        replica: &Replica,
        before: &Before,
    ) {
        let state = replica.cpu(event.cpu);
        let current = Tag::Pcid(state.pcid());
        let takes_over = before.root.is_some_and(|root| root != state.root());
        let changes = cr3::root(old) != state.root();
        let tags = [(current, takes_over), (Tag::Global, changes)];
        let tags: Vec<Tag> =
            tags.into_iter().filter_map(|(tag, other)| other.then_some(tag)).collect();
        self.look_anew(event, &tags, Cause::Cr3 { old, new }, replica);
    }

    /// A write of control bits: of all that its CPU has cached, what walks give no longer is stale.
    fn control(
        &mut self,
        event: &Event,
        register: &'static str,
        (old, new): (u64, u64),
        replica: &Replica,
    ) {
        let tags: Vec<Tag> = replica.cpu(event.cpu).tlb.tags().collect();
        self.look_anew(event, &tags, Cause::Control { register, old, new }, replica);
    }

    /// Walks mean something else than before on the event's CPU: looks at all that it has cached under
    /// `tags`.
    fn look_anew(&mut self, event: &Event, tags: &[Tag], cause: Cause, replica: &Replica) {
        if tags.is_empty() {
            return;
        }
        let state = replica.cpu(event.cpu);
        let under = tags.iter().flat_map(|&tag| self.held.under(event.cpu, tag));
        let under = under.map(|owed| owed.id).collect();
        self.settle(event, replica, Discharger::Restored, under, true);
        for &tag in tags {
            let Some(root) = state.tlb.root(tag) else { continue };
            let mut found = Stale::none(tag, root);
            let is_new = |id: EntryId| self.held.owners(event.cpu, tag, id).next().is_none();
            found.look(replica, state, (Gva(0), Gva(u64::MAX)), &is_new);
            if found.is_any() {
                self.add(Downgrade::new(event, replica, cause), event.cpu, found, replica);
            }
        }
    }

    /// A task of a kernel that runs freely enters user mode, or says so: what it was in the middle of is
    /// over.
    fn operation_over(&mut self, task: Option<TaskId>) {
        for id in task.and_then(|task| self.begun.remove(&task)).into_iter().flatten() {
            if let Some(owed) = self.held.get_mut(id) {
                owed.over = true;
            }
        }
    }

    fn add(&mut self, downgrade: Downgrade, cpu: CpuId, stale: Stale, replica: &Replica) {
        let id = ObligationId(self.next);
        self.next += 1;
        let mut obligation = Obligation::new(id, downgrade, cpu, stale);
        obligation.by_task = replica.kernel.runs_freely;
        self.begin(&obligation);
        self.held.insert(obligation);
    }

    /// Remembers whose operation is to be over for an obligation.
    fn begin(&mut self, obligation: &Obligation) {
        let task = obligation.downgrade.task.filter(|_| obligation.by_task);
        if let Some(task) = task {
            self.begun.entry(task).or_default().push(obligation.id);
        }
    }

    /// What a store to a slot with these `reaches` may have made right or wrong.
    fn near(&self, replica: &Replica, reaches: &BTreeSet<Reach>) -> BTreeSet<ObligationId> {
        let mut found = BTreeSet::new();
        for (cpu, state) in replica.numbered().filter(|_| !self.held.is_empty()) {
            for tag in state.tlb.tags() {
                let Some(root) = state.tlb.root(tag) else { continue };
                for reach in reaches.iter().filter(|reach| reach.root == root) {
                    self.held.near(cpu, tag, reach.base, reach.last(), &mut found);
                }
            }
        }
        found
    }

    /// What an invalidation, which reaches the CPU that makes it alone, may have removed.
    fn invalidated(
        &self,
        cpu: CpuId,
        happened: &Happened,
        replica: &Replica,
    ) -> BTreeSet<ObligationId> {
        let mut found = BTreeSet::new();
        let state = replica.cpu(cpu);
        let current = Tag::Pcid(state.pcid());
        let page = |tags: &[Tag], va: Gva, found: &mut _| {
            tags.iter().for_each(|&tag| self.held.near(cpu, tag, va.page(), va, found));
        };
        let all = |tags: Vec<Tag>| {
            let under = tags.into_iter().flat_map(|tag| self.held.under(cpu, tag));
            under.map(|owed| owed.id).collect::<BTreeSet<_>>()
        };
        match *happened {
            Happened::Invlpg { va, .. } => {
                page(&[current, Tag::Global], va, &mut found);
                found.extend(self.held.structural(cpu, current));
            }
            Happened::PageFault { va, .. } => page(&[current, Tag::Global], va, &mut found),
            Happened::Invpcid { kind: 0, pcid, va } => {
                page(&[Tag::Pcid(pcid)], va, &mut found);
            }
            Happened::Evict { tag, page: at } => page(&[tag], at, &mut found),
            Happened::Invpcid { kind: 1, pcid, .. } => found = all(vec![Tag::Pcid(pcid)]),
            Happened::LoadCr3 { .. } => found = all(vec![current]),
            _ => found = all(state.tlb.tags().collect()),
        }
        found
    }

    /// Closes, of these obligations, those of which nothing is left. An entry that is cached counts as
    /// left where `look` does not ask whether it is still stale.
    fn settle(
        &mut self,
        event: &Event,
        replica: &Replica,
        by: Discharger,
        these: BTreeSet<ObligationId>,
        look: bool,
    ) {
        // What a rule has spoken of is followed all the same.
        for id in these {
            let Some(obligation) = self.held.get(id) else { continue };
            let held = obligation.held();
            let left = left(obligation, replica, look);
            if left.0.len() + left.1.len() == held {
                continue;
            }
            self.flushed_accessed |= obligation.entry.as_ref().is_some_and(|entry| entry.accessed);
            let before: BTreeSet<EntryId> = obligation.ids().collect();
            let through = left.1.iter().map(|key| key.id);
            let kept = left.0.iter().map(|(_, id)| *id).chain(through).collect();
            self.last_flushed.push((id, before.difference(&kept).copied().collect()));
            if !left.0.is_empty() || !left.1.is_empty() {
                self.held.change(id, |owed| (owed.entries, owed.structures) = left);
                continue;
            }
            let Some(mut obligation) = self.held.remove(id) else { continue };
            (obligation.entries, obligation.structures) = left;
            if obligation.is_open() {
                let task = replica.task();
                obligation.state = State::Discharged { by, seq: event.seq, task };
            }
            self.closed.push(Rc::new(obligation));
        }
    }

    /// What was cached through a stale paging-structure entry after the store that made that one
    /// stale is owed like it: an obligation of its own, since another page may be meant; where a rule
    /// has spoken of the first, it is one and the same.
    fn adopt(&mut self, replica: &Replica) {
        let mut parents: VecDeque<ObligationId> = VecDeque::new();
        for (cpu, state) in replica.numbered() {
            let tag = Tag::Pcid(state.pcid());
            let through =
                state.tlb.latest().iter().flat_map(|&(_, at)| self.held.through(cpu, tag, at));
            parents.extend(through.collect::<BTreeSet<_>>());
        }
        while let Some(id) = parents.pop_front() {
            let Some(parent) = self.held.get(id) else { continue };
            for late in late(replica, parent, &self.held) {
                parents.extend(self.add_late(id, late));
            }
        }
    }

    /// Finds what a store made stale, CPU by CPU and tag by tag.
    fn downgrade(&mut self, downgrade: Downgrade, reaches: &BTreeSet<Reach>, replica: &Replica) {
        if reaches.is_empty() {
            return;
        }
        for (cpu, of_cpu) in replica.numbered() {
            for tag in of_cpu.tlb.tags() {
                let is_new = |id: EntryId| !self.held.owners(cpu, tag, id).any(Obligation::is_open);
                if let Some(found) = stale(replica, of_cpu, tag, reaches, &is_new) {
                    self.add(downgrade, cpu, found, replica);
                }
            }
        }
    }
}

/// What is still cached of an obligation; with `look` only what is still stale.
fn left(
    obligation: &Obligation,
    replica: &Replica,
    look: bool,
) -> (Vec<(Gva, EntryId)>, Vec<StructureKey>) {
    let tag = obligation.tag;
    let cpu = replica.cpu(obligation.cpu);
    let (tlb, paging) = (&cpu.tlb, cpu.paging());
    let is_left = |&&(page, id): &&(Gva, EntryId)| {
        tlb.entry(tag, page, id).is_some_and(|entry| {
            // Of a large page the stale part alone may be gone.
            let look = look || !entry.missing.is_empty();
            !look || tlb.stale_at(&replica.tables, paging, tag, entry).is_some()
        })
    };
    let leads_elsewhere = |&&key: &&StructureKey| {
        let Tag::Pcid(pcid) = tag else { return true };
        tlb.structure(pcid, key).is_some_and(|structure| {
            !look || tlb.structure_leads_elsewhere(&replica.tables, paging, structure)
        })
    };
    let entries = obligation.entries.iter().filter(is_left).copied().collect();
    (entries, obligation.structures.iter().filter(leads_elsewhere).copied().collect())
}

/// What is stale under `tag` at the places that `reaches` names.
fn stale(
    replica: &Replica,
    cpu: &ReplicaCpu,
    tag: Tag,
    reaches: &BTreeSet<Reach>,
    is_new: &dyn Fn(EntryId) -> bool,
) -> Option<Stale> {
    let root = cpu.tlb.root(tag)?;
    let mut found = Stale::none(tag, root);
    for reach in reaches.iter().filter(|reach| reach.root == root) {
        found.look(replica, cpu, (reach.base, reach.last()), is_new);
    }
    found.is_any().then_some(found)
}

/// What is stale, under each tag, of what a CPU cached through the stale paging-structure entries
/// of `parent`, and is nobody's yet.
fn late(replica: &Replica, parent: &Obligation, held: &Held) -> Vec<Stale> {
    let cpu = replica.cpu(parent.cpu);
    let Tag::Pcid(pcid) = parent.tag else { return Vec::new() };
    let late = |tag| {
        let mut found = Stale::none(tag, cpu.tlb.root(tag)?);
        let is_new = |id: EntryId| held.owners(parent.cpu, tag, id).next().is_none();
        let through = parent.structures.iter().filter_map(|key| cpu.tlb.structure(pcid, *key));
        for structure in through {
            found.look(replica, cpu, (structure.base, structure.last()), &is_new);
        }
        found.is_any().then_some(found)
    };
    [parent.tag, Tag::Global].into_iter().filter_map(late).collect()
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
