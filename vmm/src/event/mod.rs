//! What happened: one event for each operation of the modelled processor that the rules may see.
//!
//! An event is about the model, never about the executor: a projection refill that hits the
//! modelled TLB is none. Events carry all that the oracle needs, so that a recorded trace gets
//! the same verdict as the live run.

use crate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use crate::arch::walk::Translation;
use serde::{Deserialize, Serialize};

/// One event of one virtual CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the trace, from 0.
    pub seq: u64,
    /// The virtual CPU.
    pub cpu: CpuId,
    /// Guest RIP of the instruction, or of the one interrupted.
    pub rip: Gva,
    /// Whether the injector made or altered it.
    pub injected: bool,
    /// What happened.
    pub kind: Kind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A step of the scenario begins.
    StepBegin {
        /// Index into the scenario's steps.
        index: usize,
        /// What kind of step it is; decides how long an edit's step lasts.
        class: StepClass,
    },
    /// A step has ended.
    StepEnd {
        /// Index into the scenario's steps.
        index: usize,
        /// What the guest reported: a `shared::step::status`.
        status: u64,
        /// The value reported, where there is one.
        value: u64,
    },
    /// A frame became a page table: a walk from a loadable root reaches it.
    TableLinked {
        /// The frame.
        table: Gpa,
        /// Its entries that are not 0, by index.
        entries: Vec<(u16, u64)>,
    },
    /// A root became loadable (it was loaded for the first time).
    RootLinked {
        /// The root.
        root: Gpa,
    },
    /// No walk reaches the frame any more.
    TableUnlinked {
        /// The frame.
        table: Gpa,
    },
    /// The guest stored to a paging-structure entry.
    TableStore {
        /// Guest-physical address of the 8-byte entry.
        slot: Gpa,
        /// The entry before.
        old: u64,
        /// The entry after.
        new: u64,
    },
    /// The processor set A or D in a paging-structure entry.
    AccessedDirty {
        /// Guest-physical address of the entry.
        slot: Gpa,
        /// The entry before.
        old: u64,
        /// The entry after.
        new: u64,
    },
    /// The guest stored to a `TlbState`.
    StateStore {
        /// The CPU whose it is.
        owner: CpuId,
        /// Byte offset of the aligned 8-byte word.
        offset: u64,
        /// The word before.
        old: u64,
        /// The word after.
        new: u64,
    },
    /// The guest stored to its array of `MmState`.
    MmStore {
        /// Byte offset of the aligned 8-byte word.
        offset: u64,
        /// The word before.
        old: u64,
        /// The word after.
        new: u64,
    },
    /// An interrupt was sent, by a write to the x2APIC's command register.
    Ipi {
        /// To this CPU.
        to: CpuId,
        /// The vector.
        vector: u8,
        /// An NMI instead.
        nmi: bool,
    },
    /// MOV to CR3.
    LoadCr3 {
        /// CR3 before.
        old: u64,
        /// The source operand, NOFLUSH bit included.
        value: u64,
    },
    /// MOV to CR0.
    WriteCr0 {
        /// CR0 before.
        old: u64,
        /// CR0 after.
        new: u64,
    },
    /// MOV to CR4.
    WriteCr4 {
        /// CR4 before.
        old: u64,
        /// CR4 after.
        new: u64,
    },
    /// WRMSR to EFER.
    WriteEfer {
        /// EFER before.
        old: u64,
        /// EFER after.
        new: u64,
    },
    /// INVLPG.
    Invlpg {
        /// The operand's address.
        va: Gva,
    },
    /// INVLPG by a processor whose erratum leaves global entries (injected only).
    InvlpgKeptGlobals {
        /// The operand's address.
        va: Gva,
    },
    /// INVPCID.
    Invpcid {
        /// 0 address, 1 PCID, 2 everything, 3 everything but globals.
        kind: u64,
        /// The descriptor's PCID.
        pcid: Pcid,
        /// The descriptor's address.
        va: Gva,
    },
    /// Another operation that traps, by its mnemonic; the rules do not look at it.
    Other {
        /// The mnemonic.
        mnemonic: String,
    },
    /// What is held of a page went on its own (seeded choices only).
    Evict {
        /// Its tag.
        tag: crate::arch::tlb::Tag,
        /// The page's address.
        page: Gva,
    },
    /// A translation was cached, on an access or by chance (not with worst-case fills, which need
    /// not be told).
    Fill {
        /// The page's address.
        page: Gva,
        /// What was cached.
        translation: Translation,
    },
    /// An architectural page fault.
    PageFault {
        /// CR2.
        va: Gva,
        /// The error code.
        error: u32,
    },
    /// An exception or interrupt was delivered.
    Delivered {
        /// The vector.
        vector: u8,
        /// The virtual CPL it came from.
        from_cpl: u8,
    },
    /// User mode is entered: the virtual CPL becomes 3.
    UserEntry,
    /// A flush primitive begins.
    PrimitiveBegin(Primitive),
    /// The primitive that began last returns.
    PrimitiveEnd(Primitive),
    /// The flush of a range is deferred: it is due when the next batched flush returns.
    Deferred(Primitive),
    /// The guest gave a frame back.
    FrameFreed {
        /// The frame.
        frame: Gpa,
    },
    /// The injector kept something that the guest asked for from happening, or from happening now.
    Withheld {
        /// What, and how.
        what: String,
    },
    /// The injector did something that no other event tells.
    Note {
        /// What.
        what: String,
    },
    /// The run is over.
    End,
}

/// The classes of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepClass {
    /// A page-table edit.
    Edit,
    /// A flush primitive.
    Flush,
    /// Anything else.
    Other,
}

/// A flush primitive as announced by the wrapper that all policies share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Primitive {
    /// A `shared::hypercall::primitive`.
    pub id: u64,
    /// Kernel root of the address space; 0 for kernel ranges.
    pub root: Gpa,
    /// First address of the caller's range.
    pub start: Gva,
    /// End, exclusive.
    pub end: Gva,
}

impl Primitive {
    /// The primitive's name in the guest and in scenarios.
    #[must_use]
    pub fn name(&self) -> &'static str {
        use stalemate_shared::hypercall::primitive as p;
        match self.id {
            p::ONE_USER => "flush_tlb_one_user",
            p::ONE_KERNEL => "flush_tlb_one_kernel",
            p::RANGE => "flush_tlb_range",
            p::MM => "flush_tlb_mm",
            p::ALL => "flush_tlb_all",
            p::KERNEL_RANGE => "flush_tlb_kernel_range",
            p::BATCHED => "flush_tlb_batched",
            p::FREE_TABLES => "free_table",
            _ => "unknown primitive",
        }
    }

    /// Whether the caller's range contains `va`.
    #[must_use]
    pub fn covers(&self, va: Gva) -> bool {
        self.start <= va && va < self.end
    }
}

/// What a trace must say before its first event, for the rules to judge it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceHeader {
    /// Page-table isolation is on.
    pub pti: bool,
    /// Fill choice and structure caches of the modelled TLB.
    pub model: crate::arch::tlb::TlbModel,
    /// What the processors have.
    pub features: crate::arch::features::CpuFeatures,
    /// The processors, by number.
    pub cpus: Vec<CpuHeader>,
    /// What the user root maps of the kernel half.
    pub trampoline: Vec<(Gva, Gva)>,
    /// Where the kernel has all memory mapped for itself: that a frame is mapped there says nothing.
    pub direct_map: (Gva, Gva),
    /// The array of `MmState`, as its words.
    pub mm_states: Vec<u64>,
}

/// One processor as the first event meets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuHeader {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// Its `TlbState`, as its words.
    pub tlb_state: Vec<u64>,
}

/// Receives the events of a run, in order.
pub trait Observer {
    /// The state that the first event meets.
    fn begin(&mut self, header: &TraceHeader);
    /// One event.
    fn event(&mut self, event: &Event);
    /// Instructions that the executor has completed, where it counts them, when the next event
    /// that marks a place in the program happens. Those that trapped are not among them.
    fn completed(&mut self, _instructions: u64) {}
}
