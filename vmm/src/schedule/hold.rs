//! Hold points: where a scenario holds a CPU back in the middle of a step.

use crate::arch::happened::Happened;
use crate::event::{Announcement, Event};
use crate::machine::{Access, Accesses};

/// Where a scenario holds a CPU back, within a step: right after the CPU's own event, or right before
/// it loads or stores a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HoldPoint {
    Start,
    Instruction,
    Primitive,
    TableStore,
    EntryRead,
    Generation,
    CpuMask,
    Switching,
    LoadedMm,
    Lazy,
    Slot,
    Mark,
    Consume,
    Cr3,
    Invlpg,
    Invpcid,
    Ipi,
    Interrupt,
    Acknowledge,
    Freed,
    User,
    /// Right before the store that the point is right after.
    Before(&'static HoldPoint),
    /// Right before a load of the word with this name.
    Reads(&'static str),
}

/// Every point by its name in scenarios, with what has just happened there, or is about to.
pub const HOLD_POINTS: [(&str, HoldPoint, &str); 36] = [
    ("start", HoldPoint::Start, "the step was handed over, nothing is done"),
    ("instruction", HoldPoint::Instruction, "an instruction was completed"),
    ("primitive", HoldPoint::Primitive, "a flush primitive began"),
    ("table-store", HoldPoint::TableStore, "a paging-structure entry was stored"),
    ("entry-read", HoldPoint::EntryRead, "a paging-structure entry was read for a plain edit"),
    ("generation", HoldPoint::Generation, "an address space's tlb_gen was raised"),
    ("cpumask", HoldPoint::CpuMask, "an address space's cpumask was changed"),
    ("switching", HoldPoint::Switching, "loaded_mm was set to say that CR3 is being changed"),
    ("loaded-mm", HoldPoint::LoadedMm, "loaded_mm was set to an address space"),
    ("lazy", HoldPoint::Lazy, "is_lazy was changed"),
    ("slot", HoldPoint::Slot, "an ASID slot was changed"),
    ("mark", HoldPoint::Mark, "a user PCID was marked"),
    ("consume", HoldPoint::Consume, "a mark was cleared"),
    ("cr3", HoldPoint::Cr3, "CR3 was loaded"),
    ("invlpg", HoldPoint::Invlpg, "INVLPG was executed"),
    ("invpcid", HoldPoint::Invpcid, "INVPCID was executed"),
    ("ipi", HoldPoint::Ipi, "an interrupt was sent"),
    ("interrupt", HoldPoint::Interrupt, "an interrupt or exception was delivered"),
    ("acknowledge", HoldPoint::Acknowledge, "a shootdown was acknowledged"),
    ("freed", HoldPoint::Freed, "a frame was given back"),
    ("user", HoldPoint::User, "user mode was entered"),
    (
        "before-table-store",
        HoldPoint::Before(&HoldPoint::TableStore),
        "a paging-structure entry is about to be stored",
    ),
    (
        "before-generation",
        HoldPoint::Before(&HoldPoint::Generation),
        "an address space's tlb_gen is about to be raised",
    ),
    (
        "before-cpumask",
        HoldPoint::Before(&HoldPoint::CpuMask),
        "an address space's cpumask is about to be changed",
    ),
    (
        "before-switching",
        HoldPoint::Before(&HoldPoint::Switching),
        "loaded_mm is about to say that CR3 is being changed",
    ),
    (
        "before-loaded-mm",
        HoldPoint::Before(&HoldPoint::LoadedMm),
        "loaded_mm is about to be set to an address space",
    ),
    ("before-lazy", HoldPoint::Before(&HoldPoint::Lazy), "is_lazy is about to be changed"),
    ("before-slot", HoldPoint::Before(&HoldPoint::Slot), "an ASID slot is about to be changed"),
    ("before-mark", HoldPoint::Before(&HoldPoint::Mark), "a user PCID is about to be marked"),
    ("before-consume", HoldPoint::Before(&HoldPoint::Consume), "a mark is about to be cleared"),
    (
        "before-acknowledge",
        HoldPoint::Before(&HoldPoint::Acknowledge),
        "a shootdown is about to be acknowledged",
    ),
    (
        "reads-generation",
        HoldPoint::Reads("tlb_gen"),
        "an address space's tlb_gen is about to be read",
    ),
    (
        "reads-cpumask",
        HoldPoint::Reads("cpumask"),
        "an address space's cpumask is about to be read",
    ),
    ("reads-loaded-mm", HoldPoint::Reads("loaded_mm"), "a CPU's loaded_mm is about to be read"),
    ("reads-lazy", HoldPoint::Reads("is_lazy"), "a CPU's is_lazy is about to be read"),
    (
        "reads-mark",
        HoldPoint::Reads("user_pcid_flush_mask"),
        "a CPU's user_pcid_flush_mask is about to be read",
    ),
];

/// Until where a step runs before its CPU is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The point.
    pub point: HoldPoint,
    /// The nth time that it is met in this step, from 1.
    pub nth: u32,
}

impl HoldPoint {
    /// Which of its CPU's accesses the point is right before.
    pub(super) fn watches(self) -> Option<Accesses> {
        match self {
            Self::Before(_) => Some(Accesses::Stores),
            Self::Reads(_) => Some(Accesses::Loads),
            _ => None,
        }
    }

    /// Whether the access is one before which a CPU is held here.
    pub(super) fn precedes(self, access: &Access<'_>) -> bool {
        match (self, access) {
            (Self::Before(HoldPoint::TableStore), Access::TableStore) => true,
            (Self::Before(after), Access::WordStore(said)) => {
                said.iter().any(|said| after.is_said(said))
            }
            (Self::Reads(name), Access::Load(word)) => word.field == name,
            _ => false,
        }
    }

    /// Whether the event is one after which a CPU is held here.
    pub(super) fn matches(self, event: &Event) -> bool {
        match event.happened() {
            Some(happened) => self.is_after(happened),
            None => event.announcements().iter().any(|said| self.is_said(said)),
        }
    }

    fn is_after(self, happened: &Happened) -> bool {
        matches!(
            (self, happened),
            (Self::TableStore, Happened::TableStore { .. })
                | (Self::Cr3, Happened::LoadCr3 { .. })
                | (Self::Invlpg, Happened::Invlpg { .. })
                | (Self::Invpcid, Happened::Invpcid { .. })
                | (Self::Ipi, Happened::Ipi { .. })
                | (Self::Interrupt, Happened::Delivered { .. })
                | (Self::User, Happened::UserEntry)
        )
    }

    fn is_said(self, said: &Announcement) -> bool {
        matches!(
            (self, said),
            (Self::Primitive, Announcement::FlushBegins { .. })
                | (Self::EntryRead, Announcement::EntryRead { .. })
                | (Self::Generation, Announcement::Generation { .. })
                | (Self::CpuMask, Announcement::Member { .. })
                | (Self::Switching, Announcement::Switching { .. })
                | (Self::LoadedMm, Announcement::Loaded { .. })
                | (Self::Lazy, Announcement::Lazy { .. })
                | (Self::Slot, Announcement::SlotOwner { .. } | Announcement::SlotFlushed { .. })
                | (Self::Mark, Announcement::Marked { .. })
                | (Self::Consume, Announcement::Unmarked { .. })
                | (Self::Acknowledge, Announcement::Acknowledged { .. })
                | (Self::Freed, Announcement::FrameFreed(_))
        )
    }
}
