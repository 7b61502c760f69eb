//! Many CPUs: which runs when is a function of the scenario and the seed, on either executor.

use crate::common::{Rig, backends, builtin, config, rigs, scenario};
use stalemate::arch::addr::CpuId;
use stalemate::arch::happened::Happened;
use stalemate::event::{Announcement, Event, TaskId, Trace};
use stalemate::executor::Backend;
use stalemate::fuzz::correct_policies;
use stalemate::oracle::{RuleId, rules};
use stalemate::runner::Outcome;
use stalemate::scenario::{CPUS, CpuModel, Policy, Run, RunConfig, Scenario, Selection};
use stalemate::schedule::{HOLD_POINTS, Schedule};
use stalemate_shared::variant::Variant;
use std::collections::BTreeSet;
use std::sync::Arc;

fn with_many_cpus() -> Vec<Arc<Scenario>> {
    let all = stalemate::scenario::suite().unwrap_or_else(|error| panic!("{error}"));
    all.into_iter().filter(|scenario| scenario.cpus() > 1).collect()
}

#[test]
fn correct_policies_are_clean_however_cpus_come_in_between_each_other() {
    let rig = Rig::new(Backend::interp());
    let mut runner = rig.runner();
    let mut stale = 0;
    let scenarios = with_many_cpus();
    assert!(scenarios.len() >= 8);
    let named = |cpu: &CpuModel| matches!(cpu.name, "pcid" | "pcid-invpcid");
    let cpus: Vec<CpuModel> = CPUS.into_iter().filter(named).collect();
    for scenario in &scenarios {
        for policy in correct_policies() {
            let seeds = 0..3;
            let both = |seed| [Schedule::Events(seed), Schedule::Instructions(seed)];
            for schedule in seeds.flat_map(both) {
                let selection = Selection {
                    policy: Some(policy),
                    schedule: Some(schedule),
                    ..Selection::of(&cpus)
                };
                let right = |run: &Run| run.faults.is_empty() && run.config.variant.is_none();
                for run in scenario.runs(&selection).into_iter().filter(right) {
                    let result = runner.run(&run, None).expect("the host works");
                    let clean = matches!(result.outcome, Outcome::Clean | Outcome::Vacuous);
                    assert!(clean, "{} on {}: {}", scenario.name, run.config, result.outcome);
                    stale += result.obligations.len();
                }
            }
        }
    }
    assert!(stale > 1000, "{stale}");
}

fn of_seed(rig: &Rig, schedule: Schedule) -> Vec<Event> {
    let config = RunConfig { schedule, cpus: 2, ..config("pcid", Policy::Split, true) };
    rig.record(&builtin("two-shooters"), config, &[]).1.events
}

#[test]
fn a_seed_gives_the_same_events_on_every_executor_and_another_seed_others() {
    let rigs = rigs();
    for schedule in [Schedule::Events(0), Schedule::Instructions(0)] {
        let mut seen = BTreeSet::new();
        for seed in 0..5 {
            let schedule = schedule.from_seed(seed);
            let events = of_seed(&rigs[0], schedule);
            for rig in &rigs {
                assert_eq!(of_seed(rig, schedule), events, "{schedule:?}");
            }
            let cpus: Vec<u8> = events.iter().map(|event| event.cpu.0).collect();
            seen.insert(cpus);
        }
        assert!(seen.len() > 1, "{schedule:?}: seeds make a difference");
    }
}

/// The last event of CPU 0 before the step of CPU 1 that is done while it is held.
fn held_at(rig: &Rig, cpu: &str, before: &str, step: &str, point: &str) -> Event {
    let steps = format!(
        "A map u0 red\nB map u1 red\nA user read u0 -> red\ncpu1 A user read u0 -> red\n{before}\n\
         cpu0 {step} until {point}\ncpu1 user nop\ncpu0 resume"
    );
    let scenario = scenario(&steps);
    let config = RunConfig { cpus: 2, ..config(cpu, Policy::Split, true) };
    let (result, Trace { events, .. }) = rig.record(&scenario, config, &[]);
    assert!(result.mismatches.is_empty(), "{point}: {:?}", result.mismatches);
    let index = scenario.steps.len() - 2;
    let begins = |event: &&Event| {
        event.cpu == CpuId(1)
            && event.announcements().contains(&Announcement::TaskBegins(TaskId(index)))
    };
    let begin = events.iter().find(begins).expect("cpu1 had its step").seq;
    // What the TLB filled because of it follows it.
    let own = |event: &&&Event| {
        let filled = matches!(
            event.happened(),
            Some(Happened::AccessedDirty { .. } | Happened::Fill { .. })
        );
        event.cpu == CpuId(0) && event.seq < begin && !filled
    };
    let last = events.iter().rev().find(|event| own(&event)).expect("cpu0 did something");
    let ends = |said: &Announcement| matches!(said, Announcement::TaskEnds { .. });
    assert!(!last.announcements().iter().any(ends), "{point}: cpu0 was not held");
    last.clone()
}

#[test]
fn a_cpu_is_held_right_after_its_event() {
    let flush = "A flush_tlb_one_user u0";
    let happened = |point: &str, event: &Event| {
        matches!(
            (point, event.happened()),
            ("table-store", Some(Happened::TableStore { .. }))
                | ("cr3", Some(Happened::LoadCr3 { .. }))
                | ("invlpg", Some(Happened::Invlpg { .. }))
                | ("invpcid", Some(Happened::Invpcid { .. }))
                | ("ipi", Some(Happened::Ipi { .. }))
                | ("interrupt", Some(Happened::Delivered { .. }))
                | ("user", Some(Happened::UserEntry))
        )
    };
    let said = |point: &str, said: &Announcement| {
        matches!(
            (point, said),
            ("start", Announcement::TaskBegins(_))
                | ("primitive", Announcement::FlushBegins { .. })
                | ("generation", Announcement::Generation { .. })
                | ("cpumask", Announcement::Member { .. })
                | ("switching", Announcement::Switching { .. })
                | ("loaded-mm", Announcement::Loaded { .. })
                | ("slot", Announcement::SlotOwner { .. } | Announcement::SlotFlushed { .. })
                | ("mark", Announcement::Marked { .. })
                | ("consume", Announcement::Unmarked { .. })
                | ("freed", Announcement::FrameFreed(_))
        )
    };
    let is = |point: &str, event: &Event| {
        happened(point, event) || event.announcements().iter().any(|one| said(point, one))
    };
    for backend in backends() {
        let rig = Rig::new(backend);
        for (point, cpu, before, step) in [
            ("start", "pcid", "", flush),
            ("primitive", "pcid", "", flush),
            ("table-store", "pcid", "", "A remap u0 blue"),
            ("generation", "pcid", "", flush),
            ("cpumask", "pcid", "", "B switch_mm"),
            ("switching", "pcid", "", "B switch_mm"),
            ("loaded-mm", "pcid", "", "B switch_mm"),
            ("slot", "pcid", "", "B switch_mm"),
            ("mark", "pcid", "", flush),
            ("consume", "pcid", flush, "A user nop"),
            ("cr3", "pcid", "", "A user nop"),
            ("invlpg", "pcid", "", flush),
            ("invpcid", "pcid-invpcid", "", flush),
            ("ipi", "pcid", "", flush),
            ("interrupt", "pcid", "", "A user read u5 -> fault"),
            ("freed", "pcid", "A map v0 red", "A free_table v0"),
            ("user", "pcid", "", "A user nop"),
        ] {
            assert!(HOLD_POINTS.iter().any(|(name, ..)| *name == point));
            let event = held_at(&rig, cpu, before, step, point);
            assert!(is(point, &event), "{point}: held at {:?}", event.kind);
        }
    }
}

/// A D bit that a processor sets while the kernel edits the entry survives the edit, wherever the
/// other CPU comes in between; an edit that reads and writes back loses one, and `lost-dirty` says so
/// wherever it does.
#[test]
fn no_edit_of_a_present_entry_loses_a_d_bit() {
    const DIRTY: u64 = 1 << 6;
    let rig = Rig::new(Backend::interp());
    let lost = |variant: Option<Variant>| -> usize {
        let config = RunConfig { variant, cpus: 2, ..config("pcid", Policy::Split, false) };
        let rule = RuleId(&rules::lost_dirty::ABOUT);
        let loses = |number: &u32| {
            let steps = format!(
                "A map u0 red\ncpu1 A user read u0 -> red\ncpu0 A user nop\n\
                 cpu0 A write_protect u0 until instruction#{number}\ncpu1 A user write u0 1\n\
                 cpu0 resume"
            );
            let (result, trace) = rig.record(&scenario(&steps), config, &[]);
            let lost = trace.events.iter().any(|event| match event.happened() {
                Some(Happened::TableStore { old, new, .. }) => {
                    new & 1 != 0 && old & DIRTY != 0 && new & DIRTY == 0
                }
                _ => false,
            });
            assert_eq!(result.rules().contains(&rule), lost, "instruction {number}");
            lost
        };
        (1..150).filter(loses).count()
    };
    assert_eq!(lost(None), 0);
    assert!(lost(Some(Variant::PlainEdits)) > 0);
}

/// A hold point that no step comes by tests nothing of what the file means, and neither does letting go
/// on who was never held.
#[test]
fn an_until_that_is_never_reached_is_said_and_so_is_what_resumes_nobody() {
    let rig = Rig::new(Backend::interp());
    let run = |until: &str, cpus: usize| {
        let steps = scenario(&format!(
            "map u0 red\ncpu1 user read u0 -> red\ncpu0 remap u0 blue{until}\ncpu1 user nop\n\
             cpu0 resume\ncpu0 flush_tlb_one_user u0"
        ));
        let config = RunConfig { cpus: cpus as u8, ..config("pcid", Policy::Split, true) };
        rig.run(&steps, config, &[])
    };
    let reached = run(" until table-store", 2);
    assert_eq!((reached.outcome, reached.unreached.len()), (Outcome::Clean, 0));
    for until in [" until table-store#2", " until ipi", " until instruction#100000"] {
        let result = run(until, 2);
        assert_eq!(result.outcome, Outcome::Unreached, "{until}");
        assert_eq!(result.unreached, [2, 4], "the hold, and what would let it go on");
        assert!(!result.as_expected);
    }
}
