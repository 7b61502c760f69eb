//! What a kernel says of its own flush protocol: the oracle's only knowledge of kernels.
//!
//! A kernel says it by a store to a word that it has described, or by a hypercall; whoever knows
//! that kernel decodes it once, where it is made. A kernel that announces nothing is judged by what
//! the architecture alone decides.

use crate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use serde::{Deserialize, Serialize};
use std::fmt;

/// An address space, by the number that its kernel gives it. It never changes hands.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SpaceId(pub u64);

/// A flush, by the number that it got when it began: no other of the run has it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct FlushId(pub u64);

/// What a kernel does for one caller: a step of a scenario, by its index.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TaskId(pub usize);

/// One statement of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Announcement {
    /// A flush begins, on the CPU that says so.
    FlushBegins {
        /// Its number.
        id: FlushId,
        /// What it is of.
        flush: Flush,
    },
    /// It returns: all that it is of has been flushed, wherever it must be.
    FlushReturns {
        /// Its number.
        id: FlushId,
        /// What it is of.
        flush: Flush,
    },
    /// The flush of what was just unmapped is deferred.
    Deferred {
        /// Kernel root of the address space; none for kernel addresses.
        root: Option<Gpa>,
        /// First address.
        start: Gva,
        /// End, exclusive.
        end: Gva,
        /// Until when.
        until: Until,
    },
    /// A CPU waits until another one has flushed.
    Requested {
        /// The CPU that waits.
        by: CpuId,
        /// The CPU that must flush.
        of: CpuId,
    },
    /// A CPU has taken notice of what another one requests of it.
    Noticed {
        /// The CPU that must flush.
        by: CpuId,
        /// The CPU that waits.
        of: CpuId,
    },
    /// A CPU has flushed what another one requested.
    Acknowledged {
        /// The CPU that has flushed.
        by: CpuId,
        /// The CPU that waits.
        to: CpuId,
    },
    /// A user PCID must be flushed when its user tables are next loaded: the mark.
    Marked {
        /// The CPU.
        cpu: CpuId,
        /// The user PCID.
        pcid: Pcid,
    },
    /// The mark is taken away.
    Unmarked {
        /// The CPU.
        cpu: CpuId,
        /// The user PCID.
        pcid: Pcid,
    },
    /// Whether kernel entries in the ASIDs that are not loaded are stale.
    OtherAsidsStale {
        /// The CPU.
        cpu: CpuId,
        /// They are.
        stale: bool,
    },
    /// An address space's generation is this: everything before it needs a flush.
    Generation {
        /// The address space.
        space: SpaceId,
        /// Its generation.
        generation: u64,
    },
    /// An address space has this kernel root.
    Root {
        /// The address space.
        space: SpaceId,
        /// The root.
        root: Gpa,
    },
    /// Which CPUs may have an address space loaded: this one, or this one no longer.
    Member {
        /// The address space.
        space: SpaceId,
        /// The CPU.
        cpu: CpuId,
        /// It may.
        member: bool,
    },
    /// An ASID slot is an address space's, or nobody's.
    SlotOwner {
        /// The CPU.
        cpu: CpuId,
        /// The slot.
        slot: u16,
        /// Its owner.
        space: Option<SpaceId>,
    },
    /// An ASID slot has been flushed up to this generation of its owner.
    SlotFlushed {
        /// The CPU.
        cpu: CpuId,
        /// The slot.
        slot: u16,
        /// The generation.
        generation: u64,
    },
    /// From here to [`Announcement::Loaded`] CR3 and what the kernel says of it may disagree.
    Switching {
        /// The CPU.
        cpu: CpuId,
    },
    /// CR3 holds an address space's root, or that of no address space.
    Loaded {
        /// The CPU.
        cpu: CpuId,
        /// The address space.
        space: Option<SpaceId>,
    },
    /// Whether a CPU runs a kernel thread on an address space that is not its own.
    Lazy {
        /// The CPU.
        cpu: CpuId,
        /// It does.
        lazy: bool,
    },
    /// A frame is given back.
    FrameFreed(Gpa),
    /// The contents of a frame are taken from here on: read for a copy, or shared by what they are.
    /// Nobody may write them by what was cached before.
    ContentsTaken(Gpa),
    /// A paging-structure entry was read, and what the same CPU stores to it next is made of what was
    /// read: a plain edit, between whose two halves a processor may set A or D. Who edits atomically
    /// need not say it.
    EntryRead {
        /// Guest-physical address of the entry.
        slot: Gpa,
        /// What was read.
        value: u64,
    },
    /// A task begins on the CPU that says so.
    TaskBegins(TaskId),
    /// It has ended.
    TaskEnds {
        /// The task.
        task: TaskId,
        /// Its status, as a number of its kernel's.
        status: u64,
        /// The value that it gives, where there is one.
        value: u64,
    },
    /// What the CPU's tasks so far have changed of the tables, they have changed: what no flush was
    /// requested for by now, nobody requests one for.
    EditsOver,
}

/// Until when a flush is deferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Until {
    /// Until the next batched flush of the CPU that deferred it returns.
    Batched,
    /// Until somebody maps the addresses anew, who then owes it; the frames may be given back before.
    Reuse,
    /// The same, of addresses that each CPU uses for itself: who maps them anew owes the flush of its
    /// own CPU alone.
    ReuseHere,
}

/// What a flush is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flush {
    /// The primitive.
    pub kind: FlushKind,
    /// Kernel root of the address space; none for kernel ranges, and for whatever was deferred.
    pub root: Option<Gpa>,
    /// First address of the caller's range.
    pub start: Gva,
    /// End, exclusive.
    pub end: Gva,
}

impl Flush {
    /// The primitive's name in the guest and in scenarios.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Whether the caller's range contains `va`.
    #[must_use]
    pub fn covers(&self, va: Gva) -> bool {
        self.start <= va && va < self.end
    }
}

/// The flush primitives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlushKind {
    /// One user page.
    OneUser,
    /// One kernel page.
    OneKernel,
    /// A range of user pages.
    Range,
    /// The user half of an address space.
    Mm,
    /// Everything.
    All,
    /// A range of kernel pages.
    KernelRange,
    /// What was deferred.
    Batched,
    /// User pages whose page tables are taken away and freed.
    FreeTables,
    /// One kernel page, on the CPU that flushes and no other.
    OneKernelHere,
}

impl FlushKind {
    /// The primitive's name in the guest and in scenarios.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OneUser => "flush_tlb_one_user",
            Self::OneKernel => "flush_tlb_one_kernel",
            Self::Range => "flush_tlb_range",
            Self::Mm => "flush_tlb_mm",
            Self::All => "flush_tlb_all",
            Self::KernelRange => "flush_tlb_kernel_range",
            Self::Batched => "flush_tlb_batched",
            Self::FreeTables => "free_table",
            Self::OneKernelHere => "flush_tlb_one_kernel_here",
        }
    }

    /// Whether it is of user pages alone, and of nothing that a CPU needs which runs no user code.
    #[must_use]
    pub fn spares_lazy_cpus(self) -> bool {
        matches!(self, Self::OneUser | Self::Range | Self::Mm | Self::Batched)
    }
}

/// The word by which a kernel said something, as people read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The field's name in the kernel, such as `user_pcid_flush_mask`.
    pub field: String,
    /// What it is a field of.
    pub owner: Owner,
    /// The word before.
    pub old: u64,
    /// The word after.
    pub new: u64,
}

/// What a word is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// Of a CPU's state.
    Cpu(CpuId),
    /// Of an address space's.
    Space(SpaceId),
    /// Of nothing that is known.
    Unknown,
}

impl Announcement {
    /// The CPUs that it names.
    pub fn cpus(&self) -> impl Iterator<Item = CpuId> + use<> {
        let (one, other) = match *self {
            Self::Requested { by, of } | Self::Noticed { by, of } => (Some(by), Some(of)),
            Self::Acknowledged { by, to } => (Some(by), Some(to)),
            Self::Marked { cpu, .. }
            | Self::Unmarked { cpu, .. }
            | Self::OtherAsidsStale { cpu, .. }
            | Self::Member { cpu, .. }
            | Self::SlotOwner { cpu, .. }
            | Self::SlotFlushed { cpu, .. }
            | Self::Switching { cpu }
            | Self::Loaded { cpu, .. }
            | Self::Lazy { cpu, .. } => (Some(cpu), None),
            _ => (None, None),
        };
        one.into_iter().chain(other)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.field)?;
        match self.owner {
            Owner::Cpu(cpu) => write!(f, " of CPU {}", cpu.0),
            Owner::Space(space) => write!(f, " of address space {}", space.0),
            Owner::Unknown => Ok(()),
        }
    }
}
