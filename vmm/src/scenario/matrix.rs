//! From a scenario to its runs.

use super::config::{CpuModel, Policy, RunConfig};
use super::raw::Stops;
use super::{FaultCase, Scenario};
use crate::arch::tlb::Fill;
use crate::inject::Fault;
use crate::kernel::steps::{Abilities, StepInput};
use crate::oracle::RuleId;
use crate::schedule::Schedule;
use stalemate_shared::note::kernel;
use stalemate_shared::variant::Variant;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Runs that one command does.
pub const MAX_RUNS: usize = 1 << 18;

/// What a run must come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No rule speaks.
    Clean,
    /// Exactly these rules speak.
    Violates(BTreeSet<RuleId>),
    /// No rule speaks, and the guest cannot go on.
    Stops(Stops),
    /// No rule speaks, and a step comes to something else than it says.
    Mismatch,
    /// The file says nothing: reported, and not as expected if a rule speaks.
    Unstated,
}

impl Expected {
    /// The rules that must speak.
    pub fn rules(&self) -> impl Iterator<Item = RuleId> {
        let rules = match self {
            Self::Violates(rules) => Some(rules),
            Self::Clean | Self::Stops(_) | Self::Mismatch | Self::Unstated => None,
        };
        rules.into_iter().flatten().copied()
    }
}

/// What the command line selects.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The processors.
    pub cpus: Vec<CpuModel>,
    /// The policy, instead of those of the file.
    pub policy: Option<Policy>,
    /// The kernel's variant, instead of those of the file: some, or the kernel as it is.
    pub variant: Option<Option<Variant>>,
    /// Page-table isolation, instead of what the file says.
    pub pti: Option<bool>,
    /// The faults, instead of those of the file.
    pub inject: Vec<Fault>,
    /// Of the file's faults this one alone, by its number from 1; with 0 the run without.
    pub case: Option<usize>,
    /// The fill choice, instead of those of the file.
    pub fill: Option<Fill>,
    /// How CPUs preempt each other, instead of what the file says.
    pub schedule: Option<Schedule>,
    /// Where seeded choices begin, instead of where the file says.
    pub seed: Option<u64>,
    /// Of a combination of axes run as few configurations as its file says.
    pub thin: bool,
    /// What the kernel can do: only what it can is run.
    pub abilities: Abilities,
}

impl Selection {
    /// What the files say, on these processors.
    #[must_use]
    pub fn of(cpus: &[CpuModel]) -> Self {
        Self {
            cpus: cpus.to_vec(),
            policy: None,
            variant: None,
            pti: None,
            inject: Vec::new(),
            case: None,
            fill: None,
            schedule: None,
            seed: None,
            thin: true,
            abilities: Abilities::ALL,
        }
    }
}

/// One run of one scenario.
#[derive(Clone, Debug)]
pub struct Run {
    /// The scenario.
    pub scenario: Arc<Scenario>,
    /// Where in the matrix.
    pub config: RunConfig,
    /// What is injected.
    pub faults: Vec<Fault>,
    /// What it must come to.
    pub expected: Expected,
    /// The run is there for its costs: `on-demand`, beside the one that gives the verdict.
    pub cost: bool,
}

/// Every pair.
fn product<'a, A, B>(first: &'a [A], second: &'a [B]) -> impl Iterator<Item = (&'a A, &'a B)> {
    first.iter().flat_map(move |one| second.iter().map(move |other| (one, other)))
}

impl Run {
    /// The steps, for the guest.
    #[must_use]
    pub fn steps(&self) -> Vec<StepInput> {
        self.scenario.steps.iter().map(|step| step.input).collect()
    }

    /// Whether it is the same run of the same scenario.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.scenario, &other.scenario)
            && self.config == other.config
            && self.faults == other.faults
    }
}

/// Whether a kernel with these abilities is what a configuration says.
fn can_be(abilities: &Abilities, config: &RunConfig) -> bool {
    abilities.obeys(config.options())
        && (config.policy == Policy::Own) != abilities.has_policies()
        && (config.variant.is_none() || abilities.has(kernel::MISTAKES))
}

impl Scenario {
    /// How many configurations the lists of the file give on one processor, at most.
    pub(super) fn combinations(&self) -> usize {
        let lens = [
            self.policy.len(),
            self.pti.len(),
            self.paranoid_rewrite.len(),
            self.variant.len(),
            self.fill.len(),
            self.structure_caches.len(),
            self.schedule.len(),
            if self.fill.contains(&Fill::Seeded) { self.seed.len() } else { 1 },
        ];
        lens.into_iter().fold(1, usize::saturating_mul)
    }

    /// The configurations that the selected processors give.
    #[must_use]
    pub fn configs(&self, selection: &Selection) -> Vec<RunConfig> {
        let policies = match selection.abilities.has_policies() {
            true => selection.policy.map_or(self.policy.clone(), |policy| vec![policy]),
            false => vec![Policy::Own],
        };
        let variants = selection.variant.map_or(self.variant.clone(), |variant| vec![variant]);
        let ptis = selection.pti.map_or(self.pti.clone(), |pti| vec![pti]);
        let fills = selection.fill.map_or(self.fill.clone(), |fill| vec![fill]);
        let mut configs = Vec::new();
        for (&cpu, &policy) in product(&selection.cpus, &policies) {
            for (&pti, &paranoid_rewrite) in product(&ptis, &self.paranoid_rewrite) {
                for (&variant, &fill) in product(&variants, &fills) {
                    for (structure_caches, seed, schedule) in self.model_choices(fill, selection) {
                        configs.push(RunConfig {
                            cpu,
                            policy,
                            pti,
                            global_with_pti: self.global == Some(true) && pti,
                            paranoid_rewrite,
                            nmi_flush: self.nmi_flush,
                            variant,
                            fill,
                            seed,
                            structure_caches,
                            cpus: self.cpus(),
                            schedule,
                        });
                    }
                }
            }
        }
        configs.retain(|config| self.allows(config) && can_be(&selection.abilities, config));
        if let Some(cell) = self.cell.as_ref().filter(|_| selection.thin) {
            // At least one is left, and another one than the combination before has.
            let one_in = cell.one_in.min(configs.len()).max(1);
            let mut place = cell.number;
            configs.retain(|_| {
                place += 1;
                (place - 1).is_multiple_of(one_in)
            });
        }
        configs
    }

    /// Structure caches, seeds where they make a difference, and schedules.
    fn model_choices(&self, fill: Fill, selection: &Selection) -> Vec<(bool, u64, Schedule)> {
        let of_file = if fill == Fill::Seeded { &self.seed[..] } else { &[0] };
        let seeds = selection.seed.filter(|_| fill == Fill::Seeded).map(|seed| vec![seed]);
        let schedules = match (selection.schedule, selection.seed) {
            (Some(schedule), _) => vec![schedule],
            (None, None) => self.schedule.clone(),
            (None, Some(seed)) => {
                self.schedule.iter().map(|schedule| schedule.from_seed(seed)).collect()
            }
        };
        let mut choices = Vec::new();
        for (schedule, &caches) in product(&schedules, &self.structure_caches) {
            let seeds = seeds.as_deref().unwrap_or(of_file);
            choices.extend(seeds.iter().map(|&seed| (caches, seed, *schedule)));
        }
        choices.dedup();
        choices
    }

    fn allows(&self, config: &RunConfig) -> bool {
        let one = |of: &[bool], value| of.is_empty() || of.contains(&value);
        let features = config.cpu.features;
        one(&self.pcid, features.pcid)
            && one(&self.invpcid, features.invpcid)
            && one(&self.pge, features.pge)
            && self.global.is_none_or(|global| global == config.kernel_global())
    }

    /// What the run without faults must come to.
    fn expected(&self, config: &RunConfig, selection: &Selection) -> Expected {
        if let Some(verdict) = self.verdicts.iter().find(|verdict| verdict.when.holds(config)) {
            return verdict.expected.clone();
        }
        let named = |policy| {
            self.policy.contains(&policy)
                || self.verdicts.iter().any(|verdict| verdict.when.policy.contains(&policy))
        };
        let said = self.variant.contains(&config.variant)
            && self.pti.contains(&config.pti)
            && self.fill.contains(&config.fill)
            && self.schedule.contains(&config.schedule)
            && (config.fill != Fill::Seeded || self.seed.contains(&config.seed));
        match selection.policy {
            _ if !said => Expected::Unstated,
            // A file speaks of policies of the built-in guest, and of what any right one comes to.
            _ if config.policy == Policy::Own => Expected::Clean,
            Some(policy) if !named(policy) => Expected::Unstated,
            _ => Expected::Clean,
        }
    }

    /// A run on `config` of which the file says nothing.
    #[must_use]
    pub fn run(self: &Arc<Self>, config: RunConfig, faults: &[Fault]) -> Run {
        Run {
            scenario: Arc::clone(self),
            config,
            faults: faults.to_vec(),
            expected: Expected::Unstated,
            cost: false,
        }
    }

    /// All runs of this scenario; of more than [`MAX_RUNS`] the first.
    #[must_use]
    pub fn runs(self: &Arc<Self>, selection: &Selection) -> Vec<Run> {
        let mut runs = Vec::new();
        for config in self.configs(selection) {
            if runs.len() > MAX_RUNS {
                break;
            }
            let run = |faults: &[Fault], expected, config, cost| Run {
                expected,
                cost,
                ..self.run(config, faults)
            };
            if !selection.inject.is_empty() {
                runs.push(run(&selection.inject, Expected::Unstated, config, false));
                continue;
            }
            let expected = self.expected(&config, selection);
            let for_costs =
                config.fill == Fill::WorstCase && expected == Expected::Clean && config.pti;
            // Of combinations `compare` says what they cost.
            let for_costs = for_costs && self.cell.is_none();
            if selection.case.is_none_or(|case| case == 0) {
                runs.push(run(&[], expected, config, false));
            }
            if selection.case.is_none() && for_costs {
                let config = RunConfig { fill: Fill::OnDemand, ..config };
                runs.push(run(&[], Expected::Clean, config, true));
            }
            let stated = |fault: &&FaultCase| {
                // What the file says of a fault it says of its own policies.
                fault.when.holds(&config)
                    && (self.policy.contains(&config.policy)
                        || fault.when.policy.contains(&config.policy))
            };
            let cases = self.faults.iter().zip(1..);
            let wanted = cases.filter(|(_, case)| selection.case.is_none_or(|only| only == *case));
            for (fault, _) in wanted.filter(|(fault, _)| stated(fault)) {
                runs.push(run(&fault.inject, fault.expected.clone(), config, false));
            }
        }
        runs
    }

    /// The number of the file's fault that a run of it is of, 0 for none; nothing where the fault is not
    /// the file's.
    #[must_use]
    pub fn case(&self, run: &Run) -> Option<usize> {
        if run.faults.is_empty() {
            return Some(0);
        }
        let is = |fault: &FaultCase| {
            fault.inject == run.faults
                && fault.expected == run.expected
                && fault.when.holds(&run.config)
        };
        self.faults.iter().position(is).map(|index| index + 1)
    }
}
