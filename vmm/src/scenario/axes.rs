//! One file, many scenarios: one for each combination of the values of its axes.
//!
//! The axes are the last tables of a file. What is before them is the text of each scenario, in
//! which `{AXIS.KEY}` stands for what the axis's value says under that key, and `{AXIS}` for the
//! value's name.

use super::diagnostic::{Diagnostic, SCENARIOS, explain};
use super::raw::{RawAxes, RawAxis};
use super::source::Source;
use std::ops::Range;

/// Which combination a scenario is, of the file that it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The values' names, with `/` between.
    pub name: String,
    /// Its number, from 0.
    pub number: usize,
    /// Of the configurations one in so many is run.
    pub one_in: usize,
    /// For each line of its text, the line of the file that it was made from, from 1.
    pub lines: Vec<usize>,
}

/// Scenarios that are made of one file.
const MAX_CELLS: usize = 4096;

/// Lines that are made of one.
const MAX_LINES: usize = 4096;

/// One value of one axis.
struct Value<'r> {
    axis: &'r str,
    name: &'r str,
    says: &'r RawAxis,
}

/// The text of each scenario of the file; nothing where it has no axes.
pub(super) fn cells(source: &Source<'_>) -> Result<Vec<(Cell, String)>, Diagnostic> {
    let Some(start) = axes_start(source.text) else { return Ok(Vec::new()) };
    let (body, tail) = source.text.split_at(start);
    let raw: RawAxes = toml::from_str(tail).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let (message, help) = explain(error.message(), SCENARIOS);
        source.error(start + span.start..start + span.end, message, help)
    })?;
    let one_in = raw.axes.one_in.unwrap_or(1).max(1);
    // In the order of the file.
    let mut axes: Vec<_> = raw.axis.iter().collect();
    axes.sort_by_key(|(name, _)| tail.find(&format!("[axis.{name}")));
    let size = axes.iter().map(|(_, values)| values.len()).fold(1, usize::saturating_mul);
    if size > MAX_CELLS {
        let message = format!("{size} combinations of the values of these axes");
        let help = format!("at most {MAX_CELLS} are made of one file");
        return Err(source.error(start..start, message, help));
    }
    let mut combinations: Vec<Vec<Value<'_>>> = vec![Vec::new()];
    for (axis, values) in axes {
        let value = |(name, says)| Value { axis, name, says };
        combinations = combinations
            .into_iter()
            .flat_map(|before| {
                values.iter().map(move |(name, says)| {
                    let before = before.iter().map(|one| Value { ..*one });
                    before.chain([value((name, says))]).collect()
                })
            })
            .collect();
    }
    let cell = |(number, values): (usize, Vec<Value<'_>>)| {
        let names: Vec<&str> = values.iter().map(|value| value.name).collect();
        let (text, lines) = substituted(source, body, &values)?;
        Ok((Cell { name: names.join("/"), number, one_in, lines }, text))
    };
    combinations.into_iter().enumerate().map(cell).collect()
}

/// Where the axes begin.
fn axes_start(text: &str) -> Option<usize> {
    let begins = |line: &&str| line.starts_with("[axis.") || line.starts_with("[axes]");
    let line = text.split_inclusive('\n').find(begins)?;
    Some(line.as_ptr() as usize - text.as_ptr() as usize)
}

/// The text with the values in their places, and the line that each of its lines was made from.
fn substituted(
    source: &Source<'_>,
    body: &str,
    values: &[Value<'_>],
) -> Result<(String, Vec<usize>), Diagnostic> {
    let mut text = String::new();
    let mut from = Vec::new();
    let mut at = 0;
    for (number, line) in (1..).zip(body.split_inclusive('\n')) {
        let mut made = vec![String::new()];
        let mut rest = 0;
        for (place, says) in places(source, line, at, values)? {
            // Once for each: a list makes as many lines, an empty one none.
            let literal = &line[rest..place.start];
            let each = |before: &String| {
                says.iter().map(|said| format!("{before}{literal}{said}")).collect::<Vec<_>>()
            };
            if made.len().saturating_mul(says.len()) > MAX_LINES {
                let message = format!("this line makes more than {MAX_LINES} lines");
                let help = "let fewer lists meet in one line".to_owned();
                return Err(source.error(at..at + line.len(), message, help));
            }
            made = made.iter().flat_map(each).collect();
            rest = place.end;
        }
        for before in made {
            text += &before;
            text += &line[rest..];
            from.push(number);
        }
        at += line.len();
    }
    Ok((text.trim_end().to_owned() + "\n", from))
}

/// Where a file has a hole, and the texts that may stand there.
type Hole = (Range<usize>, Vec<String>);

/// The places of a line, which begins at `at`, where a value goes, and what goes there.
fn places(
    source: &Source<'_>,
    line: &str,
    at: usize,
    values: &[Value<'_>],
) -> Result<Vec<Hole>, Diagnostic> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(open) = line[from..].find('{').map(|open| from + open) {
        let Some(len) = line[open..].find('}') else { break };
        let place = open..open + len + 1;
        let name = &line[open + 1..place.end - 1];
        from = open + 1;
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            continue;
        }
        let (axis, key) =
            name.split_once('.').map_or((name, None), |(axis, key)| (axis, Some(key)));
        let value = values.iter().find(|value| value.axis == axis);
        let says = match (value, key) {
            (Some(value), None) => Some(vec![value.name.to_owned()]),
            (Some(value), Some(key)) => value.says.get(key).map(|list| list.0.clone()),
            (None, _) => None,
        };
        let Some(says) = says else {
            let message = match value {
                Some(value) => format!("`{}` of this axis says nothing of it", value.name),
                None => format!("`{axis}` is no axis of this file"),
            };
            let help = "write `{AXIS.KEY}` for what every value of the axis says, or `{AXIS}`";
            return Err(source.error(at + open..at + place.end, message, help.to_owned()));
        };
        from = place.end;
        found.push((place, says));
    }
    Ok(found)
}
