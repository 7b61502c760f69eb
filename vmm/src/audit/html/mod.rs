//! An audit as one page that needs nothing else: no network, no file beside it, no script.

mod finding;
mod tables;

use super::text::{end, millions, sentence};
use super::{Audited, Report, Verdict};
use std::fmt::{self, Write};

const STYLE: &str = include_str!("page.css");

/// What the page says of the audit that its report does not.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The kernel.
    pub kernel: &'a str,
    /// The command that does the audit again.
    pub command: &'a str,
}

/// The page.
#[must_use]
pub fn html(report: &Report<'_>, about: About<'_>) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = page(&mut out, report, about);
    out
}

/// A text in which nothing is markup.
struct Escaped<T>(T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.to_string().chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

fn page(out: &mut String, report: &Report<'_>, about: About<'_>) -> fmt::Result {
    let Report { audited, campaign, compared } = *report;
    let verdict = audited.verdict();
    let bad = if verdict == Verdict::Clean { "" } else { " bad" };
    let (kernel, word) = (Escaped(about.kernel), verdict.word());
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{kernel}: {word} · Stalemate</title>\n<link rel=\"icon\" href=\"data:,\">\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header><h1>{kernel}</h1> <span class=\"badge{bad}\" id=\"verdict\">{word}</span>\n\
         <p>{}</p>\n<p><code>{}</code></p></header>\n<main>\n",
        Escaped(sentence(audited, verdict)),
        Escaped(about.command),
    )?;
    if !audited.findings.is_empty() {
        writeln!(out, "<h2>Findings</h2>")?;
        for number in 0..audited.findings.len() {
            finding::finding(out, &audited.findings[number], number + 1)?;
        }
    }
    if let Some(compared) = compared {
        tables::compared(out, compared)?;
    }
    run(out, audited)?;
    tables::coverage(out, audited)?;
    tables::judged(out, audited)?;
    tables::ledger(out, audited)?;
    if let Some(campaign) = campaign {
        tables::campaign(out, campaign)?;
    }
    out.write_str("</main>\n</body>\n</html>\n")
}

fn run(out: &mut String, audited: &Audited) -> fmt::Result {
    let run = &audited.run;
    writeln!(out, "<h2>The run</h2>\n<dl>")?;
    fact(out, "it ended", &end(audited))?;
    let user = run.user_mode.map_or_else(
        || "user mode was never entered".to_owned(),
        |at| format!("user mode from {} on", millions(at)),
    );
    let instructions = format!("{}; {user}; {} traps", millions(run.instructions), run.traps);
    fact(out, "instructions", &instructions)?;
    let isolated = if audited.isolated { "isolated page tables (PTI)" } else { "no PTI" };
    let names = audited.features.names().join(", ");
    fact(out, "processor", &format!("{names}; the kernel was seen to use {isolated}"))?;
    let numbers = |of: &mut dyn Iterator<Item = (u32, u64)>| {
        of.map(|(number, count)| format!("{number:#x} ({count})")).collect::<Vec<_>>().join(", ")
    };
    if !run.absent_ports.is_empty() {
        let ports =
            numbers(&mut run.absent_ports.iter().map(|&(port, count)| (port.into(), count)));
        fact(out, "ports", &format!("nothing answers at {ports}"))?;
    }
    if !run.absent_msrs.is_empty() {
        let registers = numbers(&mut run.absent_msrs.iter().copied());
        fact(out, "registers", &format!("the processor has no MSR {registers}"))?;
    }
    match &audited.profile {
        None => fact(out, "profile", "none: when a flush is due, the task alone says")?,
        Some(profile) => {
            let what = match &profile.unused {
                Some(why) => format!("{} is not used: {why}", profile.file),
                None => format!("{}: {} lines for this kernel", profile.file, profile.lines.len()),
            };
            fact(out, "profile", &what)?;
            for line in &profile.lines {
                if let Some(missing) = &line.missing {
                    let place = format!("line {}", line.line);
                    fact(out, &place, &format!("{}, {}: {missing}", line.symbol, line.what))?;
                }
            }
        }
    }
    for fault in &audited.not_fired {
        fact(out, "fault", &format!("{fault} met nothing"))?;
    }
    writeln!(out, "</dl>")
}

/// A term of a list, and what is said of it.
fn fact(out: &mut String, name: &str, fact: &str) -> fmt::Result {
    writeln!(out, "<dt>{}</dt><dd>{}</dd>", Escaped(name), Escaped(fact))
}
