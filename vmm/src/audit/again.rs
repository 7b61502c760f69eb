//! The same run once more, to see what the findings of the first rest on: a run is a function of its inputs.

use super::coverage::function;
use super::finding::Finding;
use super::stacks::{self, Calls, calls};
use super::watcher::Watcher;
use super::{Subject, Until, boot};
use crate::arch::addr::{Gpa, Gva};
use crate::arch::choice::{Chooser, First, Point};
use crate::arch::cr3::ROOT_MASK;
use crate::arch::happened::Happened;
use crate::arch::walk::entry::PRESENT;
use crate::arch::walk::{AccessKind, Translation};
use crate::event::{Announcement, Event, Kind, Observer, TraceHeader};
use crate::kernel::free::{FreeError, Unwinder};
use crate::machine::{Director, Use, WatchedEntry};
use crate::oracle::{Cause, Downgrade};
use crate::symbols::Symbols;
use serde::Serialize;
use std::collections::BTreeSet;

/// Of each finding so many violations are looked at: the first ones.
const VIOLATIONS: usize = 8;
/// What became of a frame is told so often.
const GIVEN: usize = 4;

/// How sure it is that a processor has what a finding is about.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    schemars::JsonSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Grade {
    /// Nothing but the freedom of processors to cache ahead of accesses: no access of this run went
    /// through the entry.
    Speculative,
    /// The processor accessed the page under this PCID through the entry before it became stale, and
    /// nothing has removed it since: one whose TLB is large enough holds it.
    #[default]
    Held,
    /// An access of this run went through the entry after it had become stale, and the tables did not grant
    /// it.
    Used,
}

impl Grade {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Speculative => "speculative",
            Self::Held => "held",
            Self::Used => "used",
        }
    }
}

/// An access of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(rename = "access")]
pub struct Seen {
    /// Instructions that had completed.
    pub at: u64,
    /// The address.
    pub va: u64,
    /// `read`, `write` or `execute`.
    pub kind: &'static str,
    /// Whether user mode made it.
    pub user: bool,
    /// The instruction.
    pub rip: u64,
    /// The function that it is in.
    pub function: String,
}

impl Seen {
    fn new(used: Use, symbols: &Symbols) -> Self {
        let Use { instructions, rip, va, kind, user } = used;
        let kind = match kind {
            AccessKind::Read => "read",
            AccessKind::Write => "write",
            AccessKind::Execute => "execute",
        };
        let function = if user { "user mode".to_owned() } else { function(symbols, rip) };
        Self { at: instructions, va: va.0, kind, user, rip: rip.0, function }
    }
}

/// Something that happened to a frame while an entry that leads to it was stale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(inline)]
pub struct Given {
    /// What.
    pub what: String,
    /// Instructions that had completed.
    pub at: u64,
    /// The function in which.
    pub function: String,
}

/// What the run shows of what is cached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// How sure it is.
    pub grade: Grade,
    /// The first access through the entry, before it became stale.
    pub held: Option<Seen>,
    /// The first that the tables did not grant since.
    pub used: Option<Seen>,
    /// Of how many violations that were looked at this is true, and how many those are.
    pub of: (usize, usize),
    /// What became of the frame that it leads to, until it was no longer cached.
    pub frame: Vec<Given>,
}

/// A violation that is looked at.
struct Case {
    finding: usize,
    /// It is the finding's first.
    is_first: bool,
    downgrade: Downgrade,
    /// Instructions that had completed at the store.
    stored: u64,
    translation: Translation,
    state: State,
    frame: Vec<(String, u64, Gva)>,
    /// The stack at the first use.
    used: Option<Calls>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Coming,
    Stale,
    Gone,
}

/// The first violations of each finding, and what is cached of each.
fn cases(watcher: &Watcher, findings: &[Finding]) -> (Vec<Case>, Vec<WatchedEntry>) {
    let mut cases = Vec::new();
    let mut watched_entries = Vec::new();
    for (number, finding) in findings.iter().enumerate() {
        for (nth, &violation) in finding.violations.iter().take(VIOLATIONS).enumerate() {
            let stored = watcher.noted()[violation].stored;
            let violation = &watcher.violations()[violation];
            let (Some((tag, entry)), Some(downgrade), Some(stored)) =
                (&violation.entry, violation.downgrade, stored)
            else {
                continue;
            };
            let translation = entry.translation;
            watched_entries.push(WatchedEntry::new(violation.cpu, *tag, translation));
            cases.push(Case {
                finding: number,
                is_first: nth == 0,
                downgrade,
                stored,
                translation,
                state: State::Coming,
                frame: Vec::new(),
                used: None,
            });
        }
    }
    (cases, watched_entries)
}

/// Looks at the first violations of each finding.
pub(super) fn look(
    subject: &Subject<'_>,
    watcher: &Watcher,
    findings: &mut [Finding],
) -> Result<(), FreeError> {
    if findings.is_empty() {
        return Ok(());
    }
    let (cases, watched_entries) = cases(watcher, findings);
    let wanted = findings.iter().flat_map(stacks::moments).map(|(_, at, _)| at);
    let wanted: BTreeSet<u64> = wanted.collect();
    let last = wanted.last().copied().unwrap_or_default();
    let (mut free, _) = boot(subject)?;
    free.look(Unwinder::new(subject.kernel), wanted);
    free.watch_entries(watched_entries);
    let mut again = Again { now: 0, cases, became_stale: Vec::new() };
    let mut until = subject.until.map(Until::new);
    loop {
        let end = free.advance(&mut again, &mut |bytes| {
            until.as_mut().is_some_and(|until| until.is_in(bytes))
        })?;
        for number in std::mem::take(&mut again.became_stale) {
            free.is_stale_now(number)?;
        }
        for (case, entry) in again.cases.iter_mut().zip(free.watched_entries()) {
            if entry.gone {
                case.state = State::Gone;
            }
            if let (None, Some(used)) = (&case.used, entry.used) {
                let stack = free.last_stack();
                case.used =
                    stack.map(|stack| calls("use", used.instructions, &stack, subject.symbols));
            }
        }
        let is_seen = again.cases.iter().all(|case| case.state == State::Gone);
        if end.is_some() || is_seen && free.instructions() > last {
            break;
        }
    }
    for finding in findings.iter_mut() {
        finding.stacks = stacks::kept(finding, &free, subject.symbols);
    }
    for (case, entry) in again.cases.iter().zip(free.watched_entries()) {
        let seen = |used: Option<Use>| used.map(|used| Seen::new(used, subject.symbols));
        let finding = &mut findings[case.finding];
        if case.is_first {
            finding.stacks.extend(case.used.clone());
        }
        finding.evidence.add(case, seen(entry.accessed), seen(entry.used), subject);
    }
    Ok(())
}

impl Evidence {
    fn add(&mut self, case: &Case, held: Option<Seen>, used: Option<Seen>, subject: &Subject<'_>) {
        let grade = match (&held, &used) {
            (_, Some(_)) => Grade::Used,
            (Some(_), None) => Grade::Held,
            (None, None) => Grade::Speculative,
        };
        let (of, all) = self.of;
        let is_first = all == 0;
        if is_first || grade > self.grade {
            let frame = case.frame.iter().map(|(what, at, rip)| Given {
                what: what.clone(),
                at: *at,
                function: function(subject.symbols, *rip),
            });
            *self = Self { grade, held, used, of: (1, all + 1), frame: frame.collect() };
        } else {
            self.of = (of + usize::from(grade == self.grade), all + 1);
        }
    }
}

/// Who watches the second run.
struct Again {
    now: u64,
    cases: Vec<Case>,
    /// The cases whose store has just been made.
    became_stale: Vec<usize>,
}

impl Case {
    fn is_store(&self, now: u64, event: &Event) -> bool {
        let is_it = match (self.downgrade.cause, event.happened()) {
            (Cause::Store(store), Some(&Happened::TableStore { slot, new, .. })) => {
                (store.slot, store.new) == (slot, new)
            }
            (Cause::Cr3 { new, .. }, Some(&Happened::LoadCr3 { value, .. })) => new == value,
            (
                Cause::Control { new: value, .. },
                Some(
                    &Happened::WriteCr0 { new, .. }
                    | &Happened::WriteCr4 { new, .. }
                    | &Happened::WriteEfer { new, .. },
                ),
            ) => new == value,
            _ => false,
        };
        is_it && self.stored == now && self.downgrade.rip == event.rip
    }

    /// What an event does with the frame.
    fn frame(&self, event: &Event) -> Option<String> {
        let inside = |frame: Gpa| self.translation.maps(frame);
        match &event.kind {
            Kind::Cpu(Happened::TableLinked { table, .. }) if inside(*table) => {
                Some("it became a page table".to_owned())
            }
            &Kind::Cpu(Happened::TableStore { slot, new, old }) => {
                let maps = |bits: u64| bits & PRESENT != 0 && inside(Gpa(bits & ROOT_MASK));
                (maps(new) && !maps(old)).then(|| format!("it was mapped by a store to {slot}"))
            }
            Kind::Announced { announcements, .. } => {
                let freed = announcements.iter().any(|announcement| {
                    matches!(announcement, Announcement::FrameFreed(frame) if inside(*frame))
                });
                freed.then(|| "it was given back".to_owned())
            }
            _ => None,
        }
    }
}

impl Observer for Again {
    fn begin(&mut self, _: &TraceHeader) {}

    fn completed(&mut self, instructions: u64) {
        self.now = instructions;
    }

    fn event(&mut self, event: &Event) {
        for (number, case) in self.cases.iter_mut().enumerate() {
            match case.state {
                State::Coming if case.is_store(self.now, event) => {
                    case.state = State::Stale;
                    self.became_stale.push(number);
                }
                State::Stale if case.frame.len() < GIVEN => {
                    if let Some(what) = case.frame(event) {
                        case.frame.push((what, self.now, event.rip));
                    }
                }
                _ => {}
            }
        }
    }
}

impl Director for Again {}

impl Chooser for Again {
    fn choose(&mut self, point: Point<'_>) -> usize {
        First.choose(point)
    }
}
