//! The oracle judges a recorded trace as it judged the live run.

mod common;

use common::{benches, builtin, config};
use stalemate::arch::tlb::Fill;
use stalemate::event::{Event, Kind, TraceHeader};
use stalemate::oracle::Oracle;
use stalemate::runner::Trace;
use stalemate::scenario::{Policy, RunConfig};

#[test]
fn a_recorded_trace_gets_the_same_verdict() {
    for bench in benches() {
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
                let (live, trace) = bench.record(&builtin(name), config, faults);
                // Through JSON and back, as a file would go.
                let text =
                    serde_json::to_string(&(trace.header, trace.events)).expect("plain data");
                let (header, events): (Option<TraceHeader>, Vec<Event>) =
                    serde_json::from_str(&text).expect("what was written");
                let mut oracle = Oracle::default();
                Trace::opened(header.expect("a header"), events).replay(&mut oracle);
                assert_eq!(oracle.violations(), live.violations, "{name} {faults:?}");
                let states = |of: &[stalemate::oracle::Obligation]| {
                    of.iter().map(|owed| (owed.tag, owed.page, owed.state)).collect::<Vec<_>>()
                };
                assert_eq!(states(oracle.obligations()), states(&live.obligations));
            }
        }
    }
}

#[test]
fn every_trace_begins_with_the_tables_and_numbers_its_events() {
    for bench in benches() {
        for fill in [Fill::WorstCase, Fill::OnDemand, Fill::LazyA, Fill::Seeded] {
            let config = RunConfig { fill, ..config("nopcid", Policy::Split, true) };
            let (result, trace) = bench.record(&builtin("unmap"), config, &[]);
            let begun = trace.events.iter().position(|event| {
                !matches!(event.kind, Kind::TableLinked { .. } | Kind::RootLinked { .. })
            });
            let begun = begun.expect("a run has steps");
            assert!(matches!(trace.events[begun].kind, Kind::StepBegin { index: 0, .. }));
            assert!((0..).zip(&trace.events).all(|(seq, event)| event.seq == seq));
            // The kernel reads the page that is unmapped: whoever fills on demand holds it, too.
            if fill != Fill::Seeded {
                assert!(!result.obligations.is_empty(), "{fill:?} on {}", bench.backend.name());
            }
        }
    }
}

#[test]
fn seeded_choices_are_replayed_and_repeated() {
    for bench in benches() {
        for seed in 0..20 {
            let config =
                RunConfig { fill: Fill::Seeded, seed, ..config("pcid", Policy::Split, true) };
            let (live, trace) = bench.record(&builtin("remap"), config, &["drop mark"]);
            let (_, again) = bench.record(&builtin("remap"), config, &["drop mark"]);
            assert_eq!(trace.events, again.events);
            let mut oracle = Oracle::default();
            trace.replay(&mut oracle);
            assert_eq!(oracle.violations(), live.violations, "seed {seed}");
        }
    }
}

#[test]
fn two_runs_give_the_same_trace_and_its_counts_are_pinned() {
    for bench in benches() {
        let scenario = builtin("user-flush-on-next-return");
        let config = config("pcid", Policy::Split, true);
        let (first, trace) = bench.record(&scenario, config, &[]);
        let (_, again) = bench.record(&scenario, config, &[]);
        assert_eq!(trace.events, again.events);
        let counts = first.counts;
        assert_eq!((counts.cr3_loads, counts.invlpg, counts.invpcid), (4, 1, 0));
        assert_eq!((counts.marks_made, counts.marks_consumed), (1, 1));
        assert_eq!((counts.table_stores, counts.state_stores), (2, 3));
        assert_eq!((counts.user_entries, counts.delivered), (2, 0));
        assert!(first.traps <= 100, "{} traps", first.traps);
    }
}
