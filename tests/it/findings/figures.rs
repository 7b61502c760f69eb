//! From a template with placeholders and claims to a text with figures.
//!
//! `{{…}}` holds an expression and becomes its value; a line `%% expression op expression` is a
//! claim, checked and left out. An expression is terms with ` - ` between them; a term is a number,
//! `mark instructions`, `mark branches`, a `count`, or `workload cpu policy figure`. `all` stands
//! for every workload or processor, `with-pcid` for the processors with PCIDs, and `correct` for
//! every policy but `unsplit`.

use stalemate::compare::{Comparison, Costs, Row};
use stalemate::scenario::Policy;
use std::fmt::Write;

/// A template that cannot be filled in, with the place.
pub type Wrong = String;

/// Fills in `template`; `compiler` built the guest.
pub fn fill(template: &str, found: &Comparison, compiler: &str) -> Result<String, Wrong> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (inside, after) = after.split_once("}}").ok_or("`{{` without `}}`")?;
        out.push_str(before);
        let words = inside.split_whitespace().collect::<Vec<_>>().join(" ");
        match words.split_once(' ') {
            Some(("table", figure)) => out.push_str(&table(figure, found)?),
            _ if words == "table-calls" => out.push_str(&calls(found)),
            _ if words == "compiler" => out.push_str(compiler),
            _ => out.push_str(&expression(&words, found)?.to_string()),
        }
        rest = after;
    }
    out.push_str(rest);
    let mut lines = Vec::new();
    for line in out.lines() {
        match line.strip_prefix("%% ") {
            Some(claim) => check(claim, found)?,
            None => lines.push(line),
        }
    }
    let text = lines.join("\n");
    let blocks = text.split("\n\n").map(str::trim).filter(|block| !block.is_empty());
    Ok(blocks.map(wrap).collect::<Vec<_>>().join("\n\n") + "\n")
}

/// A paragraph in lines of at most 100 columns; headings and tables as they are.
fn wrap(block: &str) -> String {
    if block.starts_with(['#', '|']) {
        return block.to_owned();
    }
    let mut out = String::new();
    let mut column = 0;
    for word in block.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > 100 {
            out.push('\n');
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

fn check(claim: &str, found: &Comparison) -> Result<(), Wrong> {
    let holds = |operator: &str, left: i64, right: i64| match operator {
        " <= " => left <= right,
        " < " => left < right,
        _ => left == right,
    };
    for operator in [" <= ", " < ", " == "] {
        if let Some((left, right)) = claim.split_once(operator) {
            let (left, right) = (expression(left, found)?, expression(right, found)?);
            let message = format!("`{claim}` does not hold: {left} and {right}");
            return if holds(operator, left, right) { Ok(()) } else { Err(message) };
        }
    }
    Err(format!("`{claim}` claims nothing"))
}

fn expression(text: &str, found: &Comparison) -> Result<i64, Wrong> {
    let mut terms = text.split(" - ");
    let first = term(terms.next().unwrap_or_default(), found)?;
    terms.try_fold(first, |value, text| Ok(value - term(text, found)?))
}

fn term(text: &str, found: &Comparison) -> Result<i64, Wrong> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let words: Vec<&str> = text.split(' ').collect();
    let value = match words[..] {
        ["count", "workloads"] => Some(found.workloads.len() as u64),
        ["count", "policies"] => Some(Policy::all().len() as u64),
        ["count", "processors"] => Some(found.cpus.len() as u64),
        ["mark", "instructions"] => Some(found.mark.instructions as u64),
        ["mark", "branches"] => Some(found.mark.branches as u64),
        [workload, cpu, policy, name] => {
            let rows = select(found, workload, cpu, policy);
            if rows.is_empty() {
                return Err(format!("`{text}` selects no row"));
            }
            figure(name, &rows, found)
        }
        _ => None,
    };
    value.map(|value| value as i64).ok_or_else(|| format!("`{text}` is no figure"))
}

fn select<'a>(found: &'a Comparison, workload: &str, cpu: &str, policy: &str) -> Vec<&'a Row> {
    let of_policy = |row: &Row| match policy {
        "correct" => row.policy != Policy::Unsplit,
        name => row.policy.to_string() == name,
    };
    let of_cpu = |row: &Row| match cpu {
        "all" => true,
        "with-pcid" => row.cpu.features.pcid,
        name => row.cpu.name == name,
    };
    let rows = found.rows.iter();
    rows.filter(|row| {
        (workload == "all" || row.workload == workload) && of_cpu(row) && of_policy(row)
    })
    .collect()
}

fn figure(name: &str, rows: &[&Row], found: &Comparison) -> Option<u64> {
    let sum = |of: fn(&Costs) -> u64| Some(rows.iter().map(|row| of(&row.costs)).sum());
    let calls = |of: fn(&stalemate::compare::Calls) -> u64| {
        Some(rows.iter().flat_map(|row| row.audit.values()).map(of).sum())
    };
    let need = rows.first().and_then(|row| found.need(row.cpu.name, row.policy));
    match name {
        "rows" => Some(rows.len() as u64),
        "violations" => Some(rows.iter().filter(|row| !row.violated.is_empty()).count() as u64),
        "refills" => sum(|costs| costs.refills),
        "lost" => sum(|costs| costs.live_lost),
        "marks" => sum(|costs| costs.marks_made),
        "invpcid" => sum(|costs| costs.invpcid.iter().sum()),
        "cr3-loads" => sum(|costs| costs.cr3_flushing + costs.cr3_kept),
        "flush" => sum(|costs| costs.primitive_instructions),
        "return" => sum(|costs| costs.return_instructions),
        "mark-total" => {
            let returns: u64 = rows.iter().map(|row| row.costs.returns).sum();
            Some(returns * found.mark.instructions as u64)
        }
        "shortest-return" => rows.iter().map(|row| row.costs.shortest_return).min(),
        "longest-return" => rows.iter().map(|row| row.costs.longest_return).max(),
        "calls" => calls(|calls| calls.calls),
        "grown" => calls(|calls| calls.grown),
        "needless" => calls(|calls| calls.needless),
        "deferred" => calls(|calls| calls.deferred),
        "little" => calls(|calls| calls.little),
        "state" => need.map(|need| u64::from(need.state_bits)),
        "branches" => need.map(|need| need.code.branches as u64),
        "return-branches" => need.map(|need| need.code.return_branches as u64),
        _ => None,
    }
}

/// A figure over all workloads, by processor and policy.
fn table(name: &str, found: &Comparison) -> Result<String, Wrong> {
    let mut out = String::from("| processor |");
    Policy::all().iter().for_each(|policy| out += &format!(" {policy} |"));
    out += "\n|---|";
    Policy::all().iter().for_each(|_| out += "---:|");
    for cpu in &found.cpus {
        let _ = write!(out, "\n| `{}` |", cpu.name);
        for policy in Policy::all() {
            let value = term(&format!("all {} {policy} {name}", cpu.name), found)?;
            let _ = write!(out, " {value} |");
        }
    }
    Ok(out)
}

/// Calls by policy and hammer.
fn calls(found: &Comparison) -> String {
    let columns = ["calls", "needless", "little", "deferred", "grown"];
    let mut out = format!("| policy | {} |\n|---|", columns.join(" | "));
    columns.iter().for_each(|_| out += "---:|");
    for policy in Policy::all() {
        let rows = select(found, "all", "all", &policy.to_string());
        let _ = write!(out, "\n| `{policy}` |");
        for name in columns {
            let _ = write!(out, " {} |", figure(name, &rows, found).unwrap_or(0));
        }
    }
    out
}

/// Numbers in words. What is smaller may count what the sentence itself names.
const NUMBERS: [&str; 10] =
    ["three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];

/// Words of a template's prose that are a figure and no placeholder.
pub fn own_figures(template: &str) -> Vec<String> {
    let mut prose = String::new();
    for (index, part) in template.split("{{").enumerate() {
        prose += if index == 0 { part } else { part.split_once("}}").map_or("", |(_, rest)| rest) };
    }
    let lines = prose.lines().filter(|line| !line.starts_with("%% "));
    // Names stand in backticks.
    let words = lines.flat_map(|line| line.split('`').step_by(2).flat_map(str::split_whitespace));
    words
        .filter(|word| {
            let number = word.trim_matches(|char: char| !char.is_alphanumeric()).to_lowercase();
            NUMBERS.contains(&number.as_str()) || word.bytes().any(|byte| byte.is_ascii_digit())
        })
        .map(str::to_owned)
        .collect()
}
