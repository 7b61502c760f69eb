//! The choices that the architecture and the scheduler leave open. Everything that could be otherwise
//! in a run is decided by one [`Chooser`].

use super::addr::{CpuId, Gva};
use super::tlb::Tag;
use super::walk::Translation;

/// Something that may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// A CPU runs to its next trap.
    Run(CpuId),
    /// A CPU runs over one instruction.
    Step(CpuId),
    /// A CPU begins its next task, with this index, or goes on with the one that it was held in.
    Begin(CpuId, usize),
}

/// What a CPU could do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuState {
    /// It has a task that is not over.
    pub in_task: bool,
    /// It has none, and handles an interrupt.
    pub in_interrupt: bool,
    /// An interrupt that it can take is there.
    pub interrupted: bool,
    /// It waits for another CPU.
    pub waits: bool,
}

impl CpuState {
    /// It has no task, and an interrupt to take or in the middle of being handled.
    #[must_use]
    pub fn is_summoned(&self) -> bool {
        !self.in_task && (self.in_interrupt || self.interrupted)
    }

    /// Whether it can do anything.
    #[must_use]
    pub fn can_run(&self) -> bool {
        self.in_task || self.is_summoned()
    }
}

/// A choice that is open, with its options.
#[derive(Clone, Copy, Debug)]
pub enum Point<'a> {
    /// Which move is made.
    Next {
        /// The options.
        moves: &'a [Move],
        /// The CPUs, by number.
        cpus: &'a [CpuState],
        /// The number of the next event.
        seq: u64,
    },
    /// Whether (1) or not (0) an interrupt comes in at this instruction boundary.
    Interrupt {
        /// Of this CPU.
        cpu: CpuId,
        /// NMIs are blocked there.
        nmi_blocked: bool,
    },
    /// Whether (1) or not (0) the processor fills a translation ahead of time.
    Fill(CpuId, &'a Translation),
    /// Whether (1) or not (0) the processor evicts what it holds of a page.
    Evict(CpuId, Tag, Gva),
}

/// Decides. One option is no choice and need not be offered.
pub trait Chooser {
    /// The index of the option that is taken.
    fn choose(&mut self, point: Point<'_>) -> usize;
}

/// Takes the first option: nothing is left to chance.
#[derive(Clone, Copy, Debug, Default)]
pub struct First;

impl Chooser for First {
    fn choose(&mut self, _: Point<'_>) -> usize {
        0
    }
}
