//! An audit for programs.

use super::Audited;
use crate::kernel::free::End;
use serde_json::{Value, json as object};

/// The report.
#[must_use]
pub fn json(audited: &Audited) -> Value {
    let findings = audited.findings.iter().map(|finding| {
        let first = &finding.first;
        object!({
            "key": finding.key.to_string(),
            "rule": finding.key.rule,
            "change": finding.key.change,
            "function": finding.key.function,
            "count": finding.count,
            "grade": finding.evidence.grade,
            "graded_of": finding.evidence.of.1,
            "of_this_grade": finding.evidence.of.0,
            "held_by": finding.evidence.held,
            "used_by": finding.evidence.used,
            "frame": finding.evidence.frame,
            "stored_at": finding.noted.stored,
            "found_after": finding.noted.found,
            "closed": finding.noted.closed.as_ref().map(|closed| object!({
                "what": closed.what,
                "rip": closed.rip.0,
                "function": finding.closed_in,
                "at": closed.at,
            })),
            "stacks": finding.stacks,
            "legal_if": finding.noted.exceptions,
            "due": finding.due,
            "message": first.message,
            "seq": first.seq,
            "store": first.downgrade.as_ref().map(|downgrade| downgrade.rip.0),
            "store_task": first.downgrade.as_ref().and_then(|downgrade| downgrade.task),
            "found_at": first.rip.0,
            "found_in": finding.at,
            "task": first.task,
            "in_between": finding.missed,
        })
    });
    let rows = audited.coverage.rows.iter().map(|((function, change), row)| {
        let judged = audited.judged_by_store.get(&(function.clone(), *change));
        object!({ "function": function, "change": change, "counts": row, "judged_by": judged })
    });
    let run = &audited.run;
    object!({
        "schema": "stalemate-audit",
        "version": 1,
        "verdict": audited.verdict().word(),
        "end": match &run.end {
            End::Reset => "reset".to_owned(),
            End::Halted => "halted".to_owned(),
            End::Said => "said".to_owned(),
            End::Instructions => "instructions".to_owned(),
            End::Stopped(stop, _) => stop.to_string(),
        },
        "stopped_in": audited.stopped_in,
        "instructions": run.instructions,
        "user_mode_at": run.user_mode,
        "traps": run.traps,
        "features": audited.features.names(),
        "isolated": audited.isolated,
        "flushes": audited.flushes.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
        "ledger": audited.sites.iter().map(|site| object!({
            "operation": site.operation,
            "function": site.function,
            "executed": site.removals.executed,
            "removed_stale": site.removals.stale,
            "removed_accessed": site.removals.accessed,
            "withheld_by": site.withheld,
        })).collect::<Vec<_>>(),
        "findings": findings.collect::<Vec<_>>(),
        "coverage": rows.collect::<Vec<_>>(),
        "total": audited.coverage.total(),
        "judged": audited.judged,
        "profile": audited.profile.as_ref().map(|profile| object!({
            "file": profile.file,
            "unused": profile.unused,
            "lines": profile.lines,
        })),
        "not_fired": audited.not_fired,
        "absent_ports": run.absent_ports,
        "absent_msrs": run.absent_msrs,
    })
}
