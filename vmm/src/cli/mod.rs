//! The command line.
//!
//! Exit codes: 0 all as expected, 1 an outcome was not as expected, 2 bad usage or bad input,
//! 3 the host cannot run what was asked.

mod audit;
mod check_guest;
mod compare;
mod confine;
mod describe;
mod doctor;
mod executors;
mod explore;
mod failure;
mod faults;
mod files;
mod fuzz;
mod generate;
mod input;
mod left_out;
mod names;
mod replay;
mod run;
mod stopped;
mod terminal;
mod terms;

pub use failure::{EXIT_HOST, EXIT_OK, EXIT_UNEXPECTED, EXIT_USAGE, Failure, Message};
pub use terminal::complain;

use crate::ink::Ink;
use crate::scenario;
use clap::{CommandFactory, Parser, Subcommand};
use std::path::{Path, PathBuf};
use terminal::{Colour, Terminal};

const AFTER_HELP: &str = "\
Exit status:
  0  all as expected
  1  an outcome was not as expected, or two executors differ
  2  bad usage, or bad input; nothing ran
  3  the host cannot do what was asked
  130, 143  SIGINT or SIGTERM stopped it, and all was as expected until then

Environment:
  STALEMATE_REQUIRE_KVM=1  use KVM where either would do, and fail where there is none
  NO_COLOR                 print no colours, unless --color asks for them
  COLUMNS=N                fold lines to N columns, instead of to the terminal's; what is
                           not a terminal gets whole lines, and tables of 80 columns

Examples:
  stalemate run user-flush-on-next-return --cpu pcid
  stalemate run shootdown --cpu pcid --inject \"early ack\" --html out.html
  stalemate run my-scenarios/ --format junit > junit.xml
  stalemate explain stale-user-entry";

/// Proves, on the machine code that ran, that a kernel's TLB flushes are sufficient.
///
/// Without a command it runs the built-in suite.
#[derive(Debug, Parser)]
#[command(version, name = "stalemate", after_long_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// The KVM device to use
    #[arg(long, global = true, value_name = "PATH", default_value = "/dev/kvm")]
    kvm_device: PathBuf,
    /// When to colour what is printed: auto is on a terminal, unless NO_COLOR is set
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        value_name = "auto|always|never"
    )]
    color: Colour,
    /// Show no progress, and of runs only those that are not as expected
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Of runs, show each in full, and a row for each scenario
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    verbose: bool,
    /// Run guests in a process that may do all that its user may
    #[arg(long, global = true)]
    no_sandbox: bool,
}

impl Cli {
    /// What the command line asks for. Bad usage ends the program with code 2, and a scenario in the
    /// place of a command with what was probably meant.
    #[must_use]
    pub fn read() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            let word =
                error.get(clap::error::ContextKind::InvalidSubcommand).map(ToString::to_string);
            match word.filter(|word| scenario::builtins(word).is_some() || Path::new(word).exists())
            {
                Some(word) => {
                    let word = crate::report::quoted(&word);
                    let message = format!("`{word}` is a scenario: `stalemate run {word}` runs it");
                    complain(&Failure::usage(message).render(Ink::Plain), Ink::Plain);
                    std::process::exit(EXIT_USAGE.into())
                }
                None => error.exit(),
            }
        })
    }

    /// How errors are coloured.
    #[must_use]
    pub fn error_ink(&self) -> Ink {
        self.color.ink(&std::io::stderr())
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios: built-in ones by name, files by path, all files of a directory
    Run(run::RunArgs),
    /// Judge a kernel that is not ours
    Audit(audit::AuditArgs),
    /// Explore every interleaving of the CPUs of scenarios
    ///
    /// The steps after `concurrently:`, or from the first of a second CPU on, are run in every order that
    /// there is, and each is judged by all rules. What comes out says `complete` where that was so.
    Explore(explore::ExploreArgs),
    /// Run random programs, on which every correct policy is clean
    Fuzz(fuzz::FuzzArgs),
    /// Check a kernel of one's own, for --guest: headers, code, symbols, boot, what it can run
    ///
    /// docs/guest.md says what it must be.
    CheckGuest(check_guest::CheckGuestArgs),
    /// List what there is
    List(describe::ListArgs),
    /// Inject every fault into every scenario: the detection score
    Faults(faults::FaultsArgs),
    /// Explain a rule, a fault, a policy, a fill, a variant, a CPU, a step, a point, a page or a word
    /// of reports; show a scenario
    Explain(describe::ExplainArgs),
    /// Run every flush policy over the same workloads and print what each costs
    ///
    /// Verdicts come from worst-case fills, costs from on-demand fills of the same programs on the
    /// interpreter, with PTI on. Beside the table stands an audit by call site: what each caller
    /// asked to flush and what was owed.
    Compare(compare::CompareArgs),
    /// Run again what `run --record` wrote: the same events, the same verdict
    Replay(replay::ReplayArgs),
    /// Say what this host offers, and what will be used
    Doctor(doctor::DoctorArgs),
    /// Print a shell's completion script
    Completions(generate::CompletionsArgs),
    /// Write man pages, one for the program and one for each command
    Man(generate::ManArgs),
}

/// Does what the command line asks, writing to standard output; the exit code.
///
/// # Errors
/// What could not be done, with its exit code.
pub fn main(cli: Cli) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    let mut terminal = Terminal {
        ink: cli.color.ink(&out),
        warning_ink: cli.error_ink(),
        quiet: cli.quiet,
        verbose: cli.verbose,
        columns: terminal::columns(),
        unconfined: cli.no_sandbox,
        out: &mut out,
    };
    let terminal = &mut terminal;
    let text = match cli.command {
        None => return run::run(&run::RunArgs::default(), &cli.kvm_device, terminal),
        Some(Command::CheckGuest(args)) => return check_guest::run(&args, terminal),
        Some(Command::Compare(args)) => return compare::run(&args, terminal),
        Some(Command::Audit(args)) => return audit::run(&args, terminal),
        Some(Command::Explore(args)) => return explore::run(&args, terminal),
        Some(Command::Faults(args)) => return faults::run(&args, &cli.kvm_device, terminal),
        Some(Command::Run(args)) => return run::run(&args, &cli.kvm_device, terminal),
        Some(Command::Fuzz(args)) => return fuzz::run(&args, &cli.kvm_device, terminal),
        Some(Command::Replay(args)) => return replay::run(&args, &cli.kvm_device, terminal),
        Some(Command::Doctor(args)) => return doctor::run(&args, &cli.kvm_device, terminal),
        Some(Command::List(args)) => describe::list(&args)?,
        Some(Command::Explain(args)) => describe::explain(&args)?,
        Some(Command::Completions(args)) => generate::completions(&args, &mut Cli::command()),
        Some(Command::Man(args)) => generate::man(&args, Cli::command())?,
    };
    terminal.write(&text)?;
    Ok(EXIT_OK)
}
