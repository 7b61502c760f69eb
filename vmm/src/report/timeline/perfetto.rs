//! The timeline in the Trace Event Format, which ui.perfetto.dev opens.
//!
//! A process for each CPU; in it a thread for its steps, phases, primitives and operations, one for
//! each tag of its TLB, and below that one for each page that it holds. Slices of a thread must nest,
//! so entries that overlap have threads of their own. (What the format calls asynchronous may
//! overlap, but is shown in one group for all CPUs.) One event is one microsecond. Arrows lead from
//! the store of an obligation to what ended it, and on to the next entry to user mode.

use super::{Moment, Owed, Span, Timeline, USER};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The trace, as JSON.
#[must_use]
pub fn perfetto(timeline: &Timeline) -> Value {
    let slices = slices(timeline);
    let numbers: BTreeMap<Track<'_>, usize> = slices.keys().copied().zip(1..).collect();
    let mut events = names(timeline, &numbers);
    let timed = events.len();
    for (track, slices) in &slices {
        let at = |slice: &Slice| {
            json!({
                "name": slice.name, "ph": "X", "ts": slice.from,
                "dur": slice.to.saturating_sub(slice.from),
                "pid": track.cpu, "tid": numbers[track], "args": slice.args,
            })
        };
        events.extend(slices.iter().map(at));
    }
    events.extend(violations(timeline, &numbers));
    for (id, owed) in timeline.obligations.iter().enumerate() {
        events.extend(arrow(timeline, &numbers, id, owed));
    }
    // Readers take them in any order; people who look at the file do not. What encloses comes first.
    events[timed..].sort_by_key(|event| (event["ts"].as_u64(), Reverse(event["dur"].as_u64())));
    json!({
        "displayTimeUnit": "ns",
        "otherData": {
            "scenario": timeline.scenario,
            "config": timeline.config,
            "faults": timeline.faults,
            "executor": timeline.executor,
            "real": timeline.real,
            "outcome": timeline.outcome,
            "command": timeline.command,
            "time": "one event is one microsecond",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "traceEvents": events,
    })
}

/// A thread of the trace. They are shown in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Track<'a> {
    cpu: u8,
    tag: Option<&'a str>,
    page: Option<&'a str>,
    kind: TrackKind,
    row: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum TrackKind {
    Steps,
    Phases,
    Primitives,
    Operations,
    Entries,
    Owed,
}

impl<'a> Track<'a> {
    fn of_cpu(cpu: u8, kind: TrackKind) -> Self {
        Self { cpu, tag: None, page: None, kind, row: 0 }
    }

    fn of_tag(cpu: u8, tag: &'a str) -> Self {
        Self { tag: Some(tag), ..Self::of_cpu(cpu, TrackKind::Operations) }
    }

    fn of_page(cpu: u8, tag: &'a str, page: &'a str, kind: TrackKind, row: usize) -> Self {
        Self { cpu, tag: Some(tag), page: Some(page), kind, row }
    }

    fn name(&self) -> String {
        let what = match (self.tag, self.kind) {
            (_, TrackKind::Steps) => "steps",
            (_, TrackKind::Phases) => "phases",
            (_, TrackKind::Primitives) => "flush primitives",
            (None, TrackKind::Operations) => "operations",
            (Some(_), TrackKind::Operations | TrackKind::Entries) => "",
            (None, TrackKind::Entries) => "entries",
            (_, TrackKind::Owed) => "owed",
        };
        let row = if self.row == 0 { String::new() } else { format!("({})", self.row + 1) };
        let words = [self.tag.unwrap_or_default(), self.page.unwrap_or_default(), what, &row];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// What lies on a track from one event to another.
struct Slice {
    from: u64,
    to: u64,
    name: String,
    args: Value,
}

impl From<&Span> for Slice {
    fn from(span: &Span) -> Self {
        Self { from: span.from, to: span.to, name: span.text.clone(), args: json!({}) }
    }
}

impl From<&Moment> for Slice {
    /// A slice and no instant: arrows begin and end at slices.
    fn from(moment: &Moment) -> Self {
        let args = json!({
            "at": moment.place,
            "removed": moment.removed,
            "pages": moment.pages,
            "kind": moment.kind,
        });
        Self { from: moment.seq, to: moment.seq + 1, name: moment.text.clone(), args }
    }
}

/// Every slice, by track.
fn slices(timeline: &Timeline) -> BTreeMap<Track<'_>, Vec<Slice>> {
    let mut slices: BTreeMap<Track<'_>, Vec<Slice>> = BTreeMap::new();
    let mut put = |track, slice| slices.entry(track).or_default().push(slice);
    for cpu in &timeline.cpus {
        for (kind, spans) in [
            (TrackKind::Steps, &cpu.steps),
            (TrackKind::Phases, &cpu.phases),
            (TrackKind::Primitives, &cpu.primitives),
        ] {
            spans.iter().for_each(|span| put(Track::of_cpu(cpu.number, kind), span.into()));
        }
    }
    for moment in &timeline.moments {
        put(Track::of_cpu(moment.cpu, TrackKind::Operations), moment.into());
        let shown = |tag: &&String| timeline.has_lane(moment.cpu, tag);
        if let Some(tag) = moment.tag.as_ref().filter(shown) {
            put(Track::of_tag(moment.cpu, tag), moment.into());
        }
    }
    for mark in timeline.marks.iter().filter(|mark| timeline.has_lane(mark.cpu, &mark.tag)) {
        let (from, to) = (mark.from, mark.to.unwrap_or(timeline.events));
        let name = "marked: flush at the next load".to_owned();
        put(Track::of_tag(mark.cpu, &mark.tag), Slice { from, to, name, args: json!({}) });
    }
    for bar in &timeline.bars {
        let track = Track::of_page(bar.cpu, &bar.tag, &bar.page, TrackKind::Entries, bar.row);
        let to = bar.to.unwrap_or(timeline.events);
        let args = json!({
            "translation": bar.translation,
            "walk": bar.walk,
            "stale since": bar.stale,
            "a walk gives": bar.today,
        });
        put(track, Slice { from: bar.from, to, name: bar.translation.clone(), args: args.clone() });
        if let Some(from) = bar.stale {
            put(track, Slice { from, to, name: "stale".to_owned(), args });
        }
    }
    for owed in &timeline.obligations {
        let track = Track::of_page(owed.cpu, &owed.tag, &owed.page, TrackKind::Owed, owed.row);
        let args = json!({ "ended": owed.text });
        let name = format!("owed, {}", owed.text);
        put(track, Slice { from: owed.from, to: owed.to, name, args });
    }
    slices
}

/// The names of processes and threads.
fn names(timeline: &Timeline, numbers: &BTreeMap<Track<'_>, usize>) -> Vec<Value> {
    let named = |what: &str, cpu: u8, number: usize, name: &str| json!({ "name": what, "ph": "M", "pid": cpu, "tid": number, "args": { "name": name } });
    let processes = timeline
        .cpus
        .iter()
        .map(|cpu| named("process_name", cpu.number, 0, &format!("cpu{}", cpu.number)));
    let threads = numbers
        .iter()
        .map(|(track, number)| named("thread_name", track.cpu, *number, &track.name()));
    processes.chain(threads).collect()
}

/// Each violation as an instant on the track of what was owed, else on that of the operations.
fn violations(timeline: &Timeline, numbers: &BTreeMap<Track<'_>, usize>) -> Vec<Value> {
    let instant = |violation: &super::Shown| {
        let owed = timeline
            .obligations
            .iter()
            .find(|owed| owed.violated && (owed.cpu, owed.to) == (violation.cpu, violation.seq));
        let track = owed.map_or_else(
            || Track::of_cpu(violation.cpu, TrackKind::Operations),
            |owed| Track::of_page(owed.cpu, &owed.tag, &owed.page, TrackKind::Owed, owed.row),
        );
        json!({
            "name": format!("violated: {}", violation.rule),
            "cat": "violation",
            "ph": "i",
            "s": "t",
            "ts": violation.seq,
            "pid": track.cpu,
            "tid": numbers.get(&track),
            "args": { "message": violation.message, "witness": violation.witness, "try": violation.hint },
        })
    };
    timeline.violations.iter().map(instant).collect()
}

/// The arrow of an obligation: store, what ended it, next entry to user mode.
fn arrow(
    timeline: &Timeline,
    numbers: &BTreeMap<Track<'_>, usize>,
    id: usize,
    owed: &Owed,
) -> Vec<Value> {
    let moment = |seq| timeline.moments.iter().find(|moment| moment.seq == seq);
    let operation =
        |moment: &Moment| (Track::of_cpu(moment.cpu, TrackKind::Operations), moment.seq);
    let cpu = timeline.cpus.iter().find(|cpu| cpu.number == owed.cpu);
    let user = cpu.and_then(|cpu| {
        cpu.phases.iter().find(|phase| phase.text == USER && phase.from >= owed.to)
    });
    let stops: Vec<(Track<'_>, u64)> = moment(owed.from)
        .map(operation)
        .into_iter()
        .chain(moment(owed.to).map(operation))
        .chain(user.map(|user| (Track::of_cpu(owed.cpu, TrackKind::Phases), user.from)))
        .collect();
    let last = stops.len().saturating_sub(1);
    if last == 0 {
        return Vec::new();
    }
    let stop = |(index, (track, time)): (usize, (Track<'_>, u64))| {
        let phase = match index {
            0 => "s",
            _ if index == last => "f",
            _ => "t",
        };
        json!({
            "name": format!("{} owed", owed.page), "cat": "owed", "id": id.to_string(),
            "ph": phase, "bp": "e", "ts": time, "pid": track.cpu, "tid": numbers.get(&track),
        })
    };
    stops.into_iter().enumerate().map(stop).collect()
}
