//! From a recorded run to its timeline.

use super::lane::Lane;
use super::rows::set_rows;
use super::track::{Tracks, moment_kind, page_name};
use super::{Moment, Owed, Shown, Timeline};
use crate::arch::addr::Gva;
use crate::arch::cr3::{NOFLUSH, PCID_MASK, ROOT_MASK};
use crate::arch::happened::Happened;
use crate::arch::tlb::Tag;
use crate::event::{Announcement, Event, Kind};
use crate::oracle::{Obligation, Replica, State, Violation};
use crate::report::{Fact, Recorded, facts, unexplained, what_is_real};
use crate::runner::RunResult;
use crate::scenario::Scenario;
use crate::symbols::Symbols;
use std::collections::BTreeSet;

/// The timeline of a run that was traced; one without events where the guest did not boot.
#[must_use]
pub fn timeline(recorded: &Recorded<'_>) -> Timeline {
    let Recorded { result, trace, executor, symbols, command } = *recorded;
    let scenario = &result.run.scenario;
    // Of a sweep, whose branches follow each other in the trace, the run that the result is of.
    let trace = result.sweep.as_ref().and_then(|sweep| sweep.trace.as_ref()).unwrap_or(trace);
    let mut timeline = Timeline {
        scenario: scenario.name.clone(),
        summary: scenario.summary.clone(),
        config: result.run.config.to_string(),
        faults: result.run.faults.iter().map(ToString::to_string).collect(),
        executor: executor.to_owned(),
        real: what_is_real(&[executor]),
        outcome: result.outcome.to_string(),
        as_expected: result.as_expected,
        remarks: remarks(symbols, scenario, result),
        command: command.to_owned(),
        events: trace.events.len() as u64,
        ..Timeline::default()
    };
    let Some(header) = &trace.header else { return timeline };
    let mut replica = Replica::new(header);
    let mut tracks = Tracks::new(concerned(&result.obligations, &result.violations));
    let mut lanes: Vec<Lane> =
        replica.numbered().map(|(cpu, state)| Lane::new(cpu, state.marks())).collect();
    for event in &trace.events {
        let effect = replica.apply(event);
        let ended = tracks.follow(event, &replica);
        if let Some(kind) = moment_kind(event) {
            let (tag, text) = described(event, &replica);
            let injected = event.injected && kind != super::MomentKind::Fault;
            let text = if injected { format!("injected: {text}") } else { text };
            timeline.moments.push(Moment {
                seq: event.seq,
                cpu: event.cpu.0,
                kind,
                tag: tag.map(|tag| tag.to_string()),
                text,
                place: place(symbols, event.rip),
                removed: effect.removed,
                pages: ended
                    .iter()
                    .filter(|(cpu, ..)| *cpu == event.cpu)
                    .map(|(_, tag, page)| format!("{page} of {tag}"))
                    // The old translation and the new one may go together.
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect(),
            });
        }
        replica.judged(event);
        for (lane, (cpu, state)) in lanes.iter_mut().zip(replica.numbered()) {
            lane.follow_marks(state.marks(), event.seq);
            if cpu != event.cpu {
                continue;
            }
            lane.follow(event, |task| {
                let text = scenario.steps.get(task.0).map_or("", |step| step.text.as_str());
                // The lane says which CPU it is.
                let own = format!("cpu{} ", event.cpu.0);
                text.strip_prefix(&own).unwrap_or(text).to_owned()
            });
        }
    }
    timeline.bars = tracks.bars();
    set_rows(&mut timeline.bars);
    for lane in lanes {
        let (cpu, marks) = lane.end(timeline.events, &timeline.bars, &timeline.moments);
        timeline.cpus.push(cpu);
        timeline.marks.extend(marks);
    }
    timeline.obligations =
        result.obligations.iter().map(|owed| self::owed(owed, timeline.events)).collect();
    set_rows(&mut timeline.obligations);
    timeline.violations = result
        .violations
        .iter()
        .map(|violation| shown(violation, facts(symbols, scenario, result, violation)))
        .collect();
    timeline
}

/// What is to be known of the run as a whole.
fn remarks(symbols: &Symbols, scenario: &Scenario, result: &RunResult) -> Vec<String> {
    let mut remarks = unexplained(symbols, scenario, result);
    if let Some(sweep) = &result.sweep {
        let tried = sweep.swept.tried;
        remarks.push(match sweep.shown {
            Some(boundary) => format!(
                "of {tried} runs, each with an interrupt at another boundary, this is the first \
                 that differs: it came before the instruction at {}",
                place(symbols, boundary.rip)
            ),
            None => format!(
                "an interrupt at any of {tried} boundaries makes no difference; this is the run \
                 without"
            ),
        });
    }
    remarks
}

/// Pages that are shown beside the test pages.
fn concerned(obligations: &[Obligation], violations: &[Violation]) -> BTreeSet<Gva> {
    let owed = obligations.iter().map(|obligation| obligation.page);
    let entries = violations.iter().filter_map(|violation| violation.entry.as_ref());
    owed.chain(entries.map(|(_, entry)| entry.translation.page)).collect()
}

fn place(symbols: &Symbols, rip: Gva) -> String {
    symbols.locate(rip).to_string()
}

/// The lane that an event is about, and what happened.
fn described(event: &Event, replica: &Replica) -> (Option<Tag>, String) {
    match &event.kind {
        Kind::Cpu(happened) => happened_in_words(event, happened, replica),
        Kind::Announced { announcements, .. } => said_in_words(announcements),
        Kind::Suppressed { what } | Kind::Note { what } => (None, format!("injected: {what}")),
        Kind::End => (None, String::new()),
    }
}

fn happened_in_words(
    event: &Event,
    happened: &Happened,
    replica: &Replica,
) -> (Option<Tag>, String) {
    let current = Some(Tag::Pcid(replica.cpu(event.cpu).pcid()));
    match happened {
        Happened::LoadCr3 { value, .. } => {
            let (pcid, root) = (value & PCID_MASK, value & ROOT_MASK);
            let kept = if value & NOFLUSH == 0 { "" } else { " with NOFLUSH" };
            (current, format!("MOV CR3: PCID {pcid:#05x}, root {root:#x}{kept}"))
        }
        Happened::Invlpg { va, keeps_globals } => {
            let kept = if *keeps_globals { ", which left global entries" } else { "" };
            (current, format!("INVLPG {}{kept}", page_name(*va)))
        }
        Happened::Invpcid { kind: 0, pcid, va } => {
            (Some(Tag::Pcid(*pcid)), format!("INVPCID of {} in PCID {pcid}", page_name(*va)))
        }
        Happened::Invpcid { kind: 1, pcid, .. } => {
            (Some(Tag::Pcid(*pcid)), format!("INVPCID of PCID {pcid}"))
        }
        Happened::Invpcid { kind: 2, .. } => (None, "INVPCID of everything".to_owned()),
        Happened::Invpcid { .. } => (None, "INVPCID of everything but globals".to_owned()),
        Happened::WriteCr0 { old, new } => (None, format!("MOV CR0: {old:#x} -> {new:#x}")),
        Happened::WriteEfer { old, new } => (None, format!("EFER: {old:#x} -> {new:#x}")),
        Happened::WriteCr4 { old, new } => (None, format!("MOV CR4: {old:#x} -> {new:#x}")),
        Happened::Evict { tag, page } => {
            (Some(*tag), format!("{} is evicted by chance", page_name(*page)))
        }
        Happened::TableStore { slot, old, new } => {
            (None, format!("store to the page tables: [{slot}] {old:#x} -> {new:#x}"))
        }
        Happened::Ipi { to, vector, nmi } => {
            let what = if *nmi { "an NMI".to_owned() } else { format!("vector {vector:#x}") };
            (None, format!("sends {what} to CPU {}", to.0))
        }
        Happened::Delivered { vector, from_cpl } => {
            (None, format!("vector {vector:#x} is delivered from CPL {from_cpl}"))
        }
        Happened::PageFault { va, error } => {
            (current, format!("page fault at {va}, error {error:#x}"))
        }
        _ => (None, String::new()),
    }
}

fn said_in_words(announcements: &[Announcement]) -> (Option<Tag>, String) {
    let marks = |made: bool| -> Vec<Tag> {
        let pcids = announcements.iter().filter_map(move |said| match *said {
            Announcement::Marked { pcid, .. } if made => Some(pcid),
            Announcement::Unmarked { pcid, .. } if !made => Some(pcid),
            _ => None,
        });
        pcids.map(Tag::Pcid).collect()
    };
    for (what, tags) in [("made", marks(true)), ("cleared", marks(false))] {
        if !tags.is_empty() {
            let names: Vec<String> = tags.iter().map(ToString::to_string).collect();
            let one = if let [one] = tags[..] { Some(one) } else { None };
            return (one, format!("mark {what} for {}", names.join(" and ")));
        }
    }
    let words = announcements.iter().find_map(|said| match said {
        Announcement::Acknowledged { to, .. } => Some(format!("acknowledges to CPU {}", to.0)),
        Announcement::FrameFreed(frame) => Some(format!("frame {frame} is given back")),
        Announcement::ContentsTaken(frame) => Some(format!("contents of frame {frame} are taken")),
        Announcement::EntryRead { slot, .. } => {
            Some(format!("the entry at {slot} was read, to be edited"))
        }
        Announcement::Deferred { start, .. } => {
            Some(format!("the flush of {} is deferred", page_name(*start)))
        }
        _ => None,
    });
    (None, words.unwrap_or_default())
}

fn owed(owed: &Obligation, end: u64) -> Owed {
    let (to, text, violated) = match owed.state {
        State::Open => (end, "still open, not due".to_owned(), false),
        State::Discharged { by, seq, .. } => (seq, format!("discharged by {}", by.name()), false),
        State::Violated { rule, seq } => (seq, format!("violated: {rule}"), true),
    };
    Owed {
        cpu: owed.cpu.0,
        tag: owed.tag.to_string(),
        page: page_name(owed.page),
        address: owed.page.to_string(),
        from: owed.downgrade.seq,
        to,
        text,
        violated,
        row: 0,
    }
}

fn shown(violation: &Violation, witness: Vec<Fact>) -> Shown {
    let entry = violation.entry.as_ref();
    Shown {
        rule: violation.rule.to_string(),
        seq: violation.seq,
        cpu: violation.cpu.0,
        tag: entry.map(|(tag, _)| tag.to_string()),
        page: entry.map(|(_, entry)| page_name(entry.translation.page)),
        message: violation.message.clone(),
        witness,
        hint: violation.rule.about().hint,
    }
}
