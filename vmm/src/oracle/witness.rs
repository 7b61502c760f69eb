//! A violation and all that one needs to argue with it.

use super::ledger::{Cover, Downgrade, Obligation};
use super::rule::{Context, Finding, RuleId};
use crate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use crate::arch::tlb::{Entry, Tag};
use crate::arch::walk::Step;
use crate::event::{Event, Kind};
use stalemate_shared::pcid::NOFLUSH;

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
    let walk = entry.as_ref().and_then(|(tag, entry)| {
        let root = shadow.cpu(cpu).tlb.root(*tag)?;
        let va = obligation.map_or(entry.translation.page, |obligation| obligation.page);
        let walked = shadow.walk_today(cpu, root, va);
        let result = match walked.result {
            Ok(today) => today.to_string(),
            Err(failure) => failure.to_string(),
        };
        Some(Contradiction { root, path: walked.path, result })
    });
    let since = obligation.map(|obligation| obligation.downgrade.seq);
    let missed = match (&entry, since) {
        (Some((tag, entry)), Some(since)) => history
            .iter()
            .filter(|past| past.event.seq > since && past.event.cpu == cpu)
            .map(|past| missed(past, *tag, entry))
            .collect(),
        _ => Vec::new(),
    };
    // One that is returning has covered nothing yet.
    let asked = obligation.and_then(|obligation| {
        let returning = || {
            let (since, primitive) = context.ended?;
            let asked = obligation.is_asked_of(event.cpu, since, &primitive);
            asked.then_some(Cover { primitive, step: shadow.cpu(event.cpu).step })
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
        step: shadow.cpu(event.cpu).step,
        entry,
        walk,
        downgrade: obligation.map(|obligation| obligation.downgrade),
        asked,
        deadline: deadline(rule).map(str::to_owned),
        missed,
        because: finding.because,
    }
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

fn missed(past: &Invalidation, tag: Tag, entry: &Entry) -> Missed {
    let page = entry.translation.page;
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
        Kind::Note { what } => (what.clone(), "the fault kept it from happening".to_owned()),
        kind => (format!("{kind:?}"), "it invalidates nothing".to_owned()),
    };
    Missed { seq: past.event.seq, rip: past.event.rip, what, why }
}
