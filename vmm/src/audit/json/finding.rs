//! A finding as JSON.

use super::super::again::{Given, Grade, Seen};
use super::super::exceptions::Exception;
use super::super::finding::Finding;
use super::super::stacks::Calls;
use crate::oracle::RuleId;
use crate::schema::RuleName;
use schemars::JsonSchema;
use serde::Serialize;

/// Violations that are the same: one function made the same kind of change, and one rule speaks of it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "finding")]
pub(super) struct FindingReport<'a> {
    /// The same in every build: rule, change and function. A baseline and `--bisect` take it.
    key: String,
    /// The rule.
    #[schemars(with = "RuleName")]
    rule: RuleId,
    /// What was taken away; `none` where the rule is about no store.
    #[schemars(extend("enum" = ["unmap", "remap", "write-protect", "supervisor", "no-execute", "clean", "none"]))]
    change: &'a str,
    /// The function that took it away.
    function: &'a str,
    /// How many violations there are. What follows is of the first.
    count: usize,
    /// What the rule says.
    message: &'a str,
    /// Why the flush was due, and who says so.
    due: &'a str,
    /// How sure it is that a processor has it cached.
    grade: Grade,
    /// Of how many violations that were looked at the grade is true.
    of_this_grade: usize,
    /// How many violations were looked at.
    graded_of: usize,
    /// The first access through the entry, before it became stale; null where there was none.
    held_by: &'a Option<Seen>,
    /// The first access that the tables did not grant since; null where there was none.
    used_by: &'a Option<Seen>,
    /// What became of the frame that the entry leads to, while it was cached.
    frame: &'a [Given],
    /// The instruction of the store; null where the rule is about none.
    store: Option<u64>,
    /// The task whose store it was, where that is known.
    store_task: Option<usize>,
    /// When it was made; null where that was too long ago to tell.
    stored_at: Option<u64>,
    /// When the deadline passed.
    found_after: u64,
    /// The instruction at which it did.
    found_at: u64,
    /// The function that it is in.
    found_in: &'a str,
    /// The task that was running, where that is known.
    task: Option<usize>,
    /// The number of the event at which it did.
    seq: u64,
    /// What removed the last of what was stale; null where something was there at the end.
    closed: Option<ClosedReport<'a>>,
    /// The operations between the store and the deadline, and why each did not help.
    in_between: Vec<InBetween<'a>>,
    /// What would have made it legal, and what was seen of that.
    legal_if: &'a [Exception],
    /// Who called whom.
    stacks: &'a [Calls],
}

/// What ended a window.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct ClosedReport<'a> {
    /// The operation.
    what: &'static str,
    /// When.
    at: u64,
    /// The instruction.
    rip: u64,
    /// The function that it is in.
    function: Option<&'a str>,
}

/// An operation that did not help.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct InBetween<'a> {
    /// What it was, and in which function.
    what: &'a str,
    /// Why it did not help.
    why: &'a str,
}

impl<'a> FindingReport<'a> {
    pub(super) fn new(finding: &'a Finding) -> Self {
        let Finding { key, first, evidence, noted, .. } = finding;
        let downgrade = first.downgrade.as_ref();
        let number = |task: crate::event::TaskId| task.0;
        Self {
            key: key.to_string(),
            rule: finding.rule,
            change: &key.change,
            function: &key.function,
            count: finding.count,
            message: &first.message,
            due: &finding.due,
            grade: evidence.grade,
            of_this_grade: evidence.of.0,
            graded_of: evidence.of.1,
            held_by: &evidence.held,
            used_by: &evidence.used,
            frame: &evidence.frame,
            store: downgrade.map(|downgrade| downgrade.rip.0),
            store_task: downgrade.and_then(|downgrade| downgrade.task).map(number),
            stored_at: noted.stored,
            found_after: noted.found,
            found_at: first.rip.0,
            found_in: &finding.at,
            task: first.task.map(number),
            seq: first.seq,
            closed: noted.closed.as_ref().map(|closed| ClosedReport {
                what: closed.what,
                at: closed.at,
                rip: closed.rip.0,
                function: finding.closed_in.as_deref(),
            }),
            in_between: finding.missed.iter().map(|(what, why)| InBetween { what, why }).collect(),
            legal_if: &noted.exceptions,
            stacks: &finding.stacks,
        }
    }
}
