//! The timeline in the Trace Event Format, which ui.perfetto.dev opens: a process for each CPU, in
//! it a track for steps, primitives and the mode, and one for each tag of its TLB. One event is one
//! microsecond. Arrows lead from the store of an obligation to what discharged it, and on to the
//! next entry to user mode.

use super::{Cpu, MomentKind, Owed, Timeline};
use serde_json::{Value, json};

/// Tracks of a CPU before those of its tags.
const STEPS: usize = 1;
const PRIMITIVES: usize = 2;
const MODE: usize = 3;
const MOMENTS: usize = 4;
const FIRST_TAG: usize = 5;

/// The trace, as JSON.
#[must_use]
pub fn perfetto(timeline: &Timeline) -> Value {
    let mut events = Vec::new();
    for cpu in &timeline.cpus {
        names(&mut events, cpu);
        for (track, spans) in
            [(STEPS, &cpu.steps), (PRIMITIVES, &cpu.primitives), (MODE, &cpu.user)]
        {
            for span in spans {
                events.push(slice(cpu.number, track, span.from, span.to, &span.text, json!({})));
            }
        }
    }
    for (number, bar) in timeline.bars.iter().enumerate() {
        let to = bar.to.unwrap_or(timeline.events);
        let args = json!({
            "translation": bar.translation,
            "walk": bar.walk,
            "stale since": bar.stale,
            "a walk gives": bar.today,
        });
        let fresh_to = bar.stale.unwrap_or(to);
        let track = track(timeline, bar.cpu, Some(&bar.tag));
        let id = format!("bar {number}");
        pair(&mut events, bar.cpu, track, (&id, "tlb", &bar.page), (bar.from, fresh_to), &args);
        if bar.stale.is_some() {
            let name = format!("{} stale", bar.page);
            pair(&mut events, bar.cpu, track, (&id, "tlb", &name), (fresh_to, to), &args);
        }
    }
    for moment in &timeline.moments {
        let track = track(timeline, moment.cpu, None);
        let args = json!({
            "at": moment.place,
            "removed": moment.removed,
            "pages": moment.pages,
            "tag": moment.tag,
            "kind": moment.kind,
        });
        // A slice and no instant: arrows begin and end at slices.
        events.push(slice(moment.cpu, track, moment.seq, moment.seq + 1, &moment.text, args));
    }
    for violation in &timeline.violations {
        let tag = violation.tag.as_ref();
        events.push(json!({
            "name": format!("violated: {}", violation.rule),
            "cat": "violation",
            "ph": "i",
            "s": "g",
            "ts": violation.seq,
            "pid": violation.cpu,
            "tid": track(timeline, violation.cpu, tag),
            "args": { "message": violation.message, "witness": violation.witness },
        }));
    }
    for (number, owed) in timeline.obligations.iter().enumerate() {
        obligation(&mut events, timeline, number, owed);
    }
    // Readers take them in any order; people who look at the file do not.
    events.sort_by_key(|event| (event["ts"].as_u64(), event["dur"].is_null()));
    json!({
        "displayTimeUnit": "ns",
        "otherData": {
            "scenario": timeline.scenario,
            "config": timeline.config,
            "faults": timeline.faults,
            "executor": timeline.executor,
            "outcome": timeline.outcome,
            "command": timeline.command,
            "time": "one event is one microsecond",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "traceEvents": events,
    })
}

fn names(events: &mut Vec<Value>, cpu: &Cpu) {
    let mut name = |what: &str, track: usize, name: String| {
        events.push(json!({
            "name": what, "ph": "M", "pid": cpu.number, "tid": track, "args": { "name": name },
        }));
    };
    name("process_name", 0, format!("cpu{}", cpu.number));
    name("thread_name", STEPS, "steps".to_owned());
    name("thread_name", PRIMITIVES, "flush primitives".to_owned());
    name("thread_name", MODE, "user mode".to_owned());
    name("thread_name", MOMENTS, "operations".to_owned());
    for (track, tag) in (FIRST_TAG..).zip(&cpu.tags) {
        name("thread_name", track, tag.clone());
    }
}

/// The track of a tag of a CPU; without one that of its operations.
fn track(timeline: &Timeline, cpu: u8, tag: Option<&String>) -> usize {
    let cpu = timeline.cpus.get(usize::from(cpu));
    let place = |tag| cpu.and_then(|cpu| cpu.tags.iter().position(|known| known == tag));
    tag.and_then(place).map_or(MOMENTS, |place| FIRST_TAG + place)
}

fn slice(cpu: u8, track: usize, from: u64, to: u64, name: &str, args: Value) -> Value {
    json!({
        "name": name, "ph": "X", "ts": from, "dur": to.saturating_sub(from),
        "pid": cpu, "tid": track, "args": args,
    })
}

/// A slice that may overlap others of its track: its begin and its end, told apart by an id.
fn pair(
    events: &mut Vec<Value>,
    cpu: u8,
    track: usize,
    (id, category, name): (&str, &str, &str),
    (from, to): (u64, u64),
    args: &Value,
) {
    for (phase, time) in [("b", from), ("e", to)] {
        events.push(json!({
            "name": name, "cat": category, "id": id.to_string(), "ph": phase, "ts": time,
            "pid": cpu, "tid": track, "args": if phase == "b" { args.clone() } else { json!({}) },
        }));
    }
}

/// The obligation as a slice, and its arrow: store, what ended it, next entry to user mode.
fn obligation(events: &mut Vec<Value>, timeline: &Timeline, number: usize, owed: &Owed) {
    let track = track(timeline, owed.cpu, Some(&owed.tag));
    let name = format!("{} owed", owed.page);
    let id = format!("owed {number}");
    let args = json!({ "ended": owed.text });
    pair(events, owed.cpu, track, (&id, "owed", &name), (owed.from, owed.to), &args);
    let store = timeline
        .moments
        .iter()
        .find(|moment| moment.seq == owed.from && moment.kind == MomentKind::Store);
    let end = timeline.moments.iter().find(|moment| moment.seq == owed.to);
    let user = timeline
        .cpus
        .get(usize::from(owed.cpu))
        .and_then(|cpu| cpu.user.iter().find(|span| span.from >= owed.to));
    let mut stops = Vec::new();
    stops.extend(store.map(|store| (store.cpu, MOMENTS, store.seq)));
    stops.extend(end.map(|end| (end.cpu, MOMENTS, end.seq)));
    stops.extend(user.map(|span| (owed.cpu, MODE, span.from)));
    if stops.len() < 2 {
        return;
    }
    let last = stops.len() - 1;
    for (index, (cpu, track, time)) in stops.into_iter().enumerate() {
        let phase = match index {
            0 => "s",
            _ if index == last => "f",
            _ => "t",
        };
        events.push(json!({
            "name": name, "cat": "owed", "id": number.to_string(), "ph": phase, "bp": "e", "ts": time,
            "pid": cpu, "tid": track,
        }));
    }
}
