//! The comparison as tables of text.

use super::{Comparison, Row};
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
        comparison.policies().len(),
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

/// A column's head and least width; those with a negative width are flush left.
type Columns = [(&'static str, isize)];

const TABLE: &Columns = &[
    ("workload", -12),
    ("cpu", -18),
    ("policy", -8),
    ("verdict", -16),
    ("invlpg", 6),
    ("invpcid", 7),
    ("cr3", 4),
    ("kept", 4),
    ("cr4", 3),
    ("marks", 5),
    ("lost", 5),
    ("refills", 7),
    ("flush", 6),
    ("return", 6),
    ("state", 5),
    ("branches", 8),
];

const AUDIT: &Columns = &[
    ("workload", -12),
    ("policy", -8),
    ("primitive", -20),
    ("caller", -20),
    ("calls", 5),
    ("owed", 5),
    ("needless", 8),
    ("little", 6),
    ("deferred", 8),
    ("big", 5),
    ("grown", 5),
];

/// The rows below their heads, each column as wide as its widest cell needs.
fn lay_out(out: &mut String, columns: &Columns, rows: Vec<Vec<String>>) {
    let heads = columns.iter().map(|(head, _)| (*head).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    let wide = |column: usize, least: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(least)
    };
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(column, (_, least))| wide(column, least.unsigned_abs()))
        .collect();
    for row in &rows {
        let padded = columns.iter().zip(&widths).zip(row).map(|((&(_, least), &wide), cell)| {
            if least < 0 { format!("{cell:wide$}") } else { format!("{cell:>wide$}") }
        });
        *out += padded.collect::<Vec<_>>().join(" ").trim_end();
        out.push('\n');
    }
}

fn table(out: &mut String, comparison: &Comparison) {
    let mut rows = Vec::new();
    let mut shown = ("", "");
    for row in &comparison.rows {
        // What stands in the line above is not said again.
        let this = (row.workload.as_str(), row.cpu.name);
        let workload = if this.0 == shown.0 { "" } else { this.0 };
        let cpu = if this == shown { "" } else { this.1 };
        shown = this;
        let costs = &row.costs;
        let [address, single, all, not_globals] = costs.invpcid;
        let need = comparison.need(row.cpu.name, row.policy);
        // Of code that is not ours nobody knows what belongs to the policy.
        let (state, branches) = need.map_or(("-".to_owned(), "-".to_owned()), |need| {
            let code = &need.code;
            (need.state_bits.to_string(), format!("{}+{}", code.branches, code.return_branches))
        });
        rows.push(vec![
            workload.to_owned(),
            cpu.to_owned(),
            row.policy.to_string(),
            verdict(row),
            costs.invlpg.to_string(),
            format!("{address}/{single}/{}", all + not_globals),
            costs.cr3_flushing.to_string(),
            costs.cr3_kept.to_string(),
            costs.cr4_toggles.to_string(),
            costs.marks_consumed.to_string(),
            costs.live_lost.to_string(),
            costs.refills.to_string(),
            costs.primitive_instructions.to_string(),
            costs.return_instructions.to_string(),
            state,
            branches,
        ]);
    }
    lay_out(out, TABLE, rows);
}

/// What the run came to: the rules where any were violated.
pub(super) fn verdict(row: &Row) -> String {
    if row.violated.is_empty() {
        return row.outcome.to_string();
    }
    row.violated.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// What the columns of the audit mean.
const AUDIT_LEGEND: &str = "\
Audit by call site, all processors together
owed      obligations that stood in the caller's range; needless: calls that met none
little    pages removed at once; deferred: a user PCID left to its next load
big       a PCID or everything emptied at once; grown: big, where pages were asked for
";

fn audit(out: &mut String, comparison: &Comparison) {
    let _ = writeln!(out, "{AUDIT_LEGEND}");
    let mut rows = Vec::new();
    let audits: Vec<_> = comparison
        .policies()
        .into_iter()
        .map(|policy| (policy.to_string(), comparison.audit(policy)))
        .collect();
    for (number, (workload, _)) in comparison.workloads.iter().enumerate() {
        let mut workload = workload.clone();
        for (policy, audit) in &audits {
            let mut policy = policy.clone();
            for ((_, site), calls) in audit.iter().filter(|((at, _), _)| *at == number) {
                let counts = [
                    calls.calls,
                    calls.owed,
                    calls.needless,
                    calls.little,
                    calls.deferred,
                    calls.big,
                    calls.grown,
                ];
                let mut cells = vec![
                    std::mem::take(&mut workload),
                    std::mem::take(&mut policy),
                    site.primitive.to_owned(),
                    short(&site.caller, &site.line),
                ];
                cells.extend(counts.iter().map(ToString::to_string));
                rows.push(cells);
            }
        }
    }
    lay_out(out, AUDIT, rows);
}

/// A function, and its place without the path.
fn short(caller: &str, line: &str) -> String {
    let function = caller.rsplit("::").next().unwrap_or(caller);
    format!("{function} at {}", line.rsplit('/').next().unwrap_or_default())
}
