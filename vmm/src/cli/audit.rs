//! `stalemate audit`: judges a kernel that is not ours.

use super::confine::{confine, threads};
use super::failure::{EXIT_HOST, EXIT_OK, EXIT_UNEXPECTED, Failure};
use super::files::{self, Output};
use super::stopped::verdict;
use super::terminal::{Format, Terminal, complain};
use super::{input, names};
use crate::arch::tlb::{Fill, TlbModel};
use crate::audit::{
    self, About, Audited, Baseline, Campaign, Compared, Debugger, DebuggerError, Finding, Grade,
    Key, Kinds, Plan, Profile, Recorder, Report, Subject, Verdict,
};
use crate::ink::Ink;
use crate::kernel::free::{FreeError, KernelImage, READY, Settings, Turns, init, initramfs};
use crate::report::quoted;
use crate::sandbox::Grants;
use crate::symbols::{Symbols, kallsyms, system_map};
use clap::builder::NonEmptyStringValueParser;
use std::io::{BufWriter, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

/// The most instructions of a CPU's turn.
const SLICE: u64 = 2000;

/// Arguments of `audit`.
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    /// The kernel: a bzImage (/boot/vmlinuz-*) or an ELF file (vmlinux)
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Its initramfs, instead of one whose init makes every kind of call that changes mappings
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// What is appended to the command line that kernels get by default
    #[arg(long, value_name = "STRING", default_value = "")]
    cmdline: String,
    /// The whole command line
    #[arg(long, value_name = "STRING", conflicts_with = "cmdline")]
    cmdline_only: Option<String>,
    /// The kernel's symbols, as System.map and /proc/kallsyms have them, instead of those in the image
    #[arg(long, value_name = "FILE")]
    symbols: Option<PathBuf>,
    /// What is known of the kernel's functions, in TOML, instead of what is of Linux's; `none` for nothing
    #[arg(long, value_name = "FILE|none")]
    profile: Option<PathBuf>,
    /// Memory, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u64).range(32..=1024))]
    ram: u64,
    /// The processor
    #[arg(long, value_name = "NAME", default_value = "pcid-invpcid", value_parser = names::cpus(),
          hide_possible_values = true)]
    cpu: names::Cpus,
    /// Make the timer so many times as fast as the kernel programs it
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    tick: u64,
    /// How many of them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    cpus: u8,
    /// How several CPUs take turns, and how late interrupts between them are, is drawn from this number
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The most instructions of its target by which an interrupt from another CPU is late; 0 for at once
    #[arg(long, value_name = "N", default_value_t = 3000,
          value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    ipi_delay: u64,
    /// End the run when the console says this
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    until: Option<String>,
    /// End the run after so many instructions
    #[arg(long, value_name = "N", default_value_t = 10_000_000_000)]
    instructions: u64,
    /// Inject this fault; may be given again
    #[arg(long, value_name = "FAULT")]
    inject: Vec<String>,
    /// Answer ports where no device is looked for, and registers that the processor has not, as an empty bus
    /// does, and list them, instead of ending the run at the first, and of #GP
    #[arg(long)]
    lenient: bool,
    /// Withhold each flush of the workload that removed something stale, one at a time, and score what is
    /// caught. The workload begins with the text of --until, and the run goes on to its own end
    #[arg(long, value_enum, value_name = "KIND", conflicts_with_all = ["inject", "baseline", "bisect"])]
    drop: Option<Kinds>,
    /// Runs of --drop at once; without it as many as there are processors
    #[arg(long, value_name = "N", requires = "drop", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// Findings that are known, in TOML: [[known]] with key, reason, and until
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Exit as `git bisect run` wants it: 0 where this finding is absent, 1 where it is there, 125 where
    /// the kernel cannot be judged
    #[arg(long, value_name = "KEY", conflicts_with = "baseline")]
    bisect: Option<String>,
    /// Exit with 1 only for findings of this grade or a higher one
    #[arg(long, value_enum, value_name = "GRADE", default_value_t = Grade::Held)]
    fail_on: Grade,
    /// Write the report as one page for a browser, which needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the events that rules look at to this file: `replay` judges them again
    #[arg(long, value_name = "FILE", conflicts_with = "drop")]
    record: Option<PathBuf>,
    /// After the report wait at this port of 127.0.0.1 for GDB (`target remote :PORT`), which sees the run
    /// at its first finding and goes through it in both directions; 0 for a port that is free
    #[arg(long, value_name = "PORT", conflicts_with = "drop")]
    gdb: Option<u16>,
    /// How to report; the JSON's schema is docs/audit.schema.json
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What `git bisect run` stops at.
const EXIT_STOP: u8 = 128;
/// What it takes for neither good nor bad.
const EXIT_SKIP: u8 = 125;

/// Audits the kernel that `args` name.
pub fn run(args: &AuditArgs, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    let Some(key) = &args.bisect else { return audited(args, terminal) };
    // A key that is misspelt is found in no kernel.
    key.parse::<Key>().map_err(|error| Failure::of(EXIT_STOP, format!("--bisect: {error}")))?;
    // What does not build, say, is neither good nor bad.
    audited(args, terminal).map_err(|failure| Failure { code: EXIT_SKIP, ..failure })
}

fn audited(args: &AuditArgs, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    let kernel = KernelImage::parse(&read(&args.kernel)?)
        .map_err(|error| Failure::usage(format!("{}: {error}", args.kernel.display())))?;
    let initrd = match &args.initrd {
        Some(file) => read(file)?,
        None => initramfs(init()),
    };
    let symbols = symbols(args, &kernel)?;
    let command_line = match &args.cmdline_only {
        Some(all) => all.clone(),
        None => {
            format!("{} {}", audit::command_line(args.cpus), args.cmdline).trim_end().to_owned()
        }
    };
    let [cpu] = names::each_once(std::slice::from_ref(&args.cpu))[..] else {
        return Err(Failure::usage("an audit is made on one processor; see `stalemate list cpus`"));
    };
    let baseline = args.baseline.as_ref().map(|path| baseline(path)).transpose()?;
    let profile = profile(args)?;
    let faults = input::faults(&args.inject)?;
    let subject = Subject {
        kernel: &kernel,
        initrd: &initrd,
        command_line: &command_line,
        symbols: &symbols,
        profile: profile.as_ref(),
        settings: Settings {
            features: cpu.features,
            // Setting A ahead of time would make every page young, and the run another kernel's.
            model: TlbModel { fill: Fill::LazyA, structure_caches: true, seed: 0 },
            ram: args.ram << 20,
            ticks: args.tick,
            cpus: args.cpus,
            turns: Turns { seed: args.seed, slice: SLICE, delay: args.ipi_delay },
            instructions: args.instructions,
            lenient: args.lenient,
        },
        faults: &faults,
        until: args.until.as_deref(),
    };
    let threads = threads();
    let inputs = [
        Some(&args.kernel),
        args.initrd.as_ref(),
        args.symbols.as_ref(),
        args.profile.as_ref(),
        args.baseline.as_ref(),
    ];
    let inputs: Vec<&Path> = inputs.into_iter().flatten().map(PathBuf::as_path).collect();
    let [page, record] = files::open([args.html.as_deref(), args.record.as_deref()], &inputs)?;
    let renames = [&page, &record].into_iter().flatten().filter_map(Output::folder).collect();
    let listener = args.gdb.map(listen).transpose()?;
    let answers = listener.is_some();
    confine(terminal, &Grants { renames, answers, ..Grants::default() });
    let quiet = terminal.quiet;
    let mut console = |bytes: &[u8]| {
        // The console of the audited kernel is no result.
        if !quiet {
            let text = String::from_utf8_lossy(bytes).replace('\r', "");
            let _ = std::io::stderr().write_all(Ink::Plain.harmless(&text).as_bytes());
        }
    };
    let failed = |error| match error {
        FreeError::Kernel(error) => Failure::usage(error.to_string()),
        error => Failure::host(&error),
    };
    let name = args.kernel.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let mut recorded = Ok(());
    let (audited, campaign) = match args.drop {
        None => {
            (judged(&subject, &mut console, &name, record, &mut recorded).map_err(failed)?, None)
        }
        Some(kinds) => {
            let (audited, campaign) =
                withhold(args, kinds, threads, &subject, &mut console, terminal).map_err(failed)?;
            (audited, Some(campaign))
        }
    };
    let compared = baseline.map(|baseline| {
        let graded: Vec<Finding> = audited.graded(args.fail_on).cloned().collect();
        baseline.compare(&graded, audit::today())
    });
    let report =
        Report { audited: &audited, campaign: campaign.as_ref(), compared: compared.as_ref() };
    let written = match args.format {
        Format::Json => terminal.json(&audit::json(&report)),
        Format::Text => {
            let mut text = audit::text(&audited, terminal.ink);
            text.extend(campaign.as_ref().map(Campaign::text));
            text.extend(compared.as_ref().map(audit::compared));
            terminal.report(&text, &["interp"])
        }
    };
    let saved = page.map_or(Ok(()), |page| {
        page.save(&audit::html(&report, About { kernel: &name, command: &command() }))
    });
    let served = listener.map_or(Ok(()), |listener| debug(listener, &subject, &audited));
    let written = written.and(saved).and(recorded).and(served);
    verdict(exit_code(args, &audited, compared.as_ref()), written)
}

/// Opens the port that a debugger connects to, and which that is. No other host can.
fn listen(port: u16) -> Result<(TcpListener, u16), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let opened = listener.and_then(|listener| Ok((listener.local_addr()?.port(), listener)));
    let (port, listener) = opened
        .map_err(|error| Failure::of(EXIT_HOST, format!("listening at port {port}: {error}")))?;
    Ok((listener, port))
}

/// Has one debugger go through the run.
fn debug(
    (listener, port): (TcpListener, u16),
    subject: &Subject<'_>,
    audited: &Audited,
) -> Result<(), Failure> {
    let mut debugger = Debugger::new(subject, audited).map_err(|error| Failure::host(&error))?;
    let failed = |error| Failure::host(&DebuggerError::Line(error));
    complain(&format!("waiting for GDB: target remote :{port}"), Ink::Plain);
    let (line, _) = listener.accept().map_err(failed)?;
    debugger.serve(line).map_err(|error| Failure::host(&error))
}

/// The exit code that the findings come to.
fn exit_code(args: &AuditArgs, audited: &Audited, compared: Option<&Compared>) -> u8 {
    if let Some(compared) = compared {
        let judged = matches!(audited.verdict(), Verdict::Clean | Verdict::Violation);
        return if judged && compared.is_expected() { EXIT_OK } else { EXIT_UNEXPECTED };
    }
    let is_fine = match audited.verdict() {
        Verdict::Clean => true,
        Verdict::Violation => audited.graded(args.fail_on).next().is_none(),
        _ => false,
    };
    match &args.bisect {
        None if is_fine => EXIT_OK,
        None => EXIT_UNEXPECTED,
        Some(key) => audited.bisect(key, args.fail_on),
    }
}

/// Audits, and writes the events to a file, if there is one.
fn judged(
    subject: &Subject<'_>,
    console: &mut dyn FnMut(&[u8]),
    kernel: &str,
    record: Option<Output>,
    recorded: &mut Result<(), Failure>,
) -> Result<Audited, FreeError> {
    let Some(output) = record else { return audit::audit(subject, console) };
    let mut recorder = Recorder::new(BufWriter::new(output.file()), kernel, &command());
    let audited = audit::observed(subject, console, &mut recorder)?;
    let written = recorder.finish(&audited).map(|_| ());
    *recorded = output.done(written);
    Ok(audited)
}

/// The command line, as a shell takes it.
fn command() -> String {
    let words = std::env::args_os().skip(1).map(|word| quoted(&word.to_string_lossy()));
    std::iter::once("stalemate".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Audits, and withholds the flushes of these kinds one at a time.
fn withhold(
    args: &AuditArgs,
    kinds: Kinds,
    threads: usize,
    subject: &Subject<'_>,
    console: &mut dyn FnMut(&[u8]),
    terminal: &Terminal<'_>,
) -> Result<(Audited, Campaign), FreeError> {
    let own = args.initrd.is_none().then_some(READY);
    let jobs = args.jobs.map_or(threads, usize::from);
    let plan = Plan { kinds, begins: args.until.as_deref().or(own), jobs };
    let subject = Subject { until: None, ..subject.clone() };
    // How many there are the run without a fault shows.
    let bar = terminal.progress(u64::MAX, "withheld");
    let progress = |more, all| {
        bar.set_length(all);
        bar.inc(more);
    };
    let result = audit::campaign(&subject, plan, console, &progress);
    bar.finish_and_clear();
    result
}

fn baseline(path: &Path) -> Result<Baseline, Failure> {
    let text = String::from_utf8_lossy(&read(path)?).into_owned();
    Baseline::parse(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// What is known of the kernel.
fn profile(args: &AuditArgs) -> Result<Option<Profile>, Failure> {
    let parsed = match &args.profile {
        None => Profile::built_in(),
        Some(none) if none.as_os_str() == "none" => return Ok(None),
        Some(path) => {
            let text = String::from_utf8_lossy(&read(path)?).into_owned();
            Profile::parse(&path.display().to_string(), &text)
        }
    };
    Ok(Some(parsed?))
}

/// The names of the kernel's functions: those of a file, those that its own tables have, or those of an ELF
/// file that was not stripped.
fn symbols(args: &AuditArgs, kernel: &KernelImage) -> Result<Symbols, Failure> {
    if let Some(path) = &args.symbols {
        let text = String::from_utf8_lossy(&read(path)?).into_owned();
        let symbols = system_map::parse(&text)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        return Ok(Symbols::of_kernel(&symbols).with_lines_of(&kernel.elf));
    }
    let own = kallsyms::read(&kernel.elf);
    Ok(own.map_or_else(
        || Symbols::new(&kernel.elf),
        |own| Symbols::of_kernel(&own).with_lines_of(&kernel.elf),
    ))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    files::read(path)
}
