//! Which frames are page tables: those that a walk from a loadable root, or from a cached
//! paging-structure entry, reaches; never because of their address.

use super::addr::{Gpa, Gva};
use super::features::Paging;
use super::walk::{Meaning, Tables, meaning, shift};
use std::collections::{BTreeMap, BTreeSet};

/// A frame in its role as a table of one level.
type Role = (Gpa, u8);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    /// The slots, in tables of the next higher level, that reference it.
    parents: BTreeSet<(Gpa, u8)>,
    root: bool,
}

/// What a change did to the set of page-table frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CensusChange {
    /// Frames that became page tables.
    pub linked: Vec<Gpa>,
    /// Frames that ceased to be.
    pub unlinked: Vec<Gpa>,
}

/// A place in the address space of one root that a slot translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reach {
    /// The root.
    pub root: Gpa,
    /// First address translated through the slot.
    pub base: Gva,
    /// The slot's level: 1 for a PTE.
    pub level: u8,
}

impl Reach {
    /// Bytes translated through the slot.
    #[must_use]
    pub const fn span(&self) -> u64 {
        1 << shift(self.level)
    }

    /// Last address translated through the slot.
    #[must_use]
    pub const fn last(&self) -> Gva {
        Gva(self.base.0 | (self.span() - 1))
    }

    /// Whether `va` is translated through the slot.
    #[must_use]
    pub const fn contains(&self, va: Gva) -> bool {
        va.0.wrapping_sub(self.base.0) < self.span()
    }
}

/// Places that are followed up from one slot, at most.
const MOST_PLACES: usize = 1 << 13;

/// The census.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    nodes: BTreeMap<Role, Node>,
    /// Tables that cached paging-structure entries reach.
    pinned: BTreeSet<Role>,
    /// What the count of changes of these entries was when they were last looked at.
    pinned_at: Option<u64>,
}

/// The census reads entries for their links alone: with every control bit that makes more
/// entries valid.
const LINKS: Paging =
    Paging { pcide: true, pge: true, wp: true, smep: true, nxe: true, gib_pages: true };

/// Whether these are so many places that more may be translated through the slot: tables lead to themselves,
/// or to one table again and again.
#[must_use]
pub fn is_beyond(places: &BTreeSet<Reach>) -> bool {
    places.len() >= MOST_PLACES
}

impl Census {
    /// Whether the frame is a page table.
    #[must_use]
    pub fn is_table(&self, frame: Gpa) -> bool {
        self.nodes.range((frame, 0)..=(frame, u8::MAX)).next().is_some()
    }

    /// All page-table frames.
    pub fn tables(&self) -> impl Iterator<Item = Gpa> + '_ {
        let mut last = None;
        self.nodes
            .keys()
            .filter_map(move |&(frame, _)| (last.replace(frame) != Some(frame)).then_some(frame))
    }

    /// The loadable roots.
    pub fn roots(&self) -> impl Iterator<Item = Gpa> + '_ {
        self.nodes.iter().filter(|(_, node)| node.root).map(|(&(frame, _), _)| frame)
    }

    /// A root was loaded: it and all it reaches are page tables from now on.
    pub fn add_root(&mut self, tables: &dyn Tables, root: Gpa) -> CensusChange {
        let mut change = CensusChange::default();
        let root = root.page();
        if !self.nodes.get(&(root, 4)).is_some_and(|node| node.root) {
            self.attach(tables, (root, 4), &mut change);
            if let Some(node) = self.nodes.get_mut(&(root, 4)) {
                node.root = true;
            }
        }
        change
    }

    /// Of the roots only these remain: what no other reaches is a table no more.
    pub fn keep_roots(&mut self, tables: &dyn Tables, kept: &BTreeSet<Gpa>) -> CensusChange {
        let mut change = CensusChange::default();
        let gone: Vec<Gpa> = self.roots().filter(|root| !kept.contains(root)).collect();
        for root in gone {
            if let Some(node) = self.nodes.get_mut(&(root, 4)) {
                node.root = false;
            }
            self.release(tables, (root, 4), &mut change);
        }
        change
    }

    /// Whether the pins are of what caches held at another count of changes than this one; from now on
    /// they are of it.
    pub fn pins_differ(&mut self, changes: u64) -> bool {
        self.pinned_at.replace(changes) != Some(changes)
    }

    /// The next count of changes is another one: a cache was replaced by an empty one.
    pub fn forget_pin_count(&mut self) {
        self.pinned_at = None;
    }

    /// Pins exactly the tables that cached paging-structure entries reach.
    pub fn pin(&mut self, tables: &dyn Tables, wanted: &BTreeSet<(Gpa, u8)>) -> CensusChange {
        let mut change = CensusChange::default();
        let before = std::mem::replace(&mut self.pinned, wanted.clone());
        for &role in wanted.difference(&before) {
            self.attach(tables, role, &mut change);
        }
        for &role in before.difference(wanted) {
            self.release(tables, role, &mut change);
        }
        change
    }

    /// A store to `slot`; memory already holds `new`.
    pub fn store(&mut self, tables: &dyn Tables, slot: Gpa, old: u64, new: u64) -> CensusChange {
        let mut change = CensusChange::default();
        let levels: Vec<u8> = self.levels(slot).collect();
        for level in levels {
            let child = |bits| match meaning(bits, level, LINKS) {
                Meaning::Table(table) => Some((table, level - 1)),
                _ => None,
            };
            let (before, after) = (child(old), child(new));
            if before == after {
                continue;
            }
            if let Some(role) = after {
                self.attach(tables, role, &mut change);
                if let Some(node) = self.nodes.get_mut(&role) {
                    node.parents.insert((slot, level));
                }
            }
            if let Some(role) = before {
                if let Some(node) = self.nodes.get_mut(&role) {
                    node.parents.remove(&(slot, level));
                }
                self.release(tables, role, &mut change);
            }
        }
        change
    }

    /// Every place, in every root, that is translated through `slot`; see [`is_beyond`].
    #[must_use]
    pub fn reaches(&self, slot: Gpa) -> BTreeSet<Reach> {
        let mut found = BTreeSet::new();
        for level in self.levels(slot) {
            self.climb(slot, level, level, 0, &mut found);
        }
        found
    }

    fn climb(&self, slot: Gpa, level: u8, of: u8, base: u64, found: &mut BTreeSet<Reach>) {
        let base = base | (slot.0 >> 3 & 0x1ff) << shift(level);
        let Some(node) = self.nodes.get(&(slot.page(), level)) else { return };
        if node.root {
            // Sign-extend bit 47.
            let base = Gva(((base << 16) as i64 >> 16) as u64);
            found.insert(Reach { root: slot.page(), base, level: of });
        }
        for &(parent, parent_level) in &node.parents {
            if is_beyond(found) {
                return;
            }
            self.climb(parent, parent_level, of, base, found);
        }
    }

    fn levels(&self, slot: Gpa) -> impl Iterator<Item = u8> + '_ {
        let frame = slot.page();
        self.nodes.range((frame, 0)..=(frame, u8::MAX)).map(|(&(_, level), _)| level)
    }

    /// Makes sure that a table, and all below it, are in the census.
    fn attach(&mut self, tables: &dyn Tables, role: Role, change: &mut CensusChange) {
        if self.nodes.contains_key(&role) {
            return;
        }
        if !self.is_table(role.0) {
            change.linked.push(role.0);
        }
        self.nodes.insert(role, Node::default());
        for (slot, child) in children(tables, role) {
            self.attach(tables, child, change);
            if let Some(node) = self.nodes.get_mut(&child) {
                node.parents.insert((slot, role.1));
            }
        }
    }

    /// Removes a table that nothing reaches any more, and what hung on it alone.
    fn release(&mut self, tables: &dyn Tables, role: Role, change: &mut CensusChange) {
        let is_live = |node: &Node| node.root || !node.parents.is_empty();
        if self.pinned.contains(&role) || self.nodes.get(&role).is_none_or(is_live) {
            return;
        }
        self.nodes.remove(&role);
        for (slot, child) in children(tables, role) {
            if let Some(node) = self.nodes.get_mut(&child) {
                node.parents.remove(&(slot, role.1));
            }
            self.release(tables, child, change);
        }
        if !self.is_table(role.0) {
            change.unlinked.push(role.0);
        }
    }
}

fn children(tables: &dyn Tables, (frame, level): Role) -> Vec<(Gpa, Role)> {
    if level <= 1 {
        return Vec::new();
    }
    tables
        .present(frame)
        .into_iter()
        .filter_map(|(index, bits)| {
            let slot = Gpa(frame.0 + index * 8);
            match meaning(bits, level, LINKS) {
                // A table beyond memory is met by the walk that needs it.
                Meaning::Table(table) if tables.entry(table).is_some() => {
                    Some((slot, (table, level - 1)))
                }
                _ => None,
            }
        })
        .collect()
}
