//! The summary of all runs, and one run in full.

use super::diagnosis::{on_cpu, step_of, step_text};
use super::fold::wrap;
use super::unexplained::{registers, unexplained};
use super::verdict::sentence;
use super::{Results, diagnosis, skipped_lines, table};
use crate::arch::tlb::{Fill, Tag};
use crate::inject::Interrupt;
use crate::ink::{Ink, Tone};
use crate::kernel::steps::Swept;
use crate::oracle::{Obligation, RuleId, State};
use crate::runner::{Difference, Hammers, RunResult, Seen, SweepResult};
use crate::scenario::{Expected, Scenario, Stops};
use stalemate_shared::pcid::USER_PCID_BIT;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What is modelled with any executor.
const MODELLED: &str = "modelled: the TLB, CR3, PCID, INVPCID, PGE and privilege, as the manual \
                        allows a processor to behave";

/// How much a summary shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// What was found, rule by rule: of many scenarios at once.
    Rules,
    /// A row for each scenario, and a line for each fault that was caught.
    Scenarios,
    /// As `Scenarios`, and what the flushes cost.
    All,
}

/// How a summary looks.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// How it is coloured.
    pub ink: Ink,
    /// How many columns a line has at most, but for names and commands that are longer.
    pub width: usize,
    /// How much it shows.
    pub rows: Rows,
}

/// The verdict in a sentence, and the table of what was found where.
#[must_use]
pub fn summary(results: &Results<'_>, layout: Layout) -> String {
    let Layout { ink, width, rows } = layout;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "stalemate {}, executor {}: {} of {}",
        env!("CARGO_PKG_VERSION"),
        results.executor(),
        results.results.len(),
        counted(results.possible, "possible run", "possible runs")
    );
    let tone = if results.all_as_expected() { Tone::Good } else { Tone::Bad };
    for line in wrap(&(sentence(results) + "."), width) {
        let _ = writeln!(out, "{}", ink.paint(tone, &line));
    }
    let mut table = match rows {
        Rows::Rules => table::by_rule(results, ink, width),
        // The sentence says what there is to say of one run.
        Rows::Scenarios if results.results.len() == 1 => String::new(),
        Rows::Scenarios | Rows::All => table::by_scenario(results, ink, width),
    };
    if !table.is_empty() {
        table.insert(0, '\n');
    }
    out += &table;
    let mut lines = if rows == Rows::Rules { Vec::new() } else { table::caught(results) };
    if rows == Rows::All {
        lines.push(table::costs(results));
    }
    lines.extend_from_slice(results.left_out);
    let mut more = String::new();
    kernel(&mut more, results);
    lines.extend(more.lines().map(str::to_owned));
    lines.retain(|line| !line.is_empty());
    if !lines.is_empty() {
        out.push('\n');
    }
    for line in &lines {
        let _ = writeln!(out, "{line}");
    }
    out
}

/// What a kernel of the user's own cannot run, by what it lacks, and what it was seen to be.
fn kernel(out: &mut String, results: &Results<'_>) {
    let Some(guest) = results.guest else { return };
    let path = guest.display();
    let mut seen: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for result in results.results {
        if let Some(one) = &result.seen {
            seen.entry(one.to_string()).or_default().insert(result.run.config.cpu.name);
        }
    }
    for (what, cpus) in seen {
        let cpus: Vec<&str> = cpus.into_iter().collect();
        let _ = writeln!(out, "{path} on {}: {what}", cpus.join(", "));
    }
    let mut all: Option<Seen> = None;
    for one in results.results.iter().filter_map(|result| result.seen.as_ref()) {
        all.get_or_insert_with(|| one.clone()).add(one);
    }
    let unjudged = all.iter().flat_map(Seen::unjudged);
    let unjudged: Vec<String> =
        unjudged.map(|(rules, what)| format!("{} ({what})", rules.join(", "))).collect();
    if !unjudged.is_empty() {
        let unjudged = unjudged.join(", ");
        let _ = writeln!(out, "not judged, since the kernel never says it: {unjudged}");
    }
    *out += &skipped_lines(guest, results.skipped, results.scenarios.len());
}

/// What was real with these executors, and what was modelled: the end of every report.
#[must_use]
pub fn what_is_real(executors: &[&str]) -> String {
    format!("{}; {MODELLED}", real(executors))
}

/// What was real with these executors.
fn real(executors: &[&str]) -> &'static str {
    match executors {
        ["interp"] => "interpreted: the guest's machine code, and what its loads and stores saw",
        ["kvm"] => "real: the guest's instructions and what its loads and stores saw",
        _ => "real, and interpreted with the same events: the guest's instructions",
    }
}

/// The first event in which two executors differed, with both register files.
#[must_use]
pub fn difference(results: &Results<'_>, found: &Difference) -> String {
    let scenario = &found.run.scenario;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} on {}: the executors differ at event {}",
        scenario.name, found.run.config, found.seq
    );
    for side in &found.sides {
        let _ = writeln!(out, "  {}:", side.executor);
        match &side.event {
            Some(event) => {
                let _ = writeln!(out, "    {:?}", event.kind);
                let text = side.instruction.as_deref().unwrap_or("not mapped");
                let place = results.symbols.locate(event.rip);
                let _ = writeln!(out, "    {text}  at {place}");
            }
            None => {
                let _ = writeln!(out, "    no more events");
            }
        }
        if let Some(vcpu) = &side.registers {
            registers(vcpu).iter().for_each(|line| out.push_str(&format!("  {line}\n")));
        }
    }
    let _ = writeln!(out, "  again: {}", results.command(&found.run));
    out
}

/// One run in full: what was owed and what became of it, and for a violation its witness.
#[must_use]
pub fn details(results: &Results<'_>, result: &RunResult, ink: Ink) -> String {
    let scenario = &result.run.scenario;
    let mut out = String::new();
    let tone = if result.as_expected { Tone::Good } else { Tone::Bad };
    let outcome = ink.paint(tone, &result.outcome.to_string());
    let name = ink.paint(Tone::Heading, &scenario.name);
    let _ = write!(out, "{name} on {}: {outcome}", result.title());
    if result.as_expected {
        let _ = writeln!(out, ", as expected");
    } else {
        let _ = writeln!(out, "{}", but_expected(result));
    }
    if let (Some(seen), Some(_)) = (&result.seen, results.guest) {
        let _ = writeln!(out, "  seen: {seen}");
    }
    for line in result.printed.lines() {
        let _ = writeln!(out, "  printed: {line}");
    }
    if let Some(sweep) = &result.sweep {
        self::sweep(&mut out, results, scenario, sweep);
    }
    for violation in &result.violations {
        out.push('\n');
        out += &diagnosis(ink, results.symbols, scenario, result, violation);
    }
    if !result.violations.is_empty() {
        out.push('\n');
    }
    for obligation in &result.obligations {
        self::obligation(&mut out, scenario, obligation);
    }
    for line in unexplained(results.symbols, scenario, result) {
        let _ = writeln!(out, "  {line}");
    }
    let Hammers { count: hammers, lost } = result.hammers;
    if hammers > 0 {
        let _ = write!(out, "  {}", counted(hammers, "big hammer", "big hammers"));
        let _ = match result.run.config.fill {
            Fill::OnDemand => {
                writeln!(out, ", {} lost", counted(lost, "live entry", "live entries"))
            }
            _ => writeln!(out),
        };
    }
    if result.needless > 0 {
        let needless = counted(result.needless, "needless flush", "needless flushes");
        let _ = writeln!(out, "  {needless}");
    }
    if !result.as_expected {
        let _ = writeln!(out, "  again: {}", results.command(&result.run));
    }
    out
}

/// A number of things, by their name.
pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn but_expected(result: &RunResult) -> String {
    match &result.run.expected {
        Expected::Unstated if !result.run.faults.is_empty() => {
            " (no scenario says what comes of --inject)".to_owned()
        }
        Expected::Clean => ", but clean was expected".to_owned(),
        Expected::Unstated => " (the scenario says nothing of this run)".to_owned(),
        Expected::Violates(rules) if rules.is_empty() => ", but clean was expected".to_owned(),
        Expected::Violates(rules) => {
            let found: BTreeSet<RuleId> = result.rules().union(&result.costs()).copied().collect();
            let names = |rules: BTreeSet<&RuleId>| {
                rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
            };
            let missing = names(rules.difference(&found).collect());
            let surplus = names(result.rules().difference(rules).collect());
            match (missing.is_empty(), surplus.is_empty()) {
                (false, true) => format!(", but {missing} was expected"),
                (true, _) => format!(", but {surplus} was not expected"),
                (false, false) => format!(", but {missing} was expected and {surplus} was not"),
            }
        }
        Expected::Mismatch => ", but a mismatch was expected".to_owned(),
        Expected::Stops(Stops::Hang) => ", but a hang was expected".to_owned(),
        Expected::Stops(Stops::Crash) => ", but a crash was expected".to_owned(),
    }
}

/// The boundaries that were tried, and where the interrupt made a difference.
fn sweep(out: &mut String, results: &Results<'_>, scenario: &Scenario, sweep: &SweepResult) {
    let what = match sweep.interrupt {
        Interrupt::Nmi => "NMI",
        Interrupt::Irq => "interrupt",
        Interrupt::Preempt => "CPU held back",
    };
    let Swept { tried, held, undelivered, cut_short, .. } = sweep.swept;
    let _ = write!(out, "  {what} at each boundary: {tried} tried");
    if held > 0 {
        let _ = match sweep.interrupt {
            Interrupt::Preempt => write!(out, ", {held} while none is"),
            _ => write!(out, ", {held} while NMIs are blocked"),
        };
    }
    if undelivered > 0 {
        let _ = write!(out, ", {undelivered} never delivered since interrupts stayed off");
    }
    if cut_short {
        let _ = write!(out, "; SKIP: the rest, which --executor interp tries");
    }
    let failing: usize = sweep.failing.iter().map(|failing| failing.boundaries).sum();
    let _ = match failing {
        0 => writeln!(out, "; it makes no difference at any of them"),
        _ => writeln!(out, "; at {failing} it makes a difference:"),
    };
    for failing in &sweep.failing {
        let rules: Vec<String> = failing.rules.iter().map(ToString::to_string).collect();
        let came_to = match rules.is_empty() {
            true => failing.outcome.to_string(),
            false => rules.join(" and "),
        };
        let _ = writeln!(
            out,
            "    {came_to}, before {} in {}",
            match failing.boundaries {
                1 => "one instruction".to_owned(),
                count => format!("each of {count} instructions"),
            },
            step_text(scenario, Some(failing.step)),
        );
        let _ = writeln!(out, "      from {}", results.symbols.locate(failing.first));
        if failing.boundaries > 1 {
            let _ = writeln!(out, "      to   {}", results.symbols.locate(failing.last));
        }
    }
}

fn obligation(out: &mut String, scenario: &Scenario, owed: &Obligation) {
    let half = match owed.tag {
        Tag::Pcid(pcid) if u64::from(pcid.value()) & USER_PCID_BIT != 0 => "user half",
        Tag::Pcid(_) => "kernel half",
        Tag::Global => "every half",
    };
    let _ = write!(
        out,
        "  owed for {} under {}{} ({half}) since {}: ",
        owed.page,
        owed.tag,
        on_cpu(scenario, owed.cpu),
        step_text(scenario, step_of(owed.downgrade.task))
    );
    let _ = match owed.state {
        State::Open => writeln!(out, "still open, not due"),
        State::Discharged { by, seq, .. } => {
            writeln!(out, "discharged by {} at event {seq}", by.name())
        }
        State::Violated { rule, seq } => writeln!(out, "violated ({rule}) at event {seq}"),
    };
}
