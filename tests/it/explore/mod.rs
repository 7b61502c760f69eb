//! Every interleaving: what is complete is, what goes wrong is found and comes again, and states with one
//! hash have one future.

mod command;

use crate::common::{Rig, config, scenario};
use stalemate::executor::Backend;
use stalemate::explore::trust::{Trust, Walks, trust};
use stalemate::explore::{Covered, Explored, Limits, What, explore};
use stalemate::kernel::steps::Part;
use stalemate::runner::Outcome;
use stalemate::scenario::{Policy, Run, RunConfig};
use stalemate_shared::variant::Variant;
use std::collections::BTreeSet;

const LIMITS: Limits =
    Limits { bound: None, states: 1_000_000, time: None, every_instruction: false };

/// A program of two CPUs: what comes in order, and what comes in any.
fn program(variant: Option<Variant>, pti: bool, before: &str, after: &str) -> Run {
    let steps = format!("{before}\nconcurrently:\n{after}");
    let config = config("pcid", Policy::Split, pti);
    scenario(&steps).run(RunConfig { variant, cpus: 2, ..config }, &[])
}

fn explored(run: &Run, limits: &Limits) -> Explored {
    let rig = Rig::new(Backend::interp());
    explore(&mut rig.runner(), run, limits, &mut |_, _| {}).expect("the host works")
}

const SHOOTDOWN: (&str, &str) = (
    "A map u0 red\nA user read u0\ncpu1 A user read u0",
    "cpu0 A remap u0 blue\ncpu0 A flush_tlb_one_user u0\ncpu1 A user read u0 -> red|blue",
);

#[test]
fn a_shootdown_is_clean_in_every_interleaving() {
    let run = program(None, false, SHOOTDOWN.0, SHOOTDOWN.1);
    let found = explored(&run, &LIMITS);
    assert_eq!(found.covered, Covered::Complete);
    assert!(found.is_clean(), "{:?}", found.found);
    assert!(found.counts.states > 100 && found.counts.schedules > 10, "{:?}", found.counts);
    // The same states whenever it is done.
    let again = explored(&run, &LIMITS);
    assert_eq!((again.counts, &again.finals), (found.counts, &found.finals));
}

#[test]
fn a_value_that_not_every_order_gives_is_a_mismatch() {
    let after = "cpu0 A remap u0 blue\ncpu0 A flush_tlb_one_user u0\ncpu1 A user read u0 -> red";
    let found = explored(&program(None, false, SHOOTDOWN.0, after), &LIMITS);
    let [first] = &found.found[..] else { panic!("{:?}", found.found) };
    assert_eq!(first.what, What::Mismatch { step: 5, got: "blue".to_owned() });
    assert_eq!(first.preemptions, 0);
}

/// Mistakes that no order of whole steps shows.
const MISTAKES: [(Variant, &str, &str, &str); 3] = [
    (
        Variant::SwitchingPassedOver,
        "A map u0 red\nA user read u0\ncpu1 A user read u0\ncpu1 B user nop",
        "cpu0 A remap u0 blue\ncpu0 A flush_tlb_one_user u0\ncpu1 A user read u0",
        "",
    ),
    (Variant::AcknowledgesFirst, SHOOTDOWN.0, SHOOTDOWN.1, "stale-remote-entry"),
    (Variant::NobodyWaits, SHOOTDOWN.0, SHOOTDOWN.1, "stale-remote-entry"),
];

#[test]
fn a_mistake_is_found_without_a_hint_and_its_schedule_shows_it_again() {
    let rig = Rig::new(Backend::interp());
    for (variant, before, after, rule) in MISTAKES {
        let run = program(Some(variant), true, before, after);
        let found = explored(&run, &LIMITS);
        let of_rule = |what: &What| matches!(what, What::Violation { rule: of, .. } if of.to_string().contains(rule));
        let first = found.found.iter().find(|found| of_rule(&found.what));
        let first = first.unwrap_or_else(|| panic!("{variant:?}: {:?}", found.found));
        let What::Violation { rule, .. } = first.what else { unreachable!() };
        let events = || {
            let mut trace = stalemate::event::Trace::default();
            let segments = &first.schedule.segments;
            let result = rig.runner().run_recorded(&run, segments, Some(&mut trace));
            (result.expect("the host works"), trace)
        };
        let (result, trace) = events();
        assert_eq!(result.outcome, Outcome::Violation, "{variant:?}");
        assert!(result.rules().contains(&rule), "{variant:?}: {:?}", result.rules());
        assert_eq!(events().1.events, trace.events, "{variant:?}");
        // It is the mistake that is found: without it nothing is.
        let right = explored(&program(None, true, before, after), &LIMITS);
        assert!(right.is_clean(), "{variant:?}: {:?}", right.found);
        assert_eq!(right.covered, Covered::Complete, "{variant:?}");
    }
}

#[test]
fn what_is_bounded_says_so() {
    let run = program(None, false, SHOOTDOWN.0, SHOOTDOWN.1);
    let bounded = |bound| explored(&run, &Limits { bound: Some(bound), ..LIMITS });
    let (none, one) = (bounded(0), bounded(1));
    assert_eq!((none.covered, one.covered), (Covered::Bound(0), Covered::Bound(1)));
    assert!(none.counts.transitions < one.counts.transitions);
    // With more preemptions than there can be nothing is left out.
    assert_eq!(bounded(200).covered, Covered::Complete);
    let few = explored(&run, &Limits { states: 20, ..LIMITS });
    assert!(matches!(few.covered, Covered::States(_)), "{:?}", few.covered);
}

#[test]
fn cpus_that_wait_for_ever_hang() {
    let run = program(None, false, SHOOTDOWN.0, SHOOTDOWN.1);
    let fault = ["drop ipi".parse().expect("a fault")];
    let run = run.scenario.run(run.config, &fault);
    let found = explored(&run, &LIMITS);
    assert!(
        found.found.iter().any(|found| matches!(found.what, What::Stop(_))),
        "{:?}",
        found.found
    );
}

/// What goes wrong, by rule.
fn wrong(explored: &Explored) -> BTreeSet<String> {
    let name = |what: &What| match what {
        What::Violation { rule, .. } => rule.to_string(),
        what => what.to_string(),
    };
    explored.found.iter().map(|found| name(&found.what)).collect()
}

#[test]
fn turns_that_end_with_visible_operations_come_to_what_turns_of_one_instruction_do() {
    let (before, after) = ("A map u0 red\ncpu1 A user read u0", "A unmap u0\ncpu1 A user read u0");
    for (variant, bound) in [(None, 1), (Some(Variant::UserFlushIsLocal), 1)] {
        let after = match variant {
            None => after.to_owned(),
            Some(_) => "A remap u0 blue\nA flush_tlb_one_user u0\ncpu1 A user read u0".to_owned(),
        };
        let run = program(variant, false, before, &after);
        let limits = Limits { bound: Some(bound), ..LIMITS };
        let turns = explored(&run, &limits);
        let all = explored(&run, &Limits { every_instruction: true, ..limits });
        assert_eq!(wrong(&turns), wrong(&all), "{variant:?}");
        assert_eq!(turns.finals, all.finals, "{variant:?}");
        assert!(all.counts.transitions > 3 * turns.counts.transitions, "{:?}", all.counts);
    }
}

fn trusted(without: Option<Part>) -> Trust {
    let run = program(
        None,
        true,
        "A map u0 red\nA map u1 red\nA user read u0\ncpu1 A user read u1",
        "A remap u0 blue\nA flush_tlb_one_user u0\ncpu1 A remap u1 blue\ncpu1 A flush_tlb_one_user u1\n\
         cpu1 A user read u0\nA user read u1",
    );
    let rig = Rig::new(Backend::interp());
    let walks = Walks { walks: 150, compared: 150, seed: 1, without };
    trust(&mut rig.runner(), &run, &walks).expect("the host works")
}

#[test]
fn states_with_one_hash_have_one_future() {
    let found = trusted(None);
    assert!(found.compared > 30, "{}", found.compared);
    assert_eq!(found.different, Vec::<String>::new());
}

#[test]
fn a_hash_that_leaves_something_out_is_noticed() {
    for part in [Part::Steps, Part::Processors, Part::Memory] {
        let found = trusted(Some(part));
        assert!(!found.different.is_empty(), "{part:?}: {}", found.compared);
    }
}

#[test]
fn a_lazy_cpu_that_comes_back_in_time_is_no_mistake_and_one_that_does_not_catch_up_is_found() {
    let before = "A map u0 red\nA user read u0\ncpu1 A user read u0";
    let after = "A remap u0 blue\nA flush_tlb_one_user u0\ncpu1 lazy\ncpu1 A user read u0";
    let bound = Limits { bound: Some(2), ..LIMITS };
    assert!(explored(&program(None, true, before, after), &bound).is_clean());
    let found = explored(&program(Some(Variant::LazyDoesNotCatchUp), true, before, after), &bound);
    assert!(!found.is_clean());
}
