//! `stalemate faults`: the detection score.

use super::confine::{confine, threads};
use super::executors::ExecutorKind;
use super::failure::{EXIT_OK, EXIT_UNEXPECTED, Failure, chain};
use super::input::{self, GuestArgs, own_policy};
use super::names;
use super::stopped::{stopped, verdict};
use super::terminal::{Format, Terminal};
use crate::executor::Backend;
use crate::interrupt;
use crate::kernel::steps::{BootError, RunError};
use crate::oracle::RuleId;
use crate::report::{score_json, score_text};
use crate::runner::Runner;
use crate::sandbox::Grants;
use crate::scenario::{CPUS, Policy};
use crate::score::{Class, Wanted, cases, score};
use std::path::Path;

/// Arguments of `faults`.
#[derive(Debug, clap::Args)]
pub struct FaultsArgs {
    /// Scenarios by name or path; none means the built-in suite without `matrix`
    #[arg(value_name = "PATH|NAME")]
    scenarios: Vec<String>,
    /// What runs unprivileged instructions
    #[arg(long, value_enum, default_value_t = ExecutorKind::Interp)]
    executor: ExecutorKind,
    /// Score this flush policy alone instead of all
    #[arg(long, value_name = "POLICY", value_parser = names::policy(), hide_possible_values = true)]
    policy: Option<Policy>,
    /// Processors, separated by commas, or `all`
    #[arg(long, value_name = "LIST", value_parser = names::cpus(), value_delimiter = ',',
          hide_possible_values = true)]
    cpu: Vec<names::Cpus>,
    /// Inject this fault alone instead of all; may be given again
    #[arg(long, value_name = "FAULT")]
    inject: Vec<String>,
    /// Of the instruction boundaries of nmi@each and irq@each, try one in so many
    #[arg(long, value_name = "N", default_value_t = 499)]
    stride: usize,
    /// Leave this rule out: what would escape without it?
    #[arg(long, value_name = "RULE", value_parser = names::rule(), hide_possible_values = true)]
    without: Option<RuleId>,
    #[command(flatten)]
    guest: GuestArgs,
    /// How to report; the JSON's schema is docs/faults.schema.json
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Scores what `args` select.
pub fn run(args: &FaultsArgs, device: &Path, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    let mut scenarios = input::scenarios(&args.scenarios)?;
    if args.scenarios.is_empty() {
        // The combinations of axes where they are named: they repeat what the others have.
        scenarios.retain(|scenario| scenario.cell.is_none());
    }
    let guest = args.guest.guest()?;
    own_policy(&args.guest, &guest, args.policy, None)?;
    let (scenarios, skipped) = args.guest.can_run(&guest, scenarios)?;
    let wanted = Wanted {
        cpus: names::or_default(&args.cpu),
        policy: args.policy,
        inject: input::faults(&args.inject)?,
        abilities: guest.abilities(),
    };
    let without = args.without;
    let cases = cases(&scenarios, &wanted);
    if cases.is_empty() {
        let message = "no selected CPU fits any selected scenario; see the `cpu` line of the \
                       scenario and `stalemate list cpus`";
        return Err(Failure::usage(message));
    }
    let possible = crate::score::cases(&scenarios, &Wanted { cpus: CPUS.to_vec(), ..wanted }).len();
    let backend = match args.executor {
        ExecutorKind::Interp => Backend::interp(),
        ExecutorKind::Kvm => Backend::kvm(device).map_err(|error| Failure::host(&error))?,
        ExecutorKind::Both => {
            let message = "a score is made on one executor; use `--executor kvm` or `interp`";
            return Err(Failure::usage(message));
        }
    };
    args.guest.check_escapes(&guest, &[&backend], terminal)?;
    let stride = args.stride;
    let runner = || {
        let mut runner = Runner::new(&guest, &backend);
        runner.disable_rule(without);
        runner.stride(stride);
        runner
    };
    let threads = threads().min(2);
    interrupt::listen().map_err(|error| Failure::host(&error))?;
    confine(terminal, &Grants::default());
    let bar = terminal.progress(cases.len() as u64, "faults");
    let scored = score(&runner, threads, &cases, &|more| bar.inc(more as u64)).map_err(
        |error| match &error {
            // It is nobody's fault but the kernel's.
            RunError::Boot(BootError::Guest { .. }) => Failure::usage(chain(&error)),
            _ => Failure::host(&error),
        },
    )?;
    bar.finish_and_clear();
    let report = crate::report::Score {
        scenarios: &scenarios,
        scored: &scored,
        executor: backend.name(),
        possible,
        without,
        stride,
        guest: args.guest.path.as_deref(),
        skipped: &skipped,
    };
    let escaped = scored.iter().any(|one| matches!(one.class, Class::Escaped(_)));
    let written = match args.format {
        Format::Json => terminal.json(&score_json(&report)),
        Format::Text if terminal.quiet && !escaped => Ok(()),
        Format::Text => terminal.report(&score_text(&report, terminal.width()), &[backend.name()]),
    };
    let mut code = if escaped { EXIT_UNEXPECTED } else { EXIT_OK };
    if let Some(request) = interrupt::requested() {
        let rest = "what was scored until then is reported; the same command scores all, with names of \
                    scenarios or with --policy fewer";
        code = stopped(terminal, request, code, rest);
    }
    verdict(code, written)
}
