//! The picture of a run: what it shows is what happened, the page works in a browser, and the
//! trace for other tools is well formed.
#![allow(missing_docs)]

mod common;

use serde_json::Value;
use stalemate::executor::Backend;
use stalemate::report::{Recorded, Timeline, html, perfetto, timeline};
use stalemate::scenario::{Policy, Scenario};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use typescript_tsbuildinfo::{TraceEvent, TraceEventType, TraceJson};

fn drawn(scenario: &Scenario, cpu: &str, faults: &[&str]) -> Timeline {
    let bench = common::Bench::new(Backend::interp());
    let config = stalemate::scenario::RunConfig {
        cpus: scenario.cpus(),
        ..common::config(cpu, Policy::Split, true)
    };
    let (result, trace) = bench.record(scenario, config, faults);
    timeline(&Recorded {
        scenario,
        result: &result,
        trace: &trace,
        executor: "interp",
        symbols: bench.symbols(),
    })
}

fn dropped_mark() -> Timeline {
    drawn(&common::builtin("user-flush-on-next-return"), "pcid", &["drop mark#1"])
}

/// A run of about fifty thousand events.
fn long() -> Timeline {
    let mut steps = "A map u0 red\nB map u1 blue\n".to_owned();
    for _ in 0..320 {
        steps += "A remap u0 blue\nA flush_tlb_one_user u0\nA user read u0 -> blue\n\
                  B user read u1 -> blue\ncpu1 A user read u0 -> blue\n\
                  A remap u0 red\nA flush_tlb_one_user u0\nA user read u0 -> red\n\
                  B user read u1 -> blue\ncpu1 A user read u0 -> red\n";
    }
    drawn(&common::scenario(&steps), "pcid", &[])
}

#[test]
fn a_stale_entry_is_red_from_its_store_to_the_violation() {
    let timeline = dropped_mark();
    let stale: Vec<_> = timeline.bars.iter().filter(|bar| bar.stale.is_some()).collect();
    let of = |tag: &str| *stale.iter().find(|bar| bar.tag == tag).expect("a stale entry");
    let (kernel, user) = (of("PCID 0x001"), of("PCID 0x801"));
    let store = timeline.moments.iter().find(|one| Some(one.seq) == user.stale).expect("a store");
    assert!(store.text.starts_with("store to the page tables"), "{}", store.text);
    assert_eq!((user.page.as_str(), kernel.stale), ("u0", user.stale));
    assert_ne!(user.today.as_deref(), Some(user.translation.as_str()));
    // INVLPG reached the kernel half and not the other, which was never flushed.
    let invlpg = timeline.moments.iter().find(|one| one.text == "INVLPG u0").expect("a flush");
    assert_eq!((kernel.to, user.to), (Some(invlpg.seq), None));
    assert_eq!(invlpg.pages, ["u0 of PCID 0x001"]);
    let [violation] = &timeline.violations[..] else { panic!("one violation") };
    let owed = timeline.obligations.iter().find(|owed| owed.violated).expect("it was owed");
    assert_eq!((owed.from, owed.to), (user.stale.expect("stale"), violation.seq));
    assert_eq!(violation.page.as_deref(), Some("u0"));
    assert!(timeline.cpus[0].user.iter().any(|span| span.from == violation.seq));
}

#[test]
fn a_clean_run_shows_the_mark_and_its_consumption() {
    let scenario = common::builtin("user-flush-on-next-return");
    let timeline = drawn(&scenario, "pcid", &[]);
    assert!(timeline.violations.is_empty());
    let seq = |text: &str| {
        let one = timeline.moments.iter().find(|moment| moment.text.starts_with(text));
        one.unwrap_or_else(|| panic!("{text}")).seq
    };
    let (made, cleared) = (seq("mark made for PCID 0x801"), seq("mark cleared for PCID 0x801"));
    let user = timeline.obligations.iter().find(|owed| owed.tag == "PCID 0x801").expect("owed");
    assert_eq!(user.text, "discharged by consume");
    assert!(user.from < made && made < cleared && cleared < user.to);
    let gone = timeline.bars.iter().find(|bar| bar.to == Some(user.to)).expect("it went");
    assert_eq!(gone.stale, Some(user.from));
}

#[test]
fn what_a_bar_ends_with_removed_it() {
    let scenario = common::builtin("shootdown");
    let timeline = drawn(&scenario, "pcid", &[]);
    assert!(timeline.cpus.len() == 2 && timeline.bars.iter().any(|bar| bar.cpu == 1));
    let ended = timeline.bars.iter().filter_map(|bar| Some((bar, bar.to?)));
    let mut count = 0;
    for (bar, seq) in ended {
        let by = timeline.moments.iter().find(|one| one.seq == seq).expect("a moment");
        let named = format!("{} of {}", bar.page, bar.tag);
        assert!(by.pages.contains(&named) && by.cpu == bar.cpu, "{by:?} and {bar:?}");
        count += 1;
    }
    assert!(count > 3, "{count} entries were removed");
}

#[test]
fn the_trace_for_perfetto_is_well_formed_and_says_what_the_timeline_says() {
    for timeline in [dropped_mark(), drawn(&common::builtin("shootdown"), "pcid", &[])] {
        let trace = perfetto(&timeline);
        let events = trace["traceEvents"].as_array().expect("events");
        let phase = |phase: &'static str| events.iter().filter(move |event| event["ph"] == phase);
        let text = |value: &Value| value.to_string();
        // Every track has a name.
        let track = |event: &Value| (text(&event["pid"]), text(&event["tid"]));
        let named: BTreeSet<_> = phase("M").map(track).collect();
        for event in events {
            assert!(event["ph"] == "M" || named.contains(&track(event)), "{event}");
        }
        // What begins ends, on the same track, under the same name, not before.
        let mut open: BTreeMap<String, (u64, String)> = BTreeMap::new();
        let mut pairs = 0;
        for event in phase("b").chain(phase("e")) {
            let key = format!("{} {} {}", event["cat"], event["id"], event["name"]);
            let (time, at) = (event["ts"].as_u64().expect("a time"), format!("{:?}", track(event)));
            match open.remove(&key) {
                None if event["ph"] == "b" => drop(open.insert(key, (time, at))),
                Some((from, track)) if event["ph"] == "e" => {
                    assert!(from <= time && track == at, "{event}");
                    pairs += 1;
                }
                _ => panic!("{event}"),
            }
        }
        assert!(open.is_empty(), "{open:?}");
        let stale = timeline.bars.iter().filter(|bar| bar.stale.is_some()).count();
        assert_eq!(pairs, timeline.bars.len() + stale + timeline.obligations.len());
        // An arrow has one tail and one head, and each of its points is on a slice.
        let ids = |of: &'static str| phase(of).map(|event| text(&event["id"])).collect::<Vec<_>>();
        assert!(!ids("s").is_empty());
        assert_eq!(
            ids("s"),
            ids("s").into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        );
        assert_eq!(ids("s").into_iter().collect::<BTreeSet<_>>(), ids("f").into_iter().collect());
        for arrow in phase("s").chain(phase("t")).chain(phase("f")) {
            let time = arrow["ts"].as_u64().expect("a time");
            let under = phase("X").any(|slice| {
                let from = slice["ts"].as_u64().expect("a time");
                let to = from + slice["dur"].as_u64().expect("a length");
                track(slice) == track(arrow) && from <= time && time <= to
            });
            assert!(under, "{arrow}");
        }
    }
}

#[test]
fn another_program_s_reader_reads_the_trace_for_perfetto() {
    let timeline = dropped_mark();
    let trace = perfetto(&timeline);
    let text = trace["traceEvents"].to_string();
    let read: TraceJson = serde_json::from_str(&text).expect("the Trace Event Format");
    assert_eq!(read.len(), trace["traceEvents"].as_array().expect("events").len());
    let of = |kind| read.iter().filter(move |event| event.ph == kind);
    let at = |event: &TraceEvent| (event.pid, event.tid);
    // A track for each tag of the TLB, by its name.
    let named = |tag: &str| {
        let mut tracks = of(TraceEventType::Metadata);
        let track = tracks.find(|event| event.args.get("name").is_some_and(|name| name == tag));
        at(track.unwrap_or_else(|| panic!("no track {tag}")))
    };
    let user = named("PCID 0x801");
    assert_ne!(user, named("PCID 0x001"));
    // The violation is told on the track of the stale entry, when it happened.
    let told: Vec<_> = of(TraceEventType::Instant).collect();
    assert_eq!(told.len(), timeline.violations.len());
    assert_eq!(told[0].name, "violated: stale-user-entry");
    assert_eq!(at(told[0]), user);
    assert!((told[0].ts - timeline.violations[0].seq as f64).abs() < 0.5);
    // Each arrow goes forward in time: from the store, by the flush, to the return.
    for start in of(TraceEventType::FlowStart) {
        let mut points = vec![start.ts];
        for kind in [TraceEventType::FlowStep, TraceEventType::FlowEnd] {
            points.extend(of(kind).filter(|event| event.id == start.id).map(|event| event.ts));
        }
        assert!(start.id.is_some() && points.len() >= 2 && points.is_sorted(), "{start:?}");
    }
}

/// The browser, or why there is none. With STALEMATE_REQUIRE_CHROMIUM=1 that is a failure.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = named.or_else(|| {
        let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
        let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let mut all =
            directories.iter().flat_map(|directory| names.map(|name| directory.join(name)));
        all.find(|candidate| candidate.is_file())
    });
    let required = std::env::var_os("STALEMATE_REQUIRE_CHROMIUM").is_some_and(|value| value == "1");
    match found {
        None if required => panic!("Chromium is required here, and none is on the path"),
        None => common::say("SKIP: no Chromium on the path"),
        Some(_) => {}
    }
    found
}

/// Opens the page, with this script run after its own, and gives the document as it is then.
fn opened(browser: &Path, timeline: &Timeline, name: &str, hash: &str, script: &str) -> String {
    let page = html(timeline);
    let driver = format!("<script>{script}</script></body>");
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.html"));
    std::fs::write(&file, page.replace("</body>", &driver)).expect("a file");
    let output = Command::new(browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"])
        .args(["--window-size=1400,900", "--virtual-time-budget=4000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", file.with_extension("profile").display()))
        .arg(format!("file://{}#{hash}", file.display()))
        .output()
        .expect("the browser starts");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let logged: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(logged.is_empty(), "{name}: {logged:?}");
    let document = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(attribute(&document, "data-ready"), "1", "{name}: {log}");
    assert_eq!(attribute(&document, "data-errors"), "0", "{name}");
    document
}

/// An attribute of the document's root element.
fn attribute(document: &str, name: &str) -> String {
    let html = document.split_once("<html").expect("a page").1.split_once('>').expect("a page").0;
    let value = html.split_once(&format!("{name}=\"")).map(|(_, rest)| rest.split_once('"'));
    value.flatten().map_or(String::new(), |(value, _)| value.to_owned())
}

/// How many elements of a class there are in the chart.
fn count(document: &str, class: &str) -> usize {
    let of = |tag: &&str| {
        let classes = tag.split_once("class=\"").and_then(|(_, rest)| rest.split_once('"'));
        classes.is_some_and(|(classes, _)| classes.split(' ').any(|one| one == class))
    };
    let chart = document.split_once("id=\"chart\"").expect("a chart").1;
    chart.split_once("<aside").expect("a panel").0.split('<').filter(of).count()
}

#[test]
fn the_page_opens_at_the_violation() {
    let Some(browser) = chromium() else { return };
    let timeline = dropped_mark();
    let page = opened(&browser, &timeline, "violation", "", "");
    assert_eq!(attribute(&page, "data-selected"), "violation");
    assert_eq!(attribute(&page, "data-bars"), timeline.bars.len().to_string());
    assert!(page.contains("violated: stale-user-entry") && page.contains(">PCID 0x801 user<"));
    assert!(count(&page, "stale") >= 2 && count(&page, "fresh") >= 2);
    assert!(count(&page, "violated") == 1 && count(&page, "here") == 1);
    assert!(count(&page, "m-cr3-kept") >= 2 && count(&page, "m-fault") == 1);
    assert!(count(&page, "user") >= 1 && count(&page, "step") >= 3);
}

#[test]
fn the_filter_filters_and_the_keyboard_works() {
    let Some(browser) = chromium() else { return };
    let timeline = drawn(&common::builtin("shootdown"), "pcid", &[]);
    let bars = |fits: &dyn Fn(&str, &str) -> bool| {
        let all = timeline.bars.iter();
        all.filter(|bar| fits(&bar.page, &bar.tag)).count().to_string()
    };
    let page = opened(&browser, &timeline, "filter", "filter=u0", "");
    assert_eq!(attribute(&page, "data-bars"), bars(&|page, _| page == "u0"));
    assert!(page.contains("data-page=\"u0\"") && !page.contains("data-page=\"k0\""));
    let page = opened(&browser, &timeline, "filter-pcid", "filter=0x802", "");
    assert_eq!(attribute(&page, "data-bars"), bars(&|_, tag| tag == "PCID 0x802"));
    // Typed, then cleared by Escape; the next operation is selected; then a click on an entry.
    let script = "const key = (key, to = window) => \
                  to.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
        key('/'); const f = document.activeElement; f.value = 'k0';
        f.dispatchEvent(new Event('input'));
        document.body.dataset.typed = document.documentElement.dataset.bars;
        key('Escape', f); document.body.dataset.cleared = document.documentElement.dataset.bars;
        key('n'); document.body.dataset.next = document.documentElement.dataset.selected;
        key('+'); key('0'); key('ArrowRight'); key('?'); key('t');
        document.querySelector('#chart .fresh')
          .dispatchEvent(new MouseEvent('click', { bubbles: true }));";
    let page = opened(&browser, &timeline, "keyboard", "theme=light", script);
    let body = |name: &str| {
        let body = page.split_once("<body").expect("a body").1.split_once('>').expect("a body").0;
        let value = body.split_once(&format!("data-{name}=\"")).expect("it was driven").1;
        value.split_once('"').expect("a value").0.to_owned()
    };
    assert_eq!(body("typed"), bars(&|page, _| page == "k0"));
    assert_eq!(body("cleared"), timeline.bars.len().to_string());
    assert_eq!(body("next"), "moment");
    assert_eq!(attribute(&page, "data-selected"), "bar");
    assert_eq!(attribute(&page, "data-theme"), "dark");
    assert!(page.contains("walk when it was filled") && page.contains("L4 ["));
}

#[test]
fn fifty_thousand_events_are_drawn_as_few_elements() {
    let Some(browser) = chromium() else { return };
    let timeline = long();
    assert!(timeline.events > 50_000, "{} events", timeline.events);
    let end = timeline.events;
    let page = opened(&browser, &timeline, "long", &format!("from=0&to={end}"), "");
    let elements = page.split_once("id=\"chart\"").expect("a chart").1.matches("<rect").count();
    assert!(elements < 3000 && count(&page, "many") > 3, "{elements} elements");
    let page = opened(&browser, &timeline, "long-near", "from=25000&to=25100", "");
    assert!(
        count(&page, "fresh") >= 3 && count(&page, "m-store") >= 1 && count(&page, "many") == 0
    );
}
