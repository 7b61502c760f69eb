//! An audit as JSON; its schema is docs/audit.schema.json.

mod campaign;
mod finding;

use super::coverage::{Change, Row};
use super::judged::Counts;
use super::profile::Line;
use super::{Audited, Compared, RULES, Report, Verdict};
use crate::kernel::free::End;
use crate::schema;
use campaign::CampaignReport;
use finding::FindingReport;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Version of the schema. Rises when a field changes its meaning or is removed.
pub const SCHEMA_VERSION: u32 = 1;

/// What `stalemate audit --format json` prints. `schema` rises when a field changes its meaning or is
/// removed; new fields may appear. Addresses are numbers. Moments are counts of instructions that had
/// completed.
#[derive(Serialize, JsonSchema)]
#[schemars(title = "Stalemate audit")]
struct AuditReport<'a> {
    /// Version of this schema.
    #[schemars(extend("const" = SCHEMA_VERSION))]
    schema: u32,
    /// Version of the program.
    stalemate: &'static str,
    /// What the audit comes to.
    verdict: Verdict,
    /// How the run ended: `said` with the text of `--until`, `instructions` when those of
    /// `--instructions` were used up.
    #[schemars(extend("enum" = ["reset", "halted", "said", "instructions", "stopped"]))]
    end: &'static str,
    /// Why the kernel could not go on; null where it did.
    stopped: Option<Stopped<'a>>,
    /// Instructions that completed.
    instructions: u64,
    /// When user mode was first entered; null where it never was.
    user_mode_at: Option<u64>,
    /// Traps taken.
    traps: u64,
    /// What the processor has, as `list cpus` names it.
    features: Vec<&'static str>,
    /// Whether the kernel was seen to return to user mode on page tables of their own (PTI).
    isolated: bool,
    /// What rules have found, the first first.
    findings: Vec<FindingReport<'a>>,
    /// How the findings compare with those of `--baseline`; null without it.
    baseline: Option<&'a Compared>,
    /// What was taken away from page tables, by function and kind.
    coverage: Vec<CoverageRow<'a>>,
    /// All of `coverage` added up.
    total: Row,
    /// How often each rule has judged something.
    #[schemars(with = "BTreeMap<String, u64>", transform = of_each_rule)]
    judged: &'a Counts,
    /// How often each operation that removes cached translations was executed.
    flushes: BTreeMap<&'static str, u64>,
    /// The same by the function that it is in, with what it removed.
    ledger: Vec<Site<'a>>,
    /// What was known of the kernel; null for nothing.
    profile: Option<ProfileReport<'a>>,
    /// Faults that met nothing.
    not_fired: &'a [String],
    /// Ports at which nothing answers, and that were used.
    absent_ports: Vec<Absent>,
    /// Model-specific registers that the processor has not, and that were used.
    absent_msrs: Vec<Absent>,
    /// What became of each flush that `--drop` withheld; null without it.
    campaign: Option<CampaignReport<'a>>,
}

/// Each rule of an audit has its number.
fn of_each_rule(schema: &mut schemars::Schema) {
    let names = RULES.map(|(rule, _)| rule);
    schema.insert("required".to_owned(), names.as_slice().into());
}

/// Where and why a kernel could not go on.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Stopped<'a> {
    /// A sentence.
    why: String,
    /// The instruction.
    rip: u64,
    /// The function that it is in.
    function: Option<&'a str>,
}

/// The changes of one kind that one function made.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct CoverageRow<'a> {
    /// The function.
    function: &'a str,
    /// What it took away.
    change: Change,
    /// What became of it.
    counts: &'a Row,
    /// Of what was flushed in time, how often each rule would have spoken without the flush; null where none
    /// would.
    #[schemars(with = "Option<BTreeMap<String, u64>>")]
    judged_by: Option<&'a Counts>,
}

/// The operations of one kind in one function.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Site<'a> {
    /// The operation.
    operation: &'static str,
    /// The function.
    function: &'a str,
    /// How often it was executed.
    executed: u64,
    /// Of these, how often it removed something stale.
    removed_stale: u64,
    /// Of these, how often something that had been accessed under its PCID since it was last flushed.
    removed_accessed: u64,
    /// The fault that withholds the last of them which removed something stale, as `--inject` takes it.
    withheld_by: Option<&'a str>,
}

/// What was known of the kernel.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct ProfileReport<'a> {
    /// The file.
    file: &'a str,
    /// Why none of it was used; null where it was.
    unused: Option<&'a str>,
    /// Its lines that are true of this kernel's version.
    lines: &'a [Line],
}

/// A port or a register that is not there.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Absent {
    /// Its number.
    number: u32,
    /// How often it was used.
    count: u64,
}

fn absent<N: Copy + Into<u32>>(of: &[(N, u64)]) -> Vec<Absent> {
    of.iter().map(|&(number, count)| Absent { number: number.into(), count }).collect()
}

/// The whole report.
#[must_use]
pub fn json(report: &Report<'_>) -> Value {
    let Report { audited, campaign, compared } = *report;
    let run = &audited.run;
    let (end, stopped) = end(audited);
    schema::value(&AuditReport {
        schema: SCHEMA_VERSION,
        stalemate: env!("CARGO_PKG_VERSION"),
        verdict: audited.verdict(),
        end,
        stopped,
        instructions: run.instructions,
        user_mode_at: run.user_mode,
        traps: run.traps,
        features: audited.features.names(),
        isolated: audited.isolated,
        findings: audited.findings.iter().map(FindingReport::new).collect(),
        baseline: compared,
        coverage: coverage(audited),
        total: audited.coverage.total(),
        judged: &audited.judged,
        flushes: audited.flushes.iter().copied().collect(),
        ledger: ledger(audited),
        profile: audited.profile.as_ref().map(|profile| ProfileReport {
            file: &profile.file,
            unused: profile.unused.as_deref(),
            lines: &profile.lines,
        }),
        not_fired: &audited.not_fired,
        absent_ports: absent(&run.absent_ports),
        absent_msrs: absent(&run.absent_msrs),
        campaign: campaign.map(CampaignReport::new),
    })
}

fn end(audited: &Audited) -> (&'static str, Option<Stopped<'_>>) {
    match &audited.run.end {
        End::Reset => ("reset", None),
        End::Halted => ("halted", None),
        End::Said => ("said", None),
        End::Instructions => ("instructions", None),
        End::Stopped(stop, vcpu) => {
            let function = audited.stopped_in.as_deref();
            ("stopped", Some(Stopped { why: stop.to_string(), rip: vcpu.rip().0, function }))
        }
    }
}

fn coverage(audited: &Audited) -> Vec<CoverageRow<'_>> {
    let rows = audited.coverage.rows.iter().map(|(key, counts)| CoverageRow {
        function: &key.0,
        change: key.1,
        counts,
        judged_by: audited.judged_by_store.get(key),
    });
    rows.collect()
}

fn ledger(audited: &Audited) -> Vec<Site<'_>> {
    let sites = audited.sites.iter().map(|site| Site {
        operation: site.operation,
        function: &site.function,
        executed: site.removals.executed,
        removed_stale: site.removals.stale,
        removed_accessed: site.removals.accessed,
        withheld_by: site.withheld.as_deref(),
    });
    sites.collect()
}

/// The schema of the report; docs/audit.schema.json.
#[must_use]
pub fn schema() -> Value {
    schema::of::<AuditReport<'_>>()
}
