//! A violation as a compiler would tell it: the scenario's lines at which something was made stale,
//! should have been flushed and was due, then the facts, then what to try.

use crate::arch::addr::{CpuId, Gva};
use crate::event::TaskId;
use crate::ink::{Ink, tame};
use crate::oracle::rule::Because;
use crate::oracle::{SUPPRESSED, Violation, rules};
use crate::runner::{Mismatch, RunResult, WENT_THROUGH};
use crate::scenario::Scenario;
use crate::symbols::Symbols;
use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Snippet};
use serde::Serialize;
use std::collections::BTreeMap;

/// One thing to know about a violation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// What it is of, in a word.
    pub name: &'static str,
    /// What it is; more than one line where a place belongs to it.
    pub text: String,
}

/// A violation's witness, fact by fact.
#[must_use]
pub fn facts(
    symbols: &Symbols,
    scenario: &Scenario,
    result: &RunResult,
    violation: &Violation,
) -> Vec<Fact> {
    let at = |rip: Gva| symbols.locate(rip);
    let step = |task: Option<TaskId>| step_text(scenario, step_of(task));
    let mut facts = Vec::new();
    let mut fact = |name, text| facts.push(Fact { name, text });
    fact(
        "seen",
        format!("event {} in {}\nat {}", violation.seq, step(violation.task), at(violation.rip)),
    );
    if let Some(Because { seq, rip, what }) = violation.because {
        fact("because", format!("{what} at event {seq}\nat {}", at(rip)));
    }
    if let Some((tag, entry)) = &violation.entry {
        fact("entry", format!("{tag}: {}", entry.translation));
    }
    if let Some(structure) = &violation.structure {
        fact("entry", structure.to_string());
    }
    if let Some(walk) = &violation.walk {
        let levels: Vec<String> = walk
            .path
            .iter()
            .map(|step| format!("L{} {}={:#x}", step.level, step.slot, step.entry))
            .collect();
        let text = format!("from root {}: {}\ngives {}", walk.root, levels.join(", "), walk.result);
        fact("walk", text);
    }
    if let Some(store) = &violation.downgrade {
        let text = format!(
            "{} {:#x} -> {:#x}, event {} in {}\nby {}",
            store.cause.place(),
            store.cause.values().0,
            store.cause.values().1,
            store.seq,
            step(store.task),
            at(store.rip)
        );
        fact(store.cause.word(), text);
    }
    if let Some(deadline) = &violation.deadline {
        fact("deadline", deadline.to_string());
    }
    if violation.missed.is_empty() && violation.downgrade.is_some() {
        let on = violation.cpu.0;
        fact("missed", format!("nothing: no invalidation on cpu{on} between store and deadline"));
    }
    for missed in &violation.missed {
        let text =
            format!("event {} {}: {}\nby {}", missed.seq, missed.what, missed.why, at(missed.rip));
        fact("missed", text);
    }
    if let Some(access) = wrong_access(result, violation) {
        let at = step_text(scenario, Some(access.step));
        fact("then", format!("{at}: {}", came_to(access)));
    }
    facts
}

/// The scenario's next access that is not what it expects.
fn wrong_access<'r>(result: &'r RunResult, violation: &Violation) -> Option<&'r Mismatch> {
    let after = |step: usize| step_of(violation.task).is_none_or(|violated| step >= violated);
    result.mismatches.iter().find(|mismatch| after(mismatch.step))
}

/// What the access came to, which the stale entry is the reason of.
fn came_to(access: &Mismatch) -> String {
    match access.got.as_str() {
        WENT_THROUGH => "the store goes through, with the old rights".to_owned(),
        got if got.starts_with("page fault") => format!("gets a {got}"),
        got => format!("reads {got}, the old value"),
    }
}

/// Facts that the underlined lines tell.
const UNDERLINED: [&str; 2] = ["deadline", "then"];

/// The violation as a diagnostic.
#[must_use]
pub fn diagnosis(
    ink: Ink,
    symbols: &Symbols,
    scenario: &Scenario,
    result: &RunResult,
    violation: &Violation,
) -> String {
    // What the scenario asks for is no error, and needs no help.
    let is_caught = result.run.expected.rules().any(|rule| rule == violation.rule);
    let level = match is_caught {
        true => Level::INFO.with_name("caught"),
        false => Level::ERROR,
    };
    let title = level.primary_title(&violation.message).id(violation.rule.about().name);
    let mut group = Group::with_title(title).element(snippet(scenario, result, violation));
    let facts = facts(symbols, scenario, result, violation);
    for fact in facts.into_iter().filter(|fact| !UNDERLINED.contains(&fact.name)) {
        group = group.element(Level::NOTE.with_name(fact.name).message(fact.text));
    }
    if !is_caught {
        let about = violation.rule.about();
        // The program does not know a rule that the library's user added.
        let known = rules::names().contains(&about.name);
        let see =
            if known { format!("; see `stalemate explain {}`", about.name) } else { String::new() };
        let source = format!("{}{see}", about.source);
        group = group.element(Level::NOTE.with_name("source").message(source));
        group = group.element(Level::HELP.message(help(symbols, violation)));
    }
    ink.renderer().render(&[group]) + "\n"
}

/// What to try. Where an injected fault kept an invalidation from happening, that comes before what
/// the rule knows of.
fn help(symbols: &Symbols, violation: &Violation) -> String {
    match violation.missed.iter().find(|missed| missed.why == SUPPRESSED) {
        Some(missed) => format!(
            "look at the injected fault first: it {}, at {}; a run without the fault shows whether more is \
             amiss",
            missed.what,
            symbols.locate(missed.rip)
        ),
        None => violation.rule.about().hint.to_owned(),
    }
}

/// What there is to say at a step of the scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The step.
    pub step: usize,
    /// What happened there.
    pub text: String,
    /// Whether this is where it came to light.
    pub is_main: bool,
}

/// What there is to say at the steps that the violation is about, in their order.
#[must_use]
pub fn remarks(scenario: &Scenario, result: &RunResult, violation: &Violation) -> Vec<Remark> {
    let mut texts: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut remark = |step: Option<usize>, text: String| {
        if let Some(step) = step {
            texts.entry(step).or_default().push(text);
        }
    };
    if let Some(store) = &violation.downgrade {
        remark(step_of(store.task), "what is cached is stale from here on".to_owned());
    }
    if let Some(requested) = &violation.requested {
        let text = format!("this {} should have removed it", requested.flush.name());
        remark(step_of(requested.task), text);
    }
    // A CPU may have been done with its own step when another's flush came to it.
    let requested = violation.requested.and_then(|requested| requested.task);
    let store = violation.downgrade.and_then(|store| store.task);
    let due = step_of(violation.task.max(requested).max(store));
    let on = on_cpu(scenario, violation.cpu);
    let here = match &violation.deadline {
        Some(deadline) => format!("still there{on} at the deadline: {deadline}"),
        None => format!("here{on}"),
    };
    remark(due, here);
    if let Some(access) = wrong_access(result, violation) {
        remark(Some(access.step), came_to(access));
    }
    let texts = texts.into_iter();
    texts
        .map(|(step, texts)| Remark { step, text: texts.join("; "), is_main: due == Some(step) })
        .collect()
}

/// The lines of the scenario that the violation is about.
fn snippet<'a>(
    scenario: &'a Scenario,
    result: &RunResult,
    violation: &Violation,
) -> Snippet<'a, Annotation<'a>> {
    let remarks = remarks(scenario, result, violation).into_iter();
    let annotations = remarks.filter_map(|remark| {
        let kind = match remark.is_main {
            true => AnnotationKind::Primary,
            false => AnnotationKind::Context,
        };
        Some(kind.span(scenario.span(remark.step)?).label(remark.text))
    });
    Snippet::source(tame(&scenario.source)).path(scenario.title()).annotations(annotations)
}

/// The CPU, where there is more than one.
pub fn on_cpu(scenario: &Scenario, cpu: CpuId) -> String {
    if scenario.cpus() > 1 { format!(" on cpu{}", cpu.0) } else { String::new() }
}

/// The step that a task is.
pub fn step_of(task: Option<TaskId>) -> Option<usize> {
    task.map(|TaskId(index)| index)
}

/// A step as reports name it.
pub fn step_text(scenario: &Scenario, step: Option<usize>) -> String {
    let text = step.and_then(|step| Some((step, scenario.steps.get(step)?)));
    text.map_or_else(
        || "before the first step".to_owned(),
        |(index, step)| format!("step {} `{}`", index + 1, step.text),
    )
}
