//! Scenario files: TOML, typed and checked before anything boots.

use super::axes::{self, Cell};
use super::config::{CPUS, Policy, RunConfig, When};
use super::diagnostic::{Diagnostic, SCENARIOS, explain};
use super::matrix::Selection;
use super::raw::{Grain, List, RawScenario};
use super::source::Source;
use super::{Expected, FaultCase, Scenario, Verdict};
use crate::arch::tlb::Fill;
use crate::kernel::steps::Abilities;
use crate::schedule::Schedule;
use std::collections::BTreeSet;
use std::sync::Arc;
use toml::Spanned;

fn or<T>(list: List<T>, default: &[T]) -> Vec<T>
where
    T: Clone + Ord,
{
    if list.0.is_empty() { default.to_vec() } else { unique(list.0) }
}

/// What is said twice is said once.
fn unique<T: Clone + Ord>(mut list: Vec<T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    list.retain(|one| seen.insert(one.clone()));
    list
}

/// Combinations of what one file lists: policies, variants, fills, schedules, seeds and the like.
const MAX_COMBINATIONS: usize = 4096;

/// Parses and checks one file: one scenario, or where it has axes one for each combination.
///
/// # Errors
/// The first error in it.
pub fn parse_all(name: &str, file: &str, text: &str) -> Result<Vec<Arc<Scenario>>, Diagnostic> {
    let cells = axes::cells(&Source { file, text })?;
    if cells.is_empty() {
        return Ok(vec![parse(name, file, text)?]);
    }
    let one = |(cell, text): (Cell, String)| {
        let name = format!("{name}/{}", cell.name);
        let mut scenario = parse(&name, &format!("{file} ({})", cell.name), &text)?;
        let of = Arc::make_mut(&mut scenario);
        file.clone_into(&mut of.file);
        of.cell = Some(cell);
        Ok(scenario)
    };
    cells.into_iter().map(one).collect()
}

/// Parses and checks one scenario, which has no axes.
///
/// # Errors
/// The first error in it.
pub fn parse(name: &str, file: &str, text: &str) -> Result<Arc<Scenario>, Diagnostic> {
    let source = Source { file, text };
    let raw: RawScenario = toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let (message, help) = explain(error.message(), SCENARIOS);
        source.error(span, message, help)
    })?;
    if raw.axis.is_some() || raw.axes.is_some() {
        let message = "axes, where one scenario is read".to_owned();
        let help = "give the whole file to `stalemate run`, its axes last".to_owned();
        return Err(source.error(0..0, message, help));
    }
    let pti = or(raw.kernel.pti, &[true, false]);
    let global = raw.kernel.global.as_ref().map(|global| *global.get_ref());
    let wants_global = raw.kernel.global.as_ref().filter(|global| *global.get_ref());
    if let (Some(spanned), [false]) = (wants_global, &raw.cpu.pge.0[..]) {
        let message = "kernel pages cannot be global on a CPU without PGE".to_owned();
        let help = "drop `global = true`, or allow `pge = true`".to_owned();
        return Err(source.error(spanned.span(), message, help));
    }
    let fill = or(raw.model.fill, &[Fill::WorstCase]);
    let grains = or(raw.model.schedule, &[Grain::InOrder]);
    let seeded = fill.contains(&Fill::Seeded) || grains.iter().any(|&one| one != Grain::InOrder);
    if let Some(spanned) = raw.model.seed.as_ref().filter(|_| !seeded) {
        let message = "a seed, and no `seeded` fill or schedule that it is for".to_owned();
        let help = "leave it out, or add `seeded` to `fill`, or a `schedule`".to_owned();
        return Err(source.error(spanned.span(), message, help));
    }
    let span = raw.model.seed.as_ref().map_or(0..0, Spanned::span);
    let seed = raw.model.seed.map_or_else(List::default, Spanned::into_inner);
    let seed = List(unique(seed.0));
    let (steps, concurrently) = source.steps(&raw.steps)?;
    let mut scenario = Scenario {
        name: name.to_owned(),
        file: file.to_owned(),
        source: text.to_owned(),
        summary: source.summary(raw.summary)?,
        conformance: raw.conformance,
        pcid: raw.cpu.pcid.0,
        invpcid: raw.cpu.invpcid.0,
        pge: raw.cpu.pge.0,
        policy: or(raw.kernel.policy, &[Policy::Split]),
        global,
        pti,
        paranoid_rewrite: or(raw.kernel.paranoid_rewrite, &[false]),
        nmi_flush: raw.kernel.nmi_flush,
        variant: unique(source.variants(raw.kernel.variant.as_ref(), &[None])?),
        zoo: raw.zoo.map(|zoo| source.zoo(zoo)).transpose()?,
        fill,
        schedule: schedules(&grains, &seed.0[..seed.0.len().min(MAX_COMBINATIONS + 1)]),
        seed: or(seed, &[0]),
        structure_caches: or(raw.model.structure_caches, &[true]),
        steps,
        concurrently,
        faults: Vec::new(),
        verdicts: Vec::new(),
        cell: None,
    };
    let combinations = scenario.combinations();
    if combinations > MAX_COMBINATIONS {
        let message = format!("{combinations} combinations of what this file lists");
        let help =
            format!("at most {MAX_COMBINATIONS} are run of one file; say fewer, or use `--seed`");
        return Err(source.error(span, message, help));
    }
    let configs = every_config(&scenario);
    if let (true, Some(spanned)) = (configs.is_empty(), &raw.kernel.global) {
        let message = "no CPU runs this: kernel pages are global if PGE is on and PTI is off";
        let help = "change `global`, `pti` or `pge` so that they agree".to_owned();
        return Err(source.error(spanned.span(), message.to_owned(), help));
    }
    for fault in raw.fault {
        let inject = source.faults(&fault.inject)?;
        let at = fault.inject.span();
        let expected = match source.expected(at.clone(), fault.violates, fault.stops)? {
            Expected::Violates(rules) if rules.is_empty() => Expected::Clean,
            expected => expected,
        };
        let span = fault.when.as_ref().map_or(at, Spanned::span);
        let when = match fault.when {
            Some(when) => source.when(when.into_inner())?,
            None => When::default(),
        };
        source.reachable(span, &when, &configs)?;
        scenario.faults.push(FaultCase { inject, when, expected });
    }
    for verdict in raw.verdict {
        let span = verdict.when.span();
        let expected = match (verdict.mismatch, &verdict.violates, &verdict.stops) {
            (true, None, None) => Expected::Mismatch,
            (true, ..) => {
                let message = "a mismatch, and another outcome".to_owned();
                let help = "leave `mismatch` out: a step's value counts only where no rule speaks";
                return Err(source.error(span, message, help.to_owned()));
            }
            _ => source.expected(span.clone(), verdict.violates, verdict.stops)?,
        };
        let when = source.when(verdict.when.into_inner())?;
        source.reachable(span.clone(), &when, &configs)?;
        source.first(span, &when, &scenario.verdicts, &configs)?;
        scenario.verdicts.push(Verdict { when, expected });
    }
    Ok(Arc::new(scenario))
}

/// The schedules that the file asks for, by seed.
fn schedules(grains: &[Grain], seeds: &[u64]) -> Vec<Schedule> {
    let seeds = if seeds.is_empty() { &[0] } else { seeds };
    let each = |&grain: &Grain| match grain {
        Grain::InOrder => vec![Schedule::InOrder],
        Grain::Events => seeds.iter().map(|&seed| Schedule::Events(seed)).collect(),
        Grain::Instructions => seeds.iter().map(|&seed| Schedule::Instructions(seed)).collect(),
    };
    grains.iter().flat_map(each).collect()
}

/// Every configuration that a command line can ask of a scenario.
fn every_config(scenario: &Scenario) -> Vec<RunConfig> {
    let configs = |policy| {
        let selection = Selection { policy, thin: false, ..Selection::of(&CPUS) };
        scenario.configs(&selection)
    };
    let own = Abilities::of_own_policy();
    let of_own = Selection { thin: false, abilities: own, ..Selection::of(&CPUS) };
    let ours = Policy::all().into_iter().flat_map(|policy| configs(Some(policy)));
    ours.chain(scenario.configs(&of_own)).collect()
}
