//! What the policies are compared on: the files under scenarios/compare/, embedded.

use crate::scenario::{self, Change, Diagnostic, Scenario};
use std::sync::Arc;

/// Name and text of each, in the order of the table.
pub const WORKLOADS: [(&str, &str); 8] = [
    ("syscalls", include_str!("../../scenarios/compare/syscalls.toml")),
    ("map-unmap", include_str!("../../scenarios/compare/map-unmap.toml")),
    ("switch-2", include_str!("../../scenarios/compare/switch-2.toml")),
    ("switch-6", include_str!("../../scenarios/compare/switch-6.toml")),
    ("switch-12", include_str!("../../scenarios/compare/switch-12.toml")),
    ("kernel-churn", include_str!("../../scenarios/compare/kernel-churn.toml")),
    ("fork-cow", include_str!("../../scenarios/compare/fork-cow.toml")),
    ("shootdown-4", include_str!("../../scenarios/compare/shootdown-4.toml")),
];

/// The workloads, parsed.
///
/// # Errors
/// The first error in one of them; a test says that there is none.
pub fn workloads() -> Result<Vec<Arc<Scenario>>, Diagnostic> {
    let parse = |&(name, text): &(&str, &str)| {
        scenario::parse(name, &format!("scenarios/compare/{name}.toml"), text)
    };
    WORKLOADS.iter().map(parse).collect()
}

/// Whether the workload only maps and never takes anything back: nothing can be stale in it.
#[must_use]
pub fn is_idle(scenario: &Scenario) -> bool {
    scenario.steps.iter().all(|step| matches!(step.change, Change::None | Change::Map(_)))
}
