//! Every verdict as it was: one hashed line for each run of the suite, the zoo, the workloads of
//! `compare`, and 20,000 programs of `fuzz`, against the lines of before.
//!
//! A line that changes is explained by the commit that changes it. The lines are written anew with
//! `STALEMATE_BLESS=1`; the text behind each hash is in `target/golden/` after every run.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod line;

use stalemate::arch::tlb::split_mix;
use stalemate::compare::{default_cpus, workloads};
use stalemate::executor::Backend;
use stalemate::fuzz::generate;
use stalemate::fuzz::script::{self, Base};
use stalemate::scenario::{self, CPUS, Policy, Run, Scenario, Selection};
use stalemate_shared::variant::VARIANTS;
use std::path::Path;
use std::sync::Arc;

/// Programs of `fuzz`, and their seed.
const PROGRAMS: u64 = 20_000;
const SEED: u64 = 1;

/// The lines of these runs, two threads at a time, in the order of the runs.
fn lines(runs: &[Run]) -> Vec<String> {
    // Those of one configuration together, since one guest is alive at a time.
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_key(|&index| (runs[index].config, index));
    let halves = order.split_at(order.len() / 2);
    let half = |indices: &[usize]| -> Vec<(usize, String)> {
        let rig = common::Rig::new(Backend::interp());
        let mut runner = rig.runner();
        let judge = |&index: &usize| {
            let result = runner.run(&runs[index], None).expect("the host works");
            (index, line::of(&result.run.scenario, &result))
        };
        indices.iter().map(judge).collect()
    };
    let mut all = std::thread::scope(|scope| {
        let first = scope.spawn(|| half(halves.0));
        let mut all = half(halves.1);
        all.extend(first.join().expect("no panic"));
        all
    });
    all.sort();
    all.into_iter().map(|(_, line)| line).collect()
}

/// 32 bits of a line: enough to see that it changed.
fn hash(line: &str) -> String {
    let mut state = 0;
    let mut folded = 0;
    for byte in line.bytes() {
        state ^= u64::from(byte);
        folded = split_mix(&mut state);
    }
    format!("{:08x}", folded as u32)
}

fn check(name: &str, runs: &[Run]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let texts = lines(runs);
    let written = root.join("target/golden");
    std::fs::create_dir_all(&written).expect("target/ can be written");
    std::fs::write(written.join(name), texts.join("\n") + "\n").expect("it can be written");
    let fresh: Vec<String> = texts.iter().map(|text| hash(text)).collect();
    let file = root.join("tests/golden").join(name);
    if std::env::var_os("STALEMATE_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&file, fresh.join("\n") + "\n").expect("tests/ can be written");
    }
    let golden = std::fs::read_to_string(&file).expect("lines of before");
    let golden: Vec<&str> = golden.lines().collect();
    let changed: Vec<&String> = texts
        .iter()
        .enumerate()
        .filter(|(index, _)| golden.get(*index) != fresh.get(*index).map(String::as_str).as_ref())
        .map(|(_, text)| text)
        .collect();
    let shown = changed.iter().take(20).map(|text| text.as_str()).collect::<Vec<_>>().join("\n");
    assert!(
        changed.is_empty() && golden.len() == fresh.len(),
        "{name}: {} of {} lines changed, {} before:\n{shown}",
        changed.len(),
        fresh.len(),
        golden.len()
    );
}

fn all_of(scenarios: &[Arc<Scenario>], selection: &Selection) -> Vec<Run> {
    scenarios.iter().flat_map(|scenario| scenario.runs(selection)).collect()
}

#[test]
fn the_suite_and_the_zoo() {
    for (name, scenarios) in [("suite.txt", scenario::suite()), ("zoo.txt", scenario::zoo())] {
        let scenarios = scenarios.unwrap_or_else(|error| panic!("{error}"));
        let runs = all_of(&scenarios, &Selection::of(&CPUS));
        check(name, &runs);
    }
}

#[test]
fn the_workloads_of_compare() {
    let scenarios = workloads().unwrap_or_else(|error| panic!("{error}"));
    let runs = Policy::all().into_iter().flat_map(|policy| {
        let selection = Selection { policy: Some(policy), ..Selection::of(&default_cpus()) };
        all_of(&scenarios, &selection)
    });
    check("compare.txt", &runs.collect::<Vec<_>>());
}

/// Each under another policy, and every second one on a kernel with another historical mistake, so
/// that many lines are of violations.
#[test]
fn programs_of_fuzz() {
    let base = Base::new().unwrap_or_else(|error| panic!("{error}"));
    let policies = Policy::all();
    let cpus: Vec<_> = CPUS.into_iter().filter(|cpu| cpu.default).collect();
    let programs: Vec<_> = (0..PROGRAMS)
        .map(|number| {
            let policy = policies[(number / 2) as usize % policies.len()];
            let mistake = VARIANTS[(number / 2) as usize % VARIANTS.len()].variant;
            let variant = (number % 2 == 1).then_some(mistake);
            let config = base.config(SEED, number, &cpus, policy, variant).expect("a CPU");
            let program = generate::program(SEED, number);
            let scenario = base.scenario("fuzz", &program).expect("a legal program");
            script::run(&scenario, config, &program.faults)
        })
        .collect();
    check("fuzz.txt", &programs);
}
