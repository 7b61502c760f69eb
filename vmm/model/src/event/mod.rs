//! Events: what the modelled processors did and what the kernel announced, in order.
//!
//! An event is about the model, never about the executor: a refill of the shadow pages that hits the
//! modelled TLB is none. Events carry all that the oracle needs, so that a recorded trace gets the
//! same verdict as the live run.

mod announce;
mod header;
mod trace;

pub use announce::{Announcement, Flush, FlushId, FlushKind, Owner, SpaceId, TaskId, Until, Word};
pub use header::{CpuHeader, KernelAbout, Pairing, SlotPcids, TraceHeader};
pub use trace::Trace;

use crate::arch::addr::{CpuId, Gva};
use crate::arch::happened::Happened;
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
    /// What it is.
    pub kind: Kind,
}

impl Event {
    /// What the processor did, where the event is about that.
    #[must_use]
    pub fn happened(&self) -> Option<&Happened> {
        match &self.kind {
            Kind::Cpu(happened) => Some(happened),
            _ => None,
        }
    }

    /// What the kernel said.
    #[must_use]
    pub fn announcements(&self) -> &[Announcement] {
        match &self.kind {
            Kind::Announced { announcements, .. } => announcements,
            _ => &[],
        }
    }
}

/// What an event is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The modelled processor did something.
    Cpu(Happened),
    /// The kernel said something, by one store or one hypercall.
    Announced {
        /// What; nothing where it stored to a word that says nothing by itself.
        announcements: Vec<Announcement>,
        /// The word that it stored to.
        word: Option<Word>,
    },
    /// A fault dropped or delayed an operation of the guest.
    Suppressed {
        /// Which, and how.
        what: String,
    },
    /// The injector did something that no other event shows.
    Note {
        /// What.
        what: String,
    },
    /// The run is over.
    End,
}

/// Receives the events of a run, in order.
pub trait Observer {
    /// The state that the first event meets.
    fn begin(&mut self, header: &TraceHeader);
    /// One event.
    fn event(&mut self, event: &Event);
    /// Called before each event that has a place in the program: instructions retired so far,
    /// trapped ones excluded. Executors that do not count never call it.
    fn completed(&mut self, _instructions: u64) {}
}

/// Discards events.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullObserver;

impl Observer for NullObserver {
    fn begin(&mut self, _: &TraceHeader) {}
    fn event(&mut self, _: &Event) {}
}

/// Notifies one observer, then the other.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn begin(&mut self, header: &TraceHeader) {
        self.0.begin(header);
        self.1.begin(header);
    }

    fn event(&mut self, event: &Event) {
        self.0.event(event);
        self.1.event(event);
    }

    fn completed(&mut self, instructions: u64) {
        self.0.completed(instructions);
        self.1.completed(instructions);
    }
}

/// Notifies the observer, if there is one.
impl<A: Observer> Observer for Option<A> {
    fn begin(&mut self, header: &TraceHeader) {
        if let Some(observer) = self {
            observer.begin(header);
        }
    }

    fn event(&mut self, event: &Event) {
        if let Some(observer) = self {
            observer.event(event);
        }
    }

    fn completed(&mut self, instructions: u64) {
        if let Some(observer) = self {
            observer.completed(instructions);
        }
    }
}

impl<A: Observer + ?Sized> Observer for &mut A {
    fn begin(&mut self, header: &TraceHeader) {
        (**self).begin(header);
    }

    fn event(&mut self, event: &Event) {
        (**self).event(event);
    }

    fn completed(&mut self, instructions: u64) {
        (**self).completed(instructions);
    }
}
