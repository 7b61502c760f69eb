//! `table-reuse`: a page table is given back when no processor walks through it any more.

use crate::arch::addr::Gpa;
use crate::arch::key::StateKey;
use crate::event::Announcement;
use crate::oracle::About;
use crate::oracle::rule::{Context, Finding, Memory, Rule};

/// About the rule.
pub static ABOUT: About = About {
    name: "table-reuse",
    statement: "In a kernel that runs freely, no page table is given back while a stale \
                paging-structure entry under the PCID in some CPU's CR3 still leads to it: whatever \
                comes to stand in its frame would be taken for a table.",
    source: "SDM vol. 3, 4.10.4.2; Linux d86564a2f085 (its flush of a table that is freed)",
    violated_by: "",
    near_miss: "",
    hint: "flush before the table is given back; an address in its range is enough, since INVLPG removes \
           all paging-structure entries of the PCID",
    is_cost: false,
};

#[derive(Clone)]
struct TableReuse;

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(TableReuse)
}

impl Rule for TableReuse {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn put(&self, _key: &mut StateKey) -> Memory {
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let freed = context.event.announcements().iter().filter_map(|said| match *said {
            Announcement::FrameFreed(frame) => Some(frame),
            _ => None,
        });
        let freed = freed.filter(|_| context.replica.kernel.runs_freely);
        freed.filter_map(|frame| still_walked(context, frame)).collect()
    }
}

/// The first stale paging-structure entry that leads to the frame, and may be used as its CPU is now.
fn still_walked(context: &Context<'_>, frame: Gpa) -> Option<Finding> {
    let mut through = context.ledger.open_through(frame, context.replica);
    let (owed, structure) = through.find(|(owed, _)| context.is_usable(owed.cpu, owed.tag))?;
    Some(Finding {
        obligation: Some(owed.id),
        message: format!(
            "page table {frame} is given back while CPU {} still caches a level {} entry for {} that \
             leads to it",
            owed.cpu.0, structure.level, structure.base
        ),
        ..Finding::default()
    })
}
