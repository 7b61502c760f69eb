//! Both executors give the same events; and a wrong one is noticed.

use crate::common::{Rig, builtin, config};
use stalemate::executor::Backend;
use stalemate::executor::interp::Flaw;
use stalemate::report::{self, Results};
use stalemate::runner::{crosscheck, crosscheck_all};
use stalemate::scenario::{self, CPUS, Policy, Run, Selection};

#[test]
fn the_whole_suite_gives_the_same_events_on_both() {
    let kvm = Rig::new(kvm_or_skip!());
    let interp = Rig::new(Backend::interp());
    let scenarios = scenario::suite().unwrap_or_else(|error| panic!("{error}"));
    let cpus: Vec<_> = CPUS.into_iter().filter(|cpu| cpu.default).collect();
    let selection = Selection::of(&cpus);
    let runs: Vec<Run> = scenarios.iter().flat_map(|one| one.runs(&selection)).collect();
    let mut runners = [kvm.runner(), interp.runner()];
    let done = crosscheck_all(&mut runners, &runs, &mut |_| {});
    let (results, differences) = done.expect("the hosts work");
    assert_eq!(results.len(), runs.len());
    assert!(differences.is_empty(), "{:?}", differences[0].sides);
}

#[test]
fn an_interpreter_that_is_wrong_differs_at_an_event_with_registers_and_instruction() {
    // No KVM is needed: the right interpreter stands for the processor.
    let rig = Rig::new(Backend::interp());
    let mut wrong = Rig::new(Backend::interp());
    #[allow(irrefutable_let_patterns, reason = "the only one without the `kvm` feature")]
    if let Backend::Interp { flaw, .. } = &mut wrong.backend {
        *flaw = Some(Flaw::BitOfBts);
    }
    let scenario = builtin("user-flush-on-next-return");
    let run = scenario.run(config("pcid", Policy::Split, true), &[]);
    let mut runners = [rig.runner(), wrong.runner()];
    let (result, found) = crosscheck(&mut runners, &run).expect("interpreters work");
    let found = found.expect("they differ");
    let [right, wrong] = &found.sides;
    assert_ne!(right.event, wrong.event);
    assert!(right.registers.is_some() && right.instruction.is_some(), "{right:?}");
    let results = Results {
        scenarios: &[scenario],
        results: &[result],
        differences: &[found],
        possible: 1,
        executors: &["kvm", "interp"],
        symbols: rig.guest.symbols(),
        guest: None,
        left_out: &[],
        skipped: &[],
    };
    let report = report::json(&results);
    assert_eq!(report["differences"][0]["sides"][1]["executor"], "interp");
    assert_eq!(crate::common::schema::errors(&report::schema(), &report), [""; 0]);
}
