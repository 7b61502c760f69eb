//! `copied-while-writable`: contents are taken when nobody can change them any more.

use crate::arch::addr::{CpuId, Gpa};
use crate::arch::key::StateKey;
use crate::arch::tlb::{Entry, Tag};
use crate::event::Announcement;
use crate::oracle::About;
use crate::oracle::rule::{Context, Finding, Held, Memory, Rule};

/// About the rule.
pub static ABOUT: About = About {
    name: "copied-while-writable",
    statement: "When the contents of a frame are taken, to be copied, moved or shared by what they \
                are, no other CPU holds a stale writable entry for it in its current PCID or among \
                globals. A CPU that was lazy may, until user code runs on it again.",
    source: "Linux 6ce64428d620 (the page-table lock held over a fork's write protection), \
             wp_page_copy; SDM vol. 3, 4.10.5",
    violated_by: "copied-while-writable --cpu pcid",
    near_miss: "matrix/fork/remote --cpu pcid --policy split",
    hint: "take write access away, flush on every CPU that may have it, and only then read what is \
           to be copied; hold the page-table lock from the store to the end of the flush",
    is_cost: false,
};

#[derive(Clone)]
struct CopiedWhileWritable;

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(CopiedWhileWritable)
}

impl Rule for CopiedWhileWritable {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn put(&self, _key: &mut StateKey) -> Memory {
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let taken = context.event.announcements().iter().filter_map(|said| match said {
            Announcement::ContentsTaken(frame) => Some(*frame),
            _ => None,
        });
        // The CPU that takes them is at work on that, and writes nothing itself.
        let others = || context.replica.numbered().filter(|(cpu, _)| *cpu != context.event.cpu);
        taken
            .flat_map(|frame| others().filter_map(move |(cpu, _)| writable(context, cpu, frame)))
            .collect()
    }
}

/// The first stale entry through which `cpu` may still write to the frame.
fn writable(context: &Context<'_>, cpu: CpuId, frame: Gpa) -> Option<Finding> {
    let state = context.replica.cpu(cpu);
    let excused = |entry: &Entry| state.has_yet_to_catch_up() && entry.translation.user;
    [Tag::Pcid(state.pcid()), Tag::Global].into_iter().find_map(|tag| {
        let (tlb, paging) = (&state.tlb, state.paging());
        let entry = tlb.entries(tag).find(|entry| {
            let held = entry.translation;
            held.writable
                && held.maps(frame)
                && !excused(entry)
                && tlb.stale_at(&context.replica.tables, paging, tag, entry).is_some()
        })?;
        let owed = context.ledger.open().find(|owed| {
            (owed.cpu, owed.tag) == (cpu, tag) && owed.ids().any(|id| id == entry.id)
        });
        Some(Finding {
            obligation: owed.map(|owed| owed.id),
            held: Some(Held { tag, entry: entry.clone() }),
            message: format!(
                "the contents of {frame} are taken while {tag} of CPU {} still lets it be written at \
                 {}",
                cpu.0, entry.translation.page
            ),
            ..Finding::default()
        })
    })
}
