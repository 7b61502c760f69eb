//! What a kernel took away from its page tables, by the function that did, and what became of it.

use crate::arch::addr::Gva;
use crate::arch::cr3::ROOT_MASK;
use crate::arch::tlb::Tag;
use crate::arch::walk::entry::{DIRTY, NO_EXECUTE, PRESENT, USER, WRITABLE};
use crate::oracle::{Obligation, State};
use crate::symbols::Symbols;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What a store to an entry takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Change {
    /// It is not present any more.
    Unmap,
    /// It leads to another frame.
    Remap,
    /// It cannot be written through.
    WriteProtect,
    /// User mode has no access.
    Supervisor,
    /// Nothing can be executed through it.
    NoExecute,
    /// D is clear.
    Clean,
}

impl Change {
    /// What a store takes away; none if nothing.
    #[must_use]
    pub fn of(old: u64, new: u64) -> Option<Self> {
        let lost = |bit: u64| old & bit != 0 && new & bit == 0;
        if old & PRESENT == 0 {
            return None;
        }
        if lost(PRESENT) {
            return Some(Self::Unmap);
        }
        if (old ^ new) & ROOT_MASK != 0 {
            return Some(Self::Remap);
        }
        let kinds =
            [(WRITABLE, Self::WriteProtect), (USER, Self::Supervisor), (DIRTY, Self::Clean)];
        let first = kinds.into_iter().find(|(bit, _)| lost(*bit)).map(|(_, change)| change);
        first.or((!old & new & NO_EXECUTE != 0).then_some(Self::NoExecute))
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unmap => "unmap",
            Self::Remap => "remap",
            Self::WriteProtect => "write-protect",
            Self::Supervisor => "supervisor",
            Self::NoExecute => "no-execute",
            Self::Clean => "clean",
        }
    }
}

/// One function's changes of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(rename = "stores")]
pub struct Row {
    /// Stores.
    pub stores: u64,
    /// Of them, those after which nothing was cached that grants more than the tables: nobody had used
    /// the page since it was last flushed.
    pub harmless: u64,
    /// Those of which all that was cached was removed in time.
    pub flushed: u64,
    /// Those of which a rule has spoken.
    pub violated: u64,
    /// Those of which something is cached at the end that may be: under a PCID that is not current.
    pub parked: u64,
    /// The same of kernel addresses that were not used again.
    pub unused: u64,
    /// Those that no deadline had come for when the run ended.
    pub unjudged: u64,
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// By function and kind.
    pub rows: BTreeMap<(String, Change), Row>,
}

/// How one store's obligations stand, the worst of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    Flushed,
    Parked,
    Unused,
    Unjudged,
    Violated,
}

pub(super) fn fate(owed: &Obligation) -> Fate {
    match owed.state {
        State::Discharged { .. } => Fate::Flushed,
        State::Violated { .. } => Fate::Violated,
        State::Open if owed.is_of_kernel() => Fate::Unused,
        State::Open if owed.is_over() && matches!(owed.tag, Tag::Pcid(_)) => Fate::Parked,
        State::Open => Fate::Unjudged,
    }
}

impl Coverage {
    pub(super) fn new(
        changes: &BTreeMap<(Gva, Change), u64>,
        obligations: &[&Obligation],
        symbols: &Symbols,
    ) -> Self {
        let mut rows: BTreeMap<(String, Change), Row> = BTreeMap::new();
        for (&(rip, change), &stores) in changes {
            let row = rows.entry((function(symbols, rip), change)).or_default();
            row.stores += stores;
            row.harmless += stores;
        }
        let mut fates: BTreeMap<u64, (Gva, Option<Change>, Fate)> = BTreeMap::new();
        for owed in obligations {
            let Some(store) = owed.downgrade.cause.store() else { continue };
            let (change, fate) = (Change::of(store.old, store.new), fate(owed));
            let known =
                fates.entry(owed.downgrade.seq).or_insert((owed.downgrade.rip, change, fate));
            known.2 = known.2.max(fate);
        }
        for (rip, change, fate) in fates.into_values() {
            let Some(change) = change else { continue };
            let Some(row) = rows.get_mut(&(function(symbols, rip), change)) else { continue };
            row.harmless = row.harmless.saturating_sub(1);
            *match fate {
                Fate::Flushed => &mut row.flushed,
                Fate::Violated => &mut row.violated,
                Fate::Parked => &mut row.parked,
                Fate::Unused => &mut row.unused,
                Fate::Unjudged => &mut row.unjudged,
            } += 1;
        }
        Self { rows }
    }

    fn sum(&self, of: impl Fn(&Row) -> u64) -> u64 {
        self.rows.values().map(of).sum()
    }

    /// All stores that take something away.
    #[must_use]
    pub fn stores(&self) -> u64 {
        self.sum(|row| row.stores)
    }

    /// Those that a rule has judged: what they made stale was removed in time, or it was not.
    #[must_use]
    pub fn judged(&self) -> u64 {
        self.sum(|row| row.flushed + row.violated)
    }

    /// All rows added up.
    #[must_use]
    pub fn total(&self) -> Row {
        Row {
            stores: self.stores(),
            harmless: self.sum(|row| row.harmless),
            flushed: self.sum(|row| row.flushed),
            violated: self.sum(|row| row.violated),
            parked: self.sum(|row| row.parked),
            unused: self.sum(|row| row.unused),
            unjudged: self.sum(|row| row.unjudged),
        }
    }

    /// How many functions there are.
    #[must_use]
    pub fn functions(&self) -> usize {
        self.rows.keys().map(|(function, _)| function).collect::<BTreeSet<_>>().len()
    }
}

/// The function that an instruction is in, by name, or its address.
pub(super) fn function(symbols: &Symbols, rip: Gva) -> String {
    let found = symbols.function_at(rip).map(|(name, ..)| name.to_owned());
    found.unwrap_or_else(|| rip.to_string())
}
