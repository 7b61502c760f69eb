//! `lost-mark`: whoever clears a mark flushes.

use crate::arch::addr::{CpuId, Gva};
use crate::arch::vcpu::cr4;
use crate::event::{Event, Kind};
use crate::oracle::rule::{About, Context, Finding, Rule, RuleId};
use stalemate_shared::pcid::{NOFLUSH, USER_PCID_BIT};
use stalemate_shared::tlb_state::USER_PCID_FLUSH_MASK;
use std::collections::BTreeMap;

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::LostMark,
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

/// The rule.
#[derive(Clone, Default)]
pub struct LostMark {
    /// By CPU and bit of its mask, which is the PCID's low 11 bits.
    cleared: BTreeMap<(CpuId, u64), Cleared>,
}

impl LostMark {
    fn all_flushed(&mut self, on: CpuId) {
        self.cleared.retain(|(cpu, _), _| *cpu != on);
    }

    fn follow(&mut self, event: &Event) {
        match event.kind {
            Kind::StateStore { owner, offset: USER_PCID_FLUSH_MASK, old, new } => {
                for bit in (0..64).filter(|bit| (old ^ new) >> bit & 1 != 0) {
                    if new >> bit & 1 != 0 {
                        self.cleared.remove(&(owner, bit));
                    } else {
                        let clear = Cleared { seq: event.seq, rip: event.rip, kept: None };
                        self.cleared.insert((owner, bit), clear);
                    }
                }
            }
            Kind::LoadCr3 { value, .. } if value & USER_PCID_BIT != 0 => {
                let bit = value & 0x7ff;
                if value & NOFLUSH == 0 {
                    self.cleared.remove(&(event.cpu, bit));
                } else if let Some(clear) = self.cleared.get_mut(&(event.cpu, bit)) {
                    clear.kept = Some((event.seq, event.rip));
                }
            }
            Kind::Invpcid { kind: 1, pcid, .. } if pcid.is_user() => {
                self.cleared.remove(&(event.cpu, u64::from(pcid.value()) & 0x7ff));
            }
            Kind::Invpcid { kind: 2 | 3, .. } => self.all_flushed(event.cpu),
            Kind::WriteCr4 { old, new } if (old ^ new) & (cr4::PGE | cr4::PCIDE) != 0 => {
                self.all_flushed(event.cpu);
            }
            _ => {}
        }
    }
}

impl Rule for LostMark {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }

    fn id(&self) -> RuleId {
        ABOUT.id
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        self.follow(context.event);
        let pcid = context.cpu().pcid();
        if context.event.kind != Kind::UserEntry || !pcid.is_user() {
            return Vec::new();
        }
        let bit = u64::from(pcid.value()) & 0x7ff;
        let Some(clear) = self.cleared.remove(&(context.event.cpu, bit)) else {
            return Vec::new();
        };
        vec![Finding {
            at: clear.kept,
            because: Some((clear.seq, clear.rip, "the mark was cleared")),
            message: format!(
                "the mark of PCID {pcid} was cleared, and its next load kept what is tagged with it"
            ),
            ..Finding::default()
        }]
    }
}
