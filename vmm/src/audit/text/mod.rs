//! An audit as people read it: the verdict first.

mod facts;

pub(super) use facts::facts;

use super::{Applied, Audited, Calls, Compared, Finding, Line, RULES, Verdict};
use crate::ink::{Ink, Tone};
use crate::kernel::free::End;
use std::fmt::Write;

/// Rows of the coverage that are shown; the JSON has all.
const ROWS: usize = 20;
/// Operations that came in between that are shown of a finding.
const MISSED: usize = 6;

/// The report.
#[must_use]
pub fn text(audited: &Audited, ink: Ink) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut out, audited, ink);
    out
}

/// How the findings and a baseline compare.
#[must_use]
pub fn compared(compared: &Compared) -> String {
    let mut out = String::from("\nAgainst the baseline\n");
    let mut rows = |what: &str, key: &str, more: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {what:<8} {key}{more}");
    };
    compared.new.iter().for_each(|key| rows("new", key, ""));
    compared.expired.iter().for_each(|key| rows("expired", key, ""));
    compared
        .known
        .iter()
        .for_each(|known| rows("known", &known.key, &format!(": {}", known.reason)));
    compared.gone.iter().for_each(|key| rows("gone", key, ""));
    if *compared == Compared::default() {
        out.push_str("  nothing was found, and nothing is known\n");
    }
    out
}

fn write_all(out: &mut String, audited: &Audited, ink: Ink) -> std::fmt::Result {
    let verdict = audited.verdict();
    let tone = if verdict == Verdict::Clean { Tone::Good } else { Tone::Bad };
    writeln!(out, "{}: {}", ink.paint(tone, verdict.word()), sentence(audited, verdict))?;
    for finding in &audited.findings {
        write_finding(out, finding)?;
    }
    let run = &audited.run;
    writeln!(out, "\nThe run")?;
    writeln!(out, "  it ended       {}", end(audited))?;
    let user = run.user_mode.map_or_else(
        || "user mode was never entered".to_owned(),
        |at| format!("user mode from {} on", millions(at)),
    );
    writeln!(out, "  instructions   {}; {user}; {} traps", millions(run.instructions), run.traps)?;
    let names = audited.features.names().join(", ");
    let isolated = if audited.isolated { "isolated page tables (PTI)" } else { "no PTI" };
    writeln!(out, "  processor      {names}; the kernel was seen to use {isolated}")?;
    if !run.absent_ports.is_empty() {
        let ports = run.absent_ports.iter().map(|(port, count)| format!("{port:#x} ({count})"));
        let ports = ports.collect::<Vec<_>>().join(", ");
        writeln!(out, "  ports          nothing answers at {ports}: they read as all ones")?;
    }
    if !run.absent_msrs.is_empty() {
        let registers = run.absent_msrs.iter().map(|(msr, count)| format!("{msr:#x} ({count})"));
        let registers = registers.collect::<Vec<_>>().join(", ");
        writeln!(out, "  registers      the processor has no MSR {registers}")?;
    }
    write_profile(out, audited)?;
    writeln!(
        out,
        "\nWhat removed cached translations: how often it was executed, how often it removed something \
         stale,\nand how often that had been accessed since it was last flushed"
    )?;
    for site in &audited.sites {
        let super::Removals { executed, stale, accessed, .. } = site.removals;
        let (operation, function) = (site.operation, &site.function);
        write!(out, "  {executed:>9} {stale:>9} {accessed:>9}   {operation} in {function}")?;
        let fault = site.withheld.as_ref().map(|fault| format!("; the last: `{fault}`"));
        writeln!(out, "{}", fault.unwrap_or_default())?;
    }
    for fault in &audited.not_fired {
        writeln!(out, "  `{fault}` met nothing")?;
    }
    write_coverage(out, audited)?;
    writeln!(
        out,
        "\nWhat each rule has judged: it has spoken, or its deadline was the first after the flush"
    )?;
    for (rule, of) in RULES {
        let count = audited.judged.get(rule).copied().unwrap_or_default();
        writeln!(out, "  {rule:<20} {count:>9}   {of}")?;
    }
    Ok(())
}

/// What was known of the kernel: what of it came to nothing is said line by line.
fn write_profile(out: &mut String, audited: &Audited) -> std::fmt::Result {
    let Some(profile) = &audited.profile else {
        return writeln!(out, "  profile        none: when a flush is due, the task alone says");
    };
    let Applied { file, lines, unused } = profile;
    if let Some(why) = unused {
        return writeln!(out, "  profile        {file} is not used: {why}");
    }
    let functions = lines.iter().filter(|line| line.calls.is_some());
    let calls: u64 = functions.clone().filter_map(|line| line.calls).sum();
    let functions = functions.count();
    writeln!(
        out,
        "  profile        {file}: {} lines for this kernel; {functions} functions, called {calls} times",
        lines.len()
    )?;
    for line in lines {
        if let Some(missing) = &line.missing {
            let Line { line, symbol, what, .. } = line;
            writeln!(out, "                 line {line}, `{symbol}`, {what}: {missing}")?;
        }
    }
    Ok(())
}

pub(super) fn sentence(audited: &Audited, verdict: Verdict) -> String {
    let coverage = &audited.coverage;
    match verdict {
        Verdict::Clean => format!(
            "of {} stores that took something away from page tables, {} left something stale \
             behind, and all of that was flushed in time; {} could not be judged",
            coverage.stores(),
            coverage.judged(),
            coverage.total().unjudged,
        ),
        Verdict::Violation => {
            let count: usize = audited.findings.iter().map(|finding| finding.count).sum();
            let kinds = audited.findings.len();
            format!(
                "{count} times a translation was still cached when it was due, in {kinds} kinds"
            )
        }
        Verdict::Vacuous => "nothing was ever stale, so nothing was judged".to_owned(),
        Verdict::NotApplied => "a fault that was to be injected met nothing".to_owned(),
        Verdict::Stopped => "the kernel did not run to user mode and its end".to_owned(),
    }
}

fn write_finding(out: &mut String, finding: &Finding) -> std::fmt::Result {
    let Finding { key, first, .. } = finding;
    writeln!(out, "\nBUG: STALEMATE: {} in {}", key.rule, key.function)?;
    writeln!(out, "  {}", first.message)?;
    for (name, fact) in facts(finding) {
        writeln!(out, "  {name:<12} {fact}")?;
    }
    let shown = finding.missed.len().saturating_sub(MISSED);
    if shown > 0 {
        writeln!(out, "  in between   {shown} earlier operations, and")?;
    }
    for (what, why) in &finding.missed[shown..] {
        writeln!(out, "  in between   {what}: {why}")?;
    }
    finding.stacks.iter().try_for_each(|calls| write_calls(out, calls))?;
    writeln!(out, "  {} times; key {key}", finding.count)
}

/// A stack, as kernels print theirs.
fn write_calls(out: &mut String, calls: &Calls) -> std::fmt::Result {
    writeln!(out, "  {}:", calls.title())?;
    calls.frames.iter().try_for_each(|called| writeln!(out, "   {called}"))
}

fn write_coverage(out: &mut String, audited: &Audited) -> std::fmt::Result {
    let coverage = &audited.coverage;
    let columns = ["stores", "harmless", "flushed", "violated", "parked", "unused", "unjudged"];
    writeln!(out, "\nWhat was taken away, by whom, and what became of what was cached of it")?;
    write!(out, "  {:<46}", "function and kind")?;
    columns.iter().try_for_each(|name| write!(out, "{name:>9}"))?;
    writeln!(out)?;
    let mut rows: Vec<_> = coverage.rows.iter().collect();
    rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.stores));
    let line = |out: &mut String, name: &str, row: &super::Row| {
        let name: String = name.chars().take(45).collect();
        write!(out, "  {name:<46}")?;
        let counts = [
            row.stores,
            row.harmless,
            row.flushed,
            row.violated,
            row.parked,
            row.unused,
            row.unjudged,
        ];
        counts.iter().try_for_each(|count| write!(out, "{count:>9}"))?;
        writeln!(out)
    };
    for ((function, change), row) in rows.iter().take(ROWS) {
        line(out, &format!("{function}, {}", change.name()), row)?;
    }
    if let Some(more) = rows.len().checked_sub(ROWS).filter(|more| *more > 0) {
        writeln!(out, "  ... and {more} more rows; --format json has them")?;
    }
    line(out, "all", &coverage.total())?;
    writeln!(
        out,
        "  harmless: nothing that grants more was cached. parked: cached under a PCID that is not \
         current.\n  unused: a kernel address that was not given out again. unjudged: no deadline came."
    )
}

pub(super) fn end(audited: &Audited) -> String {
    match &audited.run.end {
        End::Reset => "by a reset that the kernel asked for".to_owned(),
        End::Halted => "with every CPU halted for good".to_owned(),
        End::Said => "with the text that was waited for".to_owned(),
        End::Instructions => "when its instructions were used up".to_owned(),
        End::Stopped(stop, vcpu) => {
            let place = audited.stopped_in.as_deref().unwrap_or("an unknown function");
            format!("at {} in {place}: {stop}", vcpu.rip())
        }
    }
}

pub(super) fn millions(count: u64) -> String {
    format!("{}.{} million", count / 1_000_000, count / 100_000 % 10)
}
