//! Globals are cached once, whatever root they came from: when another root is loaded, those of the old
//! one that walks of the new do not give are stored.

use super::Tlb;
use super::fill::harvest_slot;
use super::reachable::{MOST, Reachable};
use crate::arch::addr::{Gpa, Gva};
use crate::arch::census::Reach;
use crate::arch::features::Paging;
use crate::arch::walk::{Meaning, Start, Tables, entry as bits, meaning, shift, slot};
use std::collections::BTreeMap;

/// Pages that the tables of one root map globally and those of another may not, by both roots. They are
/// found once and hold as long as no global mapping changes.
pub(super) type GlobalsApart = BTreeMap<(Gpa, Gpa), Vec<Gva>>;

impl Tlb {
    /// Another root is loaded: stores the globals of the old one that walks of the new do not give. With
    /// no new root all of them.
    pub(super) fn store_globals(&mut self, tables: &dyn Tables, old: Gpa, new: Option<Gpa>) {
        let current = self.tagged.get(&self.current);
        let Some(implicit) = current.and_then(|tagged| tagged.implicit.as_ref()) else { return };
        let paging = implicit.paging;
        if !paging.pge || new == Some(old) {
            return;
        }
        let pages = match new {
            None => globals(tables, paging, old, None),
            Some(new) => self
                .globals_apart
                .entry((old, new))
                .or_insert_with(|| globals(tables, paging, old, Some(new)))
                .clone(),
        };
        for page in pages {
            let held = self.given(tables, old, paging, page).filter(|held| held.global);
            let today = new.and_then(|new| self.given(tables, new, paging, page));
            if let Some(held) = held.filter(|held| today != Some(*held)) {
                self.hold(self.current, held);
            }
        }
    }

    pub(super) fn forget_globals_apart(
        &mut self,
        tables: &dyn Tables,
        before: &dyn Tables,
        reach: Reach,
    ) {
        let of = |(one, other): &(Gpa, Gpa)| *one == reach.root || *other == reach.root;
        if !self.globals_apart.keys().any(of) {
            return;
        }
        let paging = Paging { pge: true, nxe: true, gib_pages: true, ..Paging::default() };
        let has_globals = |tables: &dyn Tables| {
            let mut found = Reachable::default();
            harvest_slot(tables, paging, reach, &mut found);
            found.leaves.iter().any(|leaf| leaf.global)
        };
        if has_globals(before) || has_globals(tables) {
            self.globals_apart.retain(|roots, _| !of(roots));
        }
    }
}

/// The pages that walks of `root` map globally; with another root those that its tables may not: tables
/// that both share, under the same rights, are left out.
fn globals(tables: &dyn Tables, paging: Paging, root: Gpa, other: Option<Gpa>) -> Vec<Gva> {
    let mut found = Vec::new();
    collect(tables, paging, Start::root(root), other.map(Start::root), 0, &mut found);
    found
}

fn collect(
    tables: &dyn Tables,
    paging: Paging,
    start: Start,
    other: Option<Start>,
    base: u64,
    found: &mut Vec<Gva>,
) {
    for (index, entry) in tables.present(start.table) {
        if found.len() >= MOST {
            return;
        }
        let raw = base | index << shift(start.level);
        let va = Gva(((raw << 16) as i64 >> 16) as u64);
        match below(start, entry, paging) {
            Some(next) => {
                let there = other.and_then(|other| {
                    let entry = tables.entry(slot(other.table, other.level, va))?;
                    below(other, entry, paging)
                });
                if there != Some(next) {
                    collect(tables, paging, next, there, raw, found);
                }
            }
            None if entry & bits::GLOBAL != 0
                && matches!(meaning(entry, start.level, paging), Meaning::Leaf(_)) =>
            {
                found.push(va);
            }
            None => {}
        }
    }
}

/// Where a walk goes on from an entry of `start`'s table.
fn below(start: Start, entry: u64, paging: Paging) -> Option<Start> {
    match meaning(entry, start.level, paging) {
        Meaning::Table(table) => {
            Some(Start { table, level: start.level - 1, rights: start.rights.and(entry) })
        }
        _ => None,
    }
}
