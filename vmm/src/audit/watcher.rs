//! Who watches a kernel that runs freely: the oracle, and counts.

use super::coverage::{Change, Coverage, Fate, fate, function};
use super::finding::{Finding, collect};
use super::judged::{Counts, Judged};
use super::moments::{Moments, Noted};
use crate::arch::addr::Gva;
use crate::arch::choice::{Chooser, First, Point};
use crate::arch::cr3::NOFLUSH;
use crate::arch::happened::Happened;
use crate::arch::tlb::EntryId;
use crate::arch::vcpu::cr4;
use crate::event::{Event, Kind, Observer, TraceHeader};
use crate::machine::Director;
use crate::oracle::{Obligation, ObligationId, Oracle, Violation};
use crate::symbols::Symbols;
use serde::Serialize;
use std::collections::BTreeMap;

/// Operations that remove cached translations, in the order in which they are shown.
const FLUSHES: [&str; 7] = [
    "INVLPG",
    "INVPCID of an address",
    "INVPCID of a PCID",
    "INVPCID of everything",
    "CR3 load that flushes",
    "CR3 load with NOFLUSH",
    "CR4 write that flushes",
];

/// The form of fault that withholds an operation, by its index in [`FLUSHES`].
fn fault_of(flush: usize) -> Option<&'static str> {
    match flush {
        0 => Some("drop invlpg"),
        1..=3 => Some("drop invpcid"),
        4 => Some("set noflush@any"),
        6 => Some("drop cr4"),
        _ => None,
    }
}

/// What removes something stale, or makes it right, beside them.
fn other(happened: &Happened) -> &'static str {
    match happened {
        Happened::PageFault { .. } => "page fault",
        Happened::Evict { .. } => "eviction",
        _ => "store that made the tables say so again",
    }
}

/// How often an operation was executed somewhere, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removals {
    /// How often.
    pub executed: u64,
    /// Of these, how often it removed something stale: of the others this run proves that they were not
    /// needed.
    pub stale: u64,
    /// Of these, how often something that had been accessed under its PCID since it was last flushed, so that
    /// no processor need have cached it ahead of time.
    pub accessed: u64,
    /// The number that the last of these has in a fault; the last of those that were accessed, if any were.
    pub last_stale: Option<u64>,
}

/// One function's operations of one kind: a line of the flush ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlushSite {
    /// The operation.
    pub operation: &'static str,
    /// The function that it is in.
    pub function: String,
    /// What came of them.
    pub removals: Removals,
    /// The fault that withholds the last of them which removed something stale.
    pub withheld: Option<String>,
}

/// What obligations are about that is still cached, by obligation.
pub(super) type Records = Vec<(ObligationId, Vec<EntryId>)>;

/// An operation that removed something stale, or without which something would be, and that a fault can
/// withhold.
#[derive(Clone, Debug)]
pub(super) struct Removal {
    /// Which, in [`FLUSHES`].
    pub(super) flush: usize,
    /// The instruction.
    pub(super) rip: Gva,
    /// The number that it has in the fault.
    pub(super) number: u64,
    /// What it removed that was stale.
    pub(super) records: Records,
}

impl Removal {
    /// The operation.
    pub(super) fn operation(&self) -> &'static str {
        FLUSHES[self.flush]
    }

    /// The fault that withholds the operation with this number.
    pub(super) fn fault(&self, number: u64) -> String {
        format!("{}#{number}", fault_of(self.flush).unwrap_or_default())
    }
}

/// The oracle, and counts.
#[derive(Clone, Default)]
pub(super) struct Watcher {
    oracle: Oracle,
    pcide: bool,
    flushes: [u64; FLUSHES.len()],
    /// Operations that a form of fault counts: writes of CR4 that remove nothing too.
    faults_met: BTreeMap<&'static str, u64>,
    /// Operations that remove something, by kind and instruction: how many, and how many of them removed
    /// something stale.
    sites: BTreeMap<(usize, Gva), Removals>,
    /// Stores that take something away from page tables, by their instruction.
    changes: BTreeMap<(Gva, Change), u64>,
    /// The last of them, until somebody asks.
    removal: Option<Removal>,
    /// What the last event that removed something stale was, and where.
    last_flushed: Option<(&'static str, Gva)>,
    moments: Moments,
    judged: Option<Judged>,
}

impl Watcher {
    pub(super) fn new(header: &TraceHeader) -> Self {
        let mut watch = Self { judged: Some(Judged::default()), ..Self::default() };
        watch.begin(header);
        watch
    }

    /// How often each rule has judged something, and the same by function and kind.
    pub(super) fn judged(&self, symbols: &Symbols) -> (Counts, BTreeMap<(String, Change), Counts>) {
        let judged = self.judged.as_ref();
        judged.map_or_else(Default::default, |judged| {
            (judged.counts(&self.oracle), judged.by_store(symbols))
        })
    }

    /// Nobody will ask when what is found was, nor what rules have judged.
    pub(super) fn without_moments(self) -> Self {
        Self { moments: Moments::off(), judged: None, ..self }
    }

    /// When all that belongs to each violation was.
    pub(super) fn noted(&self) -> &[Noted] {
        self.moments.noted()
    }

    pub(super) fn is_isolated(&self) -> bool {
        self.oracle.kernel().is_some_and(|kernel| kernel.isolated)
    }

    pub(super) fn findings(
        &self,
        symbols: &Symbols,
        due: &dyn Fn(&Violation) -> String,
    ) -> Vec<Finding> {
        collect(self.oracle.violations(), self.moments.noted(), symbols, due)
    }

    pub(super) fn coverage(&self, symbols: &Symbols) -> Coverage {
        Coverage::new(&self.changes, &self.oracle.obligations(), symbols)
    }

    pub(super) fn flushes(&self) -> Vec<(&'static str, u64)> {
        FLUSHES.into_iter().zip(self.flushes).collect()
    }

    /// The operation since the last call without which something would be stale, as far as one can tell
    /// before, and that can be withheld.
    pub(super) fn take_removal(&mut self) -> Option<Removal> {
        self.removal.take()
    }

    /// How many operations like this one there were that a fault counts.
    pub(super) fn met(&self, like: &Removal) -> u64 {
        fault_of(like.flush).and_then(|fault| self.faults_met.get(fault)).copied().unwrap_or(0)
    }

    /// What the last event that removed something stale was, and where.
    pub(super) fn last_flushed(&self) -> Option<(&'static str, Gva)> {
        self.last_flushed
    }

    /// The rules that have spoken, in order.
    pub(super) fn violations(&self) -> &[Violation] {
        self.oracle.violations()
    }

    /// Of `records` those that are still cached.
    pub(super) fn retain_held(&self, records: &mut Records) {
        records.retain_mut(|(id, entries)| {
            let held = self.oracle.ledger().get(*id);
            entries.retain(|entry| held.is_some_and(|held| held.ids().any(|id| id == *entry)));
            !entries.is_empty()
        });
    }

    /// Of what is left of `records` the one that stands worst: how, and what it is of.
    pub(super) fn worst(&self, records: &Records) -> Option<(Fate, &Obligation)> {
        let held = records.iter().filter_map(|(id, _)| self.oracle.ledger().get(*id));
        held.map(|owed| (fate(owed), owed)).max_by_key(|(fate, _)| *fate)
    }

    pub(super) fn sites(&self, symbols: &Symbols) -> Vec<FlushSite> {
        let mut found: BTreeMap<(usize, String), Removals> = BTreeMap::new();
        for (&(kind, rip), removals) in &self.sites {
            let sum = found.entry((kind, function(symbols, rip))).or_default();
            sum.executed += removals.executed;
            sum.stale += removals.stale;
            sum.last_stale = match (sum.accessed > 0, removals.accessed > 0) {
                (true, false) => sum.last_stale,
                (false, true) => removals.last_stale,
                _ => sum.last_stale.max(removals.last_stale),
            };
            sum.accessed += removals.accessed;
        }
        let site = |((kind, function), removals): ((usize, String), Removals)| FlushSite {
            operation: FLUSHES[kind],
            function,
            removals,
            withheld: removals
                .last_stale
                .zip(fault_of(kind))
                .map(|(n, fault)| format!("{fault}#{n}")),
        };
        found.into_iter().map(site).collect()
    }

    /// Notes what an event has removed.
    fn note_removed(&mut self, event: &Event, happened: &Happened, flush: Option<usize>) {
        let records = self.oracle.ledger().last_flushed();
        if !records.is_empty() {
            let what = flush.map_or_else(|| other(happened), |flush| FLUSHES[flush]);
            self.last_flushed = Some((what, event.rip));
            self.moments.removed(what, event, records, &self.oracle);
        }
        let Some(flush) = flush else { return };
        let number = fault_of(flush).and_then(|fault| self.faults_met.get(fault));
        let site = self.sites.entry((flush, event.rip)).or_default();
        site.executed += 1;
        if !records.is_empty() {
            site.stale += 1;
            let accessed = self.oracle.ledger().last_event_flushed_accessed();
            site.accessed += u64::from(accessed);
            // The last that is seen to be needed is the one to show, where there is one.
            if accessed || site.accessed == 0 {
                site.last_stale = number.copied();
            }
        }
        // What a PCID has of one root may be wrong under the next.
        if !records.is_empty() || flush == 4 {
            self.removal = number.map(|&number| Removal {
                flush,
                rip: event.rip,
                number,
                records: records.to_vec(),
            });
        }
    }

    /// Counts an event; the operation that it is, if it removes cached translations.
    fn count(&mut self, event: &Event, happened: &Happened) -> Option<usize> {
        let flush = match *happened {
            Happened::TableStore { old, new, .. } => {
                if let Some(change) = Change::of(old, new) {
                    *self.changes.entry((event.rip, change)).or_default() += 1;
                }
                return None;
            }
            Happened::Invlpg { .. } => 0,
            Happened::Invpcid { kind: kind @ 0..=1, .. } => 1 + kind as usize,
            Happened::Invpcid { .. } => 3,
            Happened::LoadCr3 { value, .. } => {
                if self.pcide && value & NOFLUSH != 0 {
                    5
                } else {
                    4
                }
            }
            Happened::WriteCr4 { old, new } => {
                *self.faults_met.entry("drop cr4").or_default() += 1;
                self.pcide = new & cr4::PCIDE != 0;
                if (old ^ new) & (cr4::PGE | cr4::PCIDE) == 0 {
                    return None;
                }
                6
            }
            _ => return None,
        };
        self.flushes[flush] += 1;
        if let Some(fault) =
            fault_of(flush).filter(|fault| *fault != "drop cr4" && (flush != 4 || self.pcide))
        {
            *self.faults_met.entry(fault).or_default() += 1;
        }
        Some(flush)
    }
}

impl Observer for Watcher {
    fn begin(&mut self, header: &TraceHeader) {
        self.oracle.begin(header);
    }

    fn completed(&mut self, instructions: u64) {
        self.moments.completed(instructions);
    }

    fn event(&mut self, event: &Event) {
        match &event.kind {
            // No rule is about them, and there are more of them than of all others.
            Kind::Cpu(Happened::Other { .. } | Happened::Delivered { .. }) => return,
            Kind::Cpu(happened) => {
                let flush = self.count(event, happened);
                self.oracle.event(event);
                self.note_removed(event, happened, flush);
            }
            _ => self.oracle.event(event),
        }
        self.moments.event(event, &self.oracle);
        if let Some(judged) = &mut self.judged {
            judged.event(event, &self.oracle);
        }
    }
}

impl Director for Watcher {}

impl Chooser for Watcher {
    fn choose(&mut self, point: Point<'_>) -> usize {
        First.choose(point)
    }
}
