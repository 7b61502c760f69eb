//! `stale-other-asid`: what one ASID's flush could not reach is flushed before another ASID runs.

use crate::oracle::rule::{Context, StaleRule};
use crate::oracle::{About, Deadline, Obligation};

/// About the rule.
pub static ABOUT: About = About {
    name: "stale-other-asid",
    statement: "No CR3 load makes current a PCID that, after the load took effect, holds a \
                due-stale entry.",
    source: "Zijlstra's audit of 30 Nov 2017 \
             (20171130124319.ovyierac7ywxzhjy); Linux 2ea907c4fe7b",
    violated_by: "parked-kernel --cpu pcid --policy unsplit",
    near_miss: "parked-kernel --cpu nopcid --policy unsplit",
    hint: "a kernel page that is not global is cached under every PCID: set \
           `invalidate_other` when one is flushed, so that other ASIDs are flushed at \
           their next switch",
    is_cost: false,
};

/// The rule.
pub(super) const RULE: StaleRule = StaleRule { about: &ABOUT, owes, sentence };

fn owes(deadline: &Deadline, owed: &Obligation, _: &Context<'_>) -> bool {
    let Deadline::Current { cpu, tag } = *deadline else { return false };
    // Until the flush that was requested is over, either the old page or the new one may be used
    // (SDM vol. 3, 4.10.5); where none is requested it is `never-flushed`'s.
    // Kernel addresses of one that runs freely may wait until a primitive has flushed them, or until
    // they are used again: `va-reuse`.
    let waits = owed.is_of_kernel() && owed.covered.is_none();
    (owed.cpu, owed.tag) == (cpu, tag) && owed.is_over() && !waits
}

fn sentence(_: &Deadline, owed: &Obligation) -> String {
    format!(
        "a CR3 load makes {} current, which still holds a stale entry for {}",
        owed.tag, owed.page
    )
}
