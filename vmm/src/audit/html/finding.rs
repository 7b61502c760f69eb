//! One finding: its window as a picture, its facts, and who called whom.

use super::super::text::facts;
use super::super::{Called, Calls, Finding, Grade};
use super::{Escaped, fact};
use std::fmt::{self, Write};

/// Width of the picture, and where its bar is.
const WIDTH: usize = 1100;
const MARGIN: usize = 90;
const BAR: usize = 34;

pub(super) fn finding(out: &mut String, finding: &Finding, number: usize) -> fmt::Result {
    let Finding { key, first, count, evidence, .. } = finding;
    let grade = evidence.grade;
    let bad = if grade == Grade::Speculative { "" } else { " bad" };
    writeln!(
        out,
        "<article id=\"finding-{number}\">\n<h3>{} in {} <span class=\"badge{bad}\">{}</span></h3>\n\
         <p>{}</p>",
        Escaped(&key.rule),
        Escaped(&key.function),
        grade.name(),
        Escaped(&first.message)
    )?;
    window(out, finding)?;
    writeln!(out, "<dl>")?;
    // What might have made it legal is looked at when one doubts.
    let (doubts, known): (Vec<_>, Vec<_>) =
        facts(finding).into_iter().partition(|(name, _)| *name == "legal if");
    known.iter().try_for_each(|(name, what)| fact(out, name, what))?;
    fact(out, "key", &key.to_string())?;
    fact(out, "times", &count.to_string())?;
    writeln!(out, "</dl>")?;
    if !doubts.is_empty() {
        let all = doubts.len();
        writeln!(
            out,
            "<details><summary>What might have made it legal: {all} exceptions of the rule, and none holds</summary>\n<ul>"
        )?;
        doubts.iter().try_for_each(|(_, what)| writeln!(out, "<li>{}</li>", Escaped(what)))?;
        writeln!(out, "</ul></details>")?;
    }
    if !finding.missed.is_empty() {
        let all = finding.missed.len();
        writeln!(
            out,
            "<details><summary>{all} operations in between, and why none helped</summary>\n<ul>"
        )?;
        for (what, why) in &finding.missed {
            writeln!(out, "<li>{}: {}</li>", Escaped(what), Escaped(why))?;
        }
        writeln!(out, "</ul></details>")?;
    }
    writeln!(out, "<div class=\"stacks\">")?;
    finding.stacks.iter().try_for_each(|calls| stack(out, calls))?;
    writeln!(out, "</div>\n</article>")
}

fn stack(out: &mut String, calls: &Calls) -> fmt::Result {
    writeln!(out, "<section><h4>{}</h4><ol>", Escaped(calls.title()))?;
    let frame = |called: &Called| writeln!(out, "<li>{}</li>", Escaped(called));
    calls.frames.iter().try_for_each(frame)?;
    writeln!(out, "</ol></section>")
}

/// Moments of a finding in order: class, name, and instructions that had completed.
fn moments(finding: &Finding) -> Vec<(&'static str, &'static str, u64)> {
    let Finding { noted, evidence, .. } = finding;
    let mut moments = Vec::new();
    let mut add = |class, name, at: Option<u64>| {
        moments.extend(at.map(|at| (class, name, at)));
    };
    add("held", "first use", evidence.held.as_ref().map(|seen| seen.at));
    add("store", "store", noted.stored);
    add("flush", "flush that missed it", noted.missed);
    add("used", "stale use", evidence.used.as_ref().map(|seen| seen.at));
    add("due", "due", Some(noted.found));
    add("gone", "gone", noted.closed.as_ref().map(|closed| closed.at));
    moments.sort_by_key(|(.., at)| *at);
    moments
}

/// The window: moments in order, at equal distances, since some are millions of instructions apart.
fn window(out: &mut String, finding: &Finding) -> fmt::Result {
    let Some(stored) = finding.noted.stored else { return Ok(()) };
    let moments = moments(finding);
    let step = (WIDTH - 2 * MARGIN) / (moments.len() - 1).max(1);
    let x = |index: usize| MARGIN + index * step;
    writeln!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} 66\" role=\"img\" aria-label=\"When it was stale\">"
    )?;
    for (index, (class, _, at)) in moments.iter().enumerate() {
        let state = match () {
            () if *at < stored => "fresh",
            () if *class == "gone" => "gone",
            () => "stale",
        };
        let end = if index + 1 < moments.len() { x(index + 1) } else { WIDTH };
        let width = end - x(index);
        let y = BAR - 4;
        writeln!(
            out,
            "<rect class=\"{state}\" x=\"{}\" y=\"{y}\" width=\"{width}\" height=\"8\"/>",
            x(index)
        )?;
    }
    for (index, (class, name, at)) in moments.iter().enumerate() {
        let x = x(index);
        let distance = match (at.checked_sub(stored), stored.saturating_sub(*at)) {
            (Some(0), _) => format!("after {} instructions", grouped(*at)),
            (Some(after), _) => format!("+{}", grouped(after)),
            (None, before) => format!("\u{2212}{}", grouped(before)),
        };
        writeln!(
            out,
            "<circle class=\"m-{class}\" cx=\"{x}\" cy=\"{BAR}\" r=\"7\"/>\
             <text x=\"{x}\" y=\"18\" text-anchor=\"middle\">{name}</text>\
             <text class=\"quiet\" x=\"{x}\" y=\"58\" text-anchor=\"middle\">{distance}</text>"
        )?;
    }
    writeln!(out, "</svg>")
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<_> = groups.map(String::from_utf8_lossy).collect();
    groups.join(" ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_apart() {
        let numbers = [0, 999, 1_000, 12_345_678].map(super::grouped);
        assert_eq!(numbers, ["0", "999", "1 000", "12 345 678"]);
    }
}
