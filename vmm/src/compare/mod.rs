//! The policies side by side: the same workloads under each, on processors with and without
//! INVPCID and PGE. Verdicts come from worst-case runs, costs from on-demand runs of the same
//! programs on the interpreter, branches and words of state from the image.

mod audit;
mod json;
mod measure;
mod needs;
mod svg;
mod text;
mod workload;

pub use audit::{Audit, Calls, Site};
pub use json::{SCHEMA_VERSION, json, schema};
pub use measure::Costs;
pub use needs::{Disassembly, Mark, Needs};
pub use svg::svg;
pub use text::text;
pub use workload::{WORKLOADS, workloads};

use crate::arch::tlb::Fill;
use crate::event::Trace;
use crate::executor::Backend;
use crate::kernel::steps::{Guest, RunError};
use crate::oracle::RuleId;
use crate::runner::{Outcome, RunResult, Runner};
use crate::scenario::{CPUS, CpuModel, Policy, RunConfig, Scenario, Selection};
use crate::symbols::Symbols;
use stalemate_shared::note::kernel;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The processors that are compared where the command line names none.
pub const DEFAULT_CPUS: [&str; 5] =
    ["pcid", "pcid-invpcid", "pcid-nopge", "pcid-invpcid-nopge", "nopcid"];

/// One policy in one workload on one processor.
#[derive(Clone, Debug)]
pub struct Row {
    /// The workload.
    pub workload: String,
    /// The processor.
    pub cpu: CpuModel,
    /// The policy.
    pub policy: Policy,
    /// What the worst-case run came to.
    pub outcome: Outcome,
    /// The rules that it violated.
    pub violated: Vec<RuleId>,
    /// Whether the workload's file says so.
    pub as_expected: bool,
    /// What it cost.
    pub costs: Costs,
    /// What its callers asked for, and what was owed.
    pub audit: Audit,
}

/// What a policy needs on one processor.
#[derive(Clone, Debug)]
pub struct Need {
    /// The policy.
    pub policy: Policy,
    /// The processor.
    pub cpu: CpuModel,
    /// Its code, the same on every processor.
    pub code: Needs,
    /// Bits of its words of state that changed in some workload.
    pub state_bits: u32,
}

/// Everything that was compared.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The processors.
    pub cpus: Vec<CpuModel>,
    /// The workloads: name and summary.
    pub workloads: Vec<(String, String)>,
    /// By workload, processor, policy.
    pub rows: Vec<Row>,
    /// By processor, policy.
    pub needs: Vec<Need>,
    /// What the mark adds to the return path.
    pub mark: Mark,
}

impl Comparison {
    /// The row of a policy.
    #[must_use]
    pub fn row(&self, workload: &str, cpu: &str, policy: Policy) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.workload == workload && row.cpu.name == cpu && row.policy == policy)
    }

    /// What a policy needs on a processor.
    #[must_use]
    pub fn need(&self, cpu: &str, policy: Policy) -> Option<&Need> {
        self.needs.iter().find(|need| need.cpu.name == cpu && need.policy == policy)
    }

    /// The calls of a policy, by workload and site, of all processors together.
    #[must_use]
    pub fn audit(&self, policy: Policy) -> BTreeMap<(usize, Site), Calls> {
        let mut all: BTreeMap<(usize, Site), Calls> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.policy == policy) {
            let number = self.workloads.iter().position(|(name, _)| *name == row.workload);
            for (site, calls) in &row.audit {
                all.entry((number.unwrap_or(0), site.clone())).or_default().add(calls);
            }
        }
        all
    }

    /// The policies, and that of a kernel of the user's own where it was compared too.
    #[must_use]
    pub fn policies(&self) -> Vec<Policy> {
        let own = self.rows.iter().any(|row| row.policy == Policy::Own);
        Policy::all().into_iter().chain(own.then_some(Policy::Own)).collect()
    }

    /// Adds what a kernel with a policy of its own comes to in those workloads that it can run, with
    /// page-table isolation if it has that.
    ///
    /// # Errors
    /// When the image cannot be loaded.
    pub fn add_own(&mut self, guest: &Guest, workloads: &[Arc<Scenario>]) -> Result<(), RunError> {
        let abilities = guest.abilities();
        let pti = vec![abilities.has(kernel::PTI)];
        let workloads: Vec<Arc<Scenario>> = workloads
            .iter()
            .map(|one| Arc::new(Scenario { pti: pti.clone(), ..Scenario::clone(one) }))
            .collect();
        let mut runner = Runner::new(guest, &Backend::interp());
        let symbols = guest.symbols();
        let mut all = Vec::new();
        for cpu in &self.cpus {
            let selection = Selection { abilities, ..Selection::of(&[*cpu]) };
            let mut rows = verdicts(&mut runner, &workloads, &selection, symbols)?;
            costs(&mut runner, &workloads, &mut rows, symbols)?;
            all.extend(rows);
        }
        for (number, row, _) in all {
            // Behind the other policies of its workload and processor.
            let before = |other: &Row| {
                let at = self.workloads.iter().position(|(name, _)| *name == other.workload);
                at.is_some_and(|at| at < number)
                    || at == Some(number)
                        && self.cpus.iter().position(|cpu| *cpu == other.cpu)
                            <= self.cpus.iter().position(|cpu| *cpu == row.cpu)
            };
            let place = self.rows.iter().rposition(before).map_or(0, |last| last + 1);
            self.rows.insert(place, row);
        }
        Ok(())
    }

    /// Whether every verdict is what the workload's file says.
    #[must_use]
    pub fn all_as_expected(&self) -> bool {
        self.rows.iter().all(|row| row.as_expected)
    }
}

/// The processors of [`DEFAULT_CPUS`].
#[must_use]
pub fn default_cpus() -> Vec<CpuModel> {
    let named = |name: &&str| CPUS.into_iter().find(|cpu| cpu.name == *name);
    DEFAULT_CPUS.iter().filter_map(named).collect()
}

/// Compares the policies on `cpus`, in `workloads`, on kernel `guest`; `progress` is told how many
/// rows are done: there is one for each workload, processor and policy.
///
/// # Errors
/// When the image cannot be loaded.
pub fn compare(
    guest: &Guest,
    workloads: &[Arc<Scenario>],
    cpus: &[CpuModel],
    progress: &mut dyn FnMut(usize),
) -> Result<Comparison, RunError> {
    let symbols = guest.symbols();
    let code = Disassembly::new(guest);
    let mut runner = Runner::new(guest, &Backend::interp());
    let mut rows = Vec::new();
    // One guest is alive at a time: what it can be used for comes together.
    for cpu in cpus {
        for policy in Policy::all() {
            let selection = Selection { policy: Some(policy), ..Selection::of(&[*cpu]) };
            let mut of_policy = verdicts(&mut runner, workloads, &selection, symbols)?;
            costs(&mut runner, workloads, &mut of_policy, symbols)?;
            rows.extend(of_policy.into_iter().map(|(number, row, _)| (number, row)));
            progress(rows.len());
        }
    }
    rows.sort_by_key(|(number, _)| *number);
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    let mut needs = Vec::new();
    for cpu in cpus {
        for policy in Policy::all() {
            needs.push(need(&rows, *cpu, policy, code.needs(policy)));
        }
    }
    let names = workloads.iter().map(|one| (one.name.clone(), one.summary.clone())).collect();
    let mark = code.return_path().1;
    Ok(Comparison { cpus: cpus.to_vec(), workloads: names, rows, needs, mark })
}

/// A row under way, with its workload's number and its worst-case run.
type Pending = (usize, Row, RunConfig);

fn verdicts(
    runner: &mut Runner,
    workloads: &[Arc<Scenario>],
    selection: &Selection,
    symbols: &Symbols,
) -> Result<Vec<Pending>, RunError> {
    let mut rows = Vec::new();
    for (number, workload) in workloads.iter().enumerate() {
        if workload.lacks(&selection.abilities).is_some() {
            continue;
        }
        for run in workload.runs(selection).into_iter().filter(|run| !run.cost) {
            let mut trace = Trace::default();
            let result = runner.run(&run, Some(&mut trace))?;
            rows.push((
                number,
                Row {
                    workload: workload.name.clone(),
                    cpu: run.config.cpu,
                    policy: run.config.policy,
                    outcome: result.outcome,
                    violated: result.rules().into_iter().collect(),
                    as_expected: is_as_expected(workload, &result),
                    costs: Costs::default(),
                    audit: audit::audit(&trace, &result.obligations, symbols),
                },
                run.config,
            ));
        }
    }
    Ok(rows)
}

/// Where nothing is ever taken back nothing can be stale: a vacuous run is then right.
fn is_as_expected(workload: &Scenario, result: &RunResult) -> bool {
    result.as_expected || result.outcome == Outcome::Vacuous && workload::is_idle(workload)
}

fn costs(
    runner: &mut Runner,
    workloads: &[Arc<Scenario>],
    rows: &mut [Pending],
    symbols: &Symbols,
) -> Result<(), RunError> {
    for (number, row, config) in rows {
        let config = RunConfig { fill: Fill::OnDemand, ..*config };
        let mut trace = Trace::default();
        runner.run(&workloads[*number].run(config, &[]), Some(&mut trace))?;
        row.costs = measure::measure(&trace, symbols);
    }
    Ok(())
}

/// The bits that the policy's own words of state took in any workload.
fn need(rows: &[Row], cpu: CpuModel, policy: Policy, code: Needs) -> Need {
    let mut bits: BTreeMap<&str, u64> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.cpu == cpu && row.policy == policy) {
        for (field, changed) in &row.costs.changed {
            // Which address space is loaded, and the copy of CR4, every policy has.
            let own = matches!(field.as_str(), "user_pcid_flush_mask" | "invalidate_other");
            if own && code.words.values().any(|word| word == field) {
                *bits.entry(field).or_default() |= changed;
            }
        }
    }
    Need { policy, cpu, code, state_bits: bits.values().map(|bits| bits.count_ones()).sum() }
}
