//! `stalemate fuzz`.

use super::confine::{confine, threads};
use super::executors::ExecutorKind;
use super::failure::{EXIT_OK, EXIT_UNEXPECTED, Failure};
use super::files::Folder;
use super::input::{GuestArgs, own_policy};
use super::names;
use super::stopped::{stopped, verdict};
use super::terminal::{Format, Terminal};
use crate::executor::{Backend, REQUIRE_KVM, kvm_is_required};
use crate::fuzz::report::{About, Report, text};
use crate::fuzz::{self, Campaign, CrossCheck, correct_policies, zoo};
use crate::interrupt;
use crate::sandbox::Grants;
use crate::scenario::{CPUS, Policy};
use stalemate_shared::variant::VARIANTS;
use std::path::{Path, PathBuf};

/// Programs that KVM runs too, where no executor is named: one in so many.
const COMPARED: u64 = 100;

/// Arguments of `fuzz`.
#[derive(Debug, clap::Args)]
pub struct FuzzArgs {
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The number of the first program
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u64,
    /// How many programs
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Run under this policy instead of every one that ought to be correct
    #[arg(long, value_name = "POLICY", value_parser = names::policy(), hide_possible_values = true)]
    policy: Option<Policy>,
    /// Let the kernel make this historical mistake
    #[arg(long, value_name = "VARIANT", value_parser = names::variant(), hide_possible_values = true)]
    variant: Option<names::Mistake>,
    /// Count how many programs it takes to find each historical bug, at most --count each
    #[arg(long, conflicts_with_all = ["variant", "out", "path"])]
    zoo: bool,
    /// Processors, separated by commas [default: all]
    #[arg(long, value_name = "LIST", value_parser = names::cpus(), value_delimiter = ',',
          hide_possible_values = true)]
    cpu: Vec<names::Cpus>,
    /// What runs unprivileged instructions [default: interp, and one program in 100 on kvm too]
    #[arg(long, value_enum)]
    executor: Option<ExecutorKind>,
    #[command(flatten)]
    guest: GuestArgs,
    /// Write scenario files of what fails to this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How to report; the JSON's schema is docs/fuzz.schema.json, with --zoo docs/fuzz-zoo.schema.json
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The executor of every run, and the one to cross-check with or why there is none.
type Executors = (Backend, Result<(Backend, u64), String>);

/// Runs programs as `args` say.
pub fn run(args: &FuzzArgs, device: &Path, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    let guest = args.guest.guest()?;
    own_policy(&args.guest, &guest, args.policy, args.variant)?;
    let policies = match args.policy {
        _ if !guest.abilities().has_policies() => vec![Policy::Own],
        Some(policy) => vec![policy],
        None if args.zoo => vec![Policy::Split],
        None => correct_policies(),
    };
    let cpus = match &args.cpu[..] {
        [] => CPUS.to_vec(),
        words => names::each_once(words),
    };
    let (executor, second) = executors(args.executor, device)?;
    let out = args.out.as_deref().map(Folder::open).transpose()?;
    let cross_check = second.as_ref().ok();
    let mut backends = vec![&executor];
    backends.extend(cross_check.map(|(backend, _)| backend));
    args.guest.check_escapes(&guest, &backends, terminal)?;
    let campaign = Campaign {
        guest: &guest,
        path: args.guest.path.as_deref(),
        seed: args.seed,
        first: args.first,
        count: args.count,
        policies: &policies,
        variant: args.variant.and_then(|mistake| mistake.0),
        cpus: &cpus,
        executor: &executor,
        cross_check: cross_check.map(|(executor, one_in)| CrossCheck { executor, one_in: *one_in }),
        threads: threads().min(2),
    };
    confine(
        terminal,
        &Grants { creates: out.iter().map(Folder::path).collect(), ..Grants::default() },
    );
    if args.zoo {
        return discover(&campaign, args.format, terminal);
    }
    interrupt::listen().map_err(|error| Failure::host(&error))?;
    let bar = terminal.progress(args.count.saturating_mul(policies.len() as u64), "runs");
    let report = fuzz::run(&campaign, &|runs| bar.inc(runs));
    bar.finish_and_clear();
    let mut report = report.map_err(|error| Failure::host(&error))?;
    let saved = out.as_ref().map_or(Ok(()), |directory| save(directory, &mut report));
    let about = About {
        seed: args.seed,
        count: args.count,
        executor: executor.name(),
        beside: second.as_ref().map(|(other, _)| other.name()).map_err(String::as_str),
        written: out.is_some() && saved.is_ok(),
    };
    let failed = !report.failing.is_empty();
    let reported = match args.format {
        Format::Json => terminal.json(&fuzz::json(&about, &report)),
        Format::Text if terminal.quiet && !failed => Ok(()),
        Format::Text => terminal.report(&text(&about, &report), &[executor.name()]),
    };
    let mut code = if failed { EXIT_UNEXPECTED } else { EXIT_OK };
    if let (Some(request), Some(next)) = (interrupt::requested(), report.unfinished) {
        let left = args.first.saturating_add(args.count) - next;
        let rest = format!("the same command goes on with --first {next} --count {left}");
        code = stopped(terminal, request, code, &rest);
    }
    verdict(code, reported.and(saved))
}

/// Counts the programs that each historical bug takes. Nothing is cross-checked: it is about time
/// to a finding, which a second executor would not change.
fn discover(
    campaign: &Campaign<'_>,
    format: Format,
    terminal: &mut Terminal<'_>,
) -> Result<u8, Failure> {
    let alone = Campaign { cross_check: None, ..*campaign };
    let bar = terminal.progress(VARIANTS.len() as u64, "bugs");
    let found =
        zoo::discover(&alone, &mut |_| bar.inc(1)).map_err(|error| Failure::host(&error))?;
    bar.finish_and_clear();
    match format {
        Format::Text => terminal.report(&zoo::text(&alone, &found), &[campaign.executor.name()])?,
        Format::Json => terminal.json(&zoo::json(&alone, &found))?,
    }
    Ok(EXIT_OK)
}

/// The requested executors. Without KVM, a comparison that was not requested is skipped.
fn executors(kind: Option<ExecutorKind>, device: &Path) -> Result<Executors, Failure> {
    let kvm = || Backend::kvm(device).map_err(|error| Failure::host(&error));
    let alone = || Err("nothing else was asked for".to_owned());
    Ok(match kind {
        Some(ExecutorKind::Interp) => (Backend::interp(), alone()),
        Some(ExecutorKind::Kvm) => (kvm()?, alone()),
        Some(ExecutorKind::Both) => (Backend::interp(), Ok((kvm()?, 1))),
        None if kvm_is_required() => {
            let remark = format!("; {REQUIRE_KVM}=1 forbids to go without");
            let backend = kvm().map_err(|failure| failure.and(&remark))?;
            (Backend::interp(), Ok((backend, COMPARED)))
        }
        None => {
            let kvm = kvm().map(|backend| (backend, COMPARED));
            (Backend::interp(), kvm.map_err(|failure| format!("SKIP kvm: {failure}")))
        }
    })
}

/// Writes the scenario files, and has the report say where they are.
fn save(directory: &Folder, report: &mut Report) -> Result<(), Failure> {
    for found in &mut report.found {
        let shown = directory.save(&found.file, &found.text)?.display().to_string();
        found.command = found.command.replace(&found.file, &shown);
        found.file = shown;
    }
    Ok(())
}
