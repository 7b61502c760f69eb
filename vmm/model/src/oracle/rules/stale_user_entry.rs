//! `stale-user-entry`: user-flush-on-next-return.

use crate::oracle::rule::{Context, StaleRule};
use crate::oracle::{About, Deadline, Obligation};

/// About the rule.
pub static ABOUT: About = About {
    name: "stale-user-entry",
    statement: "At entry to user mode, no due-stale entry of the active PCID, and no due-stale \
                global, is one that user mode, or the entry path before its CR3 switch, could \
                use.",
    source: "Linux 6fd166aae78c; SDM vol. 3, 4.10.4.2 and 4.10.5",
    violated_by: "user-flush-on-next-return --cpu pcid --policy split --inject \"drop mark#1\"",
    near_miss: "user-flush-on-next-return --cpu pcid --policy split --inject \"repeat mark#1\"",
    hint: "set the bit of this ASID in `user_pcid_flush_mask` after the store, and load \
           the user CR3 without NOFLUSH while it is set; or invalidate the address in the \
           user PCID with INVPCID",
    is_cost: false,
};

/// The rule.
pub(super) const RULE: StaleRule = StaleRule { about: &ABOUT, owes, sentence };

fn owes(deadline: &Deadline, owed: &Obligation, context: &Context<'_>) -> bool {
    let Deadline::UserEntry { cpu } = *deadline else { return false };
    // Under PTI the entry path runs on the user root until it has switched CR3: it may use supervisor
    // entries of the user PCID.
    // Of a kernel that runs freely nothing is known of that path.
    let kernel = &context.replica.kernel;
    let reached = kernel.isolated && !kernel.runs_freely || owed.user_may_use();
    owed.cpu == cpu && context.is_usable(cpu, owed.tag) && owed.is_due() && reached
}

fn sentence(_: &Deadline, owed: &Obligation) -> String {
    format!("user mode is entered while {} still holds a stale entry for {}", owed.tag, owed.page)
}
