//! What each rule says of itself is true: the run that it names as violating it does, and the one
//! that it names as close does not.

use crate::common::{Rig, config, scenario};
use serde_json::Value;
use stalemate::arch::addr::Gpa;
use stalemate::arch::cr3::ROOT_MASK;
use stalemate::arch::happened::Happened;
use stalemate::arch::tlb::Fill;
use stalemate::arch::walk::entry::PRESENT;
use stalemate::event::{Announcement, Kind, TaskId};
use stalemate::executor::Backend;
use stalemate::fuzz::correct_policies;
use stalemate::oracle::{Deadline, Discharger, Oracle, RuleId, State, rules};
use stalemate::runner::Outcome;
use stalemate::scenario::{Policy, RunConfig};
use stalemate::schedule::Schedule;
use stalemate_shared::variant::Variant;
use std::sync::Arc;

/// The runs that `stalemate run` makes of these arguments.
fn runs(arguments: &str) -> Vec<Value> {
    let mut command = crate::common::command(&["run", "--executor", "interp", "--format", "json"]);
    let output = command.args(crate::common::words(arguments)).output().expect("the program runs");
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{arguments}: {}", String::from_utf8_lossy(&output.stderr)));
    report["runs"].as_array().expect("runs").clone()
}

/// Whether the rule spoke in this run, or counted where it is about costs.
fn speaks(run: &Value, rule: &str) -> bool {
    match rule {
        "big-hammer" => run["big_hammers"] != 0,
        "needless-flush" => run["needless_flushes"] != 0,
        _ => {
            let violations = run["violations"].as_array().expect("violations");
            violations.iter().any(|violation| violation["rule"] == rule)
        }
    }
}

#[test]
fn the_run_that_a_rule_names_violates_it() {
    for rule in rules::abouts().filter(|rule| !rule.is_of_audits()) {
        let runs = runs(rule.violated_by);
        assert!(runs.iter().any(|run| speaks(run, rule.name)), "{}", rule.violated_by);
    }
}

#[test]
fn the_run_that_comes_close_does_not() {
    for rule in rules::abouts().filter(|rule| !rule.is_of_audits()) {
        for run in runs(rule.near_miss) {
            assert!(!speaks(&run, rule.name), "{}", rule.near_miss);
            assert_eq!(run["outcome"], "clean", "{}: {}", rule.name, rule.near_miss);
            let owed = run["obligations"].as_array().expect("obligations");
            assert!(!owed.is_empty(), "{}: nothing was stale", rule.near_miss);
        }
    }
}

/// A page whose frame is given back while CPU 1, which has read it, is in `state`.
fn freed_beside(state: &str) -> Arc<stalemate::scenario::Scenario> {
    let steps = format!(
        "A map u0 red\nA user read u0 -> red\ncpu1 A user read u0 -> red\ncpu1 {state}\n\
         cpu0 A unmap_range u0..u0\ncpu1 A user read u0 -> fault"
    );
    scenario(&steps)
}

#[test]
fn a_lazy_cpu_may_keep_a_freed_page_but_not_one_that_runs_user_code() {
    let rig = Rig::new(Backend::interp());
    let lazy = freed_beside("lazy");
    for policy in correct_policies() {
        let config = RunConfig { cpus: 2, ..config("pcid", policy, true) };
        let result = rig.run(&lazy, config, &[]);
        assert_eq!(result.outcome, Outcome::Clean, "{policy:?}: {:?}", result.violations);
        assert!(!result.obligations.is_empty());
    }
    let busy = freed_beside("user nop");
    let variant = Some(Variant::UserFlushIsLocal);
    let config = RunConfig { cpus: 2, variant, ..config("pcid", Policy::Split, true) };
    let result = rig.run(&busy, config, &[]);
    let rules: Vec<RuleId> = result.violations.iter().map(|violation| violation.rule).collect();
    assert!(rules.contains(&RuleId(&rules::reuse_before_flush::ABOUT)), "{rules:?}");
}

#[test]
fn a_cpu_that_was_lazy_flushes_before_it_goes_on_in_the_kernel() {
    let rig = Rig::new(Backend::interp());
    let steps = scenario(
        "map u0 red\nuser read u0 -> red\ncpu1 user read u0 -> red\ncpu1 lazy\n\
         cpu0 remap u0 blue\ncpu0 flush_tlb_one_user u0\ncpu1 kernel read u0",
    );
    let right = RunConfig { cpus: 2, ..config("pcid", Policy::Split, true) };
    assert_eq!(rig.run(&steps, right, &[]).outcome, Outcome::Clean);
    let wrong = RunConfig { variant: Some(Variant::LazyDoesNotCatchUp), ..right };
    let result = rig.run(&steps, wrong, &[]);
    assert_eq!(crate::common::rules(&result), ["stale-remote-entry"]);
    let deadline = result.violations[0].deadline;
    assert!(matches!(deadline, Some(Deadline::TaskOver { .. })), "{deadline:?}");
}

/// A D bit that a processor sets again makes right what was cached with it.
#[test]
fn what_is_set_again_is_owed_no_longer() {
    let rig = Rig::new(Backend::interp());
    let steps = scenario(
        "map u0 red\nuser write u0 1\ncpu1 B user nop\ncpu0 A make_clean u0 until primitive\n\
         cpu1 A user write u0 2\ncpu0 resume\ncpu0 A user read u0 -> 2",
    );
    let config = RunConfig { cpus: 2, ..config("nopcid", Policy::Split, false) };
    let result = rig.run(&steps, config, &["drop invlpg#1"]);
    assert_eq!(crate::common::rules(&result), [""; 0], "{:?}", result.violations);
    let restored = |owed: &&stalemate::oracle::Obligation| {
        matches!(owed.state, State::Discharged { by: Discharger::Restored, .. })
    };
    assert!(result.obligations.iter().any(|owed| restored(&owed)), "{:?}", result.obligations);
}

#[test]
fn a_frame_that_another_page_maps_is_not_given_back() {
    let rig = Rig::new(Backend::interp());
    for edit in ["unmap_range u0..u0", "migrate u0 blue"] {
        for other in ["A map u1 red", "B map u1 red", "A fork B"] {
            let steps =
                scenario(&format!("A map u0 red\n{other}\nA user read u0 -> red\nA {edit}"));
            let result = rig.run(&steps, config("pcid", Policy::Split, true), &[]);
            assert_eq!(result.outcome, Outcome::Clean, "{edit}, {other}: {:?}", result.violations);
        }
        let steps = scenario(&format!("map u0 red\nuser read u0 -> red\n{edit}\nfree red"));
        let result = rig.run(&steps, config("pcid", Policy::Split, true), &[]);
        assert_eq!(result.outcome, Outcome::Clean, "{edit}: {:?}", result.violations);
    }
}

#[test]
fn what_a_walk_still_reaches_is_not_given_back_although_no_tlb_holds_it() {
    let rig = Rig::new(Backend::interp());
    let steps = scenario(
        "A map u0 red\nA user read u0 -> red\nB map u1 blue\nB user read u1 -> blue\n\
         B unmap_range u1..u1",
    );
    let config = config("pcid", Policy::Split, true);
    let (result, mut trace) = rig.record(&steps, config, &[]);
    assert_eq!(result.outcome, Outcome::Clean, "{:?}", result.violations);
    // The guest checks that nobody maps what it gives back, so the trace is made to say otherwise.
    let mut stores = trace.events.iter().filter_map(|event| match event.happened() {
        Some(Happened::TableStore { new, .. }) if new & PRESENT != 0 => Some(Gpa(new & ROOT_MASK)),
        _ => None,
    });
    let red = stores.next().expect("the first store is the page's, as its tables are there");
    let given_back = trace.events.iter_mut().find_map(|event| match &mut event.kind {
        Kind::Announced { announcements, .. } => match announcements.first_mut() {
            Some(Announcement::FrameFreed(frame)) => Some(frame),
            _ => None,
        },
        _ => None,
    });
    *given_back.expect("the frame of u1") = red;
    let mut oracle = Oracle::default();
    trace.replay(&mut oracle);
    let [violation] = oracle.violations() else { panic!("{:?}", oracle.violations()) };
    assert_eq!(violation.rule, RuleId(&rules::reuse_before_flush::ABOUT));
    assert!(violation.message.contains("while a walk of root"), "{}", violation.message);
}

#[test]
fn a_witness_names_the_paging_structure_entry_and_the_marks_that_missed() {
    let rig = Rig::new(Backend::interp());
    // What was cached of the page itself is gone; the entry that leads to its table is not.
    let steps = scenario("map v0 red\nmap v1 blue\nuser read v0 -> red\nuser nop\nfree_table v0");
    let forgets = RunConfig {
        variant: Some(Variant::TableNotFlushed),
        fill: Fill::OnDemand,
        ..config("pcid", Policy::Split, false)
    };
    let result = rig.run(&steps, forgets, &["evict v0@step#5"]);
    let of_structure = result.violations.iter().find(|found| found.structure.is_some());
    let found = of_structure.unwrap_or_else(|| panic!("{:?}", result.violations));
    assert!(found.entry.is_none() && found.walk.is_some(), "{found:?}");
    let steps = stalemate::scenario::suite().expect("scenarios");
    let mark =
        steps.iter().find(|one| one.name == "user-flush-on-next-return").expect("a scenario");
    let result = rig.run(mark, config("pcid", Policy::Split, true), &["alter mark-asid#1"]);
    let missed = result.violations.iter().flat_map(|violation| &violation.missed);
    let marks: Vec<_> = missed.filter(|missed| missed.what.starts_with("mark")).collect();
    assert_eq!(marks.first().map(|mark| &*mark.what), Some("mark for PCID 0x802"), "{marks:?}");
    assert_eq!(marks[0].why, "the entry is tagged PCID 0x801");
}

/// A CPU that answers while its own step is over does what another one's step asks for.
#[test]
fn what_is_done_for_another_cpu_is_of_the_step_that_asks() {
    let rig = Rig::new(Backend::interp());
    let steps = scenario(
        "map u0 red\ncpu1 user read u0 -> red\ncpu0 remap u0 blue\ncpu0 flush_tlb_one_user u0",
    );
    let config = RunConfig { cpus: 2, ..config("pcid", Policy::Split, true) };
    let result = rig.run(&steps, config, &["early ack"]);
    assert_eq!(crate::common::rules(&result), ["stale-remote-entry"]);
    assert_eq!(result.violations[0].task, Some(TaskId(3)), "{:?}", result.violations[0]);
}

/// A fault that is due on one CPU waits for that CPU, whichever preempts it.
#[test]
fn what_a_fault_has_to_do_is_done_by_its_cpu() {
    let rig = Rig::new(Backend::interp());
    let steps = scenario(
        "A map u0 red\ncpu1 A user read u0 -> red\ncpu2 A user read u0 -> red\n\
         cpu0 remap u0 blue\ncpu0 flush_tlb_one_user u0\ncpu0 user read u0 -> blue",
    );
    let mut acknowledged = 0;
    for seed in 0..40 {
        let schedule = Schedule::Events(seed);
        let config = RunConfig { cpus: 3, schedule, ..config("pcid", Policy::Split, true) };
        let (_, trace) = rig.record(&steps, config, &["early ack"]);
        for event in trace.events.iter().filter(|event| event.injected) {
            for said in event.announcements() {
                let Announcement::Acknowledged { by, .. } = *said else { continue };
                assert_eq!(by, event.cpu, "seed {seed}: {event:?}");
                acknowledged += 1;
            }
        }
    }
    assert!(acknowledged >= 40, "{acknowledged}");
}

/// What is cached of a page that was unmapped may wait for the batched flush, but not once the page is
/// mapped anew.
#[test]
fn a_page_that_is_mapped_anew_is_owed_its_flush_at_once() {
    let rig = Rig::new(Backend::interp());
    let before = "map u0 red\nuser read u0 -> red\ncpu1 user read u0 -> red\n\
                  cpu0 unmap_batched u0\ncpu0 map u0 blue";
    let after = "cpu0 user nop\ncpu0 flush_tlb_batched";
    let config = RunConfig { cpus: 2, ..config("pcid", Policy::Split, true) };
    let rules = |flush: &str| {
        let steps = scenario(&format!("{before}\n{flush}\n{after}"));
        crate::common::rules(&rig.run(&steps, config, &[]))
    };
    assert_eq!(rules(""), ["never-flushed"]);
    for flush in ["cpu0 flush_tlb_one_user u0", "cpu0 flush_tlb_batched"] {
        assert_eq!(rules(flush), [""; 0], "{flush}");
    }
}

/// Each operation that empties more than a page is a big hammer, and a flush that takes two of them
/// is two: PGE is cleared and set again, other slots are marked and CR3 is loaded.
#[test]
fn every_way_to_flush_everything_is_a_big_hammer() {
    let rig = Rig::new(Backend::interp());
    let flushed = scenario(
        "map u0 red\nuser read u0 -> red\nremap u0 blue\nflush_tlb_all\nuser read u0 -> blue",
    );
    let by_cpu = [("pcid-invpcid", 1), ("pcid", 2), ("pcid-nopge", 2), ("nopcid-nopge", 1)];
    for (cpu, hammers) in by_cpu {
        let result = rig.run(&flushed, config(cpu, Policy::Split, true), &[]);
        assert_eq!(result.hammers.count, hammers, "{cpu}");
    }
}

/// What user mode reads through an entry that was cached late, through a stale paging-structure
/// entry, some rule speaks of: whichever of the shootdown's invalidations is lost.
#[test]
fn what_is_cached_late_is_owed() {
    let rig = Rig::new(Backend::interp());
    let steps = scenario(
        "map v0 red\nmap v1 blue\ncpu1 A user read v0 -> red\n\
         cpu0 A free_table v0 until table-store\ncpu1 A user read v1 -> blue\ncpu0 resume\n\
         cpu1 A user read v1 -> fault",
    );
    for fill in [Fill::OnDemand, Fill::WorstCase, Fill::LazyA] {
        let config = RunConfig { cpus: 2, fill, ..config("pcid", Policy::Split, false) };
        let read = (1..=8).filter(|lost| {
            let result = rig.run(&steps, config, &[&format!("drop invlpg#{lost}")]);
            let read = result.mismatches.iter().any(|wrong| wrong.step == 6);
            let rules = crate::common::rules(&result);
            assert!(!read || rules == ["stale-remote-entry"], "{fill:?} #{lost}: {rules:?}");
            read
        });
        assert_eq!(read.count(), 1, "{fill:?}: one of them keeps the entry");
    }
}

/// Whoever maps a page anew owes what is still cached of it, whichever CPU that is and whether the flush
/// was deferred or forgotten; but one whose task is still at work on the page may be about to flush.
#[test]
fn who_maps_a_page_anew_owes_its_flush() {
    let rig = Rig::new(Backend::interp());
    let config = RunConfig { cpus: 3, ..config("pcid", Policy::Split, false) };
    let rules = |steps: &str| {
        let before = "map u0 red\ncpu1 user write u0 1\ncpu0 user nop\n";
        crate::common::rules(&rig.run(&scenario(&format!("{before}{steps}")), config, &[]))
    };
    for mapper in 0..3 {
        for unmap in ["unmap", "unmap_batched"] {
            let anew = format!("cpu0 {unmap} u0\ncpu{mapper} map u0 blue\n");
            let last = "cpu0 flush_tlb_one_user u0";
            let owed = rules(&format!("{anew}cpu{mapper} user nop\n{last}"));
            assert!(
                owed.iter().any(|rule| rule == "never-flushed"),
                "cpu{mapper} after {unmap}: {owed:?}"
            );
            let flushed =
                format!("{anew}cpu{mapper} flush_tlb_one_user u0\ncpu{mapper} user nop\n{last}");
            assert!(rules(&flushed).is_empty(), "cpu{mapper} after {unmap}: {:?}", rules(&flushed));
        }
    }
    let at_work = "cpu0 unmap u0 until table-store\ncpu2 map u0 blue\ncpu2 user nop\ncpu0 resume\n\
                   cpu0 flush_tlb_one_user u0\ncpu1 user nop";
    assert!(rules(at_work).is_empty(), "{:?}", rules(at_work));
}

/// A CPU that ceases to be lazy while it is asked may be left out, wherever it is on its way, and the
/// flush wherever on its own: it catches up. One that does not is caught at each of these moments.
#[test]
fn a_cpu_that_was_lazy_when_it_was_left_out_owes_when_it_goes_on() {
    let rig = Rig::new(Backend::interp());
    let base = config("pcid", Policy::Split, true);
    let steps = |flusher: usize, lazy: usize| {
        scenario(&format!(
            "A map u0 red\nA user read u0 -> red\ncpu1 A user read u0 -> red\ncpu1 lazy\n\
             cpu0 A remap u0 blue\ncpu0 A flush_tlb_one_user u0 until instruction#{flusher}\n\
             cpu1 A user read u0 until instruction#{lazy}\ncpu0 resume\ncpu1 resume\n\
             cpu1 A user read u0 -> blue"
        ))
    };
    let (mut runs, mut caught) = (0, 0);
    for flusher in (20..400).step_by(25) {
        for lazy in (20..200).step_by(25) {
            let config = RunConfig { cpus: 2, ..base };
            let result = rig.run(&steps(flusher, lazy), config, &[]);
            assert_eq!(
                result.outcome,
                Outcome::Clean,
                "{flusher}, {lazy}: {:?}",
                result.violations
            );
            let config = RunConfig { variant: Some(Variant::LazyDoesNotCatchUp), ..config };
            let result = rig.run(&steps(flusher, lazy), config, &[]);
            caught += usize::from(!result.violations.is_empty());
            runs += 1;
        }
    }
    assert!(caught * 3 > runs, "{caught} of {runs}");
}

/// Kernel addresses may wait for their flush until they are used again, and their frames go before: who
/// maps them anew owes it, on every CPU, or where each CPU uses them for itself on its own.
#[test]
fn kernel_addresses_are_owed_their_flush_before_they_are_used_again() {
    let rig = Rig::new(Backend::interp());
    let config = RunConfig { cpus: 2, ..config("pcid", Policy::Split, false) };
    let before = "map k0 red\ncpu1 kernel read k0 -> red\ncpu0 kernel read k0 -> red\n";
    let rules = |steps: &str| {
        crate::common::rules(&rig.run(&scenario(&format!("{before}{steps}")), config, &[]))
    };
    for (steps, wanted) in [
        ("cpu0 unmap k0\ncpu0 free red\nuser nop", &["never-flushed", "reuse-before-flush"][..]),
        ("cpu0 unmap_lazily k0\ncpu0 free red\nuser nop\ncpu1 user nop", &[]),
        ("cpu0 unmap_lazily k0\ncpu1 map k0 blue\ncpu1 user nop", &["never-flushed"]),
        (
            "cpu0 unmap_lazily k0\ncpu1 flush_tlb_one_kernel k0\ncpu1 map k0 blue\ncpu1 user nop",
            &[],
        ),
        (
            "cpu0 unmap_lazily k0\ncpu1 map k0 blue\ncpu1 flush_tlb_one_kernel k0\ncpu1 user nop",
            &[],
        ),
        (
            "cpu0 unmap_lazily k0\ncpu1 map k0 blue\ncpu1 flush_tlb_one_kernel_here k0\ncpu1 user nop",
            &["never-flushed"],
        ),
        (
            "cpu0 unmap_lazily k0 here\ncpu1 map k0 blue\ncpu1 flush_tlb_one_kernel_here k0\n\
             cpu1 user nop\ncpu0 user nop",
            &[],
        ),
        ("cpu0 unmap_lazily k0 here\ncpu1 map k0 blue\ncpu1 user nop", &["never-flushed"]),
    ] {
        assert_eq!(rules(steps), wanted, "{steps}");
    }
}
