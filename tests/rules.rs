//! What each rule says of itself is true: the run that it names as violating it does, and the one
//! that it names as close does not.
#![allow(missing_docs)]

mod common;

use common::{Bench, config, scenario};
use serde_json::Value;
use stalemate::executor::Backend;
use stalemate::fuzz::correct_policies;
use stalemate::oracle::{RULES, RuleId};
use stalemate::runner::Outcome;
use stalemate::scenario::{Policy, RunConfig};
use stalemate_shared::variant::Variant;
use std::process::Command;

/// The runs that `stalemate run` makes of these arguments.
fn runs(arguments: &str) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stalemate"));
    command.args(["run", "--executor", "interp", "--format", "json"]);
    command.args(common::words(arguments));
    let output = command.output().expect("the program runs");
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
    for rule in RULES {
        let runs = runs(rule.violated_by);
        assert!(runs.iter().any(|run| speaks(run, rule.name)), "{}", rule.violated_by);
    }
}

#[test]
fn the_run_that_comes_close_does_not() {
    for rule in RULES {
        for run in runs(rule.near_miss) {
            assert!(!speaks(&run, rule.name), "{}", rule.near_miss);
            assert_eq!(run["outcome"], "clean", "{}: {}", rule.name, rule.near_miss);
            let owed = run["obligations"].as_array().expect("obligations");
            assert!(!owed.is_empty(), "{}: nothing was stale", rule.near_miss);
        }
    }
}

/// A page whose frame is given back while CPU 1, which has read it, is in `state`.
fn freed_beside(state: &str) -> stalemate::scenario::Scenario {
    let steps = format!(
        "A map u0 red\nA user read u0 -> red\ncpu1 A user read u0 -> red\ncpu1 {state}\n\
         cpu0 A unmap_range u0..u0\ncpu1 A user read u0 -> fault"
    );
    scenario(&steps)
}

#[test]
fn a_lazy_cpu_may_keep_a_freed_page_but_not_one_that_runs_user_code() {
    let bench = Bench::new(Backend::interp());
    let lazy = freed_beside("lazy");
    for policy in correct_policies() {
        let config = RunConfig { cpus: 2, ..config("pcid", policy, true) };
        let result = bench.run(&lazy, config, &[]);
        assert_eq!(result.outcome, Outcome::Clean, "{policy:?}: {:?}", result.violations);
        assert!(!result.obligations.is_empty());
    }
    let busy = freed_beside("user nop");
    let variant = Some(Variant::UserFlushIsLocal);
    let config = RunConfig { cpus: 2, variant, ..config("pcid", Policy::Split, true) };
    let result = bench.run(&busy, config, &[]);
    let rules: Vec<RuleId> = result.violations.iter().map(|violation| violation.rule).collect();
    assert!(rules.contains(&RuleId::ReuseBeforeFlush), "{rules:?}");
}
