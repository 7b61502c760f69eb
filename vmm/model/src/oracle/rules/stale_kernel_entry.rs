//! `stale-kernel-entry`: a flush primitive does what it was called for before it returns.

use crate::oracle::rule::{Context, StaleRule};
use crate::oracle::{About, Deadline, Obligation};

/// About the rule.
pub static ABOUT: About = About {
    name: "stale-kernel-entry",
    statement: "When a flush primitive returns, no entry it covers is stale in the current \
                kernel PCID or among globals.",
    source: "SDM vol. 3, 4.10.4.2; Linux flush_tlb_one_user, flush_tlb_one_kernel",
    violated_by: "unmap --cpu pcid --policy split --inject \"drop invlpg#1\"",
    near_miss: "unmap --cpu pcid --policy split --inject \"repeat invlpg#1\"",
    hint: "invalidate the page in the kernel PCID after the store and before the \
           primitive returns; INVLPG reaches the current PCID and globals, a CR3 load no \
           globals",
    is_cost: false,
};

/// The rule.
pub(super) const RULE: StaleRule = StaleRule { about: &ABOUT, owes, sentence };

fn owes(deadline: &Deadline, owed: &Obligation, context: &Context<'_>) -> bool {
    let Deadline::Returned(open) = deadline else { return false };
    owed.cpu == open.cpu && context.may_use(owed) && owed.is_requested_of(open, context.replica)
}

fn sentence(deadline: &Deadline, owed: &Obligation) -> String {
    let name = deadline.flush().map_or("a flush", |flush| flush.name());
    format!("{name} returns while {} still holds a stale entry for {}", owed.tag, owed.page)
}
