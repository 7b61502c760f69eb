//! Random programs: legal, clean under every correct policy, the same every time, and small when
//! they catch something.

use crate::common::{stalemate, text};
use serde_json::Value;
use stalemate::arch::tlb::{FILLS, Fill};
use stalemate::event::Trace;
use stalemate::executor::{Backend, interp::Flaw};
use stalemate::fuzz::action::{Action, Frame, Verb};
use stalemate::fuzz::generate::{self, LENGTH, Program};
use stalemate::fuzz::model::{self, Illegal};
use stalemate::fuzz::report::{Report, Trouble};
use stalemate::fuzz::run::Rig;
use stalemate::fuzz::script::{self, Base};
use stalemate::fuzz::{Campaign, CrossCheck, correct_policies, first_failure, run, shrink};
use stalemate::kernel::steps::Guest;
use stalemate::oracle::{RuleId, rules};
use stalemate::runner::{Outcome, Runner};
use stalemate::scenario::{CPUS, Policy, RunConfig, parse};
use stalemate::schedule::{HOLD_POINTS, Hold, HoldPoint};
use std::collections::BTreeSet;
use std::sync::LazyLock;

fn guest() -> &'static Guest {
    static GUEST: LazyLock<Guest> = LazyLock::new(Guest::builtin);
    &GUEST
}

fn campaign<'a>(executor: &'a Backend, policies: &'a [Policy], count: u64) -> Campaign<'a> {
    Campaign {
        path: None,
        guest: guest(),
        seed: 1,
        first: 0,
        count,
        policies,
        variant: None,
        cpus: &CPUS,
        executor,
        cross_check: None,
        threads: 2,
    }
}

fn ran(campaign: &Campaign<'_>) -> Report {
    run(campaign, &|_| ()).expect("the host works")
}

/// Work with a rig of the interpreter.
fn on_the_interpreter<T>(work: impl FnOnce(&mut Rig<'_>, &Base) -> T) -> T {
    let backend = Backend::interp();
    let base = Base::new().expect("a scenario");
    work(&mut Rig::new(guest(), vec![&backend]), &base)
}

#[test]
fn every_program_is_legal_and_of_every_kind_there_are_some() {
    let mut kinds = BTreeSet::new();
    let (mut interrupted, mut spaces) = (0, BTreeSet::new());
    let (mut holds, mut held, mut open) = (BTreeSet::new(), BTreeSet::new(), 0);
    for number in 0..5000 {
        let program = generate::program(7, number);
        assert!(LENGTH.contains(&program.actions.len()), "program {number}");
        let lines = model::lines(&program.actions).expect("legal");
        for line in lines {
            let named = |word: &&str| word.len() > 1 && !word.starts_with("cpu");
            let words: Vec<&str> = line.split(' ').filter(named).collect();
            let verb = match words[0] {
                "user" | "kernel" => words[..2].join(" "),
                verb => verb.to_owned(),
            };
            if line.contains(" until ") {
                held.insert(verb.clone());
            }
            open += usize::from(line.contains('|'));
            kinds.insert(verb + if line.ends_with("fault") { " fault" } else { "" });
        }
        spaces.extend(program.actions.iter().map(|action| action.mm));
        let points = program.actions.iter().filter_map(|action| action.hold);
        holds.extend(points.map(|hold| (format!("{:?}", hold.point), hold.nth)));
        interrupted += usize::from(!program.faults.is_empty());
    }
    for kind in [
        "map",
        "remap",
        "unmap",
        "protect",
        "clean",
        "age",
        "flush_tlb_one_user",
        "flush_tlb_one_kernel",
        "flush_tlb_range",
        "flush_tlb_mm",
        "flush_tlb_all",
        "flush_tlb_kernel_range",
        "unmap_batched",
        "flush_tlb_batched",
        "fork",
        "split",
        "merge",
        "free_table",
        "move",
        "migrate",
        "write_protect",
        "make_clean",
        "unmap_range",
        "resume",
        "lazy",
        "leave_mm",
        "switch_mm",
        "user nop",
        "user read",
        "user read fault",
        "user write",
        "user write fault",
        "kernel read",
        "kernel read fault",
        "kernel write",
        "kernel write fault",
    ] {
        assert!(kinds.contains(kind), "no `{kind}` among {kinds:?}");
    }
    assert_eq!(spaces.len(), stalemate_shared::layout::MM_COUNT);
    assert!((400..1000).contains(&interrupted), "{interrupted}");
    // At the first such event of the step or at the second, and at any instruction.
    // Right before an access at any: there are many such points, and few programs for each.
    for (name, point, _) in HOLD_POINTS {
        let of = |nth| holds.contains(&(format!("{point:?}"), nth));
        let once = matches!(point, HoldPoint::Before(_) | HoldPoint::Reads(_));
        let any = once && (of(1) || of(2)) || point == HoldPoint::Instruction;
        assert!(any || of(1) && of(2), "{name}");
    }
    let instructions = holds.iter().filter(|(point, _)| point == "Instruction").count();
    assert!(instructions > 100, "{instructions}");
    // Accesses, edits, flushes and edits that flush.
    for verb in ["user read", "user write", "unmap", "flush_tlb_mm", "fork", "migrate", "move"] {
        assert!(held.contains(verb), "no `{verb}` among {held:?}");
    }
    assert!(open > 100, "{open}");
}

/// Where programs run is drawn too, and its seeds are as many as the programs.
#[test]
fn programs_run_on_every_fill_and_schedule_from_drawn_seeds() {
    let setups: Vec<_> = (0..5000).map(|number| generate::setup(7, number)).collect();
    for fill in FILLS.map(|(fill, ..)| fill) {
        for cpus in [1, 2] {
            let of = setups.iter().filter(|setup| (setup.fill, setup.cpus) == (fill, cpus));
            assert!(of.count() > 50, "{} on {cpus}", fill.name());
        }
    }
    let fills: BTreeSet<u64> = setups.iter().map(|setup| setup.seed).collect();
    assert!(fills.len() > 200, "{} seeds of fills", fills.len());
    for name in ["events", "instructions"] {
        let of = setups.iter().filter(|setup| setup.schedule.name() == name);
        let seeds: BTreeSet<_> = of.map(|setup| setup.schedule.seed()).collect();
        assert!(seeds.len() > 100, "{} seeds of {name}", seeds.len());
    }
}

/// A run is the same on a guest that served other seeds before as on one of its own.
#[test]
fn a_booted_guest_serves_every_seed_alike() {
    let base = Base::new().expect("a scenario");
    let backend = Backend::interp();
    let mut shared = Runner::new(guest(), &backend);
    let mut differ = 0;
    let seeded = |number: &u64| {
        let setup = generate::setup(7, *number);
        (setup.cpus, setup.fill) == (2, Fill::Seeded)
    };
    let mut last = None;
    for number in (0..2000).filter(seeded).take(12) {
        let program = generate::program(7, number);
        let scenario = base.scenario("fuzz", &program).expect("legal");
        let config = base.config(7, number, &CPUS[..1], Policy::Split, None).expect("it fits");
        let config = RunConfig { pti: true, ..config };
        let traced = |runner: &mut Runner, config| {
            let mut trace = Trace::default();
            runner.run(&script::run(&scenario, config, &[]), Some(&mut trace)).expect("it runs");
            trace
        };
        let here = traced(&mut shared, config);
        let alone = traced(&mut Runner::new(guest(), &backend), config);
        assert_eq!(here.header, alone.header, "program {number}");
        assert_eq!(here.events, alone.events, "program {number}");
        let other = RunConfig { seed: config.seed + 1, ..config };
        differ += usize::from(traced(&mut shared, other).events != here.events);
        assert_ne!(last.replace(config.seed), Some(config.seed));
    }
    assert!(differ > 6, "a seed makes a difference: {differ}");
}

#[test]
fn the_model_refuses_what_the_kernel_would_and_what_owes_a_flush() {
    let (u0, red) = (stalemate_shared::page::Page::User(0), frame());
    let of = |verbs: &[Verb]| -> Vec<Action> {
        verbs.iter().map(|&verb| Action { cpu: 0, mm: 0, verb, hold: None }).collect()
    };
    let map = Verb::Map(u0, red);
    for (verbs, expected) in [
        (&[Verb::Unmap(u0)][..], Err(Illegal::Refused)),
        (&[map, map], Err(Illegal::Refused)),
        (&[map, Verb::Unmap(u0)], Err(Illegal::Owing)),
        (&[map, Verb::Unmap(u0), Verb::Nop, Verb::FlushOne(u0)], Err(Illegal::Owing)),
        (&[map, Verb::Unmap(u0), Verb::FlushOne(u0), Verb::Nop], Ok(())),
        (&[map, Verb::Unmap(u0), map, Verb::FlushMm, Verb::Nop], Ok(())),
        (&[map, Verb::Age(u0), Verb::Nop], Ok(())),
    ] {
        assert_eq!(model::lines(&of(verbs)).map(|_| ()), expected, "{verbs:?}");
    }
}

/// What is illegal is so in every kernel; what a lock or a pending flush makes right is legal.
#[test]
fn the_model_refuses_nothing_that_a_kernel_may_do() {
    let [u0, u1, u2] = [0, 1, 2].map(stalemate_shared::page::Page::User);
    let of = |cpu, verb| Action { cpu, mm: 0, verb, hold: None };
    let other = |cpu, verb| Action { mm: 1, ..of(cpu, verb) };
    let map = |page| of(0, Verb::Map(page, frame()));
    let batch = of(0, Verb::UnmapBatched(u0));
    let [paid, done] = [Verb::FlushOne(u0), Verb::FlushBatched].map(|verb| of(0, verb));
    let unmap = of(0, Verb::Unmap(u0));
    for (actions, expected) in [
        // Another CPU goes on while this one is in the middle of an operation.
        (vec![map(u0), unmap, of(1, Verb::Nop), paid], Ok(())),
        (vec![map(u0), unmap, of(0, Verb::Nop), paid], Err(Illegal::Owing)),
        // What it reads there depends on what is cached.
        (vec![map(u0), unmap, of(1, Verb::Read(u0, true)), paid], Ok(())),
        // Whether it may store there, too; no step line says so.
        (vec![map(u0), unmap, of(1, Verb::Write(u0, true, 7)), paid], Err(Illegal::Refused)),
        // Who maps the page anew owes as well.
        (
            vec![map(u0), unmap, of(1, Verb::Map(u0, frame())), of(1, Verb::Nop), paid],
            Err(Illegal::Owing),
        ),
        // What is pending is found by whoever needs it, on any CPU.
        (
            vec![map(u0), batch, of(1, Verb::UnmapRange(u0, u0)), of(1, Verb::Map(u0, frame()))],
            Ok(()),
        ),
        (vec![map(u0), batch, of(1, Verb::Map(u0, frame())), done], Err(Illegal::Refused)),
        (vec![map(u0), map(u1), batch, of(1, Verb::Move(u1, u0))], Ok(())),
        // But not the contents of a frame that a batch has taken away, and not flushed.
        (vec![map(u0), map(u1), batch, of(1, Verb::Migrate(u1, 5)), done], Err(Illegal::Refused)),
        (vec![map(u0), batch, other(1, Verb::Map(u1, frame())), other(1, Verb::Fork(0))], Ok(())),
        (vec![map(u0), batch, of(1, Verb::FlushMm)], Ok(())),
        (vec![map(u0), batch, other(0, Verb::UnmapRange(u0, u0))], Err(Illegal::Owing)),
        // A frame that others show is not given back, and neither is one that a batch holds.
        (
            vec![map(u0), map(u1), of(1, Verb::UnmapRange(u0, u0)), of(0, Verb::Read(u1, true))],
            Ok(()),
        ),
        // One that the program's own edit has taken away, and not flushed, must not be.
        (
            vec![map(u0), map(u2), unmap, of(1, Verb::UnmapRange(u2, u2)), paid],
            Err(Illegal::Refused),
        ),
    ] {
        assert_eq!(model::lines(&actions).map(|_| ()), expected, "{actions:?}");
    }
}

#[test]
fn a_cpu_that_is_held_back_takes_no_step_until_it_goes_on() {
    let at = Hold { point: HoldPoint::Cr3, nth: 1 };
    let of = |cpu, verb, hold| Action { cpu, mm: 0, verb, hold };
    let held = of(1, Verb::Switch, Some(at));
    let [here, there] = [0, 1].map(|cpu| of(cpu, Verb::Nop, None));
    let resume = of(1, Verb::Resume, None);
    for (actions, expected) in [
        (vec![held, here, resume, there], Ok(())),
        (vec![held, there, resume], Err(Illegal::Refused)),
        (vec![held, of(0, Verb::Resume, None), resume], Err(Illegal::Refused)),
        (vec![resume], Err(Illegal::Refused)),
        (vec![held, here], Err(Illegal::Owing)),
    ] {
        assert_eq!(model::lines(&actions).map(|_| ()), expected, "{actions:?}");
    }
}

/// What is open while a CPU is held back, and what is settled when it goes on.
#[test]
fn what_depends_on_when_a_cpu_goes_on_is_one_of_several() {
    let [u0, u1] = [0, 1].map(stalemate_shared::page::Page::User);
    let at = Some(Hold { point: HoldPoint::Start, nth: 1 });
    let of = |cpu, verb| Action { cpu, mm: 0, verb, hold: None };
    let held = |verb| Action { hold: at, ..of(1, verb) };
    let [red, blue] = [0, 1].map(|colour| Frame::new(colour, true, false));
    let (map, read) = (of(0, Verb::Map(u0, red)), |cpu| of(cpu, Verb::Read(u0, true)));
    let (remap, paid) = (of(0, Verb::Remap(u0, blue)), of(0, Verb::FlushOne(u0)));
    let [resume, own] = [Verb::Resume, Verb::FlushOne(u0)].map(|verb| of(1, verb));
    let lines = |actions: &[Action]| model::lines(actions);
    for (actions, line, expected) in [
        // A load that is held back, while another CPU edits.
        (vec![map, held(Verb::Read(u0, true)), remap, paid, resume], 1, "red|blue"),
        // One after it, while nothing is flushed; and when all is.
        (vec![map, remap, read(1), paid], 2, "red|blue"),
        (vec![map, remap, paid, read(1)], 3, "blue"),
        // While another CPU is in the midst of an edit.
        (vec![map, held(Verb::Remap(u0, blue)), read(0), resume, own], 2, "red|blue"),
        (vec![map, held(Verb::UnmapRange(u0, u0)), read(0), resume], 2, "red|fault"),
        (vec![map, held(Verb::Migrate(u0, 1)), read(0), resume], 2, "red|blue|fault"),
        (vec![map, held(Verb::MakeClean(u0)), read(0), resume], 2, "red"),
        // In the midst of a flush, and when that is over.
        (vec![map, of(1, Verb::Unmap(u0)), held(own.verb), read(0), resume], 3, "red|fault"),
        (vec![map, of(1, Verb::Unmap(u0)), held(own.verb), resume, read(0)], 4, "fault"),
        // In the midst of a store.
        (vec![map, held(Verb::Write(u0, true, 7)), read(0), resume], 2, "0x7|red"),
        (vec![map, held(Verb::Write(u0, true, 7)), resume, read(0)], 3, "0x7"),
        (
            vec![
                map,
                held(Verb::Write(u0, true, 7)),
                of(0, Verb::Write(u0, true, 8)),
                resume,
                read(0),
            ],
            4,
            "0x7|0x8",
        ),
    ] {
        let lines = lines(&actions).unwrap_or_else(|error| panic!("{error:?}: {actions:?}"));
        let said = lines[line].split(" until").next().and_then(|line| line.split(" -> ").nth(1));
        let sorted = |all: &str| all.split('|').map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(said.map(sorted), Some(sorted(expected)), "{lines:?}");
    }
    for (actions, error) in [
        // Two edit one page at once.
        (vec![map, held(Verb::Remap(u0, blue)), of(0, Verb::Clean(u0))], Illegal::Refused),
        // One shows a frame that the other is about to free.
        (vec![map, held(Verb::UnmapRange(u0, u0)), of(0, Verb::Map(u1, red))], Illegal::Refused),
        // A flush that began before the edit, or while it was under way, is not of it.
        (vec![map, held(Verb::Unmap(u0)), paid, resume], Illegal::Owing),
        (
            vec![
                map,
                held(Verb::Unmap(u0)),
                Action { cpu: 2, hold: at, ..paid },
                resume,
                of(2, Verb::Resume),
            ],
            Illegal::Owing,
        ),
    ] {
        assert_eq!(lines(&actions).map(|_| ()), Err(error), "{actions:?}");
    }
}

fn frame() -> Frame {
    Frame::new(0, true, false)
}

#[test]
fn the_text_of_a_program_parses_to_the_same_steps() {
    let base = Base::new().expect("a scenario");
    for number in 0..500 {
        let program = generate::program(3, number);
        let config = base.config(3, number, &CPUS, Policy::Split, None).expect("a configuration");
        let direct = base.scenario("fuzz", &program).expect("legal");
        let text = script::text(&program, &config, "a test").expect("legal");
        let parsed = parse("fuzz", "fuzz.toml", &text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(parsed.steps, direct.steps, "{text}");
        let faults: Vec<_> = parsed.faults.iter().flat_map(|case| case.inject.clone()).collect();
        assert_eq!(faults, program.faults);
        let selection = stalemate::scenario::Selection::of(&[config.cpu]);
        assert!(parsed.configs(&selection).contains(&config), "{config} is not in {text}");
    }
}

#[test]
fn correct_policies_are_clean_and_something_was_stale() {
    let executor = Backend::interp();
    let policies = correct_policies();
    let report = ran(&campaign(&executor, &policies, 300));
    assert_eq!(report.failing, []);
    assert_eq!(report.programs, 300);
    for policy in policies {
        let of = report.tallies.iter().filter(|((of, _), _)| *of == policy);
        let tallies: Vec<_> = of.map(|(_, tally)| tally).collect();
        assert_eq!(tallies.len(), CPUS.len(), "{policy} ran on every CPU");
        assert_eq!(tallies.iter().map(|tally| tally.runs).sum::<u64>(), 300);
        let clean: u64 = tallies.iter().map(|tally| tally.outcome(Outcome::Clean)).sum();
        assert!(clean > 100, "{policy}: of 300 runs only {clean} had something stale");
    }
}

#[test]
fn unsplit_is_found_at_once_and_its_smallest_program_is_short() {
    let executor = Backend::interp();
    let report = ran(&campaign(&executor, &[Policy::Unsplit], 1000));
    let found = report.found.first().expect("unsplit is caught");
    assert!(report.programs <= 256, "{} programs", report.programs);
    assert_eq!(
        found.failing.trouble,
        Trouble::Outcome(Outcome::Violation, Some(RuleId(&rules::stale_other_asid::ABOUT)))
    );
    assert!(found.steps <= 8, "{}", found.text);
    for failing in &report.failing {
        let config = failing.config;
        assert!(config.cpu.features.pcid && !config.kernel_global(), "{config}");
    }
}

#[test]
fn first_failure_gives_a_scenario_that_fails_again() {
    let rig = crate::common::Rig::new(Backend::interp());
    let config = crate::common::config("pcid", Policy::Unsplit, true);
    let found = first_failure(&rig.guest, &rig.backend, &config, 5, 500).expect("the host works");
    let (number, scenario) = found.expect("unsplit is caught");
    assert!(number < 500);
    let cpus = scenario.cpus();
    let result = rig.run(&scenario, RunConfig { cpus, ..config }, &[]);
    assert!(crate::common::rules(&result).contains(&"stale-other-asid".to_owned()));
    let right = crate::common::config("nopcid", Policy::Unsplit, true);
    assert!(
        first_failure(&rig.guest, &rig.backend, &right, 5, 50).expect("the host works").is_none()
    );
}

#[test]
fn a_policy_that_forgets_is_found_and_the_smaller_program_fails_too() {
    on_the_interpreter(|rig, base| {
        let config = crate::common::config("pcid", Policy::Split, true);
        let forgets = ["drop mark".parse().expect("a fault")];
        let mut fails = |program: &Program| -> Result<bool, ()> {
            let scenario = base.scenario("fuzz", program).expect("legal");
            let run = script::run(&scenario, config, &forgets);
            let (trouble, _) = rig.run(&run).expect("the host works");
            let stale = RuleId(&rules::stale_user_entry::ABOUT);
            Ok(trouble == Some(Trouble::Outcome(Outcome::Violation, Some(stale))))
        };
        let programs = (0..500).map(|number| generate::program(1, number));
        let first = programs.into_iter().find(|program| fails(program) == Ok(true));
        let first = first.expect("a mark that is never made is missed");
        let small = shrink::shrink(&first, &mut fails).expect("no error");
        assert!(small.actions.len() <= 5, "{:?}", model::lines(&small.actions));
        assert_eq!(fails(&small), Ok(true));
        for at in 0..small.actions.len() {
            let mut less = small.clone();
            less.actions.remove(at);
            let still = model::lines(&less.actions).is_ok() && fails(&less) == Ok(true);
            assert!(!still, "step {at} could be left out");
        }
    });
}

#[test]
fn an_interpreter_that_is_wrong_differs_from_one_that_is_right() {
    let executor = Backend::interp();
    let Backend::Interp { limit, .. } = executor else { unreachable!("the interpreter") };
    let wrong = Backend::Interp { limit, flaw: Some(Flaw::BitOfBts) };
    let check = |executor| Some(CrossCheck { executor, one_in: 1 });
    let base = campaign(&executor, &[Policy::Split], 20);
    let right = ran(&Campaign { cross_check: check(&executor), ..base });
    assert_eq!((right.compared, right.failing), (20, Vec::new()));
    let report = ran(&Campaign { cross_check: check(&wrong), ..base });
    let found = report.found.first().expect("a difference");
    assert_eq!(found.failing.trouble, Trouble::Difference);
    assert!(found.steps < found.steps_before, "{}", found.text);
}

#[test]
fn two_runs_of_one_seed_print_the_same_bytes() {
    let arguments = ["fuzz", "--seed", "9", "--count", "300", "--executor", "interp"];
    let (first, second) = (stalemate(&arguments), stalemate(&arguments));
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stdout));
    assert_eq!(first.stdout, second.stdout);
    assert!(first.stderr.is_empty(), "nothing but the report outside a terminal");
    let other = stalemate(&["fuzz", "--seed", "10", "--count", "300", "--executor", "interp"]);
    assert_ne!(first.stdout, other.stdout);
}

#[test]
fn the_file_of_a_failure_replays_by_the_command_that_is_printed() {
    let directory = std::env::temp_dir().join(format!("stalemate-fuzz-{}", std::process::id()));
    let shown = directory.display().to_string();
    let arguments = [
        "fuzz",
        "--policy",
        "unsplit",
        "--executor",
        "interp",
        "--format",
        "json",
        "--out",
        &shown,
    ];
    let output = stalemate(&arguments);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let command = report["found"][0]["command"].as_str().expect("a command");
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    let replayed = stalemate(&[&words[..], &["--executor", "interp"]].concat());
    std::fs::remove_dir_all(directory).expect("it was written");
    assert_eq!(replayed.status.code(), Some(1), "{command}: {}", text(&replayed.stderr));
    let replayed = text(&replayed.stdout);
    assert!(replayed.contains("[stale-other-asid]: "), "{replayed}");
}

#[test]
fn the_json_report_follows_its_schema() {
    let schema: Value =
        serde_json::from_str(include_str!("../../docs/fuzz.schema.json")).expect("a schema");
    for policy in ["unsplit", "full"] {
        let arguments = [
            "fuzz",
            "--policy",
            policy,
            "--count",
            "100",
            "--executor",
            "interp",
            "--format",
            "json",
        ];
        let mut report: Value =
            serde_json::from_slice(&stalemate(&arguments).stdout).expect("JSON");
        let errors = crate::common::schema::errors(&schema, &report);
        assert!(errors.is_empty(), "{errors:?}");
        report["tallies"][0]["outcomes"]["fine"] = 1.into();
        assert!(
            !crate::common::schema::errors(&schema, &report).is_empty(),
            "the schema can refuse"
        );
    }
}

#[test]
fn what_cannot_be_is_told_by_exit_code_and_without_kvm_one_line_says_so() {
    for (arguments, code, says) in [
        (&["fuzz", "--policy", "joint"][..], 2, "possible values: split"),
        (&["fuzz", "--cpu", "pentium"], 2, "possible values: all, nopcid"),
        (&["fuzz", "--count", "many"], 2, "invalid digit"),
        (&["fuzz", "--executor", "kvm", "--kvm-device", "/nonexistent"], 3, "/nonexistent"),
    ] {
        let output = stalemate(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(text(&output.stderr).contains(says), "{}", text(&output.stderr));
    }
    let output = stalemate(&["fuzz", "--count", "10", "--kvm-device", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("SKIP kvm"), "{}", text(&output.stdout));
}

#[test]
fn one_program_in_so_many_runs_on_kvm_too_and_gives_the_same_events() {
    let kvm = kvm_or_skip!();
    let executor = Backend::interp();
    let policies = correct_policies();
    let cross_check = Some(CrossCheck { executor: &kvm, one_in: 20 });
    let cpus = &CPUS[..2];
    let report = ran(&Campaign { cross_check, cpus, ..campaign(&executor, &policies, 200) });
    assert_eq!(report.compared, 10);
    assert_eq!(report.failing, []);
}
