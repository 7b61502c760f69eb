//! What was found where: a row for each scenario, or for each rule where there are many scenarios.

use super::fold::wrap;
use super::verdict::{Class, found};
use super::{Results, counted};
use crate::ink::{Ink, Tone};
use crate::runner::{Outcome, RunResult};
use crate::scenario::CPUS;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Up to so many scenarios each processor has a row.
const SCENARIOS_BY_CPU: usize = 3;
/// Columns that what was found needs, to stand beside the numbers.
const BESIDE: usize = 24;
/// Configurations that a line names; the JSON names all.
const CONFIGS_NAMED: usize = 4;
/// Above this many lines about what was caught the table says enough.
const MOST_CAUGHT: usize = 12;

/// Rows of a table by rules.
const MOST_ROWS: usize = 12;

/// One row.
struct Row<'a> {
    name: &'a str,
    cpu: &'a str,
    results: Vec<&'a RunResult>,
}

/// A row for each scenario; of few scenarios one for each processor too.
pub(super) fn by_scenario(results: &Results<'_>, ink: Ink, width: usize) -> String {
    let mut rows: Vec<Row<'_>> = Vec::new();
    let together = || results.scenarios.chunk_by(|one, other| one.row() == other.row());
    let by_cpu = together().count() <= SCENARIOS_BY_CPU;
    for scenarios in together() {
        let name = scenarios[0].row();
        let of: Vec<&RunResult> = scenarios.iter().flat_map(|one| results.of(one)).collect();
        if !by_cpu {
            rows.push(Row { name, cpu: "", results: of });
            continue;
        }
        for cpu in CPUS.iter().map(|cpu| cpu.name) {
            let here = of.iter().copied().filter(|one| one.run.config.cpu.name == cpu);
            rows.push(Row { name, cpu, results: here.collect() });
        }
    }
    rows.retain(|row| !row.results.is_empty());
    let names = widest(rows.iter().map(|row| row.name), "scenario").min(width / 2);
    let cpus = if by_cpu { widest(rows.iter().map(|row| row.cpu), "processor") + 2 } else { 0 };
    let before = names + cpus + "  clean  caught  ".len();
    let mut out = String::new();
    let cpu = if by_cpu { "  processor" } else { "" };
    let end = if width < before + BESIDE { "" } else { "  found" };
    let _ = writeln!(out, "{:names$}{cpu:cpus$}  clean  caught{end}", "scenario");
    let mut last = "";
    for row in &rows {
        let name = if row.name == last { "" } else { row.name };
        last = row.name;
        // A long name has a line of its own.
        if name.chars().count() > names {
            wrap(name, width).iter().for_each(|line| out.push_str(&format!("{line}\n")));
            let _ = write!(out, "{:names$}", "");
        } else {
            let _ = write!(out, "{name:names$}");
        }
        if by_cpu {
            let _ = write!(out, "{:cpus$}", format!("  {}", row.cpu));
        }
        let count = |classes: &[Class]| {
            let of = row.results.iter().filter(|result| classes.contains(&Class::of(result)));
            of.count()
        };
        let (clean, caught) = (count(&[Class::Clean]), count(&[Class::Fault, Class::Bug]));
        let number = |tone, count: usize, wide: usize| match count {
            0 => ink.paint(Tone::Faint, &format!("{:>wide$}", "-")),
            _ => ink.paint(tone, &format!("{count:>wide$}")),
        };
        out += &number(Tone::Good, clean, 7);
        out += &number(Tone::Warning, caught, 8);
        let bad = clean + caught < row.results.len();
        let tone = if bad { Tone::Bad } else { Tone::Warning };
        beside(&mut out, &found_in(&row.results), before, width, |line| ink.paint(tone, line));
    }
    out
}

/// The columns of a heading and what stands below it.
fn widest<'a>(names: impl Iterator<Item = &'a str>, heading: &'a str) -> usize {
    names.chain([heading]).map(|name| name.chars().count()).max().unwrap_or_default()
}

/// Ends a line with a text in columns of its own, or below where these are too few.
fn beside(
    out: &mut String,
    text: &str,
    before: usize,
    width: usize,
    paint: impl Fn(&str) -> String,
) {
    if text.is_empty() {
        out.push('\n');
        return;
    }
    let below = width < before + BESIDE;
    let margin = if below { 4 } else { before };
    for (index, line) in wrap(text, width - margin).iter().enumerate() {
        let lead = match (index, below) {
            (0, false) => "  ".to_owned(),
            (0, true) => format!("\n{:margin$}", ""),
            _ => " ".repeat(margin),
        };
        let _ = writeln!(out, "{lead}{}", paint(line));
    }
}

/// What was found in runs: by which rule, and where the first was; what is not as expected in capitals.
fn found_in(of: &[&RunResult]) -> String {
    let mut parts: Vec<(String, &RunResult)> = Vec::new();
    for &result in of {
        let class = Class::of(result);
        let names = found(result);
        let texts = match class {
            Class::Clean => continue,
            Class::Fault | Class::Bug => names,
            Class::Injected | Class::Unexpected => {
                let outcome = result.outcome.to_string().to_uppercase();
                let rules = if result.rules().is_empty() { Vec::new() } else { names };
                vec![[vec![outcome], rules].concat().join(" ")]
            }
        };
        for text in texts {
            if !parts.iter().any(|(known, _)| *known == text) {
                parts.push((text, result));
            }
        }
    }
    let mut places: Vec<(Option<usize>, Vec<String>)> = Vec::new();
    for (text, first) in parts {
        let line = line_of(first);
        match places.last_mut() {
            Some((last, texts)) if *last == line => texts.push(text),
            _ => places.push((line, vec![text])),
        }
    }
    let places = places.into_iter().map(|(line, texts)| {
        let at = line.map_or_else(String::new, |line| format!(" in line {line}"));
        texts.join(", ") + &at
    });
    places.collect::<Vec<_>>().join(", ")
}

/// The line of the scenario's file in which the first violation came to light.
fn line_of(result: &RunResult) -> Option<usize> {
    let scenario = &result.run.scenario;
    let step = match result.violations.first() {
        Some(violation) => violation.task?.0,
        None => result.sweep.as_ref()?.failing.first()?.step,
    };
    Some(scenario.file_line(scenario.steps.get(step)?.line))
}

/// A row for each thing that was found, with the first scenario in which it was.
pub(super) fn by_rule(results: &Results<'_>, ink: Ink, width: usize) -> String {
    let mut rows: BTreeMap<(bool, String), (usize, &RunResult)> = BTreeMap::new();
    for result in results.results {
        let expected = result.as_expected;
        if Class::of(result) == Class::Clean {
            continue;
        }
        for name in found(result) {
            rows.entry((expected, name)).or_insert((0, result)).0 += 1;
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by_key(|((expected, _), (count, _))| (*expected, std::cmp::Reverse(*count)));
    let names = rows.iter().map(|((_, name), _)| name.len()).chain([5]).max().unwrap_or(5);
    let before = names + "  runs  ".len();
    // All that is not as expected, and of the rest what fits a screen; the rarest in a line.
    let unexpected = rows.iter().filter(|((expected, _), _)| !expected).count();
    let rare = rows.split_off(rows.len().min(MOST_ROWS.max(unexpected)));
    let mut out = String::new();
    let _ = writeln!(out, "{:names$}  runs  first in", "found");
    for ((expected, name), (count, first)) in rows {
        let tone = if expected { Tone::Warning } else { Tone::Bad };
        let name = ink.paint(tone, &format!("{name:names$}"));
        let _ = write!(out, "{name}  {count:>4}");
        let scenario = &first.run.scenario.name;
        let place = match expected {
            true => scenario.clone(),
            false => format!("{scenario} on {}", first.title()),
        };
        beside(&mut out, &place, before, width, str::to_owned);
    }
    if !rare.is_empty() {
        let rare = rare.iter().map(|((_, name), (count, _))| format!("{name} in {count}"));
        let rare = rare.collect::<Vec<_>>().join(", ");
        wrap(&format!("and {rare}"), width).iter().for_each(|line| out += &format!("{line}\n"));
    }
    out
}

/// What was caught as the files say, a line for each fault, or for each mistake of the kernel's own.
/// Nothing where that were more lines than a reader wants.
pub(super) fn caught(results: &Results<'_>) -> Vec<String> {
    type Key = (usize, usize, String, String);
    let mut groups: BTreeMap<Key, Vec<&RunResult>> = BTreeMap::new();
    for (index, scenario) in results.scenarios.iter().enumerate() {
        for result in results.of(scenario).filter(|result| result.is_caught()) {
            let faults: Vec<String> = result.run.faults.iter().map(ToString::to_string).collect();
            let by = found(result).join(" and ");
            let case = scenario.case(&result.run).unwrap_or_default();
            groups.entry((index, case, faults.join(", "), by)).or_default().push(result);
        }
    }
    if groups.len() > MOST_CAUGHT {
        return Vec::new();
    }
    let alone = results.scenarios.len() == 1;
    let line = |((index, _, faults, by), of): (Key, Vec<&RunResult>)| {
        let name = &results.scenarios[index].name;
        let name = if alone { String::new() } else { format!("{name}: ") };
        let by = match of[0].rules().is_empty() {
            true => format!("ends in a {by}"),
            false => format!("caught by {by}"),
        };
        if !faults.is_empty() {
            let runs = if of.len() == 1 { String::new() } else { format!(" in {} runs", of.len()) };
            return format!("{name}{faults}: {by}, as the file says{runs}");
        }
        let configs: BTreeSet<String> =
            of.iter().map(|result| result.run.config.to_string()).collect();
        let more = match configs.len().saturating_sub(CONFIGS_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = configs.into_iter().take(CONFIGS_NAMED).collect::<Vec<_>>().join(", ");
        format!("{name}the kernel's own bug: {by}, as the file says, on {named}{more}")
    };
    groups.into_iter().map(line).collect()
}

/// What was flushed by what in the clean runs, and what big hammers cost.
pub(super) fn costs(results: &Results<'_>) -> String {
    let mut by: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut lost, mut on_demand) = (0, false);
    for result in results.results {
        if result.outcome == Outcome::Clean {
            for (discharger, count) in result.discharged() {
                *by.entry(discharger.name()).or_default() += count;
            }
        }
        if result.run.config.fill == crate::arch::tlb::Fill::OnDemand {
            on_demand = true;
            lost += result.hammers.lost;
        }
    }
    let mut parts = Vec::new();
    if !by.is_empty() {
        let by: Vec<String> = by.iter().map(|(name, count)| format!("{name} {count}")).collect();
        parts.push(format!("obligations discharged in clean runs: {}", by.join(", ")));
    }
    if on_demand {
        let entries = counted(lost, "live entry", "live entries");
        parts.push(format!("removed by big hammers though nobody asked, on demand: {entries}"));
    }
    parts.join("; ")
}
