//! Obligations: what a downgrade made stale on one CPU under one tag, and how that ended.

use super::RuleId;
use super::replica::{OpenFlush, Replica, ReplicaCpu};
use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::cr3;
use crate::arch::tlb::{Entry, EntryId, Store, StructureEntry, StructureKey, Tag};
use crate::event::{Event, Flush, FlushId, FlushKind, TaskId, Until};
use serde::Serialize;
use std::collections::BTreeSet;

/// Where the half of the address space begins that kernels keep for themselves.
pub const KERNEL_HALF: Gva = Gva(0xffff_8000_0000_0000);

/// What ended an obligation well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Discharger {
    /// INVLPG.
    Invlpg,
    /// INVPCID of one address.
    Invpcid,
    /// The load of CR3 that consumed a mark.
    Consume,
    /// Another load of CR3.
    Cr3Load,
    /// Something that empties more than one PCID's page.
    BigHammer,
    /// An architectural page fault.
    PageFault,
    /// Chance.
    Eviction,
    /// Memory was changed back.
    Restored,
}

impl Discharger {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invlpg => "invlpg",
            Self::Invpcid => "invpcid",
            Self::Consume => "consume",
            Self::Cr3Load => "cr3-load",
            Self::BigHammer => "big-hammer",
            Self::PageFault => "page-fault",
            Self::Eviction => "eviction",
            Self::Restored => "restored",
        }
    }
}

/// How an obligation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Something stale is still cached.
    Open,
    /// Nothing is, since this event.
    Discharged {
        /// What removed the last of it.
        by: Discharger,
        /// The event.
        seq: u64,
        /// The task that its CPU was in.
        task: Option<TaskId>,
    },
    /// Its deadline passed.
    Violated {
        /// The rule that said so.
        rule: RuleId,
        /// At this event.
        seq: u64,
    },
}

/// What made cached entries stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A store to a paging-structure entry.
    Store(Store),
    /// A load of CR3: what is usable now was cached under another root, which granted it.
    Cr3 {
        /// CR3 before.
        old: u64,
        /// The operand.
        new: u64,
    },
    /// A write of control bits under which walks give less: SMEP, NXE, WP.
    Control {
        /// The register.
        register: &'static str,
        /// Its value before.
        old: u64,
        /// Its value after.
        new: u64,
    },
}

impl Cause {
    /// The store, if it is one.
    #[must_use]
    pub fn store(&self) -> Option<Store> {
        match self {
            Self::Store(store) => Some(*store),
            Self::Cr3 { .. } | Self::Control { .. } => None,
        }
    }

    /// What was written to: an entry's address, or a register.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Store(store) => store.slot.to_string(),
            Self::Cr3 { .. } => "CR3".to_owned(),
            Self::Control { register, .. } => (*register).to_owned(),
        }
    }

    /// The values before and after.
    #[must_use]
    pub fn values(&self) -> (u64, u64) {
        match *self {
            Self::Store(Store { old, new, .. })
            | Self::Cr3 { old, new }
            | Self::Control { old, new, .. } => (old, new),
        }
    }

    /// The same for two runs that differ in what else was loaded into CR3: a load is told by its root.
    #[must_use]
    pub fn by_root(self) -> Self {
        match self {
            Self::Cr3 { new, .. } => Self::Cr3 { old: 0, new: cr3::root(new).0 },
            Self::Store(_) | Self::Control { .. } => self,
        }
    }

    /// The word for it in reports: `store`, `load` or `write`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Store(_) => "store",
            Self::Cr3 { .. } => "load",
            Self::Control { .. } => "write",
        }
    }
}

/// The store or load that made a downgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downgrade {
    /// The event.
    pub seq: u64,
    /// Its CPU.
    pub cpu: CpuId,
    /// Its instruction.
    pub rip: Gva,
    /// The task that it was made in.
    pub task: Option<TaskId>,
    /// What it was.
    pub cause: Cause,
}

impl Downgrade {
    /// The downgrade that `event` makes, which `replica` has applied.
    pub(super) fn new(event: &Event, replica: &Replica, cause: Cause) -> Self {
        let Event { seq, cpu, rip, .. } = *event;
        Self { seq, cpu, rip, task: replica.task(), cause }
    }
}

/// A flush that was to remove something stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cover {
    /// Its number.
    pub id: FlushId,
    /// What it is of: its caller's range.
    pub flush: Flush,
    /// The task that called it.
    pub task: Option<TaskId>,
}

/// A flush that is deferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Deferral {
    /// The CPU that has said so.
    pub by: CpuId,
    /// Until when.
    pub until: Until,
}

/// An obligation's number: higher for a later downgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObligationId(pub u64);

/// What one downgrade owes on one CPU under one tag.
#[derive(Clone, Debug)]
pub struct Obligation {
    /// Its number.
    pub id: ObligationId,
    /// The downgrade.
    pub downgrade: Downgrade,
    /// The CPU whose entries are stale.
    pub cpu: CpuId,
    /// The tag whose entries are stale.
    pub tag: Tag,
    /// The root that their walks begin at.
    pub root: Gpa,
    /// The first of them.
    pub entry: Option<Entry>,
    /// The first paging-structure entry that is stale, where no entry is.
    pub structure: Option<StructureEntry>,
    /// A page that is affected.
    pub page: Gva,
    /// A flush whose range covers it has returned, or its CPU has acknowledged that it did what
    /// the flush requests.
    pub covered: Option<Cover>,
    /// Its flush is deferred.
    pub deferred: Option<Deferral>,
    /// Its kernel runs freely: it is due as soon as the operation that made it stale is over.
    pub by_task: bool,
    /// The task that made it stale has entered user mode since, and owes it no longer in the middle of
    /// something.
    pub over: bool,
    /// The CPUs that have mapped the page anew since: they take over what is owed, and nothing waits
    /// for a batched flush any more.
    pub taken_over: BTreeSet<CpuId>,
    /// The generation of its address space that stands for its flush: raised by a flush that covers
    /// it, or after it was deferred.
    pub generation: Option<u64>,
    /// How it stands.
    pub state: State,
    /// The stale entries that are still cached, with their pages.
    pub(super) entries: Vec<(Gva, EntryId)>,
    /// The first frames of those that were cached at first, and the tables that paging-structure entries
    /// led to.
    pub(super) frames: BTreeSet<Gpa>,
    /// The stale paging-structure entries that are still cached.
    pub(super) structures: Vec<StructureKey>,
}

/// What is stale under one tag of one CPU.
#[derive(Clone, Debug)]
pub(super) struct Stale {
    pub(super) tag: Tag,
    root: Gpa,
    entry: Option<Entry>,
    structure: Option<StructureEntry>,
    page: Option<Gva>,
    /// With their pages.
    pub(super) entries: Vec<(Gva, EntryId)>,
    pub(super) frames: BTreeSet<Gpa>,
    pub(super) structures: Vec<StructureKey>,
}

impl Stale {
    /// Nothing yet, of what walks of `root` are to give.
    pub(super) fn none(tag: Tag, root: Gpa) -> Self {
        Self {
            tag,
            root,
            entry: None,
            structure: None,
            page: None,
            entries: Vec::new(),
            frames: BTreeSet::new(),
            structures: Vec::new(),
        }
    }

    /// Whether anything is.
    pub(super) fn is_any(&self) -> bool {
        self.page.is_some()
    }

    /// Adds what is stale from address `base` to `last`, of those that `is_new` says so of.
    pub(super) fn look(
        &mut self,
        replica: &Replica,
        cpu: &ReplicaCpu,
        (base, last): (Gva, Gva),
        is_new: &dyn Fn(EntryId) -> bool,
    ) {
        let (tlb, paging, tag) = (&cpu.tlb, cpu.paging(), self.tag);
        for entry in tlb.entries_in(tag, base, last).filter(|entry| is_new(entry.id)) {
            if let Some(at) = tlb.stale_at(&replica.tables, paging, tag, entry) {
                self.entries.push((entry.translation.page, entry.id));
                self.frames.insert(entry.translation.frame);
                self.page.get_or_insert(at);
                self.entry.get_or_insert_with(|| entry.clone());
            }
        }
        let Tag::Pcid(pcid) = tag else { return };
        let here = tlb.structures_in(pcid, base, last);
        let mut new: Vec<_> = here.filter(|structure| is_new(structure.id)).collect();
        new.sort_by_key(|structure| structure.id);
        for structure in new {
            if tlb.structure_leads_elsewhere(&replica.tables, paging, structure) {
                self.structures.push(structure.key());
                self.frames.insert(structure.table);
                self.structure.get_or_insert(*structure);
                self.page.get_or_insert(structure.base.max(base));
            }
        }
    }
}

impl Obligation {
    /// What `downgrade` owes on `cpu`: all that it made stale there.
    pub(super) fn new(id: ObligationId, downgrade: Downgrade, cpu: CpuId, stale: Stale) -> Self {
        Self {
            id,
            downgrade,
            cpu,
            tag: stale.tag,
            root: stale.root,
            structure: stale.structure.filter(|_| stale.entry.is_none()),
            entry: stale.entry,
            page: stale.page.unwrap_or_default(),
            covered: None,
            deferred: None,
            by_task: false,
            over: false,
            taken_over: BTreeSet::new(),
            generation: None,
            state: State::Open,
            entries: stale.entries,
            frames: stale.frames,
            structures: stale.structures,
        }
    }

    /// The obligation for what was cached late through the stale paging-structure entries of this
    /// one: covered, deferred and due as this one is.
    pub(super) fn with_late(&self, id: ObligationId, late: Stale) -> Self {
        Self {
            covered: self.covered,
            deferred: self.deferred,
            by_task: self.by_task,
            over: self.over,
            taken_over: self.taken_over.clone(),
            generation: self.generation,
            state: self.state,
            ..Self::new(id, self.downgrade, self.cpu, late)
        }
    }

    /// The ids of what is still cached of it.
    pub fn ids(&self) -> impl Iterator<Item = EntryId> + '_ {
        self.entries.iter().map(|(_, id)| *id).chain(self.structures.iter().map(|key| key.id))
    }

    /// Whether something stale is still cached and no rule has spoken.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// How much of it is still cached: entries and paging-structure entries.
    #[must_use]
    pub fn held(&self) -> usize {
        self.entries.len() + self.structures.len()
    }

    /// Whether `open` must discharge it before it returns. What was made stale after it began may
    /// have come too late for it.
    #[must_use]
    pub fn is_requested_of(&self, open: &OpenFlush, replica: &Replica) -> bool {
        let flush = &open.flush;
        let meant = match flush.kind {
            FlushKind::Batched => self.is_batched_by(open.cpu),
            FlushKind::OneKernelHere => self.cpu == open.cpu,
            _ => true,
        };
        self.downgrade.seq < open.since
            && flush.root.is_none_or(|root| replica.is_pair(root, self.root))
            && flush.covers(self.page)
            && meant
    }

    /// Whether it is left to the next batched flush of `cpu`.
    #[must_use]
    pub fn is_batched_by(&self, cpu: CpuId) -> bool {
        self.deferred == Some(Deferral { by: cpu, until: Until::Batched })
    }

    /// Whether it is deferred until then.
    #[must_use]
    pub fn is_deferred(&self, until: Until) -> bool {
        self.deferred.is_some_and(|deferral| deferral.until == until)
    }

    /// Whether nobody uses the addresses until they are mapped anew: their frames may be given back
    /// before they are flushed.
    #[must_use]
    pub fn waits_for_reuse(&self) -> bool {
        self.waits() && !self.is_deferred(Until::Batched)
    }

    /// Whether a processor that uses what is cached comes to something that is not so today: an entry,
    /// or what a paging-structure entry leads to. One that leads to a table which maps nothing, or the
    /// same, does no harm as long as that is so.
    #[must_use]
    pub fn does_harm(&self, replica: &Replica) -> bool {
        let cpu = replica.cpu(self.cpu);
        let Tag::Pcid(pcid) = self.tag else { return !self.entries.is_empty() };
        let mut held = self.structures.iter().filter_map(|key| cpu.tlb.structure(pcid, *key));
        !self.entries.is_empty()
            || held.any(|structure| {
                cpu.tlb.structure_is_stale(&replica.tables, cpu.paging(), structure)
            })
    }

    /// Whether `cpu` owes its flush: it made the downgrade, or has mapped the page anew.
    #[must_use]
    pub fn is_owed_by(&self, cpu: CpuId) -> bool {
        self.downgrade.cpu == cpu || self.taken_over.contains(&cpu)
    }

    /// Whether its CPU may no longer use what is stale, as soon as it comes to it: it owes the flush
    /// itself, or that is over.
    #[must_use]
    pub fn is_due(&self) -> bool {
        match self.by_task {
            true => self.is_over(),
            false => self.covered.is_some() || self.is_owed_by(self.cpu) && !self.waits(),
        }
    }

    /// Whether what was to flush it is over: a primitive that covers it, or the whole operation.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.covered.is_some() || self.over
    }

    /// Whether it is of an address in the half that kernels keep for themselves.
    #[must_use]
    pub fn is_of_kernel(&self) -> bool {
        self.page >= KERNEL_HALF
    }

    /// Whether it may wait for what it was deferred to.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.deferred.is_some() && self.taken_over.is_empty()
    }

    /// Whether user mode, at its CPL, could use what is stale.
    #[must_use]
    pub fn user_may_use(&self) -> bool {
        self.entry.as_ref().is_none_or(|entry| entry.translation.user)
    }
}
