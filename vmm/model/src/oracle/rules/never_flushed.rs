//! `never-flushed`: somebody asks for the flush.

use crate::arch::tlb::{Entry, Tag};
use crate::oracle::rule::{Context, StaleRule};
use crate::oracle::{About, Deadline, Obligation};

/// About the rule.
pub static ABOUT: About = About {
    name: "never-flushed",
    statement: "A downgrade that no primitive covers, and that no mark defers, is flushed by the \
                end of its step or before its frame is freed. An edit's step lasts until the first \
                step that is neither an edit nor a flush. Who maps the page anew owes the flush as \
                well, and no longer defers it.",
    source: "SDM vol. 3, 4.10.5: the old frame must not be reused before the flush",
    violated_by: "forgotten-flush --cpu pcid --policy split",
    near_miss: "matrix/batched/remote --cpu pcid --policy split",
    hint: "call a primitive whose range covers the page after the store, in the same \
           step; or announce the flush as deferred and do it before the frame is freed",
    is_cost: false,
};

/// The rule.
pub(super) const RULE: StaleRule = StaleRule { about: &ABOUT, owes, sentence };

fn owes(deadline: &Deadline, owed: &Obligation, context: &Context<'_>) -> bool {
    // A kernel that runs freely has no steps at whose end an edit would be over.
    if owed.covered.is_some() || owed.by_task {
        return false;
    }
    match *deadline {
        Deadline::Freed(frame) => {
            let of_frame = |entry: &Entry| entry.translation.frame == frame;
            !owed.waits_for_reuse() && owed.entry.as_ref().is_some_and(of_frame)
        }
        Deadline::EditsOver { cpu } => {
            // What was announced as deferred may stay until the frame is freed; and another CPU may
            // still be between its edit and its flush.
            let owes = |cpu| owed.is_owed_by(cpu) && !owed.waits();
            let over = cpu.map_or(!owed.waits_for_reuse(), owes);
            // A flush that waits for ever is a hang.
            over && !is_marked(owed, context) && !is_under_way(owed, context)
        }
        _ => false,
    }
}

/// A mark says that the user PCID is flushed when it is next loaded: a flush that is deferred.
fn is_marked(owed: &Obligation, context: &Context<'_>) -> bool {
    match owed.tag {
        Tag::Pcid(pcid) => context.replica.cpu(owed.cpu).is_marked(pcid),
        Tag::Global => false,
    }
}

/// Some CPU is in the middle of a flush that must discharge it.
fn is_under_way(owed: &Obligation, context: &Context<'_>) -> bool {
    let replica = context.replica;
    replica.flushes().iter().any(|open| owed.is_requested_of(open, replica))
}

fn sentence(_: &Deadline, owed: &Obligation) -> String {
    format!("nobody has asked for a flush of {}, and {} still holds it", owed.page, owed.tag)
}
