//! The oracle's replica of the guest's processors and their tables, made of events alone.

mod cpu;
mod tables;

pub use cpu::{ReplicaCpu, Slot};
pub use tables::ReplicaTables;

use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::census::Census;
use crate::arch::cr3::{self, NOFLUSH};
use crate::arch::happened::Happened;
use crate::arch::tlb::{Effect, Store};
use crate::arch::vcpu::cr4;
use crate::arch::walk::{Start, Tables, Walk, walk};
use crate::event::{
    Announcement, Event, Flush, FlushId, KernelAbout, SpaceId, TaskId, TraceHeader,
};
use std::collections::{BTreeMap, BTreeSet};

/// A flush that has begun and not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFlush {
    /// Its number.
    pub id: FlushId,
    /// The CPU that it began on.
    pub cpu: CpuId,
    /// The event that it began at.
    pub since: u64,
    /// What it is of.
    pub flush: Flush,
}

/// An address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Space {
    /// Its kernel root.
    pub root: Gpa,
    /// Its generation.
    pub generation: u64,
}

/// The replica of all CPUs and their tables.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Page tables.
    pub tables: ReplicaTables,
    /// Which frames are tables.
    pub census: Census,
    /// What is known of the kernel.
    pub kernel: KernelAbout,
    cpus: Vec<ReplicaCpu>,
    spaces: BTreeMap<SpaceId, Space>,
    /// In the order in which they began.
    flushes: Vec<OpenFlush>,
    /// The task that the last event belongs to.
    task: Option<TaskId>,
    started: bool,
}

impl Replica {
    /// The state that a trace's first event meets; its tables are shown by that event and those
    /// after it.
    #[must_use]
    pub fn new(header: &TraceHeader) -> Self {
        let mut replica = Self {
            tables: ReplicaTables::default(),
            census: Census::default(),
            kernel: header.kernel.clone(),
            cpus: header.cpus.iter().map(|cpu| ReplicaCpu::new(header, cpu)).collect(),
            spaces: BTreeMap::new(),
            flushes: Vec::new(),
            task: None,
            started: false,
        };
        for announcement in &header.kernel.state {
            replica.announced(CpuId(0), 0, announcement);
        }
        replica
    }

    /// One CPU; a trace that names a CPU which its header does not have means the last.
    #[must_use]
    pub fn cpu(&self, cpu: CpuId) -> &ReplicaCpu {
        &self.cpus[self.index(cpu)]
    }

    fn cpu_mut(&mut self, cpu: CpuId) -> &mut ReplicaCpu {
        let index = self.index(cpu);
        &mut self.cpus[index]
    }

    fn index(&self, cpu: CpuId) -> usize {
        usize::from(cpu.0).min(self.cpus.len().saturating_sub(1))
    }

    /// The CPUs with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (CpuId, &ReplicaCpu)> {
        (0u8..).map(CpuId).zip(&self.cpus)
    }

    /// The address space with this number.
    #[must_use]
    pub fn space(&self, space: SpaceId) -> Option<&Space> {
        self.spaces.get(&space)
    }

    /// The address spaces, in the order of their numbers.
    pub(super) fn spaces_in_order(&self) -> &BTreeMap<SpaceId, Space> {
        &self.spaces
    }

    /// A flush that has not returned.
    #[must_use]
    pub fn flush(&self, id: FlushId) -> Option<OpenFlush> {
        self.flushes.iter().find(|open| open.id == id).copied()
    }

    /// The flush that began last on `cpu`, of those that have not returned.
    #[must_use]
    pub fn flush_on(&self, cpu: CpuId) -> Option<OpenFlush> {
        self.flushes.iter().rev().find(|open| open.cpu == cpu).copied()
    }

    /// The flushes that have not returned.
    #[must_use]
    pub fn flushes(&self) -> &[OpenFlush] {
        &self.flushes
    }

    /// The flush that `cpu` works for: its own, or that of a CPU which waits for this one.
    #[must_use]
    pub fn works_for(&self, cpu: CpuId) -> Option<OpenFlush> {
        let requested = || self.flush_on(self.waiting_for(cpu)?);
        self.flush_on(cpu).or_else(requested)
    }

    /// The CPU that waits for `cpu`, if one does.
    fn waiting_for(&self, cpu: CpuId) -> Option<CpuId> {
        let waits = |(_, other): &(CpuId, &ReplicaCpu)| other.waits_for.contains(&cpu);
        self.numbered().find(waits).map(|(other, _)| other)
    }

    /// The task that the last event belongs to: its CPU's own, or that of the CPU which waited for
    /// it; else the last that it had.
    #[must_use]
    pub fn task(&self) -> Option<TaskId> {
        self.task
    }

    fn task_of(&self, event: &Event) -> Option<TaskId> {
        let begins = |announcement: &Announcement| match announcement {
            Announcement::TaskBegins(task) => Some(*task),
            _ => None,
        };
        if let Some(task) = event.announcements().iter().find_map(begins) {
            return Some(task);
        }
        let own = self.cpu(event.cpu);
        let waiting = self.waiting_for(event.cpu).filter(|_| !own.in_task);
        waiting.map_or(own.task, |waiting| self.cpu(waiting).task)
    }

    /// Whether both roots are of one address space.
    #[must_use]
    pub fn is_pair(&self, one: Gpa, other: Gpa) -> bool {
        self.kernel.kernel_root(one) == self.kernel.kernel_root(other)
    }

    /// Whether a CR3 load that took effect on `cpu` makes another PCID current for new uses. A user
    /// CR3 that is loaded to return has its deadline at the entry to user mode; and a flush that hops
    /// to its user CR3 and back, or an NMI in the middle of that, comes back to the kernel PCID that
    /// was in use before: user mode has not run in between.
    #[must_use]
    pub fn changes_asid(&self, cpu: CpuId, old: u64, value: u64) -> bool {
        let state = self.cpu(cpu);
        let changed = (old ^ value) & cr3::PCID_MASK;
        let returns = self.kernel.is_user_root(value);
        let user_bit = self.kernel.pairing.map_or(0, |pairing| pairing.pcid_bit);
        let hops = changed == user_bit && !state.was_user;
        state.paging().pcide && changed != 0 && !returns && !hops
    }

    /// Applies one event.
    pub fn apply(&mut self, event: &Event) -> Effect {
        if !matches!(
            event.happened(),
            Some(Happened::TableLinked { .. } | Happened::RootLinked { .. })
        ) {
            self.start();
        }
        self.cpus.iter_mut().for_each(|cpu| cpu.tlb.forget_latest());
        self.task = self.task_of(event);
        for announcement in event.announcements() {
            self.announced(event.cpu, event.seq, announcement);
        }
        let effect = match event.happened() {
            Some(happened) => self.happened(event, happened),
            None => Effect::default(),
        };
        if self.started {
            self.fill();
        }
        effect
    }

    /// An event has been judged: the load of CR3 that it was has consumed its mark, or has left user
    /// mode behind; the flush that returned is over.
    pub fn judged(&mut self, event: &Event) {
        if let Some(&Happened::LoadCr3 { value, .. }) = event.happened() {
            let user = self.kernel.is_user_pcid(value);
            let cpu = self.cpu_mut(event.cpu);
            if user {
                let pcid = cpu.pcid_of(value);
                cpu.unmarked.remove(&pcid);
            } else {
                cpu.was_user = false;
            }
        }
        for announcement in event.announcements() {
            if let Announcement::FlushReturns { id, .. } = announcement {
                self.flushes.retain(|open| open.id != *id);
            }
        }
    }

    /// All tables that the first event meets have been shown.
    pub fn start(&mut self) {
        if !std::mem::replace(&mut self.started, true) {
            for cpu in &mut self.cpus {
                let (pcid, root) = (cpu.pcid(), cpu.root());
                self.census.add_root(&self.tables, root);
                cpu.tlb.load_cr3(&self.tables, cpu.paging(), pcid, root, true);
            }
            self.fill();
        }
    }

    fn fill(&mut self) {
        for cpu in &mut self.cpus {
            // The A bits that speculation sets are events of their own.
            cpu.tlb.follow(&self.tables, cpu.paging());
        }
    }

    fn pin(&mut self) {
        let changes = self.cpus.iter().map(|cpu| cpu.tlb.structure_changes()).sum();
        if !self.census.pins_differ(changes) {
            return;
        }
        let mut reached = BTreeSet::new();
        for cpu in &self.cpus {
            reached.extend(cpu.tlb.reached_tables());
        }
        self.census.pin(&self.tables, &reached);
    }

    fn announced(&mut self, by: CpuId, seq: u64, announcement: &Announcement) {
        match *announcement {
            Announcement::FlushBegins { id, flush } => {
                self.flushes.push(OpenFlush { id, cpu: by, since: seq, flush });
            }
            Announcement::Requested { by, of } => {
                self.cpu_mut(by).waits_for.insert(of);
            }
            Announcement::Acknowledged { by, to } => {
                self.cpu_mut(to).waits_for.remove(&by);
            }
            Announcement::Marked { cpu, pcid } => self.cpu_mut(cpu).mark(pcid),
            Announcement::Unmarked { cpu, pcid } => self.cpu_mut(cpu).unmark(pcid),
            Announcement::Generation { space, generation } => {
                self.spaces.entry(space).or_default().generation = generation;
            }
            Announcement::Root { space, root } => {
                self.spaces.entry(space).or_default().root = root;
            }
            Announcement::SlotOwner { cpu, slot, space } => {
                self.cpu_mut(cpu).slots.entry(slot).or_default().space = space;
            }
            Announcement::SlotFlushed { cpu, slot, generation } => {
                self.cpu_mut(cpu).slots.entry(slot).or_default().generation = generation;
            }
            Announcement::Lazy { cpu, lazy } => self.cpu_mut(cpu).lazy.says(lazy, seq),
            Announcement::TaskBegins(task) => {
                let cpu = self.cpu_mut(by);
                (cpu.task, cpu.in_task) = (Some(task), true);
            }
            Announcement::TaskEnds { .. } => self.cpu_mut(by).in_task = false,
            Announcement::FlushReturns { .. }
            | Announcement::Deferred { .. }
            | Announcement::Noticed { .. }
            | Announcement::OtherAsidsStale { .. }
            | Announcement::Member { .. }
            | Announcement::Switching { .. }
            | Announcement::Loaded { .. }
            | Announcement::FrameFreed(_)
            | Announcement::ContentsTaken(_)
            | Announcement::EntryRead { .. }
            | Announcement::EditsOver => {}
        }
    }

    fn happened(&mut self, event: &Event, happened: &Happened) -> Effect {
        let by = event.cpu;
        match happened {
            Happened::TableLinked { table, entries } => self.tables.link(*table, entries),
            Happened::RootLinked { root } => {
                self.census.add_root(&self.tables, *root);
            }
            Happened::TableUnlinked { table } => self.tables.unlink(*table),
            Happened::TableStore { slot, old, new } => {
                self.tables.set(*slot, *new);
                let store = Store { slot: *slot, old: *old, new: *new };
                for cpu in &mut self.cpus {
                    cpu.tlb.table_store(&self.tables, &self.census, store);
                }
                self.pin();
                self.census.store(&self.tables, *slot, *old, *new);
            }
            Happened::AccessedDirty { slot, old, new } => {
                self.tables.set(*slot, *new);
                let store = Store { slot: *slot, old: *old, new: *new };
                for cpu in &mut self.cpus {
                    cpu.tlb.accessed_dirty(&self.tables, &self.census, store);
                }
            }
            Happened::UserEntry => {
                let cpu = self.cpu_mut(by);
                cpu.was_user = true;
                cpu.lazy.enters_user_mode(event.seq);
            }
            Happened::LoadCr3 { old, value } => {
                if self.kernel.may_isolate(*old, *value) {
                    let (old, new) = (self.kernel_half(*old), self.kernel_half(*value));
                    self.kernel.isolated = old != new;
                }
                self.census.add_root(&self.tables, cr3::root(*value));
                let effect = self.invalidate(by, happened);
                if self.kernel.runs_freely {
                    let roots = self.cpus.iter().flat_map(|cpu| cpu.tlb.roots());
                    let kept = roots.collect();
                    self.cpus.iter_mut().for_each(|cpu| cpu.tlb.keep_roots(&kept));
                    self.census.keep_roots(&self.tables, &kept);
                }
                return effect;
            }
            _ => return self.invalidate(by, happened),
        }
        Effect::default()
    }

    /// The entries of the root in this value of CR3, by index, that map something of the half that
    /// kernels keep for themselves. Address spaces have the same ones, but for user roots under
    /// page-table isolation.
    fn kernel_half(&self, cr3: u64) -> BTreeSet<u64> {
        let entries = self.tables.present(cr3::root(cr3)).into_iter();
        entries.map(|(index, _)| index).filter(|&index| index >= 256).collect()
    }

    /// What concerns the event's CPU alone.
    fn invalidate(&mut self, by: CpuId, happened: &Happened) -> Effect {
        let index = self.index(by);
        let Some(cpu) = self.cpus.get_mut(index) else { return Effect::default() };
        let (tables, paging) = (&self.tables, cpu.paging());
        let effect = match happened {
            Happened::Fill { translation, .. } => {
                cpu.tlb.fill_recorded(tables, paging, translation);
                return Effect::default();
            }
            Happened::Evict { tag, page } => {
                cpu.tlb.evict(*tag, *page);
                Effect::default()
            }
            Happened::LoadCr3 { value, .. } => {
                cpu.cr3 = value & !NOFLUSH;
                let flush = cpu.cr4 & cr4::PCIDE == 0 || value & NOFLUSH == 0;
                cpu.tlb.load_cr3(tables, paging, cpu.pcid(), cpu.root(), flush)
            }
            Happened::WriteCr4 { old, new } => {
                cpu.cr4 = *new;
                cpu.tlb.write_cr4(tables, cpu.paging(), *old, *new)
            }
            Happened::WriteCr0 { new, .. } => {
                cpu.cr0 = *new;
                Effect::default()
            }
            Happened::WriteEfer { new, .. } => {
                cpu.efer = *new;
                Effect::default()
            }
            Happened::Invlpg { va, keeps_globals } if va.is_canonical() => {
                cpu.tlb.invlpg(tables, paging, *va, *keeps_globals)
            }
            Happened::Invpcid { kind, pcid, va } => {
                cpu.tlb.invpcid(tables, paging, *kind, *pcid, *va)
            }
            Happened::PageFault { va, .. } => cpu.tlb.page_fault(tables, paging, *va),
            _ => return Effect::default(),
        };
        self.pin();
        effect
    }

    /// What a walk of `root` by `cpu` says of `va` today.
    #[must_use]
    pub fn walk_today(&self, cpu: CpuId, root: Gpa, va: Gva) -> Walk {
        walk(&self.tables, Start::root(root), va, self.cpu(cpu).paging())
    }
}
