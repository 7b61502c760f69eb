//! One fault: what is done to which operation, where and how often.

use stalemate_shared::page::Page;

/// What is done to the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It does not happen.
    Drop,
    /// It happens twice.
    Repeat,
    /// It happens later: right before the next operation of its kind, or when its step is over.
    Delay,
    /// What it stands for is taken for done before it is.
    Early,
    /// It happens with a wrong operand.
    Alter,
    /// A bit of its operand is set.
    Set,
    /// A bit of its operand is cleared.
    Clear,
    /// The processor carries it out wrongly.
    Erratum,
    /// The marks are cleared as if they had been consumed.
    ClearMark,
    /// An NMI arrives.
    Nmi,
    /// An interrupt arrives.
    Irq,
    /// A CPU that is held back comes in.
    Preempt,
    /// What is cached of a page goes.
    Evict,
    /// A page is cached.
    Speculate,
    /// The VMM writes the registers.
    SetRegisters,
}

/// What it is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A store that sets a bit of `user_pcid_flush_mask`.
    Mark,
    /// The ASID that such a store is about.
    MarkAsid,
    /// A store that clears a bit of it.
    Consume,
    /// A store that sets `invalidate_other`.
    InvalidateOther,
    /// A store to a slot's `tlb_gen`.
    Generation,
    /// The rise of an address space's `tlb_gen`.
    MmGeneration,
    /// INVLPG.
    Invlpg,
    /// INVPCID.
    Invpcid,
    /// A CR4 write.
    Cr4,
    /// A CR3 load.
    Cr3,
    /// The NOFLUSH bit of a CR3 load.
    Noflush,
    /// The PCID of a CR3 load.
    Pcid,
    /// The root of a CR3 load.
    Root,
    /// INVLPG, as an erratum has it.
    InvlpgKeepsGlobals,
    /// INVPCID, as an erratum has it.
    InvpcidGp,
    /// An interrupt that is sent to another CPU.
    Ipi,
    /// The store by which a CPU acknowledges.
    Ack,
    /// A point in time.
    Point(Point),
}

/// Named points in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// Right after a mark was made.
    AfterMark,
    /// Before the return path's user CR3 load.
    BeforeUserCr3,
    /// After it.
    AfterUserCr3,
    /// After a CR4 write: between the two of a toggle, and after the second.
    AfterCr4,
    /// A flush primitive has begun.
    FlushBegin,
    /// It has returned.
    FlushEnd,
    /// A step has begun.
    Step,
    /// At the IRETQ that ends the paranoid exit.
    ParanoidExit,
    /// At every instruction boundary, in a run of its own each.
    Each,
}

/// Where a CR3 load stands in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Site {
    /// The return to user mode.
    Return,
    /// The entry from user mode.
    Entry,
    /// `switch_mm`.
    Switch,
    /// The flush primitives.
    Flush,
    /// The paranoid entry.
    ParanoidEntry,
    /// The paranoid exit.
    ParanoidExit,
    /// Wherever: in a kernel whose sites nobody knows.
    Any,
}

/// Which occurrences, counted from the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Occurrence {
    /// Each.
    All,
    /// The nth, from 1.
    Nth(u32),
    /// Of every boundary: those within these steps, counted from 1.
    Steps(u32, u32),
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// What is done.
    pub action: Action,
    /// To what.
    pub target: Target,
    /// For CR3 loads, where.
    pub site: Option<Site>,
    /// For what is cached, the page.
    pub page: Option<Page>,
    /// How often.
    pub occurrence: Occurrence,
}
