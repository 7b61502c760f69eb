//! A run as something to look at: lanes, bars, moments and brackets over time, which is the
//! number of the event. The page and the trace for other tools are made of this.
//!
//! What the TLB holds comes from the oracle's shadow, fed with the recorded events once more.
//! Shown are the test pages and whatever else an obligation or a violation is about; the kernel's
//! own pages would be many and always the same.

mod build;
mod html;
mod lane;
mod perfetto;
mod rows;
mod track;

pub use build::timeline;
pub use html::html;
pub use perfetto::perfetto;

use super::Fact;
use serde::Serialize;

/// A run as a picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// The scenario's name.
    pub scenario: String,
    /// What it is about.
    pub summary: String,
    /// The configuration.
    pub config: String,
    /// What was injected.
    pub faults: Vec<String>,
    /// The executor.
    pub executor: String,
    /// What was real in it, and what was modelled.
    pub real: String,
    /// What the run came to.
    pub outcome: String,
    /// Whether that is what the scenario says.
    pub as_expected: bool,
    /// What no rule says of it, a line each; of a sweep, which of its runs this is.
    pub remarks: Vec<String>,
    /// The command that does it again.
    pub command: String,
    /// How many events there are: time runs from 0 to this.
    pub events: u64,
    /// The lanes, by CPU.
    pub cpus: Vec<Cpu>,
    /// Entries of the TLB.
    pub bars: Vec<Bar>,
    /// What happened in a moment.
    pub moments: Vec<Moment>,
    /// User PCIDs that were marked, while they were.
    pub marks: Vec<Mark>,
    /// What was owed.
    pub obligations: Vec<Owed>,
    /// The rules that spoke.
    pub violations: Vec<Shown>,
}

impl Timeline {
    /// Whether there is a lane for a tag of a CPU: entries or operations to show in it.
    #[must_use]
    pub fn has_lane(&self, cpu: u8, tag: &str) -> bool {
        let of = |one: &Cpu| one.number == cpu && one.tags.iter().any(|known| known == tag);
        self.cpus.iter().any(of)
    }
}

/// One virtual CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// Its number.
    pub number: u8,
    /// Its lanes: tags of its TLB under which something was cached.
    pub tags: Vec<String>,
    /// The steps that it did.
    pub steps: Vec<Span>,
    /// The flush primitives that it ran.
    pub primitives: Vec<Span>,
    /// Its phases, without a gap: [`KERNEL`] and [`USER`] in turn.
    pub phases: Vec<Span>,
}

/// The text of a phase in the kernel.
pub const KERNEL: &str = "kernel mode";
/// The text of a phase in user mode.
pub const USER: &str = "user mode";

/// Something that lasts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Span {
    /// From this event.
    pub from: u64,
    /// To this one; the end of the run where it did not end.
    pub to: u64,
    /// What it is.
    pub text: String,
}

/// A TLB entry, from its fill to its removal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// The CPU.
    pub cpu: u8,
    /// What it is tagged with.
    pub tag: String,
    /// The page: a test page's name, or its address.
    pub page: String,
    /// The page's address.
    pub address: String,
    /// What it translates to, and with which rights.
    pub translation: String,
    /// The walk that it came from, a level a line.
    pub walk: Vec<String>,
    /// Filled after this event.
    pub from: u64,
    /// Removed by this one; nothing where it was still held at the end.
    pub to: Option<u64>,
    /// Stale from this event on.
    pub stale: Option<u64>,
    /// What a walk gave when it became so.
    pub today: Option<String>,
    /// Where it is among the bars of its page and tag: those that overlap have different rows.
    pub row: usize,
}

/// The kinds of moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MomentKind {
    /// MOV to CR3 that flushes.
    Cr3,
    /// MOV to CR3 with NOFLUSH.
    Cr3Kept,
    /// INVLPG, INVPCID, or a write of CR0, CR4 or EFER.
    Invalidation,
    /// What is held of a page went on its own.
    Evict,
    /// A store to a paging-structure entry.
    Store,
    /// A user PCID is marked.
    Mark,
    /// A mark is cleared.
    Consume,
    /// An interrupt or exception is delivered.
    Interrupt,
    /// An interrupt is sent.
    Ipi,
    /// A shootdown is acknowledged.
    Acknowledge,
    /// The injector did something.
    Fault,
    /// A frame was given back, or a flush deferred.
    Other,
}

/// Something that happened in a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// The event.
    pub seq: u64,
    /// The CPU.
    pub cpu: u8,
    /// What kind it is.
    pub kind: MomentKind,
    /// The lane that it is about; nothing for the CPU itself.
    pub tag: Option<String>,
    /// What happened.
    pub text: String,
    /// The instruction's place in the guest.
    pub place: String,
    /// How many entries it removed, those of the kernel's own pages too.
    pub removed: usize,
    /// The pages of the bars that it ended.
    pub pages: Vec<String>,
}

/// A user PCID that is marked: it must be flushed when its user tables are next loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// The CPU.
    pub cpu: u8,
    /// The PCID.
    pub tag: String,
    /// The store that made the mark; 0 where the first event meets it.
    pub from: u64,
    /// The store that cleared it; nothing where it was still there at the end.
    pub to: Option<u64>,
}

/// An obligation, from the store that made it to what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Owed {
    /// The CPU whose entries were stale.
    pub cpu: u8,
    /// Their tag.
    pub tag: String,
    /// The page: a test page's name, or its address.
    pub page: String,
    /// The page's address.
    pub address: String,
    /// The store.
    pub from: u64,
    /// The event that discharged it, or at which its deadline passed; the end of the run where it
    /// was not due.
    pub to: u64,
    /// What became of it.
    pub text: String,
    /// A rule spoke.
    pub violated: bool,
    /// Where it is among the obligations of its page and tag: those that overlap have different
    /// rows.
    pub row: usize,
}

/// A rule that spoke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The rule.
    pub rule: String,
    /// The event.
    pub seq: u64,
    /// The CPU.
    pub cpu: u8,
    /// The lane of the entry, if it is about one.
    pub tag: Option<String>,
    /// The page of the entry, if it is about one.
    pub page: Option<String>,
    /// What happened.
    pub message: String,
    /// The witness, as at the terminal.
    pub witness: Vec<Fact>,
    /// What to try.
    pub hint: &'static str,
}
