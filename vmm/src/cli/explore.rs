//! `stalemate explore`.

use super::confine::{confine, threads};
use super::failure::{EXIT_OK, EXIT_UNEXPECTED, Failure};
use super::input::{self, GuestArgs, own_policy};
use super::names;
use super::run::Switch;
use super::stopped::{stopped, verdict};
use super::terminal::{Format, Terminal};
use crate::arch::tlb::Fill;
use crate::executor::Backend;
use crate::explore::{Explored, Limits, explore, report};
use crate::interrupt;
use crate::kernel::steps::RunError;
use crate::parallel::parallel;
use crate::runner::Runner;
use crate::sandbox::Grants;
use crate::scenario::{CPUS, CpuModel, Policy, Run, Selection};
use crate::schedule::Schedule;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Arguments of `explore`.
#[derive(Debug, clap::Args)]
pub struct ExploreArgs {
    /// Scenarios by name or path; none means those of the built-in suite with two CPUs
    #[arg(value_name = "PATH|NAME")]
    scenarios: Vec<String>,
    /// Use this flush policy instead of those that the scenarios name
    #[arg(long, value_name = "POLICY", value_parser = names::policy(), hide_possible_values = true)]
    policy: Option<Policy>,
    /// Let the kernel make this historical mistake, or `none`, instead of those that the scenarios
    /// name
    #[arg(long, value_name = "VARIANT", value_parser = names::variant(), hide_possible_values = true)]
    variant: Option<names::Mistake>,
    /// Processors, separated by commas, or `all` [default: pcid; nopcid for scenarios that want no PCIDs]
    #[arg(long, value_name = "LIST", value_parser = names::cpus(), value_delimiter = ',',
          hide_possible_values = true)]
    cpu: Vec<names::Cpus>,
    /// With page-table isolation or without, instead of as the scenarios say
    #[arg(long, value_enum, hide_possible_values = true, value_name = "on|off")]
    pti: Option<Switch>,
    /// Inject this fault instead of exploring without and with each that the scenarios name; may be given
    /// again
    #[arg(long, value_name = "FAULT")]
    inject: Vec<String>,
    /// Of the faults that the scenario names, inject the Nth alone; 0 is without
    #[arg(long, value_name = "N", conflicts_with = "inject")]
    case: Option<usize>,
    /// Fill the TLB so, instead of worst-case: lazy-a, on-demand
    #[arg(long, value_name = "FILL", value_parser = names::fill(), hide_possible_values = true)]
    fill: Option<Fill>,
    /// Explore schedules with at most N preemptions; without it those with 0, 1 and 2 come first, then all
    #[arg(long, value_name = "N")]
    bound: Option<u32>,
    /// Tell at most N states apart, for each run
    #[arg(long, value_name = "N", default_value_t = 4_000_000,
          value_parser = clap::value_parser!(u64).range(1..))]
    max_states: u64,
    /// Explore each run for at most S seconds
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    time: Option<u64>,
    /// Explore N runs at a time [default: as many as there are processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// How to report; docs/explore.md says what the JSON has
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true,
          value_name = "text|json")]
    format: Format,
    #[command(flatten)]
    guest: GuestArgs,
}

fn of_name(name: &str) -> Vec<CpuModel> {
    CPUS.into_iter().filter(|cpu| cpu.name == name).collect()
}

/// Explores what `args` select.
pub fn run(args: &ExploreArgs, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    let mut scenarios = input::scenarios(&args.scenarios)?;
    if args.scenarios.is_empty() {
        scenarios.retain(|scenario| scenario.cpus() == 2);
    }
    let alone = scenarios.iter().find(|scenario| scenario.cpus() < 2).cloned();
    // Of many those of one CPU are passed over.
    scenarios.retain(|scenario| scenario.cpus() > 1);
    if let Some(alone) = alone.filter(|_| scenarios.is_empty()) {
        return Err(Failure::usage(format!(
            "{} has steps of one CPU only, which come in one order; name a scenario with steps of `cpu1`",
            alone.name
        )));
    }
    let guest = args.guest.guest()?;
    let (scenarios, _) = args.guest.can_run(&guest, scenarios)?;
    own_policy(&args.guest, &guest, args.policy, args.variant)?;
    if args.fill == Some(Fill::Seeded) {
        let message = "a seed decides what `seeded` fills, and not an exploration; use `on-demand`, \
                       `lazy-a` or `worst-case`";
        return Err(Failure::usage(message));
    }
    let cpus = match &args.cpu[..] {
        [] => of_name("pcid"),
        words => names::each_once(words),
    };
    let selection = Selection {
        policy: args.policy,
        variant: args.variant.map(|mistake| mistake.0),
        pti: args.pti.map(|switch| switch == Switch::On),
        inject: input::faults(&args.inject)?,
        case: args.case,
        fill: args.fill,
        thin: false,
        abilities: guest.abilities(),
        ..Selection::of(&cpus)
    };
    let mut runs: Vec<Run> = Vec::new();
    let without = Selection { cpus: of_name("nopcid"), ..selection.clone() };
    let all = scenarios.iter().flat_map(|scenario| match scenario.runs(&selection) {
        // One that is about processors without PCIDs.
        none if none.is_empty() && args.cpu.is_empty() => scenario.runs(&without),
        runs => runs,
    });
    for mut run in all {
        // All schedules are explored, whichever the file names.
        run.config.schedule = Schedule::InOrder;
        let counts = !run.cost && run.config.fill != Fill::Seeded;
        if counts && !runs.iter().any(|other| other.is_same(&run)) {
            runs.push(run);
        }
    }
    if runs.is_empty() {
        let message = "no selected CPU fits any selected scenario; see the `cpu` line of the scenario \
                       and `stalemate list cpus`";
        return Err(Failure::usage(message));
    }
    let limits = Limits {
        bound: args.bound,
        states: args.max_states as usize,
        time: args.time.map(Duration::from_secs),
        every_instruction: false,
    };
    let jobs = args.jobs.map_or_else(threads, usize::from).min(runs.len());
    interrupt::listen().map_err(|error| Failure::host(&error))?;
    confine(terminal, &Grants::default());
    let bar = terminal.progress(runs.len() as u64, "explorations");
    let done = AtomicU64::new(0);
    let backend = Backend::interp();
    let explored = parallel(
        &runs,
        jobs,
        || Runner::new(&guest, &backend),
        |runner, run| -> Result<Option<Explored>, RunError> {
            if interrupt::requested().is_some() {
                return Ok(None);
            }
            let one = explore(runner, run, &limits, &mut |_, _| {})?;
            bar.set_position(done.fetch_add(1, Ordering::Relaxed) + 1);
            Ok(Some(one))
        },
    )
    .map_err(|error| Failure::host(&error))?;
    bar.finish_and_clear();
    let explored: Vec<Explored> = explored.into_iter().flatten().collect();
    let written = match args.format {
        Format::Text => terminal.report(&report::text(&explored, terminal.ink), &[backend.name()]),
        Format::Json => terminal.json(&report::json(&explored)),
    };
    let right = explored.iter().all(report::is_as_expected);
    let mut code = if right { EXIT_OK } else { EXIT_UNEXPECTED };
    if let Some(request) = interrupt::requested() {
        let rest = format!("{} of {} explorations were begun", explored.len(), runs.len());
        code = stopped(terminal, request, code, &rest);
    }
    verdict(code, written)
}
