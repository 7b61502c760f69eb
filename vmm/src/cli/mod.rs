//! The command line.
//!
//! Exit codes: 0 all as expected, 1 an outcome was not as expected, 2 bad usage or bad input,
//! 3 the host cannot run what was asked.

mod compare;
mod describe;
mod doctor;
mod faults;
mod files;
mod fuzz;
mod generate;
mod input;
mod left_out;
mod names;
mod replay;
mod run;
mod terminal;

use crate::arch::tlb::Fill;
use crate::ink::{Ink, Tone};
use crate::oracle::RuleId;
use crate::scenario::{Diagnostic, Policy};
use clap::{Parser, Subcommand, ValueEnum};
use std::fmt;
use std::path::PathBuf;
use terminal::{Colour, Terminal};

/// All as expected.
pub const EXIT_OK: u8 = 0;
/// An outcome was not as expected.
pub const EXIT_UNEXPECTED: u8 = 1;
/// Bad usage or bad input.
pub const EXIT_USAGE: u8 = 2;
/// The host cannot run what was asked.
pub const EXIT_HOST: u8 = 3;

const AFTER_HELP: &str = "\
Exit status:
  0  all as expected
  1  an outcome was not as expected, or two executors differ
  2  bad usage, or bad input; nothing ran
  3  the host cannot do what was asked

Environment:
  STALEMATE_REQUIRE_KVM=1  use KVM where either would do, and fail where there is none
  NO_COLOR                 print no colours, unless --color asks for them

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
}

impl Cli {
    /// How errors are coloured.
    #[must_use]
    pub fn error_ink(&self) -> Ink {
        self.color.ink(&std::io::stderr())
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios: built-in ones by name, files by path, all files of a directory
    Run(RunArgs),
    /// Run random programs, on which every correct policy is clean
    Fuzz(fuzz::FuzzArgs),
    /// List what there is
    List {
        /// What to list
        #[arg(value_enum, default_value_t = ListWhat::Scenarios)]
        what: ListWhat,
    },
    /// Inject every fault into every scenario: the detection score
    Faults(FaultsArgs),
    /// Explain a rule, a fault, a policy, a fill, a variant or a CPU; show a scenario
    Explain {
        /// Its name, as `list` prints it
        name: String,
    },
    /// Run every flush policy over the same workloads and print what each costs
    ///
    /// Verdicts come from worst-case fills, costs from on-demand fills of the same programs on the
    /// interpreter, with PTI on. Beside the table stands an audit by call site: what each caller
    /// asked to flush and what was owed.
    Compare(CompareArgs),
    /// Run again what `run --record` wrote: the same events, the same verdict
    Replay(replay::ReplayArgs),
    /// Say what this host offers, and what will be used
    Doctor,
    /// Print a shell's completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages, one for the program and one for each command
    Man {
        /// The directory that they go to
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

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
    /// Let CPUs come in between each other so, instead of as the scenarios say: in-order, events,
    /// instructions
    #[arg(long, value_name = "SCHEDULE", value_parser = names::schedule(),
          hide_possible_values = true)]
    schedule: Option<names::Seeded>,
    /// Draw seeded fills and schedules from this seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    files: files::Files,
    /// How to report
    #[arg(long, value_enum, default_value_t = RunFormat::Text)]
    format: RunFormat,
    /// Run this kernel (ELF) instead of the built-in guest
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
}

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// Processors, separated by commas, or `all` [default: with PCID, with and without INVPCID and
    /// PGE; and nopcid]
    #[arg(long, value_name = "LIST", value_parser = names::cpus(), value_delimiter = ',',
          hide_possible_values = true)]
    cpu: Vec<names::Cpus>,
    /// How to print; the schema of `json` is docs/compare.schema.json
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true,
          value_name = "text|json")]
    format: Format,
    /// Write a chart to this file too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Arguments of `faults`.
#[derive(Debug, clap::Args)]
pub struct FaultsArgs {
    /// Scenarios by name or path; none means the built-in suite
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
    /// How to report; the JSON's schema is docs/faults.schema.json
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExecutorKind {
    /// The processor, on KVM, deprivileged
    Kvm,
    /// The interpreter
    Interp,
    /// Both, and their events are compared
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// With
    On,
    /// Without
    Off,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// For programs; docs/report.schema.json
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum RunFormat {
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ListWhat {
    /// The built-in scenarios
    Scenarios,
    /// The rules
    Rules,
    /// The faults that can be injected
    Faults,
    /// The flush policies
    Policies,
    /// The named processors
    Cpus,
    /// The variants of the kernel: historical mistakes
    Variants,
    /// The historical bugs that are rebuilt, and those that are not
    Zoo,
}

/// An error with the exit code it ends in.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub code: u8,
    /// What to print to standard error.
    pub what: What,
}

/// What went wrong.
#[derive(Debug)]
pub enum What {
    /// In a sentence.
    Sentence(String),
    /// In a file, at a place.
    Diagnostic(Box<Diagnostic>),
}

impl Failure {
    fn of(code: u8, message: impl Into<String>) -> Self {
        Self { code, what: What::Sentence(message.into()) }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self::of(EXIT_USAGE, message)
    }

    fn host(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::of(EXIT_HOST, chain(error))
    }

    /// The same, with another remark after the sentence.
    fn and(mut self, remark: &str) -> Self {
        if let What::Sentence(sentence) = &mut self.what {
            sentence.push_str(remark);
        }
        self
    }

    /// The error as a terminal shows it.
    #[must_use]
    pub fn render(&self, ink: Ink) -> String {
        match &self.what {
            What::Sentence(sentence) => format!("{}: {sentence}", ink.paint(Tone::Bad, "error")),
            What::Diagnostic(diagnostic) => diagnostic.render(ink),
        }
    }
}

impl From<Diagnostic> for Failure {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { code: EXIT_USAGE, what: What::Diagnostic(Box::new(diagnostic)) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Sentence(sentence) => f.write_str(sentence),
            What::Diagnostic(diagnostic) => diagnostic.fmt(f),
        }
    }
}

/// An error and its sources in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
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
        out: &mut out,
    };
    let terminal = &mut terminal;
    let text = match cli.command {
        None => return run::run(&RunArgs::default(), &cli.kvm_device, terminal),
        Some(Command::Compare(args)) => return compare::run(&args, terminal),
        Some(Command::Faults(args)) => return faults::run(&args, &cli.kvm_device, terminal),
        Some(Command::Run(args)) => return run::run(&args, &cli.kvm_device, terminal),
        Some(Command::Fuzz(args)) => return fuzz::fuzz(&args, &cli.kvm_device, terminal),
        Some(Command::Replay(args)) => return replay::run(&args, &cli.kvm_device, terminal),
        Some(Command::List { what }) => describe::list(what)?,
        Some(Command::Explain { name }) => describe::explain(&name)?,
        Some(Command::Completions { shell }) => generate::completions(shell),
        Some(Command::Man { directory }) => generate::man(&directory)?,
        Some(Command::Doctor) => doctor::report(&cli.kvm_device),
    };
    terminal.write(&text)?;
    Ok(EXIT_OK)
}
