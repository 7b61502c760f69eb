//! How many events of each kind a run had: what tests pin.

use crate::arch::happened::Happened;
use crate::event::{Announcement, Event, Kind, Observer, TraceHeader};
use serde::Serialize;

/// Events by kind. Refills of shadow pages are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventCounts {
    /// MOV to CR3.
    pub cr3_loads: u64,
    /// MOV to CR4.
    pub cr4_writes: u64,
    /// INVLPG.
    pub invlpg: u64,
    /// INVPCID.
    pub invpcid: u64,
    /// Every other privileged operation.
    pub other_privileged: u64,
    /// User PCIDs that were marked.
    pub marks_made: u64,
    /// Marks that were taken away.
    pub marks_consumed: u64,
    /// Stores to words by which the kernel says something of its flush protocol, marks included.
    pub words: u64,
    /// Stores to page tables.
    pub table_stores: u64,
    /// Entries to user mode.
    pub user_entries: u64,
    /// Exceptions and NMIs delivered.
    pub delivered: u64,
    /// On-demand fills.
    pub fills: u64,
    /// Interrupts sent to other CPUs.
    pub ipis: u64,
}

impl Observer for EventCounts {
    fn begin(&mut self, _: &TraceHeader) {
        *self = Self::default();
    }

    fn event(&mut self, event: &Event) {
        match &event.kind {
            Kind::Cpu(happened) => self.happened(happened),
            Kind::Announced { announcements, word } => {
                announcements.iter().for_each(|said| self.announced(said));
                self.words += u64::from(word.is_some());
            }
            _ => {}
        }
    }
}

impl EventCounts {
    fn happened(&mut self, happened: &Happened) {
        match happened {
            Happened::LoadCr3 { .. } => self.cr3_loads += 1,
            Happened::WriteCr4 { .. } => self.cr4_writes += 1,
            Happened::Invlpg { .. } => self.invlpg += 1,
            Happened::Invpcid { .. } => self.invpcid += 1,
            Happened::Other { .. } | Happened::WriteCr0 { .. } | Happened::WriteEfer { .. } => {
                self.other_privileged += 1;
            }
            Happened::TableStore { .. } => self.table_stores += 1,
            Happened::UserEntry => self.user_entries += 1,
            Happened::Delivered { .. } => self.delivered += 1,
            Happened::Fill { .. } => self.fills += 1,
            Happened::Ipi { .. } => self.ipis += 1,
            _ => {}
        }
    }

    fn announced(&mut self, said: &Announcement) {
        match said {
            Announcement::Marked { .. } => self.marks_made += 1,
            Announcement::Unmarked { .. } => self.marks_consumed += 1,
            _ => {}
        }
    }
}
