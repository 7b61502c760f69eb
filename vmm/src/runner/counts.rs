//! How many events of each kind a run had: what tests pin.

use crate::event::{Event, Kind, Observer, TraceHeader};
use serde::Serialize;
use stalemate_shared::tlb_state::USER_PCID_FLUSH_MASK;

/// Events by kind. Projection refills are none.
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
    /// Stores that made a mark.
    pub marks_made: u64,
    /// Stores that cleared a mark.
    pub marks_consumed: u64,
    /// Stores to `TlbState`, marks included.
    pub state_stores: u64,
    /// Stores to page tables.
    pub table_stores: u64,
    /// Entries to user mode.
    pub user_entries: u64,
    /// Exceptions and NMIs delivered.
    pub delivered: u64,
    /// On-demand fills.
    pub fills: u64,
    /// Stores to the states of address spaces.
    pub mm_stores: u64,
    /// Interrupts sent to other CPUs.
    pub ipis: u64,
}

impl Observer for EventCounts {
    fn begin(&mut self, _: &TraceHeader) {
        *self = Self::default();
    }

    fn event(&mut self, event: &Event) {
        match event.kind {
            Kind::LoadCr3 { .. } => self.cr3_loads += 1,
            Kind::WriteCr4 { .. } => self.cr4_writes += 1,
            Kind::Invlpg { .. } | Kind::InvlpgKeptGlobals { .. } => self.invlpg += 1,
            Kind::Invpcid { .. } => self.invpcid += 1,
            Kind::Other { .. } | Kind::WriteCr0 { .. } | Kind::WriteEfer { .. } => {
                self.other_privileged += 1;
            }
            Kind::StateStore { offset, old, new, .. } => {
                self.state_stores += 1;
                if offset == USER_PCID_FLUSH_MASK {
                    self.marks_made += u64::from(new & !old != 0);
                    self.marks_consumed += u64::from(old & !new != 0);
                }
            }
            Kind::TableStore { .. } => self.table_stores += 1,
            Kind::UserEntry => self.user_entries += 1,
            Kind::Delivered { .. } => self.delivered += 1,
            Kind::Fill { .. } => self.fills += 1,
            Kind::MmStore { .. } => self.mm_stores += 1,
            Kind::Ipi { .. } => self.ipis += 1,
            _ => {}
        }
    }
}
