//! The comparison as JSON; its schema is docs/compare.schema.json.

use super::{Comparison, Need, Row};
use serde_json::{Value, json as value};

/// Version of the schema. Rises when a field changes its meaning or is removed.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything.
#[must_use]
pub fn json(comparison: &Comparison) -> Value {
    let workloads = comparison.workloads.iter();
    value!({
        "schema": SCHEMA_VERSION,
        "stalemate": env!("CARGO_PKG_VERSION"),
        "executor": "interp",
        "pti": true,
        "as_expected": comparison.all_as_expected(),
        "cpus": comparison.cpus.iter().map(|cpu| value!({
            "name": cpu.name,
            "pcid": cpu.features.pcid,
            "invpcid": cpu.features.invpcid,
            "pge": cpu.features.pge,
        })).collect::<Vec<_>>(),
        "workloads": workloads.map(|(name, summary)| value!({
            "name": name, "summary": summary,
        })).collect::<Vec<_>>(),
        "rows": comparison.rows.iter().map(row).collect::<Vec<_>>(),
        "needs": comparison.needs.iter().map(need).collect::<Vec<_>>(),
        "mark": {
            "instructions": comparison.mark.instructions,
            "branches": comparison.mark.branches,
        },
    })
}

fn row(row: &Row) -> Value {
    value!({
        "workload": row.workload,
        "cpu": row.cpu.name,
        "policy": row.policy,
        "outcome": row.outcome,
        "violated": row.violated,
        "as_expected": row.as_expected,
        "costs": row.costs,
        "audit": row.audit.iter().map(|(site, calls)| value!({
            "primitive": site.primitive,
            "caller": site.caller,
            "line": site.line,
            "calls": calls,
        })).collect::<Vec<_>>(),
    })
}

fn need(need: &Need) -> Value {
    value!({
        "policy": need.policy,
        "cpu": need.cpu.name,
        "functions": need.code.functions,
        "branches": need.code.branches,
        "return_branches": need.code.return_branches,
        "state_words": need.code.words.values().collect::<Vec<_>>(),
        "state_bits": need.state_bits,
    })
}
