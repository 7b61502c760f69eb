//! `lost-mark`: whoever clears a mark flushes.

use crate::arch::addr::{CpuId, Gva, Pcid};
use crate::arch::cr3::NOFLUSH;
use crate::arch::happened::Happened;
use crate::arch::key::StateKey;
use crate::arch::vcpu::cr4;
use crate::event::Announcement;
use crate::oracle::About;
use crate::oracle::rule::{Because, Context, Finding, Memory, Rule};
use std::collections::BTreeMap;

/// About the rule.
pub static ABOUT: About = About {
    name: "lost-mark",
    statement: "After a mark is cleared, something that must empty that user PCID happens before \
                user mode next runs under it on that CPU. Reported at the load that kept it, \
                naming the clear.",
    source: "Linux 21e944591102 (RESTORE_CR3); invariants U4 and U6 of the protocol",
    violated_by: "nmi-window --cpu pcid --policy split --inject nmi@after-mark \
                  --inject clear-mark@paranoid-exit",
    near_miss: "nmi-window --cpu pcid --policy split --inject nmi@after-mark",
    hint: "clear a mark only on the path that then loads the user CR3 without NOFLUSH, \
           and let nothing in between load it with NOFLUSH or write back what was read \
           before the clear",
    is_cost: false,
};

#[derive(Clone, Copy)]
struct Cleared {
    seq: u64,
    rip: Gva,
    kept: Option<(u64, Gva)>,
}

#[derive(Clone, Default)]
struct LostMark {
    /// Marks that were cleared and whose PCID has not been emptied since, by CPU and user PCID.
    cleared: BTreeMap<(CpuId, Pcid), Cleared>,
}

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(LostMark::default())
}

impl LostMark {
    fn all_flushed(&mut self, on: CpuId) {
        self.cleared.retain(|(cpu, _), _| *cpu != on);
    }

    fn follow(&mut self, context: &Context<'_>) {
        let event = context.event;
        for announcement in event.announcements() {
            match *announcement {
                Announcement::Marked { cpu, pcid } => {
                    self.cleared.remove(&(cpu, pcid));
                }
                Announcement::Unmarked { cpu, pcid } => {
                    let clear = Cleared { seq: event.seq, rip: event.rip, kept: None };
                    self.cleared.insert((cpu, pcid), clear);
                }
                _ => {}
            }
        }
        match event.happened() {
            Some(&Happened::LoadCr3 { value, .. }) => {
                let key = (event.cpu, context.cpu().pcid_of(value));
                if value & NOFLUSH == 0 {
                    self.cleared.remove(&key);
                } else if let Some(clear) = self.cleared.get_mut(&key) {
                    clear.kept = Some((event.seq, event.rip));
                }
            }
            Some(&Happened::Invpcid { kind: 1, pcid, .. }) => {
                self.cleared.remove(&(event.cpu, pcid));
            }
            Some(Happened::Invpcid { kind: 2 | 3, .. }) => self.all_flushed(event.cpu),
            Some(Happened::WriteCr4 { old, new }) if (old ^ new) & (cr4::PGE | cr4::PCIDE) != 0 => {
                self.all_flushed(event.cpu);
            }
            _ => {}
        }
    }
}

impl Rule for LostMark {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn put(&self, key: &mut StateKey) -> Memory {
        key.put(self.cleared.keys().collect::<Vec<_>>());
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        self.follow(context);
        if context.event.happened() != Some(&Happened::UserEntry) {
            return Vec::new();
        }
        let pcid = context.cpu().pcid();
        let Some(clear) = self.cleared.remove(&(context.event.cpu, pcid)) else {
            return Vec::new();
        };
        let because = Because { seq: clear.seq, rip: clear.rip, what: "the mark was cleared" };
        vec![Finding {
            at: clear.kept,
            because: Some(because),
            message: format!(
                "the mark of PCID {pcid} was cleared, and its next load kept what is tagged with it"
            ),
            ..Finding::default()
        }]
    }
}
