//! `generation`: a slot says no more than what was done.

use crate::arch::addr::{CpuId, Gva, Pcid};
use crate::arch::key::StateKey;
use crate::arch::tlb::Tag;
use crate::event::Announcement;
use crate::oracle::replica::Slot;
use crate::oracle::rule::{Because, Context, Finding, Memory, Rule};
use crate::oracle::{About, Deadline};
use std::collections::{BTreeMap, BTreeSet};

/// About the rule.
pub static ABOUT: About = About {
    name: "generation",
    statement: "Whenever a CPU goes on to rely on it, a slot's TLB generation exceeds neither what \
                has been flushed in its kernel PCID nor its address space's generation. A lower one \
                costs a flush and is no mistake.",
    source: "Linux arch/x86/mm/tlb.c, flush_tlb_func; 94b1b03b519b (tlb_gen tracking)",
    violated_by: "shootdown --cpu pcid --policy split --inject \"drop cr3@flush\"",
    near_miss: "shootdown --cpu pcid --policy split --inject \"drop generation#1\"",
    hint: "write the slot's generation after the flush it stands for, and no higher than \
           what was flushed up to",
    is_cost: false,
};

/// A slot's claim that its address space is flushed up to a generation: the store that made it.
#[derive(Clone, Copy, Debug)]
struct Claim {
    seq: u64,
    rip: Gva,
}

#[derive(Clone, Default)]
struct Generation {
    /// By CPU and slot. A slot that nothing was stored to claims nothing.
    claims: BTreeMap<(CpuId, u16), Claim>,
    /// The CPUs that are changing CR3: what their slots say may be half written.
    switching: BTreeSet<CpuId>,
}

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(Generation::default())
}

impl Generation {
    fn follow(&mut self, context: &Context<'_>, announcement: &Announcement) {
        match *announcement {
            // In which order a slot's owner and generation are stored is its kernel's affair.
            Announcement::SlotOwner { cpu, slot, .. }
            | Announcement::SlotFlushed { cpu, slot, .. } => {
                let claim = Claim { seq: context.event.seq, rip: context.event.rip };
                self.claims.insert((cpu, slot), claim);
            }
            Announcement::Switching { cpu } => {
                self.switching.insert(cpu);
            }
            Announcement::Loaded { cpu, .. } => {
                self.switching.remove(&cpu);
            }
            _ => {}
        }
    }

    /// The claims of a CPU must hold now: it goes on to rely on them.
    fn prove(&self, here: CpuId, context: &Context<'_>) -> Vec<Finding> {
        // A flush in the middle of that relies on nothing yet.
        let returns = |said: &Announcement| matches!(said, Announcement::FlushReturns { .. });
        if self.switching.contains(&here) && context.event.announcements().iter().any(returns) {
            return Vec::new();
        }
        let replica = context.replica;
        let of_cpu = self.claims.iter().filter(|((cpu, _), _)| *cpu == here);
        let broken = of_cpu.filter_map(|(&(cpu, slot), claim)| {
            let Slot { space: owner, generation } = replica.cpu(cpu).slot(slot);
            let space = replica.space(owner?)?;
            let what = "the slot's generation was raised";
            let because = Some(Because { seq: claim.seq, rip: claim.rip, what });
            if generation > space.generation {
                return Some(Finding {
                    because,
                    message: format!(
                        "slot {slot} of CPU {} claims generation {generation}, and its address space \
                         has not reached more than {}",
                        cpu.0, space.generation
                    ),
                    ..Finding::default()
                });
            }
            // The user PCID's flush is deferred: that is `stale-user-entry`'s.
            let pcids = context.header.kernel.slots.get(usize::from(slot));
            let pcide = replica.cpu(cpu).paging().pcide;
            let kernel = pcids.filter(|_| pcide).map_or(Pcid::new(0), |pcids| pcids.kernel);
            let owed = context.open_here().find(|owed| {
                owed.tag == Tag::Pcid(kernel)
                    && replica.is_pair(space.root, owed.root)
                    && owed.downgrade.seq < claim.seq
                    && owed.generation.is_some_and(|of| of <= generation)
                    && owed.does_harm(replica)
            })?;
            Some(Finding {
                obligation: Some(owed.id),
                deadline: Some(Deadline::Claimed { cpu }),
                because,
                message: format!(
                    "slot {slot} of CPU {} claims generation {generation}, and {} still holds a \
                     stale entry for {} that it covers",
                    cpu.0, owed.tag, owed.page
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

    fn put(&self, key: &mut StateKey) -> Memory {
        key.put((&self.switching, self.claims.len()));
        for (&of, claim) in &self.claims {
            key.put(of);
            key.put_event(claim.seq);
        }
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        for announcement in context.event.announcements() {
            self.follow(context, announcement);
        }
        let mut found = Vec::new();
        for deadline in context.deadlines {
            if let Deadline::Claimed { cpu } = *deadline {
                found.extend(self.prove(cpu, context));
            }
        }
        found
    }
}
