//! What is known of a finding, fact by fact.

use super::super::moments::meant;
use super::super::{Closed, Exception, Finding, Given, Grade, Seen};

/// Each with its name, in the order in which reports have them.
pub(in crate::audit) fn facts(finding: &Finding) -> Vec<(&'static str, String)> {
    let Finding { key, first, .. } = finding;
    let mut out = Vec::new();
    let by = |task: Option<crate::event::TaskId>| {
        task.map_or_else(String::new, |task| format!(" by task {}", task.0))
    };
    if let Some(downgrade) = &first.downgrade {
        let (old, new) = downgrade.cause.values();
        let task = by(downgrade.task);
        let (rip, function, change) = (downgrade.rip, &key.function, &key.change);
        out.push((
            "made stale",
            format!("{change} at {rip} in {function}{task}: {old:#x} became {new:#x}"),
        ));
    }
    if let Some((tag, entry)) = &first.entry {
        out.push(("still cached", format!("{} under {tag}", entry.translation)));
    }
    if let Some(walk) = &first.walk {
        out.push(("tables say", walk.result.to_string()));
    }
    out.push(("found", format!("at {} in {}{}", first.rip, finding.at, by(first.task))));
    out.push(("due", finding.due.clone()));
    evidence(&mut out, finding);
    if let Some((what, why)) = meant(first).and_then(|number| finding.missed.get(number)) {
        out.push(("should have", format!("{what}: {why}")));
    }
    out
}

/// A moment, by its distance to the store of a finding.
fn since(finding: &Finding, at: u64) -> String {
    match finding.noted.stored {
        Some(stored) if at >= stored => format!("{} instructions after the store", at - stored),
        Some(stored) => format!("{} instructions before the store", stored - at),
        None => format!("after {at} instructions"),
    }
}

/// How sure it is that a processor has it, when all that was, and what might excuse it.
fn evidence(out: &mut Vec<(&'static str, String)>, finding: &Finding) {
    let Finding { evidence, noted, first, .. } = finding;
    let all = evidence.of.1;
    out.push(("grade", grade(finding)));
    if noted.stored.is_some() {
        let end = match (&noted.closed, &finding.closed_in) {
            (Some(Closed { what, at, .. }), Some(place)) => {
                format!("; gone {}, by {what} in {place}", since(finding, *at))
            }
            _ => "; nothing has removed it by the end of the run".to_owned(),
        };
        out.push(("window", format!("due {}{end}", since(finding, noted.found))));
    }
    if first.entry.is_some() && all > 0 {
        for Given { what, at, function } in &evidence.frame {
            out.push(("its frame", format!("{what} in {function}, {}", since(finding, *at))));
        }
        if evidence.frame.is_empty() {
            let nothing = "was not seen to be given back or mapped while this was cached";
            out.push(("its frame", nothing.to_owned()));
        }
    }
    for Exception { if_only, seen } in &noted.exceptions {
        out.push(("legal if", format!("{if_only}: no, {seen}")));
    }
}

fn grade(finding: &Finding) -> String {
    let Finding { evidence, noted, .. } = finding;
    let (of, all) = evidence.of;
    let of = if all > 1 { format!(" ({of} of the {all} looked at)") } else { String::new() };
    let seen = |seen: &Seen| {
        let Seen { at, va, kind, rip, function, .. } = seen;
        format!("a {kind} of {va:#x} at {rip:#x} in {function}, {}", since(finding, *at))
    };
    let held = evidence.held.as_ref().map(seen);
    match (evidence.grade, &evidence.used, held) {
        (Grade::Used, Some(used), _) => {
            let when = if used.at < noted.found { "before" } else { "after" };
            format!("used{of}: {}, {when} it was due", seen(used))
        }
        (_, _, Some(held)) => format!(
            "held{of}: this PCID on this CPU has used the page through the old entry, first by {held}"
        ),
        (grade, _, None) if all > 0 => {
            format!("{}{of}: no access of this run went through it", grade.name())
        }
        (grade, ..) => {
            format!("{}: of no one entry; the kernel did this in this run", grade.name())
        }
    }
}
