//! One CPU as events have shown it: registers, TLB, and what its kernel has said of it.

use crate::arch::addr::{CpuId, Gpa, Pcid};
use crate::arch::cr3::{self, NOFLUSH};
use crate::arch::features::{CpuFeatures, Paging};
use crate::arch::key::StateKey;
use crate::arch::tlb::{Tag, Tlb};
use crate::arch::vcpu::cr4;
use crate::event::{CpuHeader, SpaceId, TaskId, TraceHeader};
use std::collections::{BTreeMap, BTreeSet};

/// An ASID slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slot {
    /// The address space that owns it.
    pub space: Option<SpaceId>,
    /// The generation of that up to which it has been flushed.
    pub generation: u64,
}

/// What is known of a CPU's being lazy.
#[derive(Clone, Copy, Debug)]
pub(in crate::oracle) struct Lazy {
    /// Its kernel says so.
    said: bool,
    /// It has been in user mode since its kernel said so.
    was_user: bool,
    /// The event at which it last ceased to be.
    until: Option<u64>,
}

impl Default for Lazy {
    fn default() -> Self {
        Self { said: false, was_user: true, until: None }
    }
}

impl Lazy {
    pub(super) fn says(&mut self, lazy: bool, seq: u64) {
        self.ends(seq);
        self.said = lazy;
        if lazy {
            self.was_user = false;
        }
    }

    pub(super) fn enters_user_mode(&mut self, seq: u64) {
        self.ends(seq);
        self.was_user = true;
    }

    /// Adds what is known of it.
    pub(in crate::oracle) fn put(&self, key: &mut StateKey) {
        key.put((self.said, self.was_user, self.until.is_some()));
        key.put_event(self.until.unwrap_or_default());
    }

    /// The event at which it last ceased to be.
    pub(in crate::oracle) fn until(&self) -> Option<u64> {
        self.until
    }

    fn ends(&mut self, seq: u64) {
        if self.said && !self.was_user {
            self.until = Some(seq);
        }
    }
}

/// One CPU of a [`super::Replica`].
#[derive(Clone, Debug)]
pub struct ReplicaCpu {
    /// The TLB.
    pub tlb: Tlb,
    /// CR3.
    pub cr3: u64,
    pub(super) features: CpuFeatures,
    pub(in crate::oracle) cr0: u64,
    pub(in crate::oracle) cr4: u64,
    pub(in crate::oracle) efer: u64,
    /// The user PCIDs that are marked.
    pub(in crate::oracle) marks: BTreeSet<Pcid>,
    /// Those whose mark was taken away since they were last loaded.
    pub(in crate::oracle) unmarked: BTreeSet<Pcid>,
    pub(in crate::oracle) lazy: Lazy,
    /// The CPUs that it waits for.
    pub(in crate::oracle) waits_for: BTreeSet<CpuId>,
    pub(in crate::oracle) slots: BTreeMap<u16, Slot>,
    /// The task under way, or the last.
    pub task: Option<TaskId>,
    /// It is under way.
    pub(in crate::oracle) in_task: bool,
    /// User mode has run since a kernel CR3 was loaded.
    pub(in crate::oracle) was_user: bool,
}

impl ReplicaCpu {
    pub(super) fn new(header: &TraceHeader, cpu: &CpuHeader) -> Self {
        Self {
            tlb: Tlb::new(header.model),
            cr3: cpu.cr3,
            features: header.features,
            cr0: cpu.cr0,
            cr4: cpu.cr4,
            efer: cpu.efer,
            marks: BTreeSet::new(),
            unmarked: BTreeSet::new(),
            lazy: Lazy::default(),
            waits_for: BTreeSet::new(),
            slots: BTreeMap::new(),
            task: None,
            in_task: false,
            was_user: false,
        }
    }

    /// The control bits that translation depends on.
    #[must_use]
    pub fn paging(&self) -> Paging {
        Paging::of(self.features, self.cr0, self.cr4, self.efer)
    }

    /// The PCID that is current.
    #[must_use]
    pub fn pcid(&self) -> Pcid {
        self.pcid_of(self.cr3)
    }

    /// The root in CR3.
    #[must_use]
    pub fn root(&self) -> Gpa {
        cr3::root(self.cr3)
    }

    /// The PCID that a value of CR3 makes current.
    #[must_use]
    pub fn pcid_of(&self, value: u64) -> Pcid {
        cr3::pcid(value, self.cr4 & cr4::PCIDE != 0)
    }

    /// The user PCIDs that are marked.
    #[must_use]
    pub fn marks(&self) -> &BTreeSet<Pcid> {
        &self.marks
    }

    /// Whether a user PCID is marked.
    #[must_use]
    pub fn is_marked(&self, pcid: Pcid) -> bool {
        self.marks.contains(&pcid)
    }

    /// Whether its kernel says that it runs a kernel thread on an address space that is not its own.
    #[must_use]
    pub fn is_said_to_be_lazy(&self) -> bool {
        self.lazy.said
    }

    /// Whether its kernel says that it is lazy, and it has not been in user mode since then. What a
    /// kernel says is no evidence of what its CPU does.
    #[must_use]
    pub fn is_lazy(&self) -> bool {
        self.lazy.said && !self.lazy.was_user
    }

    /// Whether it was lazy at event `seq` or later: what others flushed from then on it may have been
    /// left out of, and catches up with before user mode runs.
    #[must_use]
    pub fn was_lazy_since(&self, seq: u64) -> bool {
        self.is_lazy() || self.lazy.until.is_some_and(|until| until >= seq)
    }

    /// Whether it was lazy, and has not been in user mode since.
    #[must_use]
    pub fn has_yet_to_catch_up(&self) -> bool {
        !self.lazy.was_user
    }

    /// The slot with this number.
    #[must_use]
    pub fn slot(&self, number: u16) -> Slot {
        self.slots.get(&number).copied().unwrap_or_default()
    }

    /// Whether a load of CR3 with this value empties its user PCID because of a mark.
    #[must_use]
    pub fn is_consuming(&self, value: u64) -> bool {
        value & NOFLUSH == 0 && self.unmarked.contains(&self.pcid_of(value))
    }

    /// The root last loaded under the PCID that this value of CR3 makes current.
    #[must_use]
    pub fn root_under(&self, value: u64) -> Option<Gpa> {
        self.tlb.root(Tag::Pcid(self.pcid_of(value)))
    }

    /// Whether it is in the middle of this task.
    #[must_use]
    pub fn is_in(&self, task: TaskId) -> bool {
        self.in_task && self.task == Some(task)
    }

    pub(super) fn mark(&mut self, pcid: Pcid) {
        self.marks.insert(pcid);
        self.unmarked.remove(&pcid);
    }

    pub(super) fn unmark(&mut self, pcid: Pcid) {
        if self.marks.remove(&pcid) {
            self.unmarked.insert(pcid);
        }
    }
}
