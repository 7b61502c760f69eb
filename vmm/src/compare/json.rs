//! The comparison as JSON; its schema is docs/compare.schema.json.

use super::{Calls, Comparison, Costs, Site};
use crate::oracle::RuleId;
use crate::runner::Outcome;
use crate::scenario::{CpuModel, Policy};
use crate::schema;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// Version of the schema. Rises when a field changes its meaning or is removed.
pub const SCHEMA_VERSION: u32 = 1;

/// What `stalemate compare --format json` prints. `schema` rises when a field changes its meaning
/// or is removed; new fields may appear.
#[derive(Serialize, JsonSchema)]
#[schemars(title = "Stalemate comparison")]
struct Report<'a> {
    /// Version of this schema.
    #[schemars(extend("const" = SCHEMA_VERSION))]
    schema: u32,
    /// Version of the program.
    stalemate: &'static str,
    /// What ran the guest.
    #[schemars(extend("const" = "interp"))]
    executor: &'static str,
    /// Page-table isolation was on.
    pti: bool,
    /// Every verdict is what the workload's file says; the exit code is 0.
    as_expected: bool,
    /// The processors.
    cpus: Vec<Cpu>,
    /// The programs.
    workloads: Vec<Workload<'a>>,
    /// By workload, processor, policy.
    rows: Vec<Row<'a>>,
    /// By processor, policy.
    needs: Vec<Need>,
    /// What the test of the mark adds to every return, read off the image.
    mark: Mark,
}

/// A processor.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Cpu {
    /// As `--cpu` takes it.
    name: &'static str,
    /// It has PCIDs.
    pcid: bool,
    /// It has INVPCID.
    invpcid: bool,
    /// It has global pages.
    pge: bool,
}

impl Cpu {
    fn new(cpu: &CpuModel) -> Self {
        let features = cpu.features;
        Self { name: cpu.name, pcid: features.pcid, invpcid: features.invpcid, pge: features.pge }
    }
}

/// A program.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Workload<'a> {
    /// As `run` takes it.
    name: &'a str,
    /// What it does.
    summary: &'a str,
}

/// One policy in one workload on one processor.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "row")]
struct Row<'a> {
    /// The workload's name.
    workload: &'a str,
    /// The processor.
    cpu: &'static str,
    /// The policy.
    policy: Policy,
    /// Of the run with worst-case fills.
    outcome: Outcome,
    /// The rules that it violated.
    #[schemars(with = "Vec<String>")]
    violated: &'a [RuleId],
    /// The verdict is what the file says.
    as_expected: bool,
    /// What it cost.
    costs: &'a Costs,
    /// By primitive and call site.
    audit: Vec<Caller<'a>>,
}

/// One caller of a primitive, and what its calls did.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Caller<'a> {
    #[serde(flatten)]
    site: &'a Site,
    /// What its calls did.
    calls: &'a Calls,
}

impl<'a> Row<'a> {
    fn new(row: &'a super::Row) -> Self {
        Self {
            workload: &row.workload,
            cpu: row.cpu.name,
            policy: row.policy,
            outcome: row.outcome,
            violated: &row.violated,
            as_expected: row.as_expected,
            costs: &row.costs,
            audit: row.audit.iter().map(|(site, calls)| Caller { site, calls }).collect(),
        }
    }
}

/// What a policy needs on one processor.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "need")]
struct Need {
    /// The policy.
    policy: Policy,
    /// The processor.
    cpu: &'static str,
    /// Functions reached from the policy's methods, read off the image.
    functions: usize,
    /// Conditional branches in them, those to a panic left out.
    branches: usize,
    /// Conditional branches on the return path that the policy needs.
    return_branches: usize,
    /// Words of `TlbState` that its code names.
    state_words: Vec<&'static str>,
    /// Bits of `invalidate_other` and of the marks that changed in some workload.
    state_bits: u32,
}

impl Need {
    fn new(need: &super::Need) -> Self {
        Self {
            policy: need.policy,
            cpu: need.cpu.name,
            functions: need.code.functions,
            branches: need.code.branches,
            return_branches: need.code.return_branches,
            state_words: need.code.words.values().copied().collect(),
            state_bits: need.state_bits,
        }
    }
}

/// The test of the mark on the return path.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Mark {
    /// How many.
    instructions: usize,
    /// How many of them are conditional branches.
    branches: usize,
}

/// Everything.
#[must_use]
pub fn json(comparison: &Comparison) -> Value {
    let workloads = comparison.workloads.iter();
    let super::Mark { instructions, branches } = comparison.mark;
    let report = Report {
        schema: SCHEMA_VERSION,
        stalemate: env!("CARGO_PKG_VERSION"),
        executor: "interp",
        pti: true,
        as_expected: comparison.all_as_expected(),
        cpus: comparison.cpus.iter().map(Cpu::new).collect(),
        workloads: workloads.map(|(name, summary)| Workload { name, summary }).collect(),
        rows: comparison.rows.iter().map(Row::new).collect(),
        needs: comparison.needs.iter().map(Need::new).collect(),
        mark: Mark { instructions, branches },
    };
    schema::value(&report)
}

/// The schema of the comparison; docs/compare.schema.json.
#[must_use]
pub fn schema() -> Value {
    schema::of::<Report<'_>>()
}
