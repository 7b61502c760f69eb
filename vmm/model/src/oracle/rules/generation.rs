//! `generation`: a slot says no more than what was done.

use crate::arch::addr::{CpuId, Gva, Pcid};
use crate::arch::tlb::Tag;
use crate::event::Announcement;
use crate::oracle::replica::Slot;
use crate::oracle::rule::{Because, Context, Finding, Rule};
use crate::oracle::{About, Deadline};
use std::collections::BTreeMap;

/// About the rule.
pub static ABOUT: About = About {
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
    rip: Gva,
}

#[derive(Clone, Default)]
struct Generation {
    /// By CPU and slot: claims that are not yet proved.
    claims: BTreeMap<(CpuId, u16), Claim>,
}

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(Generation::default())
}

impl Generation {
    /// Looks at what a slot now claims.
    fn claim(&mut self, context: &Context<'_>, announcement: &Announcement) -> Option<Finding> {
        let (cpu, slot, to) = match *announcement {
            Announcement::SlotOwner { cpu, slot, .. } => {
                // Another address space, or none: what the slot claimed is void.
                self.claims.remove(&(cpu, slot));
                return None;
            }
            Announcement::SlotFlushed { cpu, slot, generation } => (cpu, slot, generation),
            _ => return None,
        };
        let now = context.replica.cpu(cpu).slot(slot);
        let owner = now.space?;
        let wrong = |what: &str| Finding::new(format!("slot {slot} of CPU {} {what}", cpu.0));
        if context.replica.space(owner).is_some_and(|space| to > space.generation) {
            return Some(wrong("claims a generation that its address space has not reached"));
        }
        // A slot that changes hands gets its owner first, and then any generation.
        let before = self.claims.get(&(cpu, slot)).filter(|claim| claim.slot.space == now.space);
        if before.is_some_and(|claim| to < claim.slot.generation) {
            return Some(wrong("falls back to an older generation"));
        }
        let claim = Claim { slot: now, seq: context.event.seq, rip: context.event.rip };
        self.claims.insert((cpu, slot), claim);
        None
    }

    /// The claims of a CPU must hold now: it goes on to use what they are about.
    fn prove(&self, here: CpuId, context: &Context<'_>) -> Vec<Finding> {
        let replica = context.replica;
        let of_cpu = self.claims.iter().filter(|((cpu, _), _)| *cpu == here);
        let broken = of_cpu.filter_map(|(&(cpu, slot), claim)| {
            let root = replica.space(claim.slot.space?)?.root;
            // The user PCID's flush is deferred: that is `stale-user-entry`'s.
            let pcids = context.header.kernel.slots.get(usize::from(slot));
            let pcide = replica.cpu(cpu).paging().pcide;
            let kernel = pcids.filter(|_| pcide).map_or(Pcid::new(0), |pcids| pcids.kernel);
            let owed = context.open_here().find(|owed| {
                owed.tag == Tag::Pcid(kernel)
                    && replica.is_pair(root, owed.root)
                    && owed.downgrade.seq < claim.seq
                    && owed.generation.is_some_and(|of| of <= claim.slot.generation)
            })?;
            let what = "the slot's generation was raised";
            Some(Finding {
                obligation: Some(owed.id),
                deadline: Some(Deadline::Claimed { cpu }),
                because: Some(Because { seq: claim.seq, rip: claim.rip, what }),
                message: format!(
                    "slot {slot} of CPU {} claims generation {}, and {} still holds a stale entry \
                     for {} that it covers",
                    cpu.0, claim.slot.generation, owed.tag, owed.page
                ),
                ..Finding::default()
            })
        });
        broken.collect()
    }
}

impl Rule for Generation {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let said = context.event.announcements().iter();
        let mut found: Vec<_> =
            said.filter_map(|announcement| self.claim(context, announcement)).collect();
        // A switch writes the slot before it loads CR3, so that a claim is due only when the CPU
        // is done with what it was in the middle of.
        for deadline in context.deadlines {
            if let Deadline::Claimed { cpu } = *deadline {
                found.extend(self.prove(cpu, context));
            }
        }
        found
    }
}
