//! `generation`: a slot says no more than what was done.

use crate::arch::addr::{CpuId, Gpa, Pcid};
use crate::arch::tlb::Tag;
use crate::event::Kind;
use crate::oracle::rule::{About, Context, Finding, Rule, RuleId};
use crate::oracle::shadow::Shadow;
use stalemate_shared::pcid::kernel_pcid;
use stalemate_shared::tlb_state::{MmState, Slot, TlbState};
use std::collections::BTreeMap;
use std::mem::offset_of;

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::Generation,
    name: "generation",
    statement: "A slot's TLB generation never exceeds what has been flushed in its kernel PCID, \
                never exceeds its address space's, and never falls for one context id.",
    source: "Linux arch/x86/mm/tlb.c, flush_tlb_func; 94b1b03b519b (tlb_gen tracking)",
    violated_by: "shootdown --cpu pcid --policy split --inject \"drop cr3@flush\"",
    near_miss: "shootdown --cpu pcid --policy split --inject \"drop generation#1\"",
    hint: "write the slot's generation after the flush it stands for, and no higher than \
           what was flushed up to",
    is_cost: false,
};

/// A slot's claim that its address space is flushed up to a generation.
#[derive(Clone, Copy, Debug)]
struct Claim {
    slot: Slot,
    seq: u64,
    rip: crate::arch::addr::Gva,
}

/// The rule.
#[derive(Clone, Default)]
pub struct Generation {
    /// By CPU and ASID: claims that are not yet proved.
    claims: BTreeMap<(CpuId, u16), Claim>,
}

const SLOTS: u64 = offset_of!(TlbState, slots) as u64;
const SLOT: u64 = size_of::<Slot>() as u64;

/// The ASID and the field of the slot that a word of `TlbState` belongs to.
fn slot_word(offset: u64) -> Option<(u16, usize)> {
    let within = offset.checked_sub(SLOTS)?;
    let asid = within / SLOT;
    (asid < stalemate_shared::pcid::ASID_SLOTS as u64)
        .then_some((asid as u16, (within % SLOT) as usize))
}

fn slot(shadow: &Shadow, cpu: CpuId, asid: u16) -> Slot {
    let at = SLOTS + u64::from(asid) * SLOT;
    let state = shadow.cpu(cpu);
    Slot { ctx_id: state.state(at), tlb_gen: state.state(at + 8) }
}

fn owner(shadow: &Shadow, ctx_id: u64) -> Option<MmState> {
    shadow.mm_states().find(|mm| mm.ctx_id == ctx_id && ctx_id != 0)
}

impl Generation {
    /// Looks at a store to a slot's generation.
    fn store(&mut self, context: &Context<'_>) -> Option<Finding> {
        let Kind::StateStore { owner: cpu, offset, old, new } = context.event.kind else {
            return None;
        };
        let (asid, field) = slot_word(offset)?;
        let now = slot(context.shadow, cpu, asid);
        if field == offset_of!(Slot, ctx_id) {
            // Another address space, or none: what the slot claimed is void.
            self.claims.remove(&(cpu, asid));
            return None;
        }
        if now.ctx_id == 0 {
            return None;
        }
        let message = |what: &str| Finding {
            message: format!("slot {asid} of CPU {} {what}", cpu.0),
            ..Finding::default()
        };
        let mm = owner(context.shadow, now.ctx_id);
        if mm.is_some_and(|mm| new > mm.tlb_gen) {
            return Some(message("claims a generation that its address space has not reached"));
        }
        // A slot that changes hands gets its context id first, and then any generation.
        let same =
            self.claims.get(&(cpu, asid)).is_some_and(|claim| claim.slot.ctx_id == now.ctx_id);
        if same && new < old {
            return Some(message("falls back to an older generation"));
        }
        let claim = Claim { slot: now, seq: context.event.seq, rip: context.event.rip };
        self.claims.insert((cpu, asid), claim);
        None
    }

    /// The claims of the event's CPU must hold now: it goes on to use what they are about.
    fn prove(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let mut found = Vec::new();
        let here = context.event.cpu;
        for (&(cpu, asid), claim) in self.claims.iter().filter(|((cpu, _), _)| *cpu == here) {
            let Some(mm) = owner(context.shadow, claim.slot.ctx_id) else { continue };
            let roots = Shadow::pair(Gpa(mm.kernel_root));
            // The user PCID's flush is deferred: that is `stale-user-entry`'s.
            let pcide = context.shadow.cpu(cpu).paging().pcide;
            let kernel = Tag::Pcid(Pcid::new(if pcide { kernel_pcid(asid) } else { 0 }));
            let broken = context.open_here().find(|(_, obligation)| {
                obligation.tag == kernel
                    && roots.contains(&obligation.root)
                    && obligation.downgrade.seq < claim.seq
                    && obligation.tlb_gen.is_some_and(|tlb_gen| tlb_gen <= claim.slot.tlb_gen)
            });
            if let Some((number, obligation)) = broken {
                found.push(Finding {
                    obligation: Some(number),
                    because: Some((claim.seq, claim.rip, "the slot's generation was raised")),
                    message: format!(
                        "slot {asid} of CPU {} claims generation {}, and {} still holds a stale \
                         entry for {} that it covers",
                        cpu.0, claim.slot.tlb_gen, obligation.tag, obligation.page
                    ),
                    ..Finding::default()
                });
            }
        }
        found
    }
}

impl Rule for Generation {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }

    fn id(&self) -> RuleId {
        ABOUT.id
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        // A switch writes the slot before it loads CR3, so that a claim is due only when the CPU
        // is done with what it was in the middle of.
        match context.event.kind {
            Kind::StateStore { .. } => self.store(context).into_iter().collect(),
            Kind::UserEntry | Kind::PrimitiveEnd(_) | Kind::StepEnd { .. } | Kind::End => {
                self.prove(context)
            }
            _ => Vec::new(),
        }
    }
}
