//! What an interrupt at every boundary came to: where it made a difference.

use super::{Outcome, RunResult};
use crate::arch::addr::Gva;
use crate::event::Trace;
use crate::inject::{Interrupt, Sweep};
use crate::kernel::steps::{Boundary, Swept};
use crate::oracle::RuleId;
use std::collections::BTreeSet;

/// Boundaries, one after the other, at which the interrupt came to the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The step under way.
    pub step: usize,
    /// The instruction before which the first came.
    pub first: Gva,
    /// The instruction before which the last came.
    pub last: Gva,
    /// How many there are.
    pub boundaries: usize,
    /// What they came to.
    pub outcome: Outcome,
    /// The rules that were violated.
    pub rules: BTreeSet<RuleId>,
    /// The position of the last among all that were tried.
    at: usize,
}

/// A sweep's result.
#[derive(Clone, Debug)]
pub struct SweepResult {
    /// What came.
    pub interrupt: Interrupt,
    /// How many boundaries.
    pub swept: Swept,
    /// Those at which the run did not come to what it comes to without.
    pub failing: Vec<Failing>,
    /// The boundary of the branch that the result is of; nothing where it made no difference at any:
    /// then the result is that of the run without the interrupt.
    pub shown: Option<Boundary>,
    /// The events of that one run, where an observer wanted events.
    pub trace: Option<Trace>,
}

/// Gathers the branches of one run.
#[derive(Debug, Default)]
pub(super) struct Branches {
    tried: usize,
    failing: Vec<Failing>,
    /// The first that failed, by what it came to.
    first: Vec<First>,
}

#[derive(Debug)]
struct First {
    result: RunResult,
    boundary: Boundary,
    trace: Option<Trace>,
}

impl Branches {
    pub(super) fn add(&mut self, boundary: Boundary, result: RunResult, trace: Option<&Trace>) {
        self.tried += 1;
        if matches!(result.outcome, Outcome::Clean | Outcome::Vacuous) {
            return;
        }
        let (outcome, rules) = (result.outcome, result.rules());
        if let Some(last) = self.failing.last_mut() {
            let goes_on = last.at + 1 == self.tried && last.step == boundary.step;
            if goes_on && last.outcome == outcome && last.rules == rules {
                last.at = self.tried;
                last.last = boundary.rip;
                last.boundaries += 1;
                return;
            }
        }
        self.failing.push(Failing {
            step: boundary.step,
            first: boundary.rip,
            last: boundary.rip,
            boundaries: 1,
            outcome,
            rules: rules.clone(),
            at: self.tried,
        });
        let same = |one: &First| one.result.outcome == outcome && one.result.rules() == rules;
        if !self.first.iter().any(same) {
            self.first.push(First { result, boundary, trace: trace.cloned() });
        }
    }

    /// The result of the whole: the first branch that failed where the run without, whose events are
    /// `trace`, did not.
    pub(super) fn finish(
        mut self,
        base: RunResult,
        trace: Option<Trace>,
        asked: &Sweep,
        swept: Swept,
    ) -> RunResult {
        let of_base = (base.outcome, base.rules());
        let same = |outcome, rules: BTreeSet<RuleId>| (outcome, rules) == of_base;
        self.failing.retain(|failing| !same(failing.outcome, failing.rules.clone()));
        let differs = |one: &First| !same(one.result.outcome, one.result.rules());
        let first = self.first.into_iter().find(differs);
        let (mut result, shown, trace) = match first {
            Some(first) => (first.result, Some(first.boundary), first.trace),
            None => (base, None, trace),
        };
        let failing = self.failing;
        let sweep = SweepResult { interrupt: asked.interrupt, swept, failing, shown, trace };
        if swept.tried == swept.undelivered {
            result.not_fired.push(asked.fault().to_string());
            // What another fault brought about is told before what never came.
            if result.stop.is_none() && result.outcome != Outcome::Violation {
                result.outcome = Outcome::NotApplied;
            }
        }
        if swept.cut_short && matches!(result.outcome, Outcome::Clean | Outcome::Vacuous) {
            result.outcome = Outcome::CutShort;
        }
        result.sweep = Some(sweep);
        result.compare_with_expected();
        result
    }
}
