//! Who watches a kernel that runs freely: the oracle, and counts.

use super::coverage::{Change, Coverage};
use super::finding::{Finding, collect};
use crate::arch::addr::Gva;
use crate::arch::choice::{Chooser, First, Point};
use crate::arch::cr3::NOFLUSH;
use crate::arch::happened::Happened;
use crate::arch::vcpu::cr4;
use crate::event::{Event, Kind, Observer, TraceHeader};
use crate::machine::Director;
use crate::oracle::Oracle;
use crate::symbols::Symbols;
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

/// The oracle, and counts.
#[derive(Default)]
pub(super) struct Watcher {
    oracle: Oracle,
    pcide: bool,
    flushes: [u64; FLUSHES.len()],
    /// Stores that take something away from page tables, by their instruction.
    changes: BTreeMap<(Gva, Change), u64>,
}

impl Watcher {
    pub(super) fn new(header: &TraceHeader) -> Self {
        let mut watch = Self::default();
        watch.begin(header);
        watch
    }

    pub(super) fn is_isolated(&self) -> bool {
        self.oracle.kernel().is_some_and(|kernel| kernel.isolated)
    }

    pub(super) fn findings(&self, symbols: &Symbols) -> Vec<Finding> {
        collect(self.oracle.violations(), symbols)
    }

    pub(super) fn coverage(&self, symbols: &Symbols) -> Coverage {
        Coverage::new(&self.changes, &self.oracle.obligations(), symbols)
    }

    pub(super) fn flushes(&self) -> Vec<(&'static str, u64)> {
        FLUSHES.into_iter().zip(self.flushes).collect()
    }

    fn count(&mut self, event: &Event, happened: &Happened) {
        let flush = match *happened {
            Happened::TableStore { old, new, .. } => {
                if let Some(change) = Change::of(old, new) {
                    *self.changes.entry((event.rip, change)).or_default() += 1;
                }
                return;
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
                self.pcide = new & cr4::PCIDE != 0;
                if (old ^ new) & (cr4::PGE | cr4::PCIDE) == 0 {
                    return;
                }
                6
            }
            _ => return,
        };
        self.flushes[flush] += 1;
    }
}

impl Observer for Watcher {
    fn begin(&mut self, header: &TraceHeader) {
        self.oracle.begin(header);
    }

    fn event(&mut self, event: &Event) {
        match &event.kind {
            // No rule is about them, and there are more of them than of all others.
            Kind::Cpu(Happened::Other { .. } | Happened::Delivered { .. }) => return,
            Kind::Cpu(happened) => self.count(event, happened),
            _ => {}
        }
        self.oracle.event(event);
    }
}

impl Director for Watcher {}

impl Chooser for Watcher {
    fn choose(&mut self, point: Point<'_>) -> usize {
        First.choose(point)
    }
}
