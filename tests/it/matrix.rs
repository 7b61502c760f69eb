//! The matrix of primitives: each row of it can fail, and its combinations are scenarios as others.

use crate::common::{Rig, config, fails, rules, stalemate, text};
use stalemate::executor::Backend;
use stalemate::runner::Outcome;
use stalemate::scenario::{self, CPUS, Policy, RunConfig, Scenario, Selection};
use stalemate_shared::variant::VARIANTS;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a kernel is made to do wrong.
enum Wrong {
    /// It makes a historical mistake.
    Variant(&'static str),
    /// An operation does not happen.
    Fault(&'static str),
}

use Wrong::{Fault, Variant};

/// By primitive and place: what violates it on `pcid`, under `split` and with page-table isolation,
/// and the rules that speak.
const VIOLATED: &[(&str, Wrong, &[&str])] = &[
    ("one-user/here", Variant("user-pcid-forgotten"), &["stale-user-entry"]),
    ("one-user-large/remote", Variant("all-but-self"), &["stale-kernel-entry"]),
    ("range/lazy", Variant("lazy-does-not-catch-up"), &["stale-other-asid", "stale-user-entry"]),
    ("range-large/left", Fault("drop invlpg"), &["stale-kernel-entry"]),
    ("range-at-ceiling/parked", Variant("generation-off-by-one"), &["stale-kernel-entry"]),
    ("range-above/parked-here", Fault("drop mark"), &["stale-user-entry"]),
    ("mm/here", Variant("flush-keeps"), &["stale-kernel-entry"]),
    ("one-kernel/remote", Variant("kernel-flush-is-local"), &["stale-remote-entry"]),
    ("kernel-range/lazy", Variant("acknowledges-first"), &["stale-remote-entry"]),
    ("kernel-range-above/left", Fault("early ack"), &["stale-remote-entry"]),
    (
        "all/parked",
        Fault("drop cr4"),
        &["stale-kernel-entry", "stale-other-asid", "stale-remote-entry", "stale-user-entry"],
    ),
    ("unmap-range/parked-here", Fault("set noflush@switch"), &["stale-other-asid"]),
    (
        "unmap-range-above/here",
        Variant("second-mapping-forgotten"),
        &["reuse-before-flush", "stale-kernel-entry"],
    ),
    ("batched/remote", Fault("drop cr3@flush"), &["stale-kernel-entry", "stale-remote-entry"]),
    ("move/lazy", Variant("lazy-does-not-catch-up"), &["stale-other-asid", "stale-user-entry"]),
    (
        "migrate/left",
        Fault("drop invlpg"),
        &["never-flushed", "reuse-before-flush", "stale-kernel-entry"],
    ),
    ("make-clean/parked", Fault("drop invlpg#1"), &["stale-kernel-entry"]),
    ("write-protect/parked-here", Variant("write-protect-not-flushed"), &["never-flushed"]),
    ("split/here", Variant("all-but-self"), &["stale-kernel-entry"]),
    ("merge/remote", Variant("merge-not-flushed"), &["reuse-before-flush"]),
    (
        "free-table/lazy",
        Variant("lazy-keeps-tables"),
        &["reuse-before-flush", "stale-remote-entry"],
    ),
    ("fork/left", Variant("user-flush-is-local"), &["never-flushed", "stale-remote-entry"]),
    ("copy/parked", Fault("set noflush@switch"), &["stale-other-asid"]),
];

/// The combinations.
fn combinations() -> Vec<Arc<Scenario>> {
    let all = scenario::suite().unwrap_or_else(|error| panic!("{error}"));
    all.into_iter().filter(|scenario| scenario.name.starts_with("matrix/")).collect()
}

/// The configuration of the table.
fn of_table(scenario: &Scenario) -> RunConfig {
    RunConfig { cpus: scenario.cpus(), ..config("pcid", Policy::Split, true) }
}

#[test]
fn each_row_is_violated() {
    let rig = Rig::new(Backend::interp());
    let combinations = combinations();
    let mut wrong = Vec::new();
    for (name, how, expected) in VIOLATED {
        let name = format!("matrix/{name}");
        let scenario = combinations.iter().find(|scenario| scenario.name == name);
        let scenario = scenario.unwrap_or_else(|| panic!("{name} is none"));
        let plain = of_table(scenario);
        assert_eq!(rig.run(scenario, plain, &[]).outcome, Outcome::Clean, "{name}");
        let result = match how {
            Variant(known) => {
                let variant = VARIANTS.iter().find(|about| about.name == *known);
                let variant = Some(variant.unwrap_or_else(|| panic!("{known} is none")).variant);
                rig.run(scenario, RunConfig { variant, ..plain }, &[])
            }
            Fault(fault) => rig.run(scenario, plain, &[fault]),
        };
        if rules(&result) != *expected {
            wrong.push(format!("{name}: {:?}", rules(&result)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_every_primitive_and_every_place() {
    let parts = |of: &mut dyn Iterator<Item = String>| {
        of.map(|name| {
            let (primitive, place) = name.split_once('/').expect("two axes");
            (primitive.to_owned(), place.to_owned())
        })
        .unzip::<_, _, BTreeSet<_>, BTreeSet<_>>()
    };
    let of_table = parts(&mut VIOLATED.iter().map(|(name, ..)| (*name).to_owned()));
    let cells = combinations().into_iter().filter_map(|one| one.cell.clone());
    assert_eq!(of_table, parts(&mut cells.map(|cell| cell.name)));
}

#[test]
fn every_primitive_meets_every_policy_and_every_configuration_is_met() {
    let cpus: Vec<_> = CPUS.into_iter().filter(|cpu| cpu.default).collect();
    let mut configurations = BTreeSet::new();
    let mut policies = BTreeSet::new();
    for scenario in combinations() {
        let runs = scenario.runs(&Selection::of(&cpus));
        assert!(!runs.is_empty(), "{}", scenario.name);
        for run in runs {
            let RunConfig { cpu, policy, pti, .. } = run.config;
            configurations.insert((cpu.name, policy, pti));
            policies.insert((scenario.row().to_owned(), policy));
        }
    }
    assert_eq!(policies.len(), 23 * 5);
    assert_eq!(configurations.len(), 4 * 5 * 2);
}

#[test]
fn a_combination_is_named_shown_and_run_alone() {
    let shown = text(&stalemate(&["explain", "matrix/move/lazy"]).stdout);
    assert!(shown.contains("cpu1 lazy\ncpu0 F move u0 u9\n"), "{shown}");
    let listed = text(&stalemate(&["list"]).stdout);
    assert!(listed.contains("matrix/move/lazy"), "{listed}");
    let arguments =
        ["run", "matrix/move/lazy", "--cpu", "pcid", "--policy", "eager", "--pti", "on"];
    let output = stalemate(&[&arguments[..], &["--executor", "interp"]].concat());
    let said = text(&output.stdout);
    assert!(said.contains("\nmatrix/move/lazy: 1 run, all clean: "), "{said}");
    assert!(fails(&["run", "matrix/move/nowhere"], 2).contains("no built-in scenario"));
}
