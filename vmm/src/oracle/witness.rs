//! A violation and all that one needs to argue with it.

use super::ledger::{Cover, Downgrade, Obligation};
use super::rule::{Context, Finding, RuleId};
use crate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use crate::arch::tlb::{Entry, StructureEntry, Tag};
use crate::arch::walk::Step;
use crate::event::{Event, Kind};
use stalemate_shared::pcid::{NOFLUSH, USER_PCID_BIT};

/// An invalidation, or something that could have been one, with the PCID it was made under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalidation {
    /// The event.
    pub event: Event,
    /// The PCID current after it.
    pub pcid: Pcid,
}

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
    /// The step there.
    pub step: Option<usize>,
    /// The entry, and its tag.
    pub entry: Option<(Tag, Entry)>,
    /// The paging-structure entry, where it is about one and no entry.
    pub structure: Option<StructureEntry>,
    /// What a walk says today.
    pub walk: Option<Contradiction>,
    /// The store that made it stale.
    pub downgrade: Option<Downgrade>,
    /// The primitive that should have removed it.
    pub asked: Option<Cover>,
    /// Until when it had to go.
    pub deadline: Option<String>,
    /// Every invalidation in between.
    pub missed: Vec<Missed>,
    /// An earlier event that the rule names.
    pub because: Option<(u64, Gva, &'static str)>,
}

/// Puts a violation together.
#[must_use]
pub fn violation(
    rule: RuleId,
    finding: Finding,
    context: &Context<'_>,
    obligation: Option<&Obligation>,
    history: &[Invalidation],
) -> Violation {
    let Context { event, shadow, .. } = context;
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
        let root = shadow.cpu(cpu).tlb.root(tag)?;
        let walked = shadow.walk_today(cpu, root, va);
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
    let asked = obligation.and_then(|obligation| {
        let returning = || {
            let (since, primitive) = context.ended?;
            let asked = obligation.is_asked_of(event.cpu, since, &primitive);
            asked.then_some(Cover { primitive, step: shadow.step() })
        };
        obligation.covered.or_else(returning)
    });
    let (seq, rip) = finding.at.unwrap_or((event.seq, event.rip));
    Violation {
        rule,
        message: finding.message,
        seq,
        rip,
        cpu,
        step: shadow.step(),
        entry,
        structure: obligation.and_then(|obligation| obligation.structure),
        walk,
        downgrade: obligation.map(|obligation| obligation.downgrade),
        asked,
        deadline: finding.deadline.or_else(|| deadline(rule)).map(str::to_owned),
        missed,
        because: finding.because,
    }
}

/// The user PCIDs whose bits are set in a `user_pcid_flush_mask`.
pub fn marked(mask: u64) -> impl Iterator<Item = Tag> {
    let bits = (0..64u16).filter(move |bit| mask >> bit & 1 != 0);
    bits.map(|bit| Tag::Pcid(Pcid::new(bit | USER_PCID_BIT as u16)))
}

fn deadline(rule: RuleId) -> Option<&'static str> {
    Some(match rule {
        RuleId::StaleUserEntry => "the next entry to user mode",
        RuleId::StaleKernelEntry => "the return of the primitive that covers it",
        RuleId::StaleOtherAsid => "the CR3 load that makes its PCID current",
        RuleId::StaleRemoteEntry => "the acknowledgement, or the return of the primitive",
        RuleId::Generation => "the end of what raised the slot's generation",
        RuleId::NeverFlushed => "the end of the edit's step",
        _ => return None,
    })
}

fn missed(past: &Invalidation, tag: Tag, page: Gva) -> Option<Missed> {
    let other_tag = || format!("the entry is tagged {tag}");
    let other_page = || format!("the entry is of page {page}");
    let (what, why) = match &past.event.kind {
        Kind::Invlpg { va } => {
            let what = format!("INVLPG {va} under PCID {}", past.pcid);
            let reaches = tag == Tag::Pcid(past.pcid) || tag == Tag::Global;
            (what, if reaches { other_page() } else { other_tag() })
        }
        Kind::InvlpgKeptGlobals { va } => {
            let what = format!("INVLPG {va} under PCID {}, keeping globals", past.pcid);
            let why = match tag {
                Tag::Global => "an erratum keeps global entries".to_owned(),
                tag if tag == Tag::Pcid(past.pcid) => other_page(),
                _ => other_tag(),
            };
            (what, why)
        }
        Kind::Invpcid { kind, pcid, va } => {
            let what = match kind {
                0 => format!("INVPCID address {va} in PCID {pcid}"),
                1 => format!("INVPCID all of PCID {pcid}"),
                kind => format!("INVPCID type {kind}"),
            };
            let same = tag == Tag::Pcid(*pcid);
            (what, if same { other_page() } else { other_tag() })
        }
        Kind::LoadCr3 { value, .. } if value & NOFLUSH != 0 => {
            let what = format!("MOV CR3 of PCID {} with NOFLUSH", past.pcid);
            let why = match tag == Tag::Pcid(past.pcid) {
                true => "NOFLUSH keeps what is tagged with it".to_owned(),
                false => other_tag(),
            };
            (what, why)
        }
        Kind::LoadCr3 { .. } => (format!("MOV CR3 flushing PCID {}", past.pcid), other_tag()),
        Kind::WriteCr4 { old, new } => {
            (format!("MOV CR4 {old:#x} to {new:#x}"), "nothing that flushes changed".to_owned())
        }
        Kind::PageFault { va, .. } => (format!("page fault at {va}"), other_page()),
        Kind::Withheld { what } => (what.clone(), "the fault kept it from happening".to_owned()),
        Kind::StateStore { old, new, .. } => {
            let made: Vec<Tag> = marked(new & !old).collect();
            let what = made.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            let why = match (made.is_empty(), made.contains(&tag)) {
                // Marks are cleared by the load of CR3 that follows, which is told.
                (true, _) => return None,
                (_, true) => {
                    "it is of no effect before its PCID is loaded without NOFLUSH".to_owned()
                }
                (_, false) => other_tag(),
            };
            (format!("mark for {what}"), why)
        }
        kind => (format!("{kind:?}"), "it invalidates nothing".to_owned()),
    };
    Some(Missed { seq: past.event.seq, rip: past.event.rip, what, why })
}
