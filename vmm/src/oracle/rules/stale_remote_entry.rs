//! `stale-remote-entry`: a shootdown reaches every CPU before it is over.

use crate::arch::addr::CpuId;
use crate::event::{Kind, Primitive};
use crate::oracle::ledger::Obligation;
use crate::oracle::rule::{About, Context, Finding, Rule, RuleId};
use stalemate_shared::hypercall::primitive::{BATCHED, MM, ONE_USER, RANGE};
use stalemate_shared::tlb_state::WAITING;

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::StaleRemoteEntry,
    name: "stale-remote-entry",
    statement: "When a CPU acknowledges a shootdown, and when the primitive that asked for it \
                returns, it holds no stale entry for it in its current PCID or among globals. A \
                lazy CPU may, unless tables are freed, but not when a step of its own is over in \
                which it is lazy no longer.",
    source: "SDM vol. 3, 4.10.5; Linux fea4e317f9e7 (CVE-2025-37964), 2ff6ddf19c0e",
    violated_by: "shootdown --cpu pcid --policy split --inject \"early ack\"",
    near_miss: "shootdown --cpu pcid --policy split --inject \"repeat ack\"",
    hint: "flush on the other CPU before it acknowledges, wait for every acknowledgement, \
           and leave no CPU out that has the address space loaded; where tables are \
           freed, no lazy one either; a CPU that was lazy compares generations before it \
           goes on",
    is_cost: false,
};

/// The rule.
#[derive(Clone)]
pub struct StaleRemoteEntry;

/// What the event says is flushed: the primitive, the event that it began at, and the CPUs.
struct Claim {
    /// The CPU whose primitive it is.
    of: CpuId,
    since: u64,
    primitive: Primitive,
    /// The CPU that acknowledges; none where the primitive returns, and all others must be done.
    by: Option<CpuId>,
}

fn claim(context: &Context<'_>) -> Option<Claim> {
    if let Some((since, primitive)) = context.ended {
        return Some(Claim { of: context.event.cpu, since, primitive, by: None });
    }
    let Kind::StateStore { owner, offset: WAITING, old, new } = context.event.kind else {
        return None;
    };
    let by = context.event.cpu;
    let acknowledges = (old & !new) >> by.0 & 1 != 0;
    let (since, primitive) = context.shadow.cpu(owner).primitive().filter(|_| acknowledges)?;
    Some(Claim { of: owner, since, primitive, by: Some(by) })
}

impl Claim {
    fn concerns(&self, context: &Context<'_>, obligation: &Obligation) -> bool {
        let cpu = obligation.cpu;
        let meant = self.by.map_or(cpu != context.event.cpu, |by| by == cpu);
        // A lazy CPU runs no user code; before it does it looks at generations.
        let of_user_pages = matches!(self.primitive.id, ONE_USER | RANGE | MM | BATCHED);
        let excused = context.shadow.cpu(cpu).is_lazy() && of_user_pages;
        meant && !excused && obligation.is_asked_of(self.of, self.since, &self.primitive)
    }
}

/// What a CPU was excused from while it was lazy, and ought to have flushed by now.
fn not_caught_up(context: &Context<'_>) -> Vec<Finding> {
    let late = context.open_here().filter(|(_, obligation)| {
        obligation.covered.is_some() && context.is_usable(obligation.cpu, obligation.tag)
    });
    late.map(|(number, obligation)| Finding {
        obligation: Some(number),
        deadline: Some("the end of the step in which a CPU that was lazy goes on"),
        message: format!(
            "CPU {} goes on in an address space whose flush it missed, and {} still holds a stale \
             entry for {}",
            obligation.cpu.0, obligation.tag, obligation.page
        ),
        ..Finding::default()
    })
    .collect()
}

impl Rule for StaleRemoteEntry {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }

    fn id(&self) -> RuleId {
        ABOUT.id
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        if matches!(context.event.kind, Kind::StepEnd { .. }) && !context.cpu().is_lazy() {
            return not_caught_up(context);
        }
        let Some(claim) = claim(context) else { return Vec::new() };
        let does = if claim.by.is_some() { "is acknowledged" } else { "returns" };
        context
            .ledger
            .open()
            .filter(|(_, obligation)| context.is_usable(obligation.cpu, obligation.tag))
            .filter(|(_, obligation)| claim.concerns(context, obligation))
            .map(|(number, obligation)| Finding {
                obligation: Some(number),
                message: format!(
                    "{} {does} while {} of CPU {} still holds a stale entry for {}",
                    claim.primitive.name(),
                    obligation.tag,
                    obligation.cpu.0,
                    obligation.page
                ),
                ..Finding::default()
            })
            .collect()
    }
}
