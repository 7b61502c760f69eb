//! One CPU as events have shown it: registers, TLB, and what its kernel has said of it.

use crate::arch::addr::{CpuId, Gpa, Pcid};
use crate::arch::cr3::{self, NOFLUSH};
use crate::arch::features::{CpuFeatures, Paging};
use crate::arch::tlb::{Tag, Tlb};
use crate::arch::vcpu::cr4;
use crate::event::{CpuHeader, SpaceId, TaskId, TraceHeader};
use std::collections::{BTreeMap, BTreeSet};

/// An ASID slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// The address space that owns it.
    pub space: Option<SpaceId>,
    /// The generation of that up to which it has been flushed.
    pub generation: u64,
}

/// One CPU of a [`super::Replica`].
#[derive(Clone, Debug)]
pub struct ReplicaCpu {
    /// The TLB.
    pub tlb: Tlb,
    /// CR3.
    pub cr3: u64,
    pub(super) features: CpuFeatures,
    pub(super) cr0: u64,
    pub(super) cr4: u64,
    pub(super) efer: u64,
    /// The user PCIDs that are marked.
    pub(super) marks: BTreeSet<Pcid>,
    /// Those whose mark was taken away since they were last loaded.
    pub(super) unmarked: BTreeSet<Pcid>,
    pub(super) lazy: bool,
    /// The CPUs that it waits for.
    pub(super) waits_for: BTreeSet<CpuId>,
    pub(super) slots: BTreeMap<u16, Slot>,
    /// The task under way, or the last.
    pub task: Option<TaskId>,
    /// It is under way.
    pub(super) in_task: bool,
    /// User mode has run since a kernel CR3 was loaded.
    pub(super) was_user: bool,
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
            lazy: false,
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

    /// Whether it runs a kernel thread on an address space that is not its own.
    #[must_use]
    pub fn is_lazy(&self) -> bool {
        self.lazy
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
