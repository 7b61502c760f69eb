//! The historical bugs: broken, each is caught by the rule that its file names; fixed, it is clean.

mod page;
mod unannounced;

use stalemate::runner::Outcome;
use stalemate::scenario::{self, CPUS, Run, Scenario, Selection};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn zoo() -> Vec<Arc<Scenario>> {
    scenario::zoo().unwrap_or_else(|error| panic!("{error}"))
}

/// The runs on the CPUs of the default suite, broken and fixed.
fn runs(scenario: &Arc<Scenario>) -> Vec<Run> {
    let cpus: Vec<_> = CPUS.into_iter().filter(|cpu| cpu.default).collect();
    scenario.runs(&Selection::of(&cpus))
}

#[test]
fn each_bug_breaks_its_rule_where_it_is_made_and_nothing_where_it_is_mended() {
    for rig in crate::common::rigs() {
        for scenario in zoo() {
            let zoo = scenario.zoo.clone().expect("a historical bug");
            let (mut caught, mut clean) = (0, 0);
            for run in runs(&scenario) {
                let result = rig.judge(&run);
                let what = format!("{} on {}", scenario.name, run.config);
                assert!(result.as_expected, "{what}: {}", result.outcome);
                match run.config.variant {
                    // A bug need not show on every processor; where it does, it is by its rule.
                    Some(_) if result.outcome == Outcome::Violation => {
                        assert!(
                            zoo.rule.is_some_and(|rule| result.rules().contains(&rule)),
                            "{what}"
                        );
                        caught += 1;
                    }
                    // Or by no rule, and by what a step comes to.
                    Some(_) if zoo.rule.is_none() && result.outcome == Outcome::Mismatch => {
                        caught += 1;
                    }
                    Some(_) => {}
                    // Runs for costs fill on demand: nothing may have been stale.
                    None if run.cost => assert!(result.rules().is_empty(), "{what}"),
                    None => {
                        assert_eq!(result.outcome, Outcome::Clean, "{what}");
                        clean += 1;
                    }
                }
            }
            assert!(caught > 0 && clean > 0, "{}: {caught} and {clean}", scenario.name);
        }
    }
}

#[test]
fn no_two_rows_are_the_same_mistake() {
    let mut rows: BTreeMap<_, String> = BTreeMap::new();
    for scenario in zoo() {
        let variants: Vec<_> = scenario.variant.iter().flatten().collect();
        let [variant] = variants[..] else { panic!("{}: one mistake a row", scenario.name) };
        assert!(scenario.variant.contains(&None), "{}: never mended", scenario.name);
        // An NMI may come at any time; nothing else is injected, so no fault fakes the outcome.
        let injected = scenario.faults.iter().flat_map(|case| &case.inject);
        for fault in injected.map(ToString::to_string) {
            assert!(fault.starts_with("nmi@"), "{}: {fault}", scenario.name);
        }
        // One mistake shows in many ways: each way has steps of its own.
        let steps: Vec<&str> = scenario.steps.iter().map(|step| &*step.text).collect();
        let other = rows.insert((variant.about().name, steps.join("\n")), scenario.name.clone());
        assert_eq!(other, None, "{} is another row's", scenario.name);
    }
    assert!(rows.len() >= 25);
}

#[test]
fn each_row_has_a_reference_of_its_own() {
    let references: BTreeSet<_> = zoo()
        .into_iter()
        .filter_map(|scenario| scenario.zoo.clone())
        .map(|zoo| zoo.reference)
        .collect();
    assert_eq!(references.len(), zoo().len());
}
