//! Who decides what is left open in a run, and sees what happens.

use crate::arch::addr::CpuId;
use crate::arch::choice::{Chooser, First, Point};
use crate::event::{Announcement, Event, NullObserver, Observer, TraceHeader, Word};

/// Decides what the architecture and the scheduler leave open, and sees the events.
pub trait Director: Observer + Chooser {
    /// The CPU of the machine's [`Watch`] is about to make an access: whether it is held before that,
    /// and the access is not made.
    fn holds_before(&mut self, _cpu: CpuId, _access: &Access<'_>) -> bool {
        false
    }
}

/// Which accesses of a CPU its director is asked about before they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The CPU.
    pub cpu: CpuId,
    /// Which of its accesses.
    pub accesses: Accesses,
}

/// Accesses to memory, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accesses {
    /// Stores to page tables and to words that the kernel has described.
    Stores,
    /// Loads of words that the kernel has described, by instructions that only load. The pages of such
    /// words are not mapped meanwhile.
    Loads,
}

/// An access that is about to be made.
#[derive(Clone, Copy, Debug)]
pub enum Access<'a> {
    /// A load of a word.
    Load(&'a Word),
    /// A store to a word, with what it says.
    WordStore(&'a [Announcement]),
    /// A store to a paging-structure entry.
    TableStore,
}

/// Takes the first option each time and discards events; used while booting.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NullDirector;

impl Observer for NullDirector {
    fn begin(&mut self, header: &TraceHeader) {
        NullObserver.begin(header);
    }

    fn event(&mut self, event: &Event) {
        NullObserver.event(event);
    }
}

impl Director for NullDirector {}

impl Chooser for NullDirector {
    fn choose(&mut self, point: Point<'_>) -> usize {
        First.choose(point)
    }
}
