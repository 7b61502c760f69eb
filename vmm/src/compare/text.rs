//! The comparison as tables of text.

use super::{Comparison, POLICIES, Row};
use std::fmt::Write;

/// What the columns mean.
const LEGEND: &str = "\
verdict   of a run with worst-case fills; vacuous: nothing was ever stale
invpcid   by type: address/single PCID/everything
cr3       CR3 loads that flush; kept: those that do not
cr4       writes that change CR4.PGE
marks     user PCIDs marked, and flushed on their next load
lost      live entries removed that no caller asked to flush (on-demand fills)
refills   fills of what had been cached before
flush     instructions in the flush primitives; return: from the read of CR3 to SYSRETQ;
          one that traps counts as one
state     bits of invalidate_other and of the marks that the policy used in some workload
branches  in the policy's own code, as the compiler left it, + on the return path
";

/// The table, and the audit by call site.
#[must_use]
pub fn text(comparison: &Comparison) -> String {
    let mut out = format!(
        "stalemate {}: {} policies, {} workloads, {} processors; PTI on, executor interp\n\n",
        env!("CARGO_PKG_VERSION"),
        POLICIES.len(),
        comparison.workloads.len(),
        comparison.cpus.len()
    );
    table(&mut out, comparison);
    let _ = writeln!(out, "\n{LEGEND}");
    audit(&mut out, comparison);
    let mark = comparison.mark;
    let _ = writeln!(
        out,
        "\nThe mark on the return path: {} instructions at every return, {} of them a branch.",
        mark.instructions, mark.branches
    );
    out
}

fn table(out: &mut String, comparison: &Comparison) {
    let _ = writeln!(
        out,
        "{:12} {:18} {:8} {:16} {:>6} {:>8} {:>4} {:>4} {:>4} {:>5} {:>5} {:>7} {:>6} {:>6} {:>5} {:>8}",
        "workload",
        "cpu",
        "policy",
        "verdict",
        "invlpg",
        "invpcid",
        "cr3",
        "kept",
        "cr4",
        "marks",
        "lost",
        "refills",
        "flush",
        "return",
        "state",
        "branches"
    );
    let mut shown = ("", "");
    for row in &comparison.rows {
        let this = (row.workload.as_str(), row.cpu.name);
        let workload = if this.0 == shown.0 { "" } else { this.0 };
        let cpu = if this == shown { "" } else { this.1 };
        shown = this;
        let costs = &row.costs;
        let [address, single, all, not_globals] = costs.invpcid;
        let need = comparison.need(row.cpu.name, row.policy);
        let (state, branches) = need.map_or((0, String::new()), |need| {
            (need.state_bits, format!("{}+{}", need.code.branches, need.code.return_branches))
        });
        let _ = writeln!(
            out,
            "{workload:12} {cpu:18} {:8} {:16} {:>6} {:>8} {:>4} {:>4} {:>4} {:>5} {:>5} {:>7} {:>6} {:>6} {state:>5} {branches:>8}",
            row.policy,
            verdict(row),
            costs.invlpg,
            format!("{address}/{single}/{}", all + not_globals),
            costs.cr3_flushing,
            costs.cr3_kept,
            costs.cr4_toggles,
            costs.marks_consumed,
            costs.live_lost,
            costs.refills,
            costs.primitive_instructions,
            costs.return_instructions,
        );
    }
}

/// What the run came to: the rules where any were violated.
pub(super) fn verdict(row: &Row) -> String {
    if row.violated.is_empty() {
        return row.outcome.to_string();
    }
    row.violated.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn audit(out: &mut String, comparison: &Comparison) {
    let _ = writeln!(
        out,
        "Audit by call site, all processors together. owed: obligations that stood in the caller's \
         range;\nneedless: calls that met none; little: pages removed at once; deferred: a user \
         PCID left to its next\nload; big: a PCID or everything emptied at once; grown: big, where \
         pages were asked for\n"
    );
    let _ = writeln!(
        out,
        "{:12} {:8} {:20} {:22} {:>5} {:>5} {:>8} {:>6} {:>8} {:>4} {:>5}",
        "workload",
        "policy",
        "primitive",
        "caller",
        "calls",
        "owed",
        "needless",
        "little",
        "deferred",
        "big",
        "grown"
    );
    let audits: Vec<_> =
        POLICIES.iter().map(|&policy| (policy, comparison.audit(policy))).collect();
    for (number, (workload, _)) in comparison.workloads.iter().enumerate() {
        let mut shown = false;
        for (policy, audit) in &audits {
            let mut named = false;
            for ((_, site), calls) in audit.iter().filter(|((at, _), _)| *at == number) {
                let workload = if shown { "" } else { workload };
                let policy = if named { String::new() } else { policy.to_string() };
                (shown, named) = (true, true);
                let caller = short(&site.caller, &site.line);
                let _ = writeln!(
                    out,
                    "{workload:12} {policy:8} {:20} {caller:22} {:>5} {:>5} {:>8} {:>6} {:>8} {:>4} {:>5}",
                    site.primitive,
                    calls.calls,
                    calls.owed,
                    calls.needless,
                    calls.little,
                    calls.deferred,
                    calls.big,
                    calls.grown
                );
            }
        }
    }
}

/// A function, and its place without the path.
fn short(caller: &str, line: &str) -> String {
    let function = caller.rsplit("::").next().unwrap_or(caller);
    format!("{function} at {}", line.rsplit('/').next().unwrap_or_default())
}
