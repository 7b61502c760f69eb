//! A violation as a picture: time runs down, the entry is a bar that turns red at the store which
//! made it stale, and every invalidation that might have removed it says why it did not.

use crate::arch::tlb::{Entry, Tag};
use crate::oracle::Violation;
use crate::oracle::rule::Because;
use crate::symbols::Symbols;
use std::fmt::Write;

const WIDTH: usize = 860;
/// Where the bar of the entry is.
const BAR: usize = 92;
const TEXT: usize = 118;
const LINE: usize = 17;
const TOP: usize = 48;
/// Characters of a line.
const COLUMNS: usize = 88;
/// Missed invalidations that are shown; what is between the first and the last is counted.
const MISSED: usize = 6;

/// A moment, with what is said of it.
struct Moment {
    seq: Option<u64>,
    class: &'static str,
    lines: Vec<String>,
}

impl Moment {
    fn new(seq: Option<u64>, class: &'static str, texts: &[String]) -> Self {
        Self { seq, class, lines: texts.iter().flat_map(|text| wrapped(text)).collect() }
    }
}

/// The picture of a violation, as an SVG that follows the reader's colour scheme.
#[must_use]
pub fn picture(violation: &Violation, symbols: &Symbols) -> String {
    let moments = moments(violation, symbols);
    let heights: Vec<usize> = moments.iter().map(|moment| moment.lines.len() * LINE + 14).collect();
    let height = TOP + heights.iter().sum::<usize>() + 6;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>{0}: {1}</title>\n{STYLE}\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n\
         <text x=\"12\" y=\"26\" class=\"title\">{0}</text>\n",
        violation.rule,
        escaped(&violation.message)
    );
    let mut y = TOP;
    let mut stale = false;
    for (index, (moment, height)) in moments.iter().zip(&heights).enumerate() {
        stale |= moment.class == "store";
        if violation.entry.is_some() && index + 1 < moments.len() {
            let class = if stale { "stale" } else { "fresh" };
            bar(&mut out, class, y + LINE / 2, *height);
        }
        write(&mut out, moment, y);
        y += height;
    }
    out.push_str("</svg>\n");
    out
}

const STYLE: &str = "<style>\n\
    .paper { fill: #fff; }\n\
    text { font: 13px ui-monospace, monospace; fill: #1d2330; }\n\
    .title { font: bold 16px system-ui, sans-serif; }\n\
    .seq { fill: #6b7280; }\n\
    .why { fill: #6b7280; }\n\
    .fresh { fill: #9aa4b5; } .stale { fill: #d43a2f; }\n\
    circle { fill: #6b7280; } circle.store { fill: #d98a00; } circle.violation { fill: #d43a2f; }\n\
    @media (prefers-color-scheme: dark) {\n\
    .paper { fill: #161a22; } text { fill: #e6e8ee; } .seq, .why { fill: #9aa4b5; } .fresh { fill: #6b7280; }\n\
    }\n</style>\n";

fn moments(violation: &Violation, symbols: &Symbols) -> Vec<Moment> {
    let function = |rip| match symbols.function_at(rip) {
        Some((path, ..)) => format!(" by {}", path.rsplit("::").next().unwrap_or(path)),
        None => String::new(),
    };
    let mut moments = Vec::new();
    if let Some(downgrade) = &violation.downgrade {
        let store = format!(
            "{} {:#x} -> {:#x}{}",
            downgrade.cause.word(),
            downgrade.cause.values().0,
            downgrade.cause.values().1,
            function(downgrade.rip)
        );
        moments.push(Moment::new(Some(downgrade.seq), downgrade.cause.word(), &[store]));
    }
    if let Some(Because { seq, rip, what }) = violation.because {
        moments.push(Moment::new(Some(seq), "missed", &[format!("{what}{}", function(rip))]));
    }
    let hidden = violation.missed.len().saturating_sub(MISSED);
    for (index, missed) in violation.missed.iter().enumerate() {
        if hidden > 0 && index == MISSED / 2 {
            let text = format!("{} more, which do not reach it either", hidden + 1);
            moments.push(Moment::new(Some(missed.seq), "missed", &[text]));
        }
        if hidden == 0 || index < MISSED / 2 || index > MISSED / 2 + hidden {
            let texts = [missed.what.clone(), format!("  {}", missed.why)];
            moments.push(Moment::new(Some(missed.seq), "missed", &texts));
        }
    }
    moments.sort_by_key(|moment| moment.seq);
    if let Some((tag, entry)) = &violation.entry {
        moments.insert(0, Moment::new(None, "cached", &[cached(*tag, entry)]));
    }
    let mut last = vec![violation.message.clone()];
    last.extend(violation.deadline.as_ref().map(|deadline| format!("  deadline: {deadline}")));
    moments.push(Moment::new(Some(violation.seq), "violation", &last));
    moments
}

fn cached(tag: Tag, entry: &Entry) -> String {
    format!("{tag} caches {}", entry.translation)
}

fn bar(out: &mut String, class: &str, y: usize, height: usize) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<rect class=\"{class}\" x=\"{}\" y=\"{y}\" width=\"8\" height=\"{height}\"/>",
        BAR - 4
    );
}

fn write(out: &mut String, moment: &Moment, y: usize) {
    let middle = y + LINE / 2;
    let _ =
        writeln!(out, "<circle class=\"{}\" cx=\"{BAR}\" cy=\"{middle}\" r=\"6\"/>", moment.class);
    if let Some(seq) = moment.seq {
        let _ = writeln!(out, "<text class=\"seq\" x=\"12\" y=\"{}\">{seq:>7}</text>", y + 13);
    }
    for (number, line) in moment.lines.iter().enumerate() {
        let class = if line.starts_with("  ") { " class=\"why\"" } else { "" };
        let _ = writeln!(
            out,
            "<text{class} x=\"{TEXT}\" y=\"{}\">{}</text>",
            y + 13 + number * LINE,
            escaped(line.trim_start())
        );
    }
}

/// The text in lines; what is indented stays so.
fn wrapped(text: &str) -> Vec<String> {
    let indent = if text.starts_with("  ") { "  " } else { "" };
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < COLUMNS => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{indent}{word}")),
        }
    }
    lines
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
