//! A violation and all that one needs to argue with it.

use super::RuleId;
use super::deadline::Deadline;
use super::obligation::{Cover, Downgrade};
use super::rule::{Because, Context, Finding};
use crate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use crate::arch::cr3::NOFLUSH;
use crate::arch::happened::Happened;
use crate::arch::tlb::{Entry, StructureEntry, Tag};
use crate::arch::walk::Step;
use crate::event::{Announcement, Event, Kind, TaskId};
use std::collections::VecDeque;

/// An invalidation, or something that could have been one, with the PCID it was made under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalidation {
    /// The event.
    pub event: Event,
    /// The PCID current after it.
    pub pcid: Pcid,
}

/// Why what an injected fault suppressed did not remove an entry.
pub const SUPPRESSED: &str = "the fault kept it from happening";

/// An invalidation after the downgrade, and why the entry outlived it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Position in the trace.
    pub seq: u64,
    /// The instruction.
    pub rip: Gva,
    /// What it was.
    pub what: String,
    /// Why it did not cover the entry.
    pub why: String,
}

/// A walk that contradicts the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// Where it began.
    pub root: Gpa,
    /// The levels read.
    pub path: Vec<Step>,
    /// What it came to.
    pub result: String,
}

/// A rule was violated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: RuleId,
    /// What happened.
    pub message: String,
    /// The event at which the deadline passed, or where the rule places it.
    pub seq: u64,
    /// The instruction there.
    pub rip: Gva,
    /// The CPU that holds the entry, or that broke the rule.
    pub cpu: CpuId,
    /// The task there.
    pub task: Option<TaskId>,
    /// The entry, and its tag.
    pub entry: Option<(Tag, Entry)>,
    /// The paging-structure entry, where it is about one and no entry.
    pub structure: Option<StructureEntry>,
    /// What a walk says today.
    pub walk: Option<Contradiction>,
    /// The store that made it stale.
    pub downgrade: Option<Downgrade>,
    /// The flush that should have removed it.
    pub requested: Option<Cover>,
    /// Until when it had to be removed.
    pub deadline: Option<Deadline>,
    /// Every invalidation in between.
    pub missed: Vec<Missed>,
    /// An earlier event that the rule names.
    pub because: Option<Because>,
}

/// Puts a violation together.
#[must_use]
pub(super) fn violation(
    rule: RuleId,
    finding: Finding,
    context: &Context<'_>,
    history: &VecDeque<Invalidation>,
) -> Violation {
    let Context { event, replica, .. } = context;
    let obligation = finding.obligation.and_then(|id| context.ledger.get(id));
    let held = finding.held.map(|held| (held.tag, held.entry));
    let entry = held.or_else(|| {
        let obligation = obligation?;
        Some((obligation.tag, obligation.entry.clone()?))
    });
    let cpu = obligation.map_or(event.cpu, |obligation| obligation.cpu);
    // What is cached, and of which page.
    let subject = match (&entry, obligation) {
        (Some((tag, entry)), None) => Some((*tag, entry.translation.page)),
        (_, Some(obligation)) => Some((obligation.tag, obligation.page)),
        (None, None) => None,
    };
    let walk = subject.and_then(|(tag, va)| {
        let root = replica.cpu(cpu).tlb.root(tag)?;
        let walked = replica.walk_today(cpu, root, va);
        let result = match walked.result {
            Ok(today) => today.to_string(),
            Err(failure) => failure.to_string(),
        };
        Some(Contradiction { root, path: walked.path, result })
    });
    let since = obligation.map(|obligation| obligation.downgrade.seq);
    let missed = match (subject, since) {
        (Some((tag, page)), Some(since)) => history
            .iter()
            .filter(|past| past.event.seq > since && past.event.cpu == cpu)
            .filter_map(|past| missed(past, tag, page))
            .collect(),
        _ => Vec::new(),
    };
    // One that is returning has covered nothing yet.
    let requested = obligation.and_then(|obligation| {
        let returning = context.deadlines.iter().find_map(|deadline| match deadline {
            Deadline::Returned(open) if obligation.is_requested_of(open, replica) => Some(open),
            _ => None,
        });
        let returning =
            || returning.map(|open| Cover { id: open.id, flush: open.flush, task: replica.task() });
        obligation.covered.or_else(returning)
    });
    let (seq, rip) = finding.at.unwrap_or((event.seq, event.rip));
    Violation {
        rule,
        message: finding.message,
        seq,
        rip,
        cpu,
        task: replica.task(),
        entry,
        structure: obligation.and_then(|obligation| obligation.structure),
        walk,
        downgrade: obligation.map(|obligation| obligation.downgrade),
        requested,
        deadline: finding.deadline,
        missed,
        because: finding.because,
    }
}

/// Whether the event invalidates something, or could have.
pub(super) fn could_invalidate(event: &Event) -> bool {
    match &event.kind {
        Kind::Cpu(happened) => matches!(
            happened,
            Happened::Invlpg { .. }
                | Happened::Invpcid { .. }
                | Happened::LoadCr3 { .. }
                | Happened::WriteCr4 { .. }
                | Happened::PageFault { .. }
        ),
        Kind::Suppressed { .. } => true,
        Kind::Announced { .. } => marked(event).next().is_some(),
        _ => false,
    }
}

/// The user PCIDs that the event marks.
fn marked(event: &Event) -> impl Iterator<Item = Tag> {
    event.announcements().iter().filter_map(|announcement| match announcement {
        Announcement::Marked { pcid, .. } => Some(Tag::Pcid(*pcid)),
        _ => None,
    })
}

/// Why an invalidation did not remove what is tagged so of a page; none where it need not be named.
fn missed(past: &Invalidation, tag: Tag, page: Gva) -> Option<Missed> {
    let other_tag = || format!("the entry is tagged {tag}");
    let other_page = || format!("the entry is of page {page}");
    let same_tag = tag == Tag::Pcid(past.pcid);
    let page_or_tag = |reaches: bool| if reaches { other_page() } else { other_tag() };
    let (what, why) = match &past.event.kind {
        Kind::Cpu(happened) => match happened {
            Happened::Invlpg { va, keeps_globals: false } => {
                let what = format!("INVLPG {va} under PCID {}", past.pcid);
                (what, page_or_tag(same_tag || tag == Tag::Global))
            }
            Happened::Invlpg { va, keeps_globals: true } => {
                let what = format!("INVLPG {va} under PCID {}, keeping globals", past.pcid);
                let why = match tag {
                    Tag::Global => "an erratum keeps global entries".to_owned(),
                    _ => page_or_tag(same_tag),
                };
                (what, why)
            }
            Happened::Invpcid { kind, pcid, va } => {
                let what = match kind {
                    0 => format!("INVPCID address {va} in PCID {pcid}"),
                    1 => format!("INVPCID all of PCID {pcid}"),
                    kind => format!("INVPCID type {kind}"),
                };
                (what, page_or_tag(tag == Tag::Pcid(*pcid)))
            }
            Happened::LoadCr3 { value, .. } if value & NOFLUSH != 0 => {
                let what = format!("MOV CR3 of PCID {} with NOFLUSH", past.pcid);
                let why = match same_tag {
                    true => "NOFLUSH keeps what is tagged with it".to_owned(),
                    false => other_tag(),
                };
                (what, why)
            }
            Happened::LoadCr3 { .. } => {
                (format!("MOV CR3 flushing PCID {}", past.pcid), other_tag())
            }
            Happened::WriteCr4 { old, new } => {
                let what = format!("MOV CR4 {old:#x} to {new:#x}");
                (what, "nothing that flushes changed".to_owned())
            }
            Happened::PageFault { va, .. } => (format!("page fault at {va}"), other_page()),
            _ => return None,
        },
        Kind::Suppressed { what } => (what.clone(), SUPPRESSED.to_owned()),
        // Marks are taken away by the load of CR3 that follows, which is named itself.
        Kind::Announced { .. } => {
            let made: Vec<Tag> = marked(&past.event).collect();
            let names = made.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            let why = match made.contains(&tag) {
                true => "it is of no effect before its PCID is loaded without NOFLUSH".to_owned(),
                false => other_tag(),
            };
            (format!("mark for {names}"), why)
        }
        Kind::Note { .. } | Kind::End => return None,
    };
    Some(Missed { seq: past.event.seq, rip: past.event.rip, what, why })
}
