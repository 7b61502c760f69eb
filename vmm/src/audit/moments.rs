//! When, in instructions, what belongs to a violation happened.

use super::exceptions::{Exception, exceptions};
use crate::arch::addr::Gva;
use crate::arch::happened::Happened;
use crate::arch::tlb::EntryId;
use crate::event::{Event, Kind};
use crate::oracle::{Missed, ObligationId, Oracle, Violation};

/// Events that may become part of a violation are kept, with when they were: so many at least.
const KEPT: usize = 1 << 18;

/// What removed the last of what a violation is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The operation.
    pub what: &'static str,
    /// Its instruction.
    pub rip: Gva,
    /// Instructions that had completed.
    pub at: u64,
}

/// What is known of a violation beside what the oracle says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Instructions that had completed when the rule spoke.
    pub found: u64,
    /// The same when the store was made; none where there is none, or it was too long ago.
    pub stored: Option<u64>,
    /// The same at the flush that should have covered it, if there was one.
    pub missed: Option<u64>,
    /// What ended it; none where something of it was there at the end of the run.
    pub closed: Option<Closed>,
    /// What would have made it legal, and what was seen of that.
    pub exceptions: Vec<Exception>,
    owed: Option<ObligationId>,
}

/// The flush in between that should have covered what is stale, by its number among those that did not: the last
/// of its page, or that was withheld; else the last at all. A load that keeps what it makes current is none.
pub(super) fn meant(violation: &Violation) -> Option<usize> {
    let page = violation.entry.as_ref().map(|(_, entry)| entry.translation.page.to_string());
    let is_of_page = |missed: &Missed| {
        let Missed { what, .. } = missed;
        let withheld = what.starts_with("dropped") || what.starts_with("delayed");
        withheld || page.as_ref().is_some_and(|page| what.contains(page) && is_flush(missed))
    };
    let missed = &violation.missed;
    missed.iter().rposition(is_of_page).or_else(|| missed.iter().rposition(is_flush))
}

fn is_flush(missed: &Missed) -> bool {
    !missed.what.ends_with("with NOFLUSH") && !missed.what.starts_with("page fault")
}

/// A clock that goes by instructions.
#[derive(Clone, Debug, Default)]
pub(super) struct Moments {
    now: u64,
    /// Events by number, and instructions that had completed.
    clock: Vec<(u64, u64)>,
    /// Nobody asks.
    is_off: bool,
    /// By violation.
    noted: Vec<Noted>,
}

impl Moments {
    /// Nobody asks: for those that are copied often.
    pub(super) fn off() -> Self {
        Self { is_off: true, ..Self::default() }
    }

    /// So many instructions have completed.
    pub(super) fn completed(&mut self, instructions: u64) {
        self.now = instructions;
    }

    /// What is known of each violation.
    pub(super) fn noted(&self) -> &[Noted] {
        &self.noted
    }

    /// Follows an event that the oracle has judged.
    pub(super) fn event(&mut self, event: &Event, oracle: &Oracle) {
        if self.is_off {
            return;
        }
        let is_frequent =
            matches!(event.kind, Kind::Cpu(Happened::Fill { .. } | Happened::AccessedDirty { .. }));
        if !is_frequent {
            // What is that old belongs to nothing that is to come, or its moment is not told.
            if self.clock.len() >= 2 * KEPT {
                self.clock.drain(..KEPT);
            }
            self.clock.push((event.seq, self.now));
        }
        let new = &oracle.violations()[self.noted.len()..];
        let new: Vec<Noted> = new.iter().map(|violation| self.note(violation, oracle)).collect();
        self.noted.extend(new);
    }

    fn at(&self, seq: u64) -> Option<u64> {
        let found = self.clock.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
        Some(self.clock[found].1)
    }

    fn note(&self, violation: &Violation, oracle: &Oracle) -> Noted {
        let stored = violation.downgrade.as_ref().map(|downgrade| downgrade.seq);
        let owed = oracle.ledger().held().find(|owed| {
            let tag = violation.entry.as_ref().map(|(tag, _)| *tag);
            Some(owed.downgrade.seq) == stored
                && owed.cpu == violation.cpu
                && tag.is_none_or(|tag| tag == owed.tag)
        });
        Noted {
            found: self.now,
            stored: stored.and_then(|seq| self.at(seq)),
            missed: meant(violation).and_then(|number| self.at(violation.missed[number].seq)),
            closed: None,
            exceptions: exceptions(violation, owed, oracle.kernel()),
            owed: owed.map(|owed| owed.id),
        }
    }

    /// An event has removed these.
    pub(super) fn removed(
        &mut self,
        what: &'static str,
        event: &Event,
        records: &[(ObligationId, Vec<EntryId>)],
        oracle: &Oracle,
    ) {
        let at = self.now;
        for noted in self.noted.iter_mut().filter(|noted| noted.closed.is_none()) {
            let Some(owed) = noted.owed else { continue };
            let is_it = records.iter().any(|(id, _)| *id == owed);
            if is_it && oracle.ledger().get(owed).is_none() {
                noted.closed = Some(Closed { what, rip: event.rip, at });
            }
        }
    }
}
