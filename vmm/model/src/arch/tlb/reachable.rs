//! Everything that is reachable from a table: what a speculating processor may cache.

use super::fill::AccessedUpdate;
use crate::arch::addr::{Gpa, Gva};
use crate::arch::features::Paging;
use crate::arch::walk::{Meaning, Rights, Start, Tables, Translation, entry, leaf, meaning, shift};

/// A paging-structure entry that was walked through: level, address, table and rights.
pub(super) type Walked = (u8, Gva, Gpa, Rights);

/// Translations and paging-structure entries that are followed, at most: tables that lead to themselves make
/// more of them than there is memory for.
pub(super) const MOST: usize = 1 << 14;

/// Translations and paging-structure entries reachable from a table, in order of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reachable {
    /// Stop where A is clear, instead of setting it.
    pub(super) lazy: bool,
    /// Look at these addresses alone, first and last.
    pub(super) within: Option<(Gva, Gva)>,
    /// A bits that the walks set.
    pub(super) updates: Vec<AccessedUpdate>,
    /// The translations.
    pub(super) leaves: Vec<Translation>,
    /// The entries of upper levels.
    pub(super) walked: Vec<Walked>,
}

impl Reachable {
    /// Whether more may be reachable than is followed.
    pub(super) fn is_full(&self) -> bool {
        self.leaves.len() + self.walked.len() >= MOST
    }

    /// Everything below `start`, which translates addresses from `base` on.
    pub(super) fn below(&mut self, tables: &dyn Tables, paging: Paging, start: Start, base: u64) {
        for found in tables.present(start.table) {
            if self.is_full() {
                return;
            }
            self.entry(tables, paging, start, base, found);
        }
    }

    /// One entry of `start`'s table, and everything below it.
    pub(super) fn entry(
        &mut self,
        tables: &dyn Tables,
        paging: Paging,
        start: Start,
        base: u64,
        (index, bits): (u64, u64),
    ) {
        let slot = Gpa(start.table.0 + index * 8);
        let raw = base | index << shift(start.level);
        let va = Gva(((raw << 16) as i64 >> 16) as u64);
        let last = va.0 | ((1 << shift(start.level)) - 1);
        if self.within.is_some_and(|(first, end)| last < first.0 || end < va) {
            return;
        }
        let found = meaning(bits, start.level, paging);
        if matches!(found, Meaning::NotPresent | Meaning::Reserved) {
            return;
        }
        if bits & entry::ACCESSED == 0 {
            if self.lazy {
                return;
            }
            self.updates.push((slot, bits, bits | entry::ACCESSED));
        }
        match found {
            Meaning::Leaf(size) => self.leaves.push(leaf(bits, size, va, start.rights, paging)),
            Meaning::Table(table) => {
                let rights = start.rights.and(bits);
                self.walked.push((start.level, va, table, rights));
                let next = Start { table, level: start.level - 1, rights };
                self.below(tables, paging, next, va.0);
            }
            Meaning::NotPresent | Meaning::Reserved => {}
        }
    }
}
