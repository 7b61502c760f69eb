//! What became of a fault, by comparing its run with the run without it.

use crate::oracle::rules::{big_hammer, needless_flush};
use crate::oracle::{Discharger, Obligation, RuleId, State};
use crate::runner::{Examined, Mismatch, Outcome};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What became of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// It never fired.
    NotApplied,
    /// Reports, memory and `TlbState` are those of the run without it, and nothing was stale at a
    /// deadline that was not so there.
    Harmless,
    /// All that was owed was discharged in time, some of it by another invalidation.
    Covered(BTreeSet<Discharger>),
    /// The guest could not go on; nothing is hidden.
    Stopped(Outcome),
    /// These rules spoke, or a cost rule more than without it.
    Caught(BTreeSet<RuleId>),
    /// It made a difference, and nobody spoke.
    Escaped(&'static str),
}

/// The classes without what is said of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
#[allow(missing_docs)]
pub enum ClassName {
    Caught,
    Covered,
    Harmless,
    Stopped,
    NotApplied,
    Escaped,
}

impl ClassName {
    /// All of them, as tables show them.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Caught, "caught"),
        (Self::Covered, "covered"),
        (Self::Harmless, "harmless"),
        (Self::Stopped, "stopped"),
        (Self::NotApplied, "not-applied"),
        (Self::Escaped, "escaped"),
    ];
}

impl Class {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> ClassName {
        match self {
            Self::NotApplied => ClassName::NotApplied,
            Self::Harmless => ClassName::Harmless,
            Self::Covered(_) => ClassName::Covered,
            Self::Stopped(_) => ClassName::Stopped,
            Self::Caught(_) => ClassName::Caught,
            Self::Escaped(_) => ClassName::Escaped,
        }
    }

    /// Who caught or covered it, or how the guest stopped, or what nobody spoke of.
    #[must_use]
    pub fn by(&self) -> Vec<String> {
        match self {
            Self::NotApplied | Self::Harmless => Vec::new(),
            Self::Covered(by) => by.iter().map(|by| by.name().to_owned()).collect(),
            Self::Stopped(outcome) => vec![outcome.to_string()],
            Self::Caught(rules) => rules.iter().map(ToString::to_string).collect(),
            Self::Escaped(why) => vec![(*why).to_owned()],
        }
    }

    /// Of two runs of one fault, what it comes to: an escape is not made good by a catch.
    #[must_use]
    pub fn or_worse(self, other: Self) -> Self {
        let rank = |class: &Self| match class.name() {
            ClassName::NotApplied => 0,
            ClassName::Harmless => 1,
            ClassName::Covered => 2,
            ClassName::Stopped => 3,
            ClassName::Caught => 4,
            ClassName::Escaped => 5,
        };
        match (self, other) {
            (Self::Caught(one), Self::Caught(other)) => Self::Caught(&one | &other),
            (Self::Covered(one), Self::Covered(other)) => Self::Covered(&one | &other),
            (one, other) if rank(&one) >= rank(&other) => one,
            (_, other) => other,
        }
    }
}

/// The class of a fault whose run was `with`, where the run without it was `without`.
#[must_use]
pub fn classify(without: &Examined, with: &Examined) -> Class {
    if !with.result.not_fired.is_empty() {
        return Class::NotApplied;
    }
    let spoke = new_violations(without, with);
    if !spoke.is_empty() {
        return Class::Caught(spoke);
    }
    if with.result.stop.is_some() && without.result.stop.is_none() {
        return Class::Stopped(with.result.outcome);
    }
    let seen_before = |step: &Mismatch| without.result.mismatches.contains(step);
    if !with.result.mismatches.iter().all(seen_before) {
        return Class::Escaped("a step came to something else, and no rule spoke");
    }
    let costs = more(&costs(without), &costs(with));
    if !costs.is_empty() {
        return Class::Caught(costs);
    }
    match dischargers(&without.result.obligations, &with.result.obligations) {
        Some(others) if !others.is_empty() => return Class::Covered(others),
        _ if with.is_like(without) => return Class::Harmless,
        Some(_) => {}
        None => return Class::Escaped("something is owed for ever"),
    }
    if with.reports != without.reports {
        return Class::Escaped("a step came to something else");
    }
    if with.memory != without.memory {
        return Class::Escaped("memory or TlbState is other at the end");
    }
    Class::Escaped("something else was stale at a deadline")
}

type Counts = BTreeMap<RuleId, usize>;

/// The rules that spoke of something that they did not speak of without the fault.
fn new_violations(without: &Examined, with: &Examined) -> BTreeSet<RuleId> {
    let said = |run: &Examined| -> BTreeSet<(RuleId, String)> {
        let all = run.result.violations.iter();
        all.map(|violation| (violation.rule, violation.message.clone())).collect()
    };
    let before = said(without);
    said(with).into_iter().filter(|said| !before.contains(said)).map(|(rule, _)| rule).collect()
}

fn costs(run: &Examined) -> Counts {
    let result = &run.result;
    let counts = [
        (RuleId(&big_hammer::ABOUT), result.hammers.count),
        (RuleId(&needless_flush::ABOUT), result.needless),
    ];
    counts.into()
}

/// The rules that spoke more often.
fn more(without: &Counts, with: &Counts) -> BTreeSet<RuleId> {
    let before = |rule: &RuleId| without.get(rule).copied().unwrap_or(0);
    with.iter().filter(|(rule, count)| **count > before(rule)).map(|(rule, _)| *rule).collect()
}

/// Who discharged what, in the run without the fault, another invalidation had discharged: of
/// another kind, or in another step. None where something is left that was not left without the fault.
fn dischargers(without: &[Obligation], with: &[Obligation]) -> Option<BTreeSet<Discharger>> {
    let key = |owed: &Obligation| {
        let cause = owed.downgrade.cause.by_root();
        (owed.downgrade.task, cause, owed.cpu, owed.tag, owed.page)
    };
    let mut before: BTreeMap<_, Vec<State>> = BTreeMap::new();
    for owed in without {
        before.entry(key(owed)).or_default().push(owed.state);
    }
    let mut others = BTreeSet::new();
    for owed in with {
        let states = before.entry(key(owed)).or_default();
        let was = if states.is_empty() { None } else { Some(states.remove(0)) };
        match (owed.state, was) {
            (
                State::Discharged { by, task, .. },
                Some(State::Discharged { by: was, task: then, .. }),
            ) if (by, task) == (was, then) => {}
            (State::Discharged { by, .. }, _) => {
                others.insert(by);
            }
            (State::Open, Some(State::Open))
            | (State::Violated { .. }, Some(State::Violated { .. })) => {}
            _ => return None,
        }
    }
    // What was never made good there was gone here before it could become stale.
    let violated = |state: &State| matches!(state, State::Violated { .. });
    if before.values().flatten().any(violated) {
        others.insert(Discharger::Eviction);
    }
    Some(others)
}
