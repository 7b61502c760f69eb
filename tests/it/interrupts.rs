//! Interrupts at every instruction boundary, from snapshots of the whole machine.

use crate::common::{Rig, builtin, config, rigs, rules};
use object::{Object, ObjectSymbol};
use stalemate::arch::op::decode;
use stalemate::executor::Backend;
use stalemate::runner::{Outcome, RunResult, SweepResult};
use stalemate::scenario::{Policy, RunConfig};

fn swept(result: &RunResult) -> &SweepResult {
    result.sweep.as_ref().expect("a sweep was asked for")
}

fn nmi_flush() -> RunConfig {
    RunConfig { nmi_flush: true, ..config("pcid", Policy::Split, true) }
}

/// The instruction after the test of the mark in `enter_user`, and the CR3 load.
fn window() -> (u64, u64) {
    let image = crate::common::guest_image();
    let file = object::File::parse(&image[..]).expect("an ELF file");
    let address = |name: &str| {
        let found = file.symbols().find(|symbol| symbol.name() == Ok(name));
        found.unwrap_or_else(|| panic!("no symbol {name}")).address()
    };
    let (start, load) = (address("enter_user"), address("cr3_return"));
    let section = file.section_by_name(".trampoline.text").expect("it is there");
    let text = object::ObjectSection::data(&section).expect("its bytes");
    let base = object::ObjectSection::address(&section);
    let mut at = start;
    loop {
        let instruction = decode(&text[(at - base) as usize..], at);
        at = instruction.next_ip();
        assert!(at <= load, "no test of the mark before the load");
        if instruction.mnemonic() == iced_x86::Mnemonic::Bt {
            return (at, load);
        }
    }
}

#[test]
fn split_is_clean_with_an_nmi_or_an_interrupt_before_any_instruction() {
    let rig = Rig::new(Backend::interp());
    for fault in ["nmi@each", "irq@each"] {
        for name in ["nmi-window", "mark-consumed"] {
            let config = config("pcid", Policy::Split, true);
            let result = rig.run(&builtin(name), config, &[fault]);
            let sweep = swept(&result);
            assert_eq!(result.outcome, Outcome::Clean, "{name} {fault}: {:?}", sweep.failing);
            assert!(sweep.swept.tried > 1_000 && !sweep.swept.cut_short, "{:?}", sweep.swept);
        }
    }
}

#[test]
fn an_nmi_that_marks_fails_from_the_test_of_the_mark_to_the_cr3_load_and_nowhere_else() {
    let rig = Rig::new(Backend::interp());
    let result = rig.run(&builtin("nmi-flush"), nmi_flush(), &["nmi@each"]);
    assert_eq!(rules(&result), ["stale-user-entry"]);
    let failing = &swept(&result).failing;
    assert_eq!(failing.len(), 1, "{failing:?}");
    assert_eq!((failing[0].first.0, failing[0].last.0), window());
    assert_eq!(failing[0].step, 5);
}

/// A CPU that was lazy flushes by a hop to its user CR3, outside of any primitive; an NMI there comes
/// back to the kernel PCID that was in use before.
#[test]
fn an_nmi_in_the_hop_of_a_cpu_that_was_lazy_passes_no_deadline() {
    let rig = Rig::new(Backend::interp());
    let steps = crate::common::scenario(
        "map u0 red\nuser read u0 -> red\ncpu1 user read u0 -> red\ncpu1 lazy\n\
         cpu0 remap u0 blue\ncpu0 flush_tlb_one_user u0\ncpu1 user read u0 -> blue",
    );
    for policy in [Policy::Eager, Policy::Joined] {
        let config = RunConfig { cpus: 2, ..config("pcid", policy, true) };
        let result = rig.run(&steps, config, &["nmi@each"]);
        assert_eq!(result.outcome, Outcome::Clean, "{policy}: {:?}", swept(&result).failing);
        assert!(swept(&result).swept.tried > 1_000);
    }
}

#[test]
fn every_executor_finds_the_window() {
    for rig in rigs() {
        let result = rig.run(&builtin("nmi-flush"), nmi_flush(), &["nmi@each#6"]);
        let sweep = swept(&result);
        assert!(!sweep.swept.cut_short, "{:?} on {}", sweep.swept, rig.backend.name());
        let failing = &sweep.failing;
        assert_eq!(failing.len(), 1, "{failing:?}");
        assert_eq!((failing[0].first.0, failing[0].last.0), window());
    }
}

#[test]
fn a_run_that_was_left_at_every_boundary_goes_on_as_if_it_never_was() {
    for rig in rigs() {
        let scenario = builtin("user-flush-on-next-return");
        let config = config("pcid", Policy::Split, true);
        let (_, plain) = rig.record(&scenario, config, &[]);
        let (_, with_branches) = rig.record(&scenario, config, &["nmi@each#4..5"]);
        assert!(with_branches.events.len() > plain.events.len());
        assert_eq!(plain.events[..], with_branches.events[..plain.events.len()]);
    }
}

#[test]
fn a_sweep_that_meets_no_boundary_or_is_never_delivered_is_not_applied() {
    let rig = Rig::new(Backend::interp());
    let config = config("pcid", Policy::Split, true);
    let run = |name: &str, faults: &[&str]| rig.run(&builtin(name), config, faults);
    for faults in [&["nmi@each#99"][..], &["nmi@each#5", "irq@each#5"]] {
        let result = run("nmi-window", faults);
        assert_eq!(result.outcome, Outcome::NotApplied, "{faults:?}");
        assert_eq!(result.not_fired.len(), 1);
    }
    let result = run("nmi-window", &["drop mark#1", "nmi@each#99"]);
    assert_eq!(rules(&result), ["stale-user-entry"], "a violation is not hidden");
    // Interrupts are on in user mode only, and a run without it keeps them off to its end.
    let kernel = crate::common::scenario("map k0 red\nkernel read k0 -> red");
    let result = rig.run(&kernel, config, &["irq@each"]);
    assert_eq!(result.outcome, Outcome::NotApplied);
    assert_eq!(swept(&result).swept.undelivered, swept(&result).swept.tried);
}

#[test]
fn what_is_beyond_the_executors_limit_is_skipped_and_said_to_be() {
    let rig = Rig::new(Backend::interp());
    let run = builtin("nmi-flush").run(nmi_flush(), &["nmi@each#6".parse().expect("a fault")]);
    let mut runner = rig.runner();
    runner.limit_boundaries(10);
    let result = runner.run(&run, None).expect("it runs");
    let sweep = swept(&result);
    assert_eq!((sweep.swept.tried, sweep.swept.cut_short), (10, true));
    assert!(sweep.failing.is_empty(), "the window lies beyond");
    assert_eq!((result.outcome, result.as_expected), (Outcome::CutShort, false));
}
