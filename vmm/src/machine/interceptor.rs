//! Whoever alters operations before they take effect, as the machine knows it.

use super::kernel::KernelWords;
use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::features::Errata;
use crate::arch::happened::WordStore;
use crate::arch::op::Op;
use crate::event::{Announcement, Flush, TaskId};

/// Where an operation is about to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The CPU.
    pub cpu: CpuId,
    /// The instruction.
    pub rip: Gva,
    /// CR4.
    pub cr4: u64,
}

/// What the machine does instead of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Deliver an NMI first; the operation is met again afterwards.
    pub nmi_before: bool,
    /// Do these first.
    pub before: Vec<Scheduled>,
    /// The operations, in order; empty where it does not happen now.
    pub ops: Vec<PlannedOp>,
    /// It happens later, on the interceptor's word.
    pub delayed: bool,
}

impl Plan {
    /// The operation as it is.
    #[must_use]
    pub fn unaltered(op: Op) -> Self {
        let op = PlannedOp { op, errata: Errata::default(), injected: false };
        Self { nmi_before: false, before: Vec::new(), ops: vec![op], delayed: false }
    }
}

/// One operation of a [`Plan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedOp {
    /// The operation.
    pub op: Op,
    /// What the processor does wrong with it.
    pub errata: Errata,
    /// Whether it is other than what the guest requested.
    pub injected: bool,
}

/// What the machine does beside the guest's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideEffect {
    /// An NMI becomes pending.
    Nmi,
    /// An interrupt with this vector becomes pending.
    Irq(u8),
    /// What the current PCID, and what every one, caches of the page that begins here is evicted.
    Evict(Gva),
    /// The page is cached.
    Speculate(Gva),
    /// The registers are written with the values they have.
    SetRegisters,
    /// A CPU stores to a watched word.
    Store {
        /// The CPU that stores.
        cpu: CpuId,
        /// The word.
        at: Gpa,
        /// The bits that it sets.
        set: u64,
        /// The bits that it clears.
        clear: u64,
    },
    /// The kernel's words say this from now on.
    Say(Announcement),
    /// An operation that was delayed.
    Op(Op),
}

/// A side effect, and the fault that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// What to do.
    pub effect: SideEffect,
    /// The fault's number, where it has fired only if there is something to do.
    pub if_done: Option<usize>,
}

impl Scheduled {
    /// An effect whose fault has fired.
    #[must_use]
    pub fn surely(effect: SideEffect) -> Self {
        Self { effect, if_done: None }
    }
}

/// A moment that is no operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A task begins.
    TaskBegins(TaskId),
    /// A CPU asks its driver for the next thing to do: its task is over.
    TaskEnds,
    /// A flush begins.
    FlushBegins,
    /// A flush has returned.
    FlushReturned(Flush),
    /// A CPU waits for another one.
    Waits,
}

/// The one place where an operation is altered before it takes effect. It is part of a snapshot.
pub trait Interceptor: Clone {
    /// What happens in place of `op`, whose operands are read.
    fn operation(&mut self, site: &Site, op: Op, words: &dyn KernelWords) -> Plan;

    /// The words that are stored, one after the other, where `cpu` is about to make `store`, which
    /// says `said`.
    fn word(
        &mut self,
        cpu: CpuId,
        store: &WordStore,
        said: &[Announcement],
        words: &dyn KernelWords,
    ) -> Vec<u64>;

    /// A moment of `cpu` has come: what is done at it.
    fn moment(&mut self, cpu: CpuId, moment: Moment, words: &dyn KernelWords) -> Vec<Scheduled>;

    /// What is done before the next instruction of `cpu`.
    fn due(&mut self, cpu: CpuId) -> Vec<Scheduled>;

    /// A side effect found something to do.
    fn done(&mut self, scheduled: &Scheduled);
}
