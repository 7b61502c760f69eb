//! `stalemate` and `stalemate run`.

use super::confine::confine;
use super::executors::{ExecutorKind, backends};
use super::failure::{EXIT_OK, EXIT_UNEXPECTED, Failure};
use super::files::{Files, run_to_show};
use super::input::{self, GuestArgs, check_boots, own_policy};
use super::left_out::left_out;
use super::names;
use super::stopped::{stopped, verdict};
use super::terminal::Terminal;
use crate::arch::tlb::Fill;
use crate::executor::Backend;
use crate::interrupt;
use crate::kernel::steps::{BootError, Guest, RunError};
use crate::report::{
    Layout, Results, Rows, details, difference, fold, json, junit, sarif, summary, tap,
};
use crate::runner::{Interrupted, Runner, check_of, crosscheck_all};
use crate::sandbox::Grants;
use crate::scenario::{CPUS, Expected, MAX_RUNS, Policy, Run, Scenario, Selection};
use crate::schedule::{Recorded, Schedule};
use std::path::Path;
use std::sync::Arc;

/// Runs that may hang before others are skipped.
const MOST_HANGS: usize = 5;

/// Arguments of `run`.
#[derive(Debug, Default, clap::Args)]
pub struct RunArgs {
    /// Scenarios by name or path; none means the built-in suite, `zoo` the historical bugs
    #[arg(value_name = "PATH|NAME")]
    scenarios: Vec<String>,
    /// What runs unprivileged instructions [default: kvm where it works, else interp]
    #[arg(long, value_enum)]
    executor: Option<ExecutorKind>,
    /// Use this flush policy instead of those that the scenarios name
    #[arg(long, value_name = "POLICY", value_parser = names::policy(), hide_possible_values = true)]
    policy: Option<Policy>,
    /// Let the kernel make this historical mistake, or `none`, instead of those that the scenarios
    /// name
    #[arg(long, value_name = "VARIANT", value_parser = names::variant(), hide_possible_values = true)]
    variant: Option<names::Mistake>,
    /// Processors, separated by commas, or `all`
    #[arg(long, value_name = "LIST", value_parser = names::cpus(), value_delimiter = ',',
          hide_possible_values = true)]
    cpu: Vec<names::Cpus>,
    /// With page-table isolation or without, instead of as the scenarios say
    #[arg(long, value_enum, hide_possible_values = true, value_name = "on|off")]
    pti: Option<Switch>,
    /// Inject this fault instead of those that the scenarios name; may be given again. What comes of
    /// it no file says: a violation exits with 1
    #[arg(long, value_name = "FAULT")]
    inject: Vec<String>,
    /// Of the faults that the scenario names, inject the Nth alone; 0 is the run without
    #[arg(long, value_name = "N", conflicts_with = "inject")]
    case: Option<usize>,
    /// Fill the TLB so, instead of as the scenarios say: worst-case, lazy-a, on-demand, seeded
    #[arg(long, value_name = "FILL", value_parser = names::fill(), hide_possible_values = true)]
    fill: Option<Fill>,
    /// Let CPUs preempt each other so, instead of as the scenarios say: in-order, events,
    /// instructions; or take turns as `explore` has printed it, s1-...
    #[arg(long, value_name = "SCHEDULE", value_parser = names::schedule(),
          hide_possible_values = true)]
    schedule: Option<names::Turns>,
    /// Draw seeded fills and schedules from this seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    files: Files,
    /// How to report
    #[arg(long, value_enum, default_value_t = RunFormat::Text)]
    format: RunFormat,
    #[command(flatten)]
    guest: GuestArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// With
    On,
    /// Without
    Off,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum RunFormat {
    /// For people
    #[default]
    Text,
    /// For programs; docs/report.schema.json
    Json,
    /// For CI systems: JUnit XML
    Junit,
    /// For CI systems: Test Anything Protocol, version 14
    Tap,
    /// For code hosts, which show it beside the lines: SARIF 2.1.0
    Sarif,
}

/// Runs what `args` select.
pub fn run(args: &RunArgs, device: &Path, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    let named = args.scenarios.iter().map(Path::new);
    let inputs: Vec<&Path> = named.chain(args.guest.path.as_deref()).collect();
    let outputs = args.files.open(&inputs)?;
    let scenarios = input::scenarios(&args.scenarios)?;
    let guest = args.guest.guest()?;
    let (scenarios, skipped) = args.guest.can_run(&guest, scenarios)?;
    own_policy(&args.guest, &guest, args.policy, args.variant)?;
    let selection = Selection {
        policy: args.policy,
        variant: args.variant.map(|mistake| mistake.0),
        pti: args.pti.map(|switch| switch == Switch::On),
        inject: input::faults(&args.inject)?,
        case: args.case,
        fill: args.fill,
        schedule: match args.schedule {
            Some(names::Turns::Seeded(of)) => Some(of(args.seed.unwrap_or_default())),
            _ => None,
        },
        seed: args.seed,
        thin: args.policy.is_none() && args.variant.is_none(),
        abilities: guest.abilities(),
        ..Selection::of(&names::or_default(&args.cpu))
    };
    let all = Selection { cpus: CPUS.to_vec(), ..selection.clone() };
    let runs = expand(&scenarios, &selection);
    if runs.len() > MAX_RUNS {
        let message = format!("more than {MAX_RUNS} runs; select fewer scenarios, or --cpu fewer");
        return Err(Failure::usage(message));
    }
    let runs = match &args.schedule {
        Some(names::Turns::Recorded(recorded)) => recorded_run(runs, recorded, &guest)?,
        _ => runs,
    };
    let possible = expand(&scenarios, &all).len();
    if runs.is_empty() {
        return Err(Failure::usage(no_runs(&scenarios, args.case)));
    }
    let seeded =
        |run: &Run| run.config.fill == Fill::Seeded || run.config.schedule.seed().is_some();
    if args.seed.is_some() && !runs.iter().any(seeded) {
        let message = "no choice of these runs is drawn from a seed; add `--fill seeded`, or a \
                       `--schedule` of `events` or `instructions`";
        return Err(Failure::usage(message));
    }
    let recorded = match &args.schedule {
        Some(names::Turns::Recorded(recorded)) => Some(&recorded.segments[..]),
        _ => None,
    };
    let backends = match recorded {
        // Instructions are counted there.
        Some(_) => vec![Backend::interp()],
        None => backends(args.executor, device, terminal)?,
    };
    args.guest.check_escapes(&guest, &backends.iter().collect::<Vec<_>>(), terminal)?;
    interrupt::listen().map_err(|error| Failure::host(&error))?;
    confine(terminal, &Grants { renames: outputs.folders(), ..Grants::default() });
    let mut runners = backends.iter().map(|backend| {
        let mut runner = Runner::new(&guest, backend);
        runner.limit_hangs(MOST_HANGS);
        runner.follow(recorded);
        runner
    });
    let (mut first, second) = (runners.next(), runners.next());
    if let Some(runner) = &mut first {
        check_boots(&args.guest, &guest, runner, &runs)?;
    }
    let bar = terminal.progress(runs.len() as u64, "runs");
    let mut progress = |done| bar.set_position(done as u64);
    let done = match (first, second) {
        (Some(one), Some(other)) => crosscheck_all(&mut [one, other], &runs, &mut progress),
        (Some(mut one), None) => {
            one.run_all(&runs, &mut progress).map(|results| (results, Vec::new()))
        }
        _ => Ok((Vec::new(), Vec::new())),
    };
    bar.finish_and_clear();
    let (results, differences, failed) = match done {
        Ok((results, differences)) => (results, differences, None),
        Err(interrupted) => {
            // What was found before is reported all the same.
            match failure(&interrupted) {
                Some(failure) if interrupted.results.is_empty() => return Err(failure),
                failure => (interrupted.results, interrupted.differences, failure),
            }
        }
    };
    let names: Vec<&str> = backends.iter().map(Backend::name).collect();
    let results = Results {
        scenarios: &scenarios,
        results: &results,
        differences: &differences,
        possible,
        executors: &names,
        symbols: guest.symbols(),
        guest: args.guest.path.as_deref(),
        left_out: &left_out(&scenarios, &selection, &runs),
        skipped: &skipped,
    };
    let mut written = match args.format {
        RunFormat::Json => terminal.json(&json(&results)),
        RunFormat::Junit => terminal.write(&junit(&results)),
        RunFormat::Tap => terminal.write(&tap(&results)),
        RunFormat::Sarif => terminal.json(&sarif(&results)),
        RunFormat::Text => match text(&results, !args.scenarios.is_empty(), terminal) {
            text if text.is_empty() => Ok(()),
            text => terminal.report(&text, &names),
        },
    };
    if let Some(failure) = failed {
        return Err(failure);
    }
    // After the report: what cannot be written must not lose it.
    if let Some(run) = run_to_show(&results) {
        let command = results.command(run);
        let saved = outputs.write(terminal, guest.symbols(), &command, |trace| {
            let mut runner = Runner::new(&guest, &backends[0]);
            runner.follow(recorded);
            let result = runner.run(run, Some(trace))?;
            Ok((result, runner.executor()))
        });
        written = written.and(saved);
    }
    let mut code = if results.all_as_expected() { EXIT_OK } else { EXIT_UNEXPECTED };
    let made = results.results.len();
    if let Some(request) = interrupt::requested().filter(|_| made < runs.len()) {
        let rest = format!(
            "{made} of {} runs were made, and are reported; the same command makes all, with names of \
             scenarios or with --cpu fewer",
            runs.len()
        );
        code = stopped(terminal, request, code, &rest);
    }
    verdict(code, written)
}

/// The run that a schedule was recorded from.
fn recorded_run(runs: Vec<Run>, recorded: &Recorded, guest: &Guest) -> Result<Vec<Run>, Failure> {
    let is_of = |run: &Run| !run.cost && check_of(run, guest) == recorded.check;
    match runs.into_iter().find(is_of) {
        Some(mut run) => {
            run.expected = Expected::Unstated;
            run.config.schedule = Schedule::InOrder;
            Ok(vec![run])
        }
        None => Err(Failure::usage(
            "this schedule was recorded from another scenario, configuration or kernel; use the whole \
             command that `stalemate explore` has printed with it",
        )),
    }
}

/// What is said of a host that failed; of a request to stop, nothing yet.
fn failure(interrupted: &Interrupted) -> Option<Failure> {
    Some(match interrupted.error.as_ref()? {
        RunError::Boot(BootError::Image(error)) => Failure::usage(error.to_string()),
        error if interrupted.results.is_empty() => Failure::host(error),
        error => Failure::host(error).and(&format!("; {interrupted}")),
    })
}

/// Why nothing is left to run.
fn no_runs(scenarios: &[Arc<Scenario>], case: Option<usize>) -> String {
    let most = scenarios.iter().map(|scenario| scenario.faults.len()).max().unwrap_or(0);
    match case {
        Some(case) if case > most => format!(
            "there is no fault {case}: of the selected scenarios none has more than {most}; 0 is the \
             run without"
        ),
        Some(case) if case > 0 => format!(
            "fault {case} has no run with what was selected; see its `when`, and the `policy` line \
             of the scenario"
        ),
        _ => "no selected CPU fits any selected scenario; see the `cpu` line of the scenario and \
              `stalemate list cpus`"
            .to_owned(),
    }
}

fn expand(scenarios: &[Arc<Scenario>], selection: &Selection) -> Vec<Run> {
    let runs = scenarios.iter().flat_map(|scenario| scenario.runs(selection));
    runs.take(MAX_RUNS + 1).collect()
}

fn text(results: &Results<'_>, named: bool, terminal: &Terminal<'_>) -> String {
    let Terminal { ink, quiet, verbose, .. } = *terminal;
    let rows = match (named, verbose) {
        (false, false) => Rows::Rules,
        (_, false) => Rows::Scenarios,
        (_, true) => Rows::All,
    };
    let mut parts = Vec::new();
    if !quiet {
        parts.push(summary(results, Layout { ink, width: terminal.width(), rows }));
    }
    parts.extend(results.differences.iter().map(|found| difference(results, found)));
    let all = named && verbose && !quiet;
    let shown = results.results.iter().filter(|result| all || !result.as_expected);
    parts.extend(shown.map(|result| details(results, result, ink)));
    if !quiet && !all {
        let more = if named { "each run in full" } else { "a row for each scenario" };
        let run = if results.results.len() == 1 { "the run in full" } else { more };
        let hint = format!("-v shows {run}; `stalemate explain RULE` explains a rule\n");
        parts.push(fold(&hint, terminal.width()));
    }
    parts.join("\n")
}
