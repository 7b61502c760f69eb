//! What a kernel of the user's own cannot run.

use super::{counted, quoted};
use crate::scenario::Scenario;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// Scenarios of which each is named.
const NAMED: usize = 6;

/// A scenario that a kernel cannot run.
#[derive(Clone, Debug)]
pub struct Skipped {
    /// The scenario.
    pub scenario: Arc<Scenario>,
    /// What the kernel lacks of what it asks for.
    pub reason: String,
}

impl Skipped {
    /// The kind of what it lacks: the reason without its particulars.
    fn kind(&self) -> &str {
        self.reason.split([':', ';']).next().unwrap_or_default()
    }
}

/// What the kernel in the file `guest` cannot run, by what it lacks, beside the `can` scenarios that it can.
#[must_use]
pub fn skipped_lines(guest: &Path, skipped: &[Skipped], can: usize) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    if skipped.len() <= NAMED {
        for Skipped { scenario, reason } in skipped {
            let _ = writeln!(out, "SKIP {}, for want of {reason}", scenario.name);
        }
    } else {
        let mut lacks: BTreeMap<&str, usize> = BTreeMap::new();
        for one in skipped {
            *lacks.entry(one.kind()).or_default() += 1;
        }
        let mut lacks: Vec<_> = lacks.into_iter().collect();
        lacks.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let kinds: Vec<String> =
            lacks.iter().map(|(kind, count)| format!("{kind} ({count})")).collect();
        let _ = writeln!(
            out,
            "SKIP {}, for want of {}; `stalemate list --guest {}` has them all",
            counted(skipped.len(), "scenario", "scenarios"),
            kinds.join(", "),
            quoted(&guest.display().to_string())
        );
    }
    let all = counted(can + skipped.len(), "scenario", "scenarios");
    let _ = writeln!(out, "{} can run {can} of {all}", guest.display());
    out
}
