//! What is scored: every form of a fault, at every place that it can be at, in every scenario.

use crate::arch::tlb::Fill;
use crate::inject::Fault;
use crate::inject::fault::Action;
use crate::inject::fault::Site;
use crate::inject::forms::{FORMS, POINTS, SITES};
use crate::kernel::steps::Abilities;
use crate::scenario::{CpuModel, POLICIES, Policy, RunConfig, Scenario, Selection};
use crate::schedule::Schedule;
use stalemate_shared::note::kernel;
use stalemate_shared::page::Page;
use std::collections::BTreeSet;
use std::sync::Arc;

/// One fault in one scenario on one configuration.
#[derive(Clone, Debug)]
pub struct Case {
    /// The scenario.
    pub scenario: Arc<Scenario>,
    /// Where in the matrix.
    pub config: RunConfig,
    /// The fault.
    pub fault: Fault,
    /// Beside every time, each time alone is a fault of its own.
    pub each_time: bool,
}

/// What is wanted of all that could be scored.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The processors.
    pub cpus: Vec<CpuModel>,
    /// One policy, instead of all.
    pub policy: Option<Policy>,
    /// These faults, instead of all.
    pub inject: Vec<Fault>,
    /// What the kernel can do.
    pub abilities: Abilities,
}

/// The cases, those of one configuration together.
#[must_use]
pub fn cases(scenarios: &[Arc<Scenario>], wanted: &Wanted) -> Vec<Case> {
    let mut cases = Vec::new();
    for (config, index) in configs(scenarios, wanted) {
        let scenario = &scenarios[index];
        let faults = match wanted.inject.is_empty() {
            true => faults(scenario),
            false => wanted.inject.clone(),
        };
        // Who takes no interrupts is not interrupted.
        let takes = |fault: &Fault| {
            !matches!(fault.action, Action::Nmi | Action::Irq)
                || wanted.abilities.has(kernel::INTERRUPTS)
        };
        let of_config = faults.into_iter().filter(|fault| fits(fault, &config) && takes(fault));
        let each_time = wanted.inject.is_empty();
        let case = |fault| Case { scenario: Arc::clone(scenario), config, fault, each_time };
        cases.extend(of_config.map(case));
    }
    cases
}

/// Every configuration of every scenario, in their order.
///
/// Choices drawn from a seed, of a schedule too, are drawn anew after each event, so that a fault
/// would change all that come after it: there is no run to compare with. Those scenarios are scored
/// under the other fill choices, in order.
fn configs(scenarios: &[Arc<Scenario>], wanted: &Wanted) -> BTreeSet<(RunConfig, usize)> {
    let policies = POLICIES.iter().map(|(policy, ..)| *policy);
    let policies: Vec<Policy> = match wanted.policy {
        _ if !wanted.abilities.has_policies() => vec![Policy::Own],
        Some(policy) => vec![policy],
        None => policies.collect(),
    };
    let mut configs = BTreeSet::new();
    for (index, scenario) in scenarios.iter().enumerate() {
        for &policy in &policies {
            let of_cpus = Selection::of(&wanted.cpus);
            let (policy, abilities) = (Some(policy), wanted.abilities);
            let selection = Selection { policy, abilities, ..of_cpus };
            // What a fault adds to a mistake that the kernel makes anyway is not told from it.
            let mended = scenario.variant.contains(&None);
            let right = |config: &RunConfig| config.variant.is_none() || !mended;
            for config in scenario.configs(&selection).into_iter().filter(right) {
                let fill = match config.fill {
                    Fill::Seeded => Fill::WorstCase,
                    fill => fill,
                };
                for fill in [fill, Fill::OnDemand] {
                    let schedule = Schedule::InOrder;
                    configs.insert((RunConfig { fill, seed: 0, schedule, ..config }, index));
                }
            }
        }
    }
    configs
}

/// What is cached changes by itself only where not all that could be is; and the rest of the
/// faults are judged where it is.
fn fits(fault: &Fault, config: &RunConfig) -> bool {
    let on_demand = matches!(fault.action, Action::Evict | Action::Speculate);
    on_demand == (config.fill == Fill::OnDemand)
}

/// Every fault that a scenario can have: each form at each place, every time.
fn faults(scenario: &Scenario) -> Vec<Fault> {
    let words = scenario.steps.iter().flat_map(|step| step.text.split_whitespace());
    let pages: BTreeSet<Page> = words.filter_map(|word| word.parse().ok()).collect();
    let mut texts = Vec::new();
    // A schedule is no mistake.
    for (form, _) in FORMS.iter().filter(|(form, _)| !form.starts_with("preempt")) {
        let places: Vec<&str> = match form.split_once('@') {
            // What is at any site is at one of the others.
            Some((_, "SITE")) => {
                let named = SITES.iter().filter(|(_, site)| *site != Site::Any);
                named.map(|(name, _)| *name).collect()
            }
            Some((_, "POINT")) => POINTS.iter().map(|(name, _)| *name).collect(),
            _ => vec![""],
        };
        for place in places {
            let text = form.replace("SITE", place).replace("POINT", place);
            match text.contains("PAGE") {
                true => {
                    texts.extend(pages.iter().map(|page| text.replace("PAGE", &page.to_string())))
                }
                false => texts.push(text),
            }
        }
    }
    // A test says that every form at every place is a fault.
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}
