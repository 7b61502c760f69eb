//! An audit as people read it: the verdict first.

use super::moments::meant;
use super::{
    Applied, Audited, Called, Calls, Closed, Compared, Exception, Finding, Given, Grade, Line,
    RULES, Seen, Verdict,
};
use crate::ink::{Ink, Tone};
use crate::kernel::free::{End, Unwound};
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

fn sentence(audited: &Audited, verdict: Verdict) -> String {
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
    if let Some(downgrade) = &first.downgrade {
        let (old, new) = downgrade.cause.values();
        let task = downgrade.task.map_or_else(String::new, |task| format!(" by task {}", task.0));
        writeln!(
            out,
            "  made stale   {} at {} in {}{task}: {old:#x} became {new:#x}",
            key.change, downgrade.rip, key.function
        )?;
    }
    if let Some((tag, entry)) = &first.entry {
        writeln!(out, "  still cached {} under {tag}", entry.translation)?;
    }
    if let Some(walk) = &first.walk {
        writeln!(out, "  tables say   {}", walk.result)?;
    }
    let task = first.task.map_or_else(String::new, |task| format!(" by task {}", task.0));
    writeln!(out, "  found        at {} in {}{task}", first.rip, finding.at)?;
    writeln!(out, "  due          {}", finding.due)?;
    write_evidence(out, finding)?;
    if let Some((what, why)) = meant(first).and_then(|number| finding.missed.get(number)) {
        writeln!(out, "  should have  {what}: {why}")?;
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
    let by = match calls.by {
        Unwound::Orc => "",
        Unwound::FramePointers => ", by frame pointers",
    };
    writeln!(out, "  Call Trace at the {}{by}:", calls.of)?;
    for Called { function, inlined, line } in &calls.frames {
        let inlined = if *inlined { " [inlined]" } else { "" };
        let line = line.as_ref().map_or_else(String::new, |line| format!(" {line}"));
        writeln!(out, "   {function}{inlined}{line}")?;
    }
    Ok(())
}

/// How sure it is that a processor has it, when all that was, and what might excuse it.
fn write_evidence(out: &mut String, finding: &Finding) -> std::fmt::Result {
    let Finding { evidence, noted, first, .. } = finding;
    let (of, all) = evidence.of;
    let of = if all > 1 { format!(" ({of} of the {all} looked at)") } else { String::new() };
    let since = |at: u64| match noted.stored {
        Some(stored) if at >= stored => format!("{} instructions after the store", at - stored),
        Some(stored) => format!("{} instructions before the store", stored - at),
        None => format!("after {at} instructions"),
    };
    let seen = |seen: &Seen| {
        let Seen { at, va, kind, rip, function, .. } = seen;
        format!("a {kind} of {va:#x} at {rip:#x} in {function}, {}", since(*at))
    };
    let held = evidence.held.as_ref().map(seen);
    match (evidence.grade, &evidence.used, held) {
        (Grade::Used, Some(used), _) => {
            let when = if used.at < noted.found { "before" } else { "after" };
            writeln!(out, "  grade        used{of}: {}, {when} it was due", seen(used))?;
        }
        (_, _, Some(held)) => {
            writeln!(
                out,
                "  grade        held{of}: this PCID on this CPU has used the page through the old entry, \
                 first by {held}"
            )?;
        }
        (grade, _, None) if all > 0 => {
            let name = grade.name();
            writeln!(out, "  grade        {name}{of}: no access of this run went through it")?;
        }
        (grade, ..) => {
            let name = grade.name();
            writeln!(
                out,
                "  grade        {name}: of no one entry; the kernel did this in this run"
            )?;
        }
    }
    if noted.stored.is_some() {
        write!(out, "  window       due {}", since(noted.found))?;
        match (&noted.closed, &finding.closed_in) {
            (Some(closed), Some(place)) => {
                let Closed { what, at, .. } = closed;
                writeln!(out, "; gone {}, by {what} in {place}", since(*at))?;
            }
            _ => writeln!(out, "; nothing has removed it by the end of the run")?,
        }
    }
    if first.entry.is_some() && all > 0 {
        for Given { what, at, function } in &evidence.frame {
            writeln!(out, "  its frame    {what} in {function}, {}", since(*at))?;
        }
        if evidence.frame.is_empty() {
            writeln!(
                out,
                "  its frame    was not seen to be given back or mapped while this was cached"
            )?;
        }
    }
    for Exception { if_only, seen } in &noted.exceptions {
        writeln!(out, "  legal if     {if_only}: no, {seen}")?;
    }
    Ok(())
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

fn end(audited: &Audited) -> String {
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

fn millions(count: u64) -> String {
    format!("{}.{} million", count / 1_000_000, count / 100_000 % 10)
}
