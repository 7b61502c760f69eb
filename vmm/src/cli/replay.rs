//! `stalemate replay`: what `--record` wrote, judged and run again.

use super::confine::confine;
use super::executors::{ExecutorKind, backends};
use super::failure::{EXIT_OK, EXIT_UNEXPECTED, Failure};
use super::files::{self, Pictures};
use super::input::GuestArgs;
use super::stopped::verdict;
use super::terminal::Terminal;
use crate::audit::{Ending, Judgement, is_audit_recording, judge};
use crate::event::Trace;
use crate::executor::Backend;
use crate::oracle::Oracle;
use crate::report::{Recorded, Recording, Results, command, details};
use crate::runner::{RunResult, Runner};
use crate::sandbox::Grants;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// What `run --record` or `audit --record` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What runs unprivileged instructions [default: kvm where it works, else interp]
    #[arg(long, value_enum)]
    executor: Option<ExecutorKind>,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    pictures: Pictures,
}

/// Judges the recorded events, does the run again, and compares.
pub fn run(args: &ReplayArgs, device: &Path, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    let named =
        |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", args.file.display()));
    let inputs: Vec<&Path> =
        args.guest.path.iter().chain([&args.file]).map(PathBuf::as_path).collect();
    let pictures = args.pictures.open(&inputs)?;
    if audit_begins(&args.file)? {
        if !pictures.folders().is_empty() {
            return Err(named(&"the events of an audit, of which there is no picture"));
        }
        return audited(&args.file, terminal);
    }
    let text = files::read_text(&args.file)?;
    let recording = Recording::read(&text).map_err(|error| named(&error))?;
    let wanted = recording.run().map_err(|error| named(&error))?;
    let faults: String = wanted.faults.iter().map(|fault| format!(", {fault}")).collect();
    let mut text = format!(
        "{} on {}{faults}: {} events recorded on {}\n",
        recording.name,
        recording.config,
        recording.events.len(),
        recording.executor
    );
    let mut same = true;
    // The branches of a sweep follow each other: they are no one run, and are judged by running.
    let swept = crate::inject::Sweep::split(&wanted.faults).0.is_some();
    if !swept {
        let rules = judged(&recording.trace());
        same &= said(&mut text, "the recorded events", &recording, &rules);
    }
    let backends = backends(args.executor, device, terminal)?;
    let guest = args.guest.guest()?;
    args.guest.check_escapes(&guest, &backends.iter().collect::<Vec<_>>(), terminal)?;
    confine(terminal, &Grants { renames: pictures.folders(), ..Grants::default() });
    let mut shown = None;
    for backend in &backends {
        let mut runner = Runner::new(&guest, backend);
        let mut trace = Trace::default();
        let result =
            runner.run(&wanted, Some(&mut trace)).map_err(|error| Failure::host(&error))?;
        same &= compared(&mut text, &recording, &result, &trace, backend.name());
        let results = Results {
            scenarios: std::slice::from_ref(&wanted.scenario),
            results: std::slice::from_ref(&result),
            differences: &[],
            possible: 1,
            executors: &[backend.name()],
            symbols: guest.symbols(),
            guest: args.guest.path.as_deref(),
            left_out: &[],
            skipped: &[],
        };
        text += &details(&results, &result, terminal.ink);
        // Of the first executor: the events of the others are the same, or it was said.
        if shown.is_none() {
            shown = Some((result, trace, backend.name()));
        }
    }
    let names: Vec<&str> = backends.iter().map(Backend::name).collect();
    let mut written = Ok(());
    if !same || !terminal.quiet {
        written = terminal.report(&text, &names);
    }
    if let Some((result, trace, executor)) = &shown {
        let command = &command(&wanted, args.guest.path.as_deref(), false);
        let symbols = guest.symbols();
        let saved = pictures.write(&Recorded { result, trace, executor, symbols, command });
        written = written.and(saved);
    }
    verdict(if same { EXIT_OK } else { EXIT_UNEXPECTED }, written)
}

/// Whether a file begins as a recording of an audit does.
fn audit_begins(file: &Path) -> Result<bool, Failure> {
    let mut first = Vec::new();
    let read = files::file(file)?.take(64).read_to_end(&mut first);
    read.map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    Ok(is_audit_recording(&first))
}

/// Judges the recorded events of an audit. Its kernel is no part of them, so it is not run again.
fn audited(file: &Path, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    let from = files::file(file)?;
    confine(terminal, &Grants::default());
    let Judgement { opening, events, recorded, now } = judge(BufReader::new(from))
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    let violations = |of: &Ending| match of.violations.is_empty() {
        true => "no rule violated".to_owned(),
        false => {
            let all = of.violations.iter().map(|(rule, count)| format!("{rule} ({count})"));
            format!("{} violated", all.collect::<Vec<_>>().join(" and "))
        }
    };
    let same = recorded == now;
    let as_recorded = match same {
        true => ", as recorded".to_owned(),
        false => format!(", recorded: {}", violations(&recorded)),
    };
    let text = format!(
        "an audit of {}: {events} events recorded\nthe recorded events: {}{as_recorded}\n\
         to run the kernel again: {}\n",
        opening.kernel,
        violations(&now),
        opening.command
    );
    let written = if !same || !terminal.quiet { terminal.write(&text) } else { Ok(()) };
    verdict(if same { EXIT_OK } else { EXIT_UNEXPECTED }, written)
}

/// The rules that the oracle says were violated, of the recorded events alone.
fn judged(trace: &Trace) -> BTreeSet<String> {
    let mut oracle = Oracle::default();
    trace.replay(&mut oracle);
    oracle.violations().iter().map(|violation| violation.rule.to_string()).collect()
}

/// Whether the verdict is the recorded one; says so.
fn said(out: &mut String, what: &str, recording: &Recording, rules: &BTreeSet<String>) -> bool {
    let recorded: BTreeSet<String> = recording.violates.iter().cloned().collect();
    let name = |rules: &BTreeSet<String>| match rules.is_empty() {
        true => "no rule".to_owned(),
        false => rules.iter().cloned().collect::<Vec<_>>().join(" and "),
    };
    let same = *rules == recorded;
    // Writing to a String cannot fail.
    let _ = match same {
        true => writeln!(out, "{what}: {} violated, as recorded", name(rules)),
        false => writeln!(out, "{what}: {} violated, recorded: {}", name(rules), name(&recorded)),
    };
    same
}

/// Whether the run was the recorded one, event by event; says so.
fn compared(
    out: &mut String,
    recording: &Recording,
    result: &RunResult,
    trace: &Trace,
    executor: &str,
) -> bool {
    let rules = result.rules().iter().map(ToString::to_string).collect();
    let mut same = said(out, &format!("run again on {executor}"), recording, &rules);
    if result.outcome != recording.outcome {
        same = false;
        let _ = writeln!(out, "it came to {}, recorded: {}", result.outcome, recording.outcome);
    }
    let alike = trace.events.iter().zip(&recording.events).take_while(|(now, then)| now == then);
    let seq = alike.count();
    if trace.header.as_ref() != Some(&recording.header) {
        same = false;
        let _ = writeln!(out, "it begins in another state: another kernel, or another version");
    } else if seq < trace.events.len().max(recording.events.len()) {
        same = false;
        let of = |events: &[crate::event::Event]| {
            events.get(seq).map_or("no more events".to_owned(), |event| format!("{:?}", event.kind))
        };
        let _ = writeln!(out, "the events differ from event {seq} on:");
        let _ = writeln!(out, "  now      {}", of(&trace.events));
        let _ = writeln!(out, "  recorded {}", of(&recording.events));
    } else {
        let _ = writeln!(out, "all {} events are the recorded ones", recording.events.len());
    }
    same
}
