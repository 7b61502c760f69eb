//! The built-in suite, a trial for each scenario and executor.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use libtest_mimic::{Arguments, Failed, Trial};
use stalemate::executor::Backend;
use stalemate::scenario::{self, CPUS, Scenario, Selection};
use std::sync::Arc;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let scenarios = || scenario::suite().unwrap_or_else(|error| panic!("{error}"));
    let reason = common::kvm().err();
    let on_kvm = scenarios().into_iter().map(|scenario| {
        let kind = reason.clone().unwrap_or_else(|| "kvm".to_owned());
        let name = scenario.name.clone();
        Trial::test(name, move || check(&scenario, common::kvm()?))
            .with_kind(kind)
            .with_ignored_flag(reason.is_some())
    });
    let interpreted = scenarios().into_iter().map(|scenario| {
        let name = scenario.name.clone();
        Trial::test(name, move || check(&scenario, Backend::interp())).with_kind("interp")
    });
    libtest_mimic::run(&arguments, on_kvm.chain(interpreted).collect()).exit_code()
}

fn check(scenario: &Arc<Scenario>, backend: Backend) -> Result<(), Failed> {
    let rig = common::Rig::new(backend);
    let cpus: Vec<_> = CPUS.into_iter().filter(|cpu| cpu.default).collect();
    let selection = Selection::of(&cpus);
    let mut wrong = Vec::new();
    for run in scenario.runs(&selection) {
        let faults: Vec<String> = run.faults.iter().map(ToString::to_string).collect();
        let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
        let result = rig.judge(&run);
        if !result.as_expected {
            wrong.push(format!("{} {faults:?}: {}", run.config, result.outcome));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
