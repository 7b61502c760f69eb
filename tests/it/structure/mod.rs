//! The invariants of ARCHITECTURE.md that the sources themselves must keep.

mod imports;

use imports::Imports;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all(directory: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut found = Vec::new();
    sources(&root.join(directory), &mut found);
    assert!(!found.is_empty(), "{directory} has no sources");
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("readable");
            (path, text)
        })
        .collect()
}

/// The crates, and the rooms of each from the ground up: a room imports only itself and those
/// before it.
const CRATES: [(&str, &[&str]); 4] = [
    ("vmm/model/src", &["arch", "event", "oracle"]),
    (
        "vmm/src",
        &[
            "ink",
            "suggest",
            "parallel",
            "interrupt",
            "schema",
            "sandbox",
            "symbols",
            "memory",
            "executor",
            "witness",
            "machine",
            "schedule",
            "inject",
            "kernel",
            "scenario",
            "runner",
            "compare",
            "score",
            "report",
            "explore",
            "fuzz",
            "audit",
            "cli",
        ],
    ),
    (
        "guest/src",
        &[
            "fence",
            "arch",
            "config",
            "policy",
            "variant",
            "asid",
            "entry",
            "mm",
            "shootdown",
            "paging",
            "flush",
            "operations",
            "nmi",
            "steps",
            "boot",
        ],
    ),
    (
        "init/src",
        &[
            "kind", "options", "sys", "console", "tally", "setting", "area", "crew", "forks",
            "mappings", "advice", "huge", "ksm", "uffd", "reclaim", "life",
        ],
    ),
];

/// What in the guest's `arch/` and the init's `sys/` calls upwards, and is imported by nothing that it
/// calls.
const UPWARDS: [(&str, &str); 3] =
    [("guest/src", "arch/handlers"), ("guest/src", "arch/start"), ("init/src", "sys/entry")];

/// Crates so small that they have fewer imports than others.
const SMALL: &str = "init/src";

#[test]
fn rooms_are_floors_and_no_circle_of_files_crosses_them() {
    for (sources, rooms) in CRATES {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let imports = Imports::read(&root.join(sources), &all(sources));
        let floor = |file: &[String]| {
            let room = rooms.iter().position(|room| *room == file[0]);
            room.unwrap_or_else(|| panic!("{sources}: {} is no room", file[0]))
        };
        let mut count = 0;
        for (from, to) in imports.edges() {
            count += 1;
            let (file, other) = (from.join("/"), to.join("/"));
            let upwards = UPWARDS.contains(&(sources, &*file));
            assert!(upwards || floor(to) <= floor(from), "{sources}: {file} imports {other}");
        }
        let least = if sources == SMALL { 20 } else { 50 };
        assert!(count > least, "{sources}: {count} imports");
        for circle in imports.circles() {
            let rooms: BTreeSet<_> = circle.iter().map(|file| file.first()).collect();
            let files: Vec<String> = circle.iter().map(|file| file.join("/")).collect();
            assert_eq!(rooms.len(), 1, "{sources}: {}", files.join(", "));
        }
    }
}

/// The only places with unsafe code; the bench loads a library of the host, and a test shows its memory
/// to a virtual machine of its own.
const UNSAFE_ROOMS: [&str; 5] = [
    "vmm/src/executor/",
    "guest/src/arch/",
    "init/src/sys/",
    "vmm/benches/interp/unicorn.rs",
    "tests/differential/native.rs",
];

/// The form of unsafe code that is in `text`, if any.
fn unsafe_form(text: &str) -> Option<&'static str> {
    // Joined, so that this file has none of them.
    let is_there = |form: &&str| text.contains(&["unsafe", form].concat());
    [" {", " fn", " impl", " trait", " extern", "("].into_iter().find(is_there)
}

#[test]
fn unsafe_code_is_in_its_rooms_only() {
    let trees = [
        "vmm/src",
        "vmm/model/src",
        "vmm/benches",
        "guest/src",
        "init/src",
        "shared/src",
        "tests",
        "fuzz/fuzz_targets",
    ];
    let mut used = BTreeSet::new();
    for (path, text) in trees.into_iter().flat_map(all) {
        let Some(form) = unsafe_form(&text) else { continue };
        let shown = path.display().to_string();
        let room = UNSAFE_ROOMS.iter().find(|room| shown.contains(**room));
        used.insert(*room.unwrap_or_else(|| panic!("{shown}: unsafe{form}")));
    }
    assert_eq!(
        used.len(),
        UNSAFE_ROOMS.len(),
        "all others of {UNSAFE_ROOMS:?} have none: {used:?}"
    );
    let build = include_str!("../../../vmm/build.rs");
    assert_eq!(unsafe_form(build), None, "vmm/build.rs");
}

#[test]
fn every_form_of_unsafe_code_is_seen() {
    for form in [" {", " fn", " impl", " trait", " extern", "("] {
        assert_eq!(unsafe_form(&["let it = unsafe", form, " }"].concat()), Some(form));
    }
    assert_eq!(unsafe_form("#![forbid(unsafe_code)]"), None);
}

#[test]
fn every_rule_has_a_file_a_statement_and_a_source() {
    let files = all("vmm/model/src/oracle/rules");
    for rule in stalemate::oracle::rules::abouts() {
        let file = format!("{}.rs", rule.name.replace('-', "_"));
        assert!(files.iter().any(|(path, _)| path.ends_with(&file)), "{file}");
        assert!(!rule.statement.is_empty() && !rule.source.is_empty());
    }
}

#[test]
fn every_rule_that_fails_runs_is_violated_in_the_suite_or_the_zoo() {
    let suite = stalemate::scenario::suite().unwrap_or_else(|error| panic!("{error}"));
    let zoo = stalemate::scenario::zoo().unwrap_or_else(|error| panic!("{error}"));
    let scenarios: Vec<_> = suite.into_iter().chain(zoo).collect();
    let violated: BTreeSet<_> = scenarios
        .iter()
        .flat_map(|scenario| {
            let faults = scenario.faults.iter().flat_map(|fault| fault.expected.rules());
            faults.chain(scenario.verdicts.iter().flat_map(|verdict| verdict.expected.rules()))
        })
        .collect();
    let of_runs = |rule: &&stalemate::oracle::About| !rule.is_cost && !rule.is_of_audits();
    for rule in stalemate::oracle::rules::abouts().filter(of_runs) {
        assert!(
            violated.contains(&stalemate::oracle::RuleId(rule)),
            "no built-in scenario violates {}",
            rule.name
        );
    }
}
