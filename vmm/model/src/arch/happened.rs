//! What the modelled processor did: one value for each operation that software can tell.

use super::addr::{CpuId, Gpa, Gva, Pcid};
use super::tlb::Tag;
use super::walk::Translation;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// One operation of the modelled processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Happened {
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
    /// Software stored to a paging-structure entry.
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
        /// By a processor whose erratum leaves global entries.
        keeps_globals: bool,
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
    /// Another operation that traps; no rule looks at it.
    Other {
        /// The mnemonic.
        mnemonic: Cow<'static, str>,
    },
    /// What is held of a page was evicted by chance (seeded choices only).
    Evict {
        /// Its tag.
        tag: Tag,
        /// The page's address.
        page: Gva,
    },
    /// A translation was cached, on an access or by chance (not with worst-case fills, which
    /// follow from the tables).
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
}

/// A store to an aligned 8-byte word of memory that the machine watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordStore {
    /// Guest-physical address of the word.
    pub at: Gpa,
    /// The word before.
    pub old: u64,
    /// The word after.
    pub new: u64,
}
