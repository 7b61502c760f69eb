//! The invariants of ARCHITECTURE.md that the sources themselves must keep.
#![allow(missing_docs)]

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

#[test]
fn arch_oracle_and_event_know_neither_machine_nor_executor() {
    for room in ["vmm/src/arch", "vmm/src/oracle", "vmm/src/event"] {
        for (path, text) in all(room) {
            for forbidden in ["crate::machine", "crate::executor", "kvm_ioctls"] {
                assert!(!text.contains(forbidden), "{} uses {forbidden}", path.display());
            }
        }
    }
}

#[test]
fn unsafe_code_is_in_its_rooms_only() {
    for tree in ["vmm/src", "guest/src", "shared/src"] {
        for (path, text) in all(tree) {
            let shown = path.display().to_string();
            if shown.contains("vmm/src/executor") || shown.contains("guest/src/arch") {
                continue;
            }
            for form in ["{", "fn", "impl", "extern"] {
                let forbidden = format!("unsafe {form}");
                assert!(!text.contains(&forbidden), "{shown}: {forbidden}");
            }
        }
    }
}

#[test]
fn every_rule_has_a_file_a_statement_and_a_source() {
    let files = all("vmm/src/oracle/rules");
    for rule in stalemate::oracle::RULES {
        let file = format!("{}.rs", rule.name.replace('-', "_"));
        assert!(files.iter().any(|(path, _)| path.ends_with(&file)), "{file}");
        assert!(!rule.statement.is_empty() && !rule.source.is_empty());
    }
}

#[test]
fn every_rule_that_fails_runs_is_violated_in_the_suite_or_the_zoo() {
    let suite = stalemate::scenario::builtin().unwrap_or_else(|error| panic!("{error}"));
    let zoo = stalemate::scenario::zoo().unwrap_or_else(|error| panic!("{error}"));
    let scenarios: Vec<_> = suite.into_iter().chain(zoo).collect();
    let violated: std::collections::BTreeSet<_> = scenarios
        .iter()
        .flat_map(|scenario| {
            let faults = scenario.faults.iter().flat_map(|fault| &fault.violates);
            faults.chain(scenario.verdicts.iter().flat_map(|verdict| &verdict.violates))
        })
        .collect();
    for rule in stalemate::oracle::RULES.iter().filter(|rule| !rule.is_cost) {
        assert!(violated.contains(&rule.id), "no built-in scenario violates {}", rule.name);
    }
}
