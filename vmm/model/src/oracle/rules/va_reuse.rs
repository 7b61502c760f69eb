//! `va-reuse`: an address is not used for something else while the old is still cached.

use crate::arch::addr::Gpa;
use crate::arch::cr3::ROOT_MASK;
use crate::arch::happened::Happened;
use crate::arch::key::StateKey;
use crate::arch::walk::entry::PRESENT;
use crate::oracle::About;
use crate::oracle::rule::{Context, Finding, Memory, Rule};

/// About the rule.
pub static ABOUT: About = About {
    name: "va-reuse",
    statement: "In a kernel that runs freely, no entry of a page table that was not present becomes \
                present for another frame while the PCID in some CPU's CR3, or a global, still \
                translates its address to the old one. User addresses only if the task that maps \
                is the one that unmapped, or if that one's operation is over; and of a CPU that was lazy \
                only once user code has run on it again.",
    source: "SDM vol. 3, 4.10.5; Linux's lazy purge of vmalloc areas (db64fe02258f)",
    violated_by: "",
    near_miss: "",
    hint: "flush the addresses of an area that was unmapped before the area is given out again",
    is_cost: false,
};

#[derive(Clone)]
struct VaReuse;

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(VaReuse)
}

impl Rule for VaReuse {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn put(&self, _key: &mut StateKey) -> Memory {
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let Some((slot, new)) = mapped_anew(context) else { return Vec::new() };
        let replica = context.replica;
        let owed = context.ledger.open_at(replica, &replica.census.reaches(slot));
        let reused = owed.into_iter().filter(|owed| {
            let same_task = owed.downgrade.task.is_some() && owed.downgrade.task == replica.task();
            let of_it = owed.is_of_kernel() || owed.is_over() || same_task;
            // The same frame with other rights is an edit in two stores, whose flush is to come: Linux's
            // mprotect.
            let elsewhere = |old: u64| (old ^ new) & ROOT_MASK != 0;
            let cause = owed.downgrade.cause.store();
            let slot_is_its = cause.is_some_and(|store| store.slot == slot && elsewhere(store.old));
            // What a rule has spoken of, this store makes stale once more.
            let was_stale = owed.downgrade.seq < context.event.seq;
            of_it && slot_is_its && was_stale && context.may_use(owed)
        });
        let found = reused.map(|owed| Finding {
            obligation: Some(owed.id),
            message: format!(
                "{} is mapped to another frame while {} of CPU {} still translates it to the old one",
                owed.page, owed.tag, owed.cpu.0
            ),
            ..Finding::default()
        });
        found.collect()
    }
}

/// The slot of an entry that becomes present, and the entry.
fn mapped_anew(context: &Context<'_>) -> Option<(Gpa, u64)> {
    match *context.event.happened()? {
        Happened::TableStore { slot, old, new } if context.replica.kernel.runs_freely => {
            (old & PRESENT == 0 && new & PRESENT != 0).then_some((slot, new))
        }
        _ => None,
    }
}
