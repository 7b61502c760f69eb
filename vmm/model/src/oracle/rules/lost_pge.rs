//! `lost-pge`: whoever clears CR4.PGE to flush sets it again.

use crate::arch::addr::CpuId;
use crate::arch::happened::Happened;
use crate::arch::vcpu::cr4;
use crate::event::Announcement;
use crate::oracle::About;
use crate::oracle::rule::{Context, Finding, Rule};
use std::collections::BTreeSet;

/// About the rule.
pub static ABOUT: About = About {
    name: "lost-pge",
    statement: "A flush that clears CR4.PGE has set it again when it returns.",
    source: "Linux native_flush_tlb_global; SDM vol. 3, 4.10.4.1",
    violated_by: "pge-toggle --cpu pcid --policy split --inject \"drop cr4#2\"",
    near_miss: "pge-toggle --cpu pcid --policy split --inject \"repeat cr4\"",
    hint: "write CR4 as it was before the toggle, on every way out of the flush",
    is_cost: false,
};

#[derive(Clone, Default)]
struct LostPge {
    /// The CPUs on which PGE was cleared and not set again.
    cleared: BTreeSet<CpuId>,
}

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(LostPge::default())
}

impl Rule for LostPge {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let cpu = context.event.cpu;
        if let Some(&Happened::WriteCr4 { old, new }) = context.event.happened() {
            match (old & cr4::PGE != 0, new & cr4::PGE != 0) {
                (true, false) => self.cleared.insert(cpu),
                (_, true) => self.cleared.remove(&cpu),
                _ => false,
            };
        }
        let is_return = |said: &Announcement| matches!(said, Announcement::FlushReturns { .. });
        let returns = context.event.announcements().iter().any(is_return);
        if !returns || !self.cleared.remove(&cpu) {
            return Vec::new();
        }
        vec![Finding::new(format!("a flush returns on CPU {} with CR4.PGE clear", cpu.0))]
    }
}
