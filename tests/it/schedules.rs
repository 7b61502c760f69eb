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
            let seeds = 0..2;
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
                    let clean = match result.outcome {
                        Outcome::Clean | Outcome::Vacuous => true,
                        // What the file holds a CPU at another policy may not do.
                        Outcome::Unreached => !scenario.policy.contains(&policy),
                        _ => false,
                    };
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

/// The last event of CPU 0 before the step of CPU 1 that is done while it is held, and the first one
/// after.
fn held_at(rig: &Rig, cpu: &str, before: &str, step: &str, point: &str) -> [Event; 2] {
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
        event.cpu == CpuId(0) && !filled
    };
    let mut own = events.iter().filter(|event| own(&event));
    let next = |own: &mut dyn Iterator<Item = _>| own.next().expect("cpu0 did something");
    let last = next(&mut own.clone().rev().skip_while(|event: &&Event| event.seq > begin));
    let first = next(&mut own.by_ref().skip_while(|event: &&Event| event.seq < begin));
    let ends = |said: &Announcement| matches!(said, Announcement::TaskEnds { .. });
    assert!(!last.announcements().iter().any(ends), "{point}: cpu0 was not held");
    [last.clone(), first.clone()]
}

const FLUSH: &str = "A flush_tlb_one_user u0";

/// Whether the event is the one that the point is right after.
fn is_of(point: &str, event: &Event) -> bool {
    let happened = matches!(
        (point, event.happened()),
        ("table-store", Some(Happened::TableStore { .. }))
            | ("cr3", Some(Happened::LoadCr3 { .. }))
            | ("invlpg", Some(Happened::Invlpg { .. }))
            | ("invpcid", Some(Happened::Invpcid { .. }))
            | ("ipi", Some(Happened::Ipi { .. }))
            | ("interrupt", Some(Happened::Delivered { .. }))
            | ("user", Some(Happened::UserEntry))
    );
    let said = |said: &Announcement| {
        matches!(
            (point, said),
            ("start", Announcement::TaskBegins(_))
                | ("primitive", Announcement::FlushBegins { .. })
                | ("generation", Announcement::Generation { .. })
                | ("cpumask", Announcement::Member { .. })
                | ("switching", Announcement::Switching { .. })
                | ("loaded-mm", Announcement::Loaded { .. })
                | ("lazy", Announcement::Lazy { .. })
                | ("slot", Announcement::SlotOwner { .. } | Announcement::SlotFlushed { .. })
                | ("mark", Announcement::Marked { .. })
                | ("consume", Announcement::Unmarked { .. })
                | ("freed", Announcement::FrameFreed(_))
        )
    };
    happened || event.announcements().iter().any(said)
}

#[test]
fn a_cpu_is_held_right_after_its_event() {
    for backend in backends() {
        let rig = Rig::new(backend);
        for (point, cpu, before, step) in [
            ("start", "pcid", "", FLUSH),
            ("primitive", "pcid", "", FLUSH),
            ("table-store", "pcid", "", "A remap u0 blue"),
            ("generation", "pcid", "", FLUSH),
            ("cpumask", "pcid", "", "B switch_mm"),
            ("switching", "pcid", "", "B switch_mm"),
            ("loaded-mm", "pcid", "", "B switch_mm"),
            ("lazy", "pcid", "", "lazy"),
            ("slot", "pcid", "", "B switch_mm"),
            ("mark", "pcid", "", FLUSH),
            ("consume", "pcid", FLUSH, "A user nop"),
            ("cr3", "pcid", "", "A user nop"),
            ("invlpg", "pcid", "", FLUSH),
            ("invpcid", "pcid-invpcid", "", FLUSH),
            ("ipi", "pcid", "", FLUSH),
            ("interrupt", "pcid", "", "A user read u5 -> fault"),
            ("freed", "pcid", "A map v0 red", "A free_table v0"),
            ("user", "pcid", "", "A user nop"),
        ] {
            assert!(HOLD_POINTS.iter().any(|(name, ..)| *name == point));
            let [event, _] = held_at(&rig, cpu, before, step, point);
            assert!(is_of(point, &event), "{point}: held at {:?}", event.kind);
        }
    }
}

#[test]
fn a_cpu_is_held_right_before_it_stores_a_word() {
    for backend in backends() {
        let rig = Rig::new(backend);
        for (point, before, step) in [
            ("table-store", "", "A remap u0 blue"),
            ("generation", "", FLUSH),
            ("cpumask", "", "B switch_mm"),
            ("switching", "", "B switch_mm"),
            ("loaded-mm", "", "B switch_mm"),
            ("lazy", "", "lazy"),
            ("slot", "", "B switch_mm"),
            ("mark", "", FLUSH),
            ("consume", FLUSH, "A user nop"),
        ] {
            let [last, first] = held_at(&rig, "pcid", before, step, &format!("before-{point}"));
            assert!(!is_of(point, &last), "{point}: held after {:?}", last.kind);
            assert!(is_of(point, &first), "{point}: held before {:?}", first.kind);
        }
    }
}

/// What a CPU has not read yet another one changes, and it is the new value that is read.
#[test]
fn a_cpu_is_held_right_before_it_reads_a_word() {
    let rigs = rigs();
    let config = RunConfig { cpus: 2, ..config("pcid", Policy::Split, true) };
    let run = |rig: &Rig, cpu1: &str, step: &str, until: &str| {
        let steps = format!(
            "A map u0 red\ncpu1 A user read u0 -> red\ncpu1 {cpu1}\ncpu0 A remap u0 blue\n\
             cpu0 {step} until {until}\ncpu1 A user nop\ncpu0 resume\ncpu0 A flush_tlb_mm"
        );
        let (result, trace) = rig.record(&scenario(&steps), config, &[]);
        assert!(result.unreached.is_empty(), "{step} until {until}");
        trace.events
    };
    // The mask is read with the rest of the address space's state, and once more when the generation
    // is raised; the CPU that flushes looks whether it is lazy itself, and then at the other one.
    for (cpu1, until, asks) in [
        ("B user nop", "reads-cpumask#2", true),
        ("B user nop", "invlpg", false),
        ("lazy", "reads-lazy#2", true),
        ("lazy", "reads-lazy#1", true),
        ("B user nop", "reads-loaded-mm", false),
    ] {
        let events = run(&rigs[0], cpu1, FLUSH, until);
        let mut flush = events.iter().skip_while(|event| !is_of("generation", event));
        let asked = flush.by_ref().take_while(|event| !returns(event));
        let asked = asked.filter(|event| is_of("ipi", event)).count() > 0;
        assert_eq!(asked, asks, "{until}");
        for rig in &rigs {
            assert_eq!(run(rig, cpu1, FLUSH, until), events, "{until}");
        }
    }
    for (step, until) in [("B switch_mm", "reads-generation"), ("A user nop", "reads-mark")] {
        let events = run(&rigs[0], "B user nop", step, until);
        for rig in &rigs {
            assert_eq!(run(rig, "B user nop", step, until), events, "{until}");
        }
    }
}

fn returns(event: &Event) -> bool {
    let returns = |said: &Announcement| matches!(said, Announcement::FlushReturns { .. });
    event.announcements().iter().any(returns)
}

/// A sweep in which the held CPU comes in finds each of two races in the scenario whose own hold
/// shows the other.
#[test]
fn a_held_cpu_comes_in_at_every_boundary() {
    let rig = Rig::new(Backend::interp());
    let at = |name: &str, variant: Option<Variant>, fault: &str| {
        let config = RunConfig { variant, cpus: 2, ..config("pcid", Policy::Split, false) };
        let result = rig.run(&builtin(name), config, &[fault]);
        let sweep = result.sweep.as_ref().expect("a sweep was asked for");
        let failing: usize = sweep.failing.iter().map(|failing| failing.boundaries).sum();
        (sweep.swept.tried, failing, result.outcome)
    };
    for (name, fault, other) in [
        ("generation-before-cpumask", "preempt@each#5", Variant::CpumaskBeforeGeneration),
        ("cpumask-before-generation", "preempt@each#6", Variant::GenerationBeforeCpumask),
    ] {
        let (tried, failing, outcome) = at(name, Some(other), fault);
        assert!(tried > 200, "{name}: {tried}");
        assert!(failing > 0 && failing < 50, "{name}: {failing}");
        assert_eq!(outcome, Outcome::Violation);
    }
    // Nobody is held in the first step.
    let (tried, failing, outcome) = at("generation-before-cpumask", None, "preempt@each#1");
    assert_eq!((tried, failing, outcome), (0, 0, Outcome::NotApplied));
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

/// Another CPU writes while a page is split, or merged: whatever the entry is then, D is in it.
#[test]
fn a_page_that_is_split_or_merged_keeps_its_d_bit() {
    const DIRTY: u64 = 1 << 6;
    let rig = Rig::new(Backend::interp());
    let config = RunConfig { cpus: 2, ..config("pcid", Policy::Split, false) };
    for (before, edit, last) in [("", "split h0", 5), ("cpu0 A split h0\n", "merge h0", 6)] {
        let mut reached = 0;
        for number in (1..4_000).step_by(97) {
            let steps = format!(
                "A map h0 red\n{before}cpu1 A user read h0 -> red\ncpu0 A user nop\n\
                 cpu0 A {edit} until instruction#{number}\ncpu1 A user write h0 1\n\
                 cpu0 resume\ncpu0 A user write h0 2"
            );
            let (result, trace) = rig.record(&scenario(&steps), config, &[]);
            // Where the page is not there for a moment the write faults.
            if !matches!(result.outcome, Outcome::Clean | Outcome::Vacuous) {
                continue;
            }
            reached += 1;
            let begins = |event: &Event| {
                event
                    .announcements()
                    .iter()
                    .any(|said| *said == Announcement::TaskBegins(TaskId(last + 1)))
            };
            let at = trace.events.iter().position(begins).expect("the last step");
            let sets = |event: &Event| match event.happened() {
                Some(Happened::AccessedDirty { old, new, .. }) => (old ^ new) & DIRTY != 0,
                _ => false,
            };
            assert!(!trace.events[at..].iter().any(sets), "{edit} until instruction {number}");
        }
        assert!(reached >= 2, "{edit}: {reached}");
    }
}

/// One that waits for a lock takes turns of some instructions with the one that has it, and traps in each.
#[test]
fn a_cpu_that_waits_long_for_a_slow_one_is_no_hang() {
    let rig = Rig::new(Backend::interp());
    let steps = scenario(
        "cpu0 map u0 white\ncpu0 map u1 magenta\ncpu1 unmap_range u0..u2 until ipi\n\
         cpu0 user read u3 -> fault\ncpu1 resume",
    );
    for seed in [44_951, 0, 1] {
        let schedule = Schedule::Instructions(seed);
        let config = RunConfig { cpus: 2, schedule, ..config("nopcid", Policy::Split, true) };
        let result = rig.run(&steps, config, &[]);
        assert_eq!(result.outcome, Outcome::Clean, "seed {seed}");
    }
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
