//! The built-in suite, a trial for each scenario, on KVM.
#![allow(missing_docs)]

mod common;

use libtest_mimic::{Arguments, Failed, Trial};
use stalemate::scenario::{self, CPUS, Selection};

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let scenarios = scenario::builtin().unwrap_or_else(|error| panic!("{error}"));
    let host = common::kvm().err();
    let trials = scenarios
        .into_iter()
        .map(|scenario| {
            let kind = host.clone().unwrap_or_else(|| "kvm".to_owned());
            let ignored = host.is_some();
            let name = scenario.name.clone();
            Trial::test(name, move || check(&scenario)).with_kind(kind).with_ignored_flag(ignored)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn check(scenario: &scenario::Scenario) -> Result<(), Failed> {
    let bench = common::Bench::new(common::kvm()?);
    let cpus = CPUS.into_iter().filter(|cpu| cpu.default).collect();
    let selection = Selection { cpus, policy: None, inject: Vec::new() };
    let mut wrong = Vec::new();
    for run in scenario.runs(0, &selection) {
        let faults: Vec<String> = run.faults.iter().map(ToString::to_string).collect();
        let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
        let result = bench.judge(scenario, &run);
        if !result.as_expected {
            wrong.push(format!("{} {faults:?}: {}", run.config, result.outcome));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
