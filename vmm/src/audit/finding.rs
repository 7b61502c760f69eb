//! What rules have found, put together where it is one and the same.

use super::again::Evidence;
use super::coverage::{Change, function};
use super::moments::Noted;
use super::profile::{Applied, Line};
use super::stacks::Calls;
use crate::kernel::free::Hooks;
use crate::oracle::{RuleId, Violation, rules};
use crate::suggest::suggest;
use crate::symbols::Symbols;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Which violations are the same: stable over builds, since it has no addresses and no counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The rule.
    pub rule: String,
    /// What was taken away.
    pub change: String,
    /// The function that took it away.
    pub function: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.rule, self.change, self.function)
    }
}

/// What [`Key::change`] may be.
const CHANGES: [&str; 7] =
    ["unmap", "remap", "write-protect", "supervisor", "no-execute", "clean", "none"];

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':');
        let (Some(rule), Some(change), Some(function)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("`{text}` is no key: rule:change:function, as reports print it"));
        };
        let rules = rules::names();
        if !rules.contains(&rule) {
            return Err(format!("`{rule}` is no rule, {}", suggest(rule, &rules)));
        }
        if !CHANGES.contains(&change) {
            return Err(format!("`{change}` is no change, {}", suggest(change, &CHANGES)));
        }
        let [rule, change, function] = [rule, change, function].map(str::to_owned);
        Ok(Self { rule, change, function })
    }
}

/// Violations that are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What they have in common.
    pub key: Key,
    /// The rule.
    pub rule: RuleId,
    /// How many there are.
    pub count: usize,
    /// The first.
    pub first: Violation,
    /// The functions in which the operations were that came in between and did not help, with why, of the
    /// first.
    pub missed: Vec<(String, String)>,
    /// The function in which the deadline passed, of the first.
    pub at: String,
    /// Why the flush was due, and who says so, of the first.
    pub due: String,
    /// When all that was, of the first.
    pub noted: Noted,
    /// The function in which what ended the first was.
    pub closed_in: Option<String>,
    /// What the run shows of what was cached, of the first that shows most.
    pub evidence: Evidence,
    /// Who called whom at its store, its last flush, its deadline and its use, of the first.
    pub stacks: Vec<Calls>,
    /// The violations, by their numbers.
    pub(super) violations: Vec<usize>,
}

/// Why the flush was due, and who says so: the architecture, the task, or a line of a profile.
pub(super) fn due(violation: &Violation, profile: Option<&Applied>, hooks: &Hooks) -> String {
    let by = |line: &Line| {
        let Line { line, symbol, .. } = line;
        let file = profile.map_or("", |profile| &profile.file);
        format!("`{symbol}`, line {line} of {file}")
    };
    let flush = violation.requested.map(|cover| cover.id);
    let line = |flush| profile.and_then(|profile| profile.line_of_flush(flush, hooks));
    match violation.rule.to_string().as_str() {
        "table-reuse" => "the table was given back: SDM vol. 3, 4.10.4.2".to_owned(),
        "va-reuse" => "the address was given out again: SDM vol. 3, 4.10.5".to_owned(),
        "reuse-before-flush" => {
            let line = profile.and_then(|profile| profile.line_at(violation.rip, hooks));
            let line = line.map_or_else(String::new, |line| format!(" by {}", by(line)));
            format!("its frame was given back{line}")
        }
        "stale-user-entry" | "stale-other-asid" | "stale-kernel-entry" => {
            match flush.and_then(line) {
                Some(line) => format!("it was flushed when this returned: {}", by(line)),
                None => "the task that made the entry stale returned to user mode without its flush, or \
                         to where a kernel thread waits: a heuristic, which takes it that an operation \
                         is over then"
                    .to_owned(),
            }
        }
        _ => "the architecture".to_owned(),
    }
}

pub(super) fn collect(
    violations: &[Violation],
    noted: &[Noted],
    symbols: &Symbols,
    due: &dyn Fn(&Violation) -> String,
) -> Vec<Finding> {
    let mut found: BTreeMap<Key, Finding> = BTreeMap::new();
    for (number, violation) in violations.iter().enumerate() {
        let downgrade = violation.downgrade.as_ref();
        let store = downgrade.and_then(|downgrade| downgrade.cause.store());
        let change = store.and_then(|store| Change::of(store.old, store.new));
        let rip = downgrade.map_or(violation.rip, |downgrade| downgrade.rip);
        let key = Key {
            rule: violation.rule.to_string(),
            change: change.map_or("none", Change::name).to_owned(),
            function: function(symbols, rip),
        };
        let finding = found.entry(key.clone()).or_insert_with(|| Finding {
            key,
            rule: violation.rule,
            count: 0,
            first: violation.clone(),
            missed: violation
                .missed
                .iter()
                .map(|missed| {
                    let place = function(symbols, missed.rip);
                    (format!("{} in {place}", missed.what), missed.why.clone())
                })
                .collect(),
            at: function(symbols, violation.rip),
            due: due(violation),
            closed_in: noted[number].closed.as_ref().map(|closed| function(symbols, closed.rip)),
            noted: noted[number].clone(),
            evidence: Evidence::default(),
            stacks: Vec::new(),
            violations: Vec::new(),
        });
        finding.count += 1;
        finding.violations.push(number);
    }
    let mut found: Vec<Finding> = found.into_values().collect();
    found.sort_by_key(|finding| finding.first.seq);
    found
}
