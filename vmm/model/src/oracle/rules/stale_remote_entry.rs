//! `stale-remote-entry`: a shootdown reaches every CPU before it is over.

use crate::oracle::rule::{Context, StaleRule};
use crate::oracle::{About, Deadline, Obligation};

/// About the rule.
pub static ABOUT: About = About {
    name: "stale-remote-entry",
    statement: "When a CPU acknowledges a shootdown, and when the primitive that asked for it \
                returns, it holds no stale entry for it in its current PCID or among globals. A \
                CPU that was lazy since the primitive began may, unless tables are freed, but not \
                when it enters user mode or when a step of its own is over in which it is lazy no \
                longer.",
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
pub(super) const RULE: StaleRule = StaleRule { about: &ABOUT, owes, sentence };

fn owes(deadline: &Deadline, owed: &Obligation, context: &Context<'_>) -> bool {
    if !context.is_usable(owed.cpu, owed.tag) {
        return false;
    }
    let state = context.replica.cpu(owed.cpu);
    let (open, meant) = match deadline {
        Deadline::Returned(open) => (open, owed.cpu != open.cpu),
        Deadline::Acknowledged { by, flush } => (flush, owed.cpu == *by),
        // What a CPU was excused from while it was lazy it ought to have flushed by now.
        Deadline::TaskOver { cpu } => {
            return owed.cpu == *cpu && !state.is_lazy() && owed.covered.is_some();
        }
        _ => return false,
    };
    // A lazy CPU runs no user code, and looks at generations before it does: one that was lazy when
    // the flush looked at it may be about to.
    let excused = open.flush.kind.spares_lazy_cpus() && state.was_lazy_since(open.since);
    meant && !excused && owed.is_requested_of(open, context.replica)
}

fn sentence(deadline: &Deadline, owed: &Obligation) -> String {
    let (cpu, tag, page) = (owed.cpu.0, owed.tag, owed.page);
    let does = match deadline {
        Deadline::Acknowledged { .. } => "is acknowledged",
        Deadline::Returned(_) => "returns",
        _ => {
            return format!(
                "CPU {cpu} goes on in an address space whose flush it missed, and {tag} still \
                 holds a stale entry for {page}"
            );
        }
    };
    let name = deadline.flush().map_or("a flush", |flush| flush.name());
    format!("{name} {does} while {tag} of CPU {cpu} still holds a stale entry for {page}")
}
