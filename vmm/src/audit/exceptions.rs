//! Why what a rule has found might be legal all the same: what the rule makes an exception of, and what was seen
//! of that.

use crate::event::KernelAbout;
use crate::oracle::{Obligation, Violation};
use serde::Serialize;

/// Something that a rule makes an exception of, and what was seen of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(inline)]
pub struct Exception {
    /// What would have made it legal.
    pub if_only: &'static str,
    /// What was seen.
    pub seen: String,
}

/// The exceptions of a violation's rule.
pub(super) fn exceptions(
    violation: &Violation,
    owed: Option<&Obligation>,
    kernel: Option<&KernelAbout>,
) -> Vec<Exception> {
    let Some(owed) = owed else { return Vec::new() };
    let mut found = Vec::new();
    let mut tried = |if_only, seen| found.push(Exception { if_only, seen });
    if let Some(walk) = &violation.walk {
        let seen = format!("a walk comes to: {}", walk.result);
        tried("the tables grant it again", seen);
    }
    let rule = violation.rule.to_string();
    let rule = rule.as_str();
    if rule != "stale-other-asid" {
        tried("it is under a PCID that is not current", format!("{} is usable here", owed.tag));
    } else {
        tried("the load flushes its PCID", format!("it is kept for {}", owed.tag));
    }
    if let Some(seen) = in_the_middle(violation, owed, rule) {
        tried("another task is still in the middle of the operation, before its flush", seen);
    }
    match rule {
        "stale-user-entry" => {
            let user = violation.entry.as_ref().is_none_or(|(_, entry)| entry.translation.user);
            tried("user mode cannot use it", format!("U/S is {}", u8::from(user)));
        }
        "stale-other-asid" => {
            tried("it is a kernel address that was not used again", half(owed));
        }
        "stale-kernel-entry" => {
            if let Some(cover) = violation.requested {
                let (start, end) = (cover.flush.start, cover.flush.end);
                let seen = format!("{} in [{start}, {end})", owed.page);
                tried("the address is not in the range that was to be flushed", seen);
            }
        }
        "va-reuse" => {
            if let Some(store) = owed.downgrade.cause.store() {
                let seen = format!("before it was {:#x}", store.old);
                tried("the new entry leads to the same frame as the old one", seen);
            }
        }
        "reuse-before-flush" => {
            let wait = kernel.map_or(&[][..], |kernel| &kernel.wait_for_reuse);
            let areas = wait.iter().map(|(start, end)| format!("[{start}, {end})"));
            let areas = areas.collect::<Vec<_>>().join(" ");
            let areas = if areas.is_empty() { "there is none".to_owned() } else { areas };
            let seen = format!("{}, and the areas are: {areas}", owed.page);
            tried("the address is in an area whose frames may go before its flush", seen);
            let (start, end) = kernel.map_or_else(Default::default, |kernel| kernel.direct_map);
            let seen = format!("{}, and that is [{start}, {end})", owed.page);
            tried("the address is in the kernel's map of all memory", seen);
        }
        _ => {}
    }
    found
}

fn half(owed: &Obligation) -> String {
    match (owed.is_of_kernel(), owed.covered) {
        (false, _) => format!("{} is in the half of user mode", owed.page),
        (true, Some(_)) => format!("{}, which a flush that has returned was of", owed.page),
        (true, None) => format!("{}", owed.page),
    }
}

/// Why that is so of none; none for rules that do not ask.
fn in_the_middle(violation: &Violation, owed: &Obligation, rule: &str) -> Option<String> {
    let who = |task: Option<crate::event::TaskId>| {
        task.map_or_else(|| "no known task".to_owned(), |task| format!("task {}", task.0))
    };
    let by = who(owed.downgrade.task);
    Some(match rule {
        "stale-user-entry" | "stale-other-asid" | "stale-kernel-entry" | "va-reuse" => {
            match violation.requested {
                Some(cover) => format!("{} of {} is over", cover.flush.name(), who(cover.task)),
                None if owed.over => {
                    format!("{by} made it stale, and has been in user mode, or at rest, since")
                }
                None if owed.is_of_kernel() => format!("{} is the kernel's", owed.page),
                None => format!("{by} made it stale, and {} is here", who(violation.task)),
            }
        }
        _ => return None,
    })
}
