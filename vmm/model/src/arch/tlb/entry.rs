//! What the caches hold.

use crate::arch::addr::{Gpa, Gva, Pcid};
use crate::arch::walk::{PageSize, Rights, Start, Translation, shift};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;

/// Identifies an entry among those of one TLB; later fills have higher ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId(pub u64);

/// What an entry is tagged with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tag {
    /// Usable while this PCID is current.
    Pcid(Pcid),
    /// Usable in every PCID.
    Global,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pcid(pcid) => write!(f, "PCID {pcid}"),
            Self::Global => f.write_str("global"),
        }
    }
}

/// A cached translation. A large page stands for its entry and for the smaller fractures that the
/// processor may hold of it (SDM vol. 3, 4.10.2.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: EntryId,
    /// What it translates, and with which rights.
    pub translation: Translation,
    /// The root that was loaded when it was filled.
    pub root: Gpa,
    /// Look-ups skip it: it once denied an access, so the processor walked again. It may still be
    /// cached, so rules see it.
    pub skipped: bool,
    /// An access brought it in, or used it: its processor need not have speculated to hold it.
    pub accessed: bool,
    /// Of a large page, the parts that were invalidated: first address and size.
    pub missing: Vec<(Gva, PageSize)>,
}

impl Entry {
    /// A whole one.
    pub(super) fn new(id: EntryId, translation: Translation, root: Gpa) -> Self {
        Self { id, translation, root, skipped: false, accessed: false, missing: Vec::new() }
    }

    /// Whether it is of a large page.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.translation.size != PageSize::Small
    }

    /// Whether it translates `va`.
    #[must_use]
    pub fn covers(&self, va: Gva) -> bool {
        self.translation.contains(va) && !self.is_missing(va)
    }

    fn is_missing(&self, va: Gva) -> bool {
        self.missing.iter().any(|&(base, size)| size.base(va) == base)
    }

    /// The 4 KiB pages from `start` to the one of `last`, within the page, that it still translates.
    pub fn pages_in(&self, start: Gva, last: Gva) -> impl Iterator<Item = Gva> + '_ {
        let step = PageSize::Small.bytes() as usize;
        (start.0..=last.0).step_by(step).map(Gva).filter(|&page| !self.is_missing(page))
    }

    /// The 4 KiB pages that it still translates.
    pub fn pages(&self) -> impl Iterator<Item = Gva> + '_ {
        let Translation { page, size, .. } = self.translation;
        self.pages_in(page, Gva(page.0 + (size.bytes() - 1)))
    }

    /// Drops the fractures in the part of `size` that contains `va`; whether any others remain.
    pub(super) fn drop_part(&mut self, va: Gva, size: PageSize) -> bool {
        let base = size.base(va);
        self.missing.retain(|&(part, _)| size.base(part) != base);
        self.missing.push((base, size));
        let missing: u64 = self.missing.iter().map(|(_, size)| size.bytes()).sum();
        missing < self.translation.size.bytes()
    }
}

/// Which paging-structure entry of a PCID: its level, the first address that it translates, and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StructureKey {
    /// Its level.
    pub level: u8,
    /// First address that it translates.
    pub base: Gva,
    /// Its id.
    pub id: EntryId,
}

impl StructureKey {
    /// The keys of those of one level that translate an address of `[start, last]`.
    #[must_use]
    pub fn range(level: u8, start: Gva, last: Gva) -> RangeInclusive<Self> {
        let base = Gva(start.0 & !((1 << shift(level)) - 1));
        Self { level, base, id: EntryId(0) }..=Self { level, base: last, id: EntryId(u64::MAX) }
    }
}

/// A cached PML4E, PDPTE or PDE: tagged with a PCID, never global.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StructureEntry {
    /// Its level: 4 for a PML4E, 2 for a PDE.
    pub level: u8,
    /// First address that it translates.
    pub base: Gva,
    /// Its id.
    pub id: EntryId,
    /// The PCID.
    pub pcid: Pcid,
    /// The table it references.
    pub table: Gpa,
    /// The rights of the walk down to it.
    pub rights: Rights,
}

impl fmt::Display for StructureEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { level, base, pcid, table, .. } = self;
        write!(
            f,
            "PCID {pcid}: paging-structure entry of level {level} for {base} -> table {table}"
        )
    }
}

impl PartialOrd for Rights {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rights {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |rights: &Self| (rights.writable, rights.user, rights.no_execute);
        key(self).cmp(&key(other))
    }
}

impl StructureEntry {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> StructureKey {
        StructureKey { level: self.level, base: self.base, id: self.id }
    }

    /// Whether `va` is translated through it.
    #[must_use]
    pub fn covers(&self, va: Gva) -> bool {
        va.0 >> shift(self.level) == self.base.0 >> shift(self.level)
    }

    /// Last address that it translates.
    #[must_use]
    pub fn last(&self) -> Gva {
        Gva(self.base.0 | ((1 << shift(self.level)) - 1))
    }

    /// Where a walk goes on from it.
    #[must_use]
    pub fn start(&self) -> Start {
        Start { table: self.table, level: self.level - 1, rights: self.rights }
    }
}
