//! Violations and obligations of a run, and the places that they name.

use super::super::diagnosis::step_of;
use crate::arch::addr::Gva;
use crate::arch::tlb::Tag;
use crate::arch::walk;
use crate::oracle::{self, RuleId, State};
use crate::schema::{Later, RuleName};
use crate::symbols::{self, Symbols};
use schemars::JsonSchema;
use serde::Serialize;

/// A place in the kernel.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "location")]
pub(super) struct Location {
    /// Guest-virtual.
    address: u64,
    /// Function and offset; null where none is known.
    symbol: Option<String>,
    /// `file:line`.
    line: Option<String>,
}

impl Location {
    pub(super) fn new(symbols: &Symbols, rip: Gva) -> Self {
        let symbols::Location { address, symbol, line } = symbols.locate(rip);
        Self { address: address.0, symbol, line }
    }
}

/// A rule was violated.
#[derive(Serialize, JsonSchema)]
#[schemars(
    rename = "violation",
    deny_unknown_fields,
    transform = Later(&["cpu", "structure"])
)]
pub(super) struct Violation<'a> {
    /// The rule that was violated.
    #[schemars(with = "RuleName")]
    rule: RuleId,
    /// In words.
    message: &'a str,
    /// Number of the event at which it came to light.
    event: u64,
    /// The virtual CPU of the event.
    cpu: u8,
    /// Number of the step of that event; null where it was in none.
    step: Option<usize>,
    /// Where the kernel was.
    at: Location,
    /// The stale entry; null where the rule is about none.
    entry: Option<Entry>,
    /// The stale paging-structure entry; null where the rule is about an entry, or about none.
    structure: Option<Structure>,
    /// What the page tables said instead.
    walk: Option<Walk<'a>>,
    /// What made the entry stale.
    store: Option<Store>,
    /// The primitive that should have removed the entry.
    asked: Option<Asked>,
    /// When the entry had to be gone, in words.
    deadline: Option<String>,
    /// What came between store and deadline and did not remove the entry, in order.
    missed: Vec<Missed<'a>>,
    /// Where the rule is about no entry: the event that made the operation wrong.
    because: Option<Because>,
}

impl<'a> Violation<'a> {
    pub(super) fn new(symbols: &Symbols, violation: &'a oracle::Violation) -> Self {
        let at = |rip| Location::new(symbols, rip);
        Self {
            rule: violation.rule,
            message: &violation.message,
            event: violation.seq,
            cpu: violation.cpu.0,
            step: step_of(violation.task),
            at: at(violation.rip),
            entry: violation.entry.as_ref().map(|(tag, entry)| Entry {
                tag: tag.to_string(),
                translation: Translation::from(entry.translation),
            }),
            structure: violation.structure.as_ref().map(|structure| Structure {
                tag: Tag::Pcid(structure.pcid).to_string(),
                level: structure.level,
                base: structure.base.0,
                table: structure.table.0,
            }),
            walk: violation.walk.as_ref().map(Walk::new),
            store: violation.downgrade.map(|store| Store {
                event: store.seq,
                step: step_of(store.task),
                slot: store.cause.store().map(|store| store.slot.0),
                old: store.cause.values().0,
                new: store.cause.values().1,
                at: at(store.rip),
            }),
            asked: violation.requested.map(|requested| Asked {
                primitive: requested.flush.name(),
                step: step_of(requested.task),
            }),
            deadline: violation.deadline.map(|deadline| deadline.to_string()),
            missed: violation
                .missed
                .iter()
                .map(|missed| Missed {
                    event: missed.seq,
                    what: &missed.what,
                    why: &missed.why,
                    at: at(missed.rip),
                })
                .collect(),
            because: violation.because.map(|because| Because {
                event: because.seq,
                what: because.what,
                at: at(because.rip),
            }),
        }
    }
}

/// A TLB entry.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Entry {
    /// The PCID that it is tagged with, or that it is global.
    tag: String,
    /// What it says.
    translation: Translation,
}

/// A translation as a TLB entry holds it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "translation")]
struct Translation {
    /// First virtual address.
    page: u64,
    /// Small (4 KiB), Large (2 MiB) or Huge (1 GiB).
    #[schemars(with = "String", extend("enum" = ["Small", "Large", "Huge"]))]
    size: walk::PageSize,
    /// First guest-physical address.
    frame: u64,
    /// R/W at every level.
    writable: bool,
    /// U/S at every level.
    user: bool,
    /// XD at some level.
    no_execute: bool,
    /// D.
    dirty: bool,
    /// G.
    global: bool,
    /// PAT, PCD and PWT as one number: the field of IA32_PAT that says the memory type.
    memory_type: u8,
}

impl From<walk::Translation> for Translation {
    fn from(of: walk::Translation) -> Self {
        Self {
            page: of.page.0,
            size: of.size,
            frame: of.frame.0,
            writable: of.writable,
            user: of.user,
            no_execute: of.no_execute,
            dirty: of.dirty,
            global: of.global,
            memory_type: of.memory_type,
        }
    }
}

/// A paging-structure entry.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Structure {
    /// The PCID that it is tagged with.
    tag: String,
    /// 4 for a PML4E, 2 for a PDE.
    level: u8,
    /// The first virtual address that it translates.
    base: u64,
    /// The table that it references.
    table: u64,
}

/// A walk of the page tables.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Walk<'a> {
    /// Guest-physical address of the top table.
    root: u64,
    /// The entries read, from the top.
    levels: Vec<Level>,
    /// What the walk gives, in words.
    result: &'a str,
}

/// An entry that a walk read.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Level {
    /// 4 is the top.
    level: u8,
    /// Guest-physical address of the entry.
    slot: u64,
    /// Its value.
    entry: u64,
}

impl<'a> Walk<'a> {
    fn new(walk: &'a oracle::Contradiction) -> Self {
        let level =
            |step: &walk::Step| Level { level: step.level, slot: step.slot.0, entry: step.entry };
        Self {
            root: walk.root.0,
            levels: walk.path.iter().map(level).collect(),
            result: &walk.result,
        }
    }
}

/// A store to a page-table entry.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Store {
    /// Number of its event.
    event: u64,
    /// Number of the step that it happened in.
    step: Option<usize>,
    /// Guest-physical address of the page-table entry; none where a load of CR3 made something
    /// stale, whose values follow.
    slot: Option<u64>,
    /// Its value before.
    old: u64,
    /// Its value after.
    new: u64,
    /// Where the kernel was.
    at: Location,
}

/// A flush primitive that was called.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Asked {
    /// Its name.
    primitive: &'static str,
    /// Number of its step.
    step: Option<usize>,
}

/// An invalidation that did not remove the entry.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Missed<'a> {
    /// Number of its event.
    event: u64,
    /// The operation.
    what: &'a str,
    /// Why it did not.
    why: &'a str,
    /// Where the kernel was.
    at: Location,
}

/// The event that made an operation wrong.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Because {
    /// Its number.
    event: u64,
    /// What it was, in words.
    what: &'static str,
    /// Where the kernel was.
    at: Location,
}

/// What a store made stale on one CPU under one tag.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "obligation", deny_unknown_fields, transform = Later(&["cpu"]))]
pub(super) struct Obligation {
    /// The first virtual address of the page.
    page: u64,
    /// The virtual CPU whose entries are stale.
    cpu: u8,
    /// The PCID of the entry, or that it is global.
    tag: String,
    /// Number of the event of the store that made the entry stale.
    made_by_event: u64,
    /// Number of the step of that store.
    made_in_step: Option<usize>,
    /// Where the kernel was.
    made_at: Location,
    /// At the end of the run.
    #[schemars(extend("enum" = ["open", "discharged", "violated"]))]
    state: &'static str,
    /// The discharger, or the rule that was violated.
    by: Option<&'static str>,
    /// Number of the event that discharged it, or at which it was violated.
    event: Option<u64>,
}

impl Obligation {
    pub(super) fn new(symbols: &Symbols, owed: &oracle::Obligation) -> Self {
        let (state, by, event) = match owed.state {
            State::Open => ("open", None, None),
            State::Discharged { by, seq, .. } => ("discharged", Some(by.name()), Some(seq)),
            State::Violated { rule, seq } => ("violated", Some(rule.about().name), Some(seq)),
        };
        Self {
            page: owed.page.0,
            cpu: owed.cpu.0,
            tag: owed.tag.to_string(),
            made_by_event: owed.downgrade.seq,
            made_in_step: step_of(owed.downgrade.task),
            made_at: Location::new(symbols, owed.downgrade.rip),
            state,
            by,
            event,
        }
    }
}
