//! What a selection leaves out, which a reader of the table could take for passed.

use crate::report::counted;
use crate::scenario::{CPUS, Run, Scenario, Selection};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A line each: scenarios that no selected processor fits, and faults that no run is of, whatever the
/// processor.
pub fn left_out(scenarios: &[Arc<Scenario>], selection: &Selection, runs: &[Run]) -> Vec<String> {
    let mut lines = Vec::new();
    let unfit: Vec<&str> = scenarios
        .iter()
        .filter(|scenario| !runs.iter().any(|run| Arc::ptr_eq(&run.scenario, scenario)))
        .map(|scenario| scenario.name.as_str())
        .collect();
    if !unfit.is_empty() {
        lines.push(format!("left out, since no selected CPU fits: {}", unfit.join(", ")));
    }
    if !selection.abilities.has_policies() {
        let count: usize = scenarios.iter().map(|scenario| scenario.faults.len()).sum();
        if count > 0 && selection.inject.is_empty() && selection.case.is_none() {
            lines.push(format!(
                "left out, since the scenarios say what comes of them in the built-in guest: {}; \
                 `stalemate faults --guest` injects all that there are",
                counted(count, "fault", "faults")
            ));
        }
    } else if selection.inject.is_empty() && selection.case.is_none() {
        lines.extend(faults(scenarios, selection));
    }
    lines
}

/// Faults that are the files' but of no run, since the files say nothing of them under this policy.
fn faults(scenarios: &[Arc<Scenario>], selection: &Selection) -> Vec<String> {
    let all = Selection { cpus: CPUS.to_vec(), ..selection.clone() };
    let mut lines = Vec::new();
    let mut count = 0;
    for scenario in scenarios {
        let runs = scenario.runs(&all);
        let of: BTreeSet<usize> = runs.iter().filter_map(|run| scenario.case(run)).collect();
        for (fault, case) in scenario.faults.iter().zip(1..) {
            if of.contains(&case) {
                continue;
            }
            count += 1;
            let policies: Vec<String> =
                fault.when.policy.iter().map(|policy| format!("--policy {policy}")).collect();
            if selection.policy.is_none() && !policies.is_empty() {
                let name = &scenario.name;
                let only = policies.join(" or ");
                lines.push(format!(
                    "{name}: left out, since it runs only with {only}: fault {case}"
                ));
            }
        }
    }
    match selection.policy {
        Some(policy) if count > 0 => vec![format!(
            "left out, since the scenarios say nothing of them under {policy}: {}",
            counted(count, "fault", "faults")
        )],
        _ => lines,
    }
}
