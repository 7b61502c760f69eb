//! The oracle judges a recorded trace as it judged the live run.

use crate::common::{builtin, config, rigs, stalemate};
use stalemate::arch::happened::Happened;
use stalemate::arch::tlb::Fill;
use stalemate::event::{Announcement, Event, TaskId, Trace, TraceHeader};
use stalemate::oracle::Oracle;
use stalemate::report::{RECORDING_VERSION, Recorded, Recording, RecordingError};
use stalemate::scenario::{self, CPUS, Policy, Run, RunConfig, Selection};

#[test]
fn a_recorded_trace_gets_the_same_verdict() {
    for rig in rigs() {
        for (name, policy, faults) in [
            ("user-flush-on-next-return", Policy::Split, &["drop mark#1"][..]),
            ("user-flush-on-next-return", Policy::Split, &[]),
            ("parked-kernel", Policy::Unsplit, &[]),
            ("large-page", Policy::Full, &[]),
        ] {
            for fill in
                [stalemate::arch::tlb::Fill::WorstCase, stalemate::arch::tlb::Fill::OnDemand]
            {
                let config =
                    stalemate::scenario::RunConfig { fill, ..config("pcid", policy, true) };
                let (live, trace) = rig.record(&builtin(name), config, faults);
                // Through JSON and back, as a file would go.
                let text =
                    serde_json::to_string(&(trace.header, trace.events)).expect("plain data");
                let (header, events): (Option<TraceHeader>, Vec<Event>) =
                    serde_json::from_str(&text).expect("what was written");
                let mut oracle = Oracle::default();
                Trace::opened(header.expect("a header"), events).replay(&mut oracle);
                assert_eq!(oracle.violations(), live.violations, "{name} {faults:?}");
                let states = |of: Vec<&stalemate::oracle::Obligation>| {
                    of.iter().map(|owed| (owed.tag, owed.page, owed.state)).collect::<Vec<_>>()
                };
                assert_eq!(states(oracle.obligations()), states(live.obligations.iter().collect()));
            }
        }
    }
}

#[test]
fn a_trace_is_given_on_with_its_instruction_counts() {
    let rig = crate::common::Rig::new(stalemate::executor::Backend::interp());
    let config = config("pcid", Policy::Split, true);
    let (_, trace) = rig.record(&builtin("unmap"), config, &[]);
    assert!(trace.completed.last() > Some(&1000), "the interpreter counts");
    let mut other = Trace::default();
    trace.replay(&mut other);
    assert_eq!((&other.header, &other.events), (&trace.header, &trace.events));
    assert_eq!(other.completed, trace.completed);
}

#[test]
fn every_trace_begins_with_the_tables_and_numbers_its_events() {
    for rig in rigs() {
        for fill in [Fill::WorstCase, Fill::OnDemand, Fill::LazyA, Fill::Seeded] {
            let config = RunConfig { fill, ..config("nopcid", Policy::Split, true) };
            let (result, trace) = rig.record(&builtin("unmap"), config, &[]);
            let begun = trace.events.iter().position(|event| {
                !matches!(
                    event.happened(),
                    Some(Happened::TableLinked { .. } | Happened::RootLinked { .. })
                )
            });
            let begun = begun.expect("a run has steps");
            let said = trace.events[begun].announcements();
            assert_eq!(said.first(), Some(&Announcement::TaskBegins(TaskId(0))));
            assert!((0..).zip(&trace.events).all(|(seq, event)| event.seq == seq));
            // The kernel reads the page that is unmapped: whoever fills on demand holds it, too.
            if fill != Fill::Seeded {
                assert!(!result.obligations.is_empty(), "{fill:?} on {}", rig.backend.name());
            }
        }
    }
}

#[test]
fn seeded_choices_are_replayed_and_repeated() {
    for rig in rigs() {
        for seed in 0..20 {
            let config =
                RunConfig { fill: Fill::Seeded, seed, ..config("pcid", Policy::Split, true) };
            let (live, trace) = rig.record(&builtin("remap"), config, &["drop mark"]);
            let (_, again) = rig.record(&builtin("remap"), config, &["drop mark"]);
            assert_eq!(trace.events, again.events);
            let mut oracle = Oracle::default();
            trace.replay(&mut oracle);
            assert_eq!(oracle.violations(), live.violations, "seed {seed}");
        }
    }
}

#[test]
fn two_runs_give_the_same_trace_and_its_counts_are_pinned() {
    for rig in rigs() {
        let scenario = builtin("user-flush-on-next-return");
        let config = config("pcid", Policy::Split, true);
        let (first, trace) = rig.record(&scenario, config, &[]);
        let (_, again) = rig.record(&scenario, config, &[]);
        assert_eq!(trace.events, again.events);
        let counts = first.counts;
        assert_eq!((counts.cr3_loads, counts.invlpg, counts.invpcid), (4, 1, 0));
        assert_eq!((counts.marks_made, counts.marks_consumed), (1, 1));
        assert_eq!((counts.table_stores, counts.words), (2, 4));
        assert_eq!((counts.user_entries, counts.delivered), (2, 0));
        assert!(first.traps <= 100, "{} traps", first.traps);
    }
}

/// Every violation that the built-in suite and the zoo report on one CPU, fault by fault.
fn violations() -> Vec<Run> {
    let mut scenarios = scenario::suite().unwrap_or_else(|error| panic!("{error}"));
    scenarios.extend(scenario::zoo().unwrap_or_else(|error| panic!("{error}")));
    let cpu = *CPUS.iter().find(|cpu| cpu.name == "pcid").expect("a named CPU");
    let selection = Selection::of(&[cpu]);
    let runs = scenarios.iter().flat_map(|scenario| scenario.runs(&selection));
    runs.filter(|run| !matches!(run.expected, scenario::Expected::Clean)).collect()
}

#[test]
fn a_recording_of_any_violation_shows_it_again_on_every_executor() {
    let rigs = rigs();
    let recorder = &rigs[0];
    let mut shown = 0;
    for run in violations() {
        let (result, trace) = recorder.with_trace(&run);
        let symbols = recorder.guest.symbols();
        let executor = recorder.backend.name();
        let recorded = Recorded { result: &result, trace: &trace, executor, symbols, command: "" };
        let recording = Recording::new(&recorded).expect("it booted");
        let text = serde_json::to_string(&recording).expect("plain data");
        let read = Recording::read(&text).expect("what was written");
        let run = read.run().expect("the scenario and its faults");
        for rig in &rigs {
            let (again, events) = rig.with_trace(&run);
            assert_eq!(events.header.as_ref(), Some(&read.header), "{}", run.config);
            assert_eq!(events.events, read.events, "{} on {}", run.scenario.name, run.config);
            assert_eq!(again.rules(), result.rules());
            shown += usize::from(!again.rules().is_empty());
        }
    }
    assert!(shown > 60 * rigs.len(), "{shown} violations");
}

#[test]
fn what_is_no_recording_is_refused() {
    assert!(matches!(Recording::read("no"), Err(RecordingError::Json(_))));
    let empty = format!("{{\"version\": {RECORDING_VERSION}}}");
    assert!(matches!(Recording::read(&empty), Err(RecordingError::Json(_))));
    assert!(matches!(Recording::read("{\"version\": 9}"), Err(RecordingError::Version(9))));
}

#[test]
fn replay_exits_with_1_where_the_run_is_another() {
    let file = std::env::temp_dir().join(format!("stalemate-replay-{}", std::process::id()));
    let path = file.to_str().expect("plain letters");
    let mark = ["run", "user-flush-on-next-return", "--executor", "interp", "--cpu", "pcid"];
    let mut asked = mark.to_vec();
    asked.extend(["--inject", "drop mark#1", "--record", path]);
    assert_eq!(stalemate(&asked).status.code(), Some(1));
    let again = stalemate(&["replay", path, "--executor", "interp"]);
    assert_eq!(again.status.code(), Some(0));
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(said.contains("run again on interp: stale-user-entry violated, as recorded"), "{said}");
    // The same events, of a run in which the mark was not dropped.
    let text = std::fs::read_to_string(&file).expect("it was written");
    let mut without: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    without["header"]["cpus"] = serde_json::json!([]);
    assert!(matches!(Recording::read(&without.to_string()), Err(RecordingError::NoCpu)));
    // What a scenario file would be held to.
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut changed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        change(&mut changed);
        std::fs::write(&file, changed.to_string()).expect("ours");
        let output = stalemate(&["replay", path, "--executor", "interp"]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&|recording| recording["events"][5]["cpu"] = 200.into());
    assert!(said.contains("events[5] is of cpu200, and processors are numbered below 1"), "{said}");
    let said = refused(&|recording| {
        let cpu = recording["header"]["cpus"][0].take();
        recording["header"]["cpus"] = vec![cpu; 300].into();
    });
    assert!(said.contains("begins with 300 processors, and a machine has 8 at most"), "{said}");
    let said = refused(&|recording| recording["config"]["cpus"] = 2.into());
    assert!(said.contains("begins with 1 processors, and its configuration has 2"), "{said}");
    let happened = |recording: &mut serde_json::Value, what: serde_json::Value| {
        recording["events"][7]["kind"] = serde_json::json!({ "Cpu": what });
    };
    for (what, says) in [
        (
            serde_json::json!({ "TableLinked": { "table": 8192, "entries": [[512, 1]] } }),
            "entry 512",
        ),
        (serde_json::json!({ "RootLinked": { "root": 8200 } }), "a page table at 0x2008, where no"),
        (
            serde_json::json!({ "TableStore": { "slot": 4, "old": 0, "new": 1 } }),
            "entry at 0x4, which",
        ),
        (serde_json::json!({ "Invpcid": { "kind": 4, "pcid": 1, "va": 0 } }), "INVPCID of type 4"),
        (serde_json::json!({ "Delivered": { "vector": 1, "from_cpl": 4 } }), "at CPL 4"),
    ] {
        let said = refused(&|recording| happened(recording, what.clone()));
        assert!(said.contains("events[7]: ") && said.contains(says), "{says}: {said}");
    }
    let none = serde_json::json!({ "Invpcid": { "kind": 1, "pcid": 4096, "va": 0 } });
    let said = refused(&|recording| happened(recording, none.clone()));
    assert!(said.contains("0x1000 is no PCID, which has twelve bits at line 1 column"), "{said}");
    let said = refused(&|recording| recording["events"][9]["seq"] = 8.into());
    assert!(said.contains("events[9]: its number is 8, and 9 is next"), "{said}");
    for field in ["name", "file", "executor"] {
        let said = refused(&|recording| recording[field] = "a\u{1b}[31m\n\u{9b}b".into());
        assert!(said.contains(&format!("its `{field}` has control characters")), "{said}");
    }
    for field in ["faults", "violates"] {
        let said = refused(&|recording| recording[field] = vec!["a\rb"].into());
        assert!(said.contains(&format!("its `{field}` has control characters")), "{said}");
    }
    let other = text.replace("\"drop mark#1\"", "\"drop mark#9\"");
    std::fs::write(&file, other).expect("ours");
    let again = stalemate(&["replay", path, "--executor", "interp"]);
    std::fs::remove_file(&file).expect("ours");
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert_eq!(again.status.code(), Some(1), "{said}");
    assert!(said.contains("the recorded events: stale-user-entry violated, as recorded"), "{said}");
    assert!(said.contains("the events differ from event"), "{said}");
}
