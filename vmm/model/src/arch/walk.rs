//! The page walk of 4-level paging (SDM vol. 3, 4.5) and the rights that come of it.

use super::addr::{Gpa, Gva};
use super::features::{MAX_PHYSICAL_BITS, Paging};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bits of a paging-structure entry.
#[allow(missing_docs)]
pub mod entry {
    pub const PRESENT: u64 = 1;
    pub const WRITABLE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const WRITE_THROUGH: u64 = 1 << 3;
    pub const CACHE_DISABLE: u64 = 1 << 4;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    pub const PAGE_SIZE: u64 = 1 << 7;
    /// PAT, in a PTE.
    pub const PAT: u64 = 1 << 7;
    /// PAT, in a leaf of an upper level.
    pub const LARGE_PAT: u64 = 1 << 12;
    pub const GLOBAL: u64 = 1 << 8;
    pub const NO_EXECUTE: u64 = 1 << 63;
    pub const FRAME: u64 = 0x000f_ffff_ffff_f000;
}

/// Read access to paging structures.
pub trait Tables {
    /// The 8-byte entry at guest-physical `slot`; none beyond memory.
    fn entry(&self, slot: Gpa) -> Option<u64>;

    /// The entries of `table` that are not 0, by index.
    fn present(&self, table: Gpa) -> Vec<(u64, u64)> {
        (0..512)
            .filter_map(|index| Some((index, self.entry(Gpa(table.0 + index * 8))?)))
            .filter(|(_, bits)| *bits != 0)
            .collect()
    }
}

/// A page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PageSize {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
    /// 1 GiB.
    Huge,
}

impl PageSize {
    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Small => 4 << 10,
            Self::Large => 2 << 20,
            Self::Huge => 1 << 30,
        }
    }

    /// The level of the entries that map such pages: 1 for a PTE.
    #[must_use]
    pub const fn level(self) -> u8 {
        match self {
            Self::Small => 1,
            Self::Large => 2,
            Self::Huge => 3,
        }
    }

    /// The first address of the page of this size around `va`.
    #[must_use]
    pub const fn base(self, va: Gva) -> Gva {
        Gva(va.0 & !(self.bytes() - 1))
    }
}

/// The rights that a walk gathers: ANDed R/W and U/S, ORed XD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rights {
    /// R/W.
    pub writable: bool,
    /// U/S.
    pub user: bool,
    /// XD.
    pub no_execute: bool,
}

impl Rights {
    /// What a walk begins with.
    pub const ALL: Self = Self { writable: true, user: true, no_execute: false };

    /// With one more level's entry.
    #[must_use]
    pub const fn and(self, bits: u64) -> Self {
        Self {
            writable: self.writable && bits & entry::WRITABLE != 0,
            user: self.user && bits & entry::USER != 0,
            no_execute: self.no_execute || bits & entry::NO_EXECUTE != 0,
        }
    }

    /// Whether something is allowed that `other` forbids. Under SMEP U/S takes from the supervisor
    /// what it gives to user mode: the fetch.
    #[must_use]
    pub const fn exceed(&self, other: &Self, paging: Paging) -> bool {
        self.writable && !other.writable
            || self.user && !other.user
            || !self.no_execute && (other.no_execute || paging.smep && !self.user && other.user)
    }
}

/// A translation as a TLB entry holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Translation {
    /// First address of the page.
    pub page: Gva,
    /// Its size.
    pub size: PageSize,
    /// First address of the frame.
    pub frame: Gpa,
    /// R/W along the walk.
    pub writable: bool,
    /// U/S along the walk.
    pub user: bool,
    /// XD along the walk.
    pub no_execute: bool,
    /// D of the leaf.
    pub dirty: bool,
    /// G of the leaf, with CR4.PGE.
    pub global: bool,
    /// PAT, PCD and PWT of the leaf as one number, 0 to 7: the field of IA32_PAT that says the
    /// memory type (SDM vol. 3, 4.9.2).
    pub memory_type: u8,
}

impl Translation {
    /// The rights.
    #[must_use]
    pub const fn rights(&self) -> Rights {
        Rights { writable: self.writable, user: self.user, no_execute: self.no_execute }
    }

    /// Whether it leads to the frame of 4 KiB at `frame`.
    #[must_use]
    pub fn maps(&self, frame: Gpa) -> bool {
        (self.frame.0..self.frame.0 + self.size.bytes()).contains(&frame.0)
    }

    /// The guest-physical address of `va`, which lies in the page.
    #[must_use]
    pub const fn at(&self, va: Gva) -> Gpa {
        Gpa(self.frame.0 + (va.0 & (self.size.bytes() - 1)))
    }

    /// Whether the page contains `va`.
    #[must_use]
    pub const fn contains(&self, va: Gva) -> bool {
        va.0 & !(self.size.bytes() - 1) == self.page.0
    }

    /// Whether this grants, at `va`, something that `today` does not: another frame, more rights,
    /// a store that does not set D, use under every PCID, or another memory type.
    #[must_use]
    pub fn grants_more(&self, va: Gva, today: Option<&Self>, paging: Paging) -> bool {
        today.is_none_or(|today| {
            // Without CR0.WP a supervisor stores to read-only pages, user ones among them.
            let stores = self.writable || !paging.wp;
            self.at(va) != today.at(va)
                || self.rights().exceed(&today.rights(), paging)
                || self.dirty && !today.dirty && stores
                || self.global && !today.global
                || self.memory_type != today.memory_type
        })
    }

    /// Whether an access is allowed; else the error code's bits but for P's companions.
    ///
    /// # Errors
    /// The page-fault error code (SDM vol. 3, 4.7), with P=1.
    pub fn check(&self, access: Access, paging: Paging) -> Result<(), u32> {
        let forbidden = match access.kind {
            _ if access.user && !self.user => true,
            AccessKind::Read => false,
            AccessKind::Write => !self.writable && (access.user || paging.wp),
            AccessKind::Execute => self.no_execute || (!access.user && paging.smep && self.user),
        };
        if forbidden { Err(access.error_code(true, paging)) } else { Ok(()) }
    }
}

impl fmt::Display for Translation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} ", self.page, self.frame)?;
        for (set, letter) in [
            (self.writable, 'w'),
            (!self.no_execute, 'x'),
            (self.user, 'u'),
            (self.dirty, 'd'),
            (self.global, 'g'),
        ] {
            write!(f, "{}", if set { letter } else { '-' })?;
        }
        if self.memory_type != 0 {
            write!(f, " PAT {}", self.memory_type)?;
        }
        Ok(())
    }
}

/// The kinds of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// An access and the privilege it is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What it does.
    pub kind: AccessKind,
    /// A user-mode access; implicit accesses of the processor never are.
    pub user: bool,
}

impl Access {
    /// The page-fault error code of this access.
    #[must_use]
    pub fn error_code(&self, present: bool, paging: Paging) -> u32 {
        let fetch = self.kind == AccessKind::Execute && (paging.nxe || paging.smep);
        u32::from(present)
            | u32::from(self.kind == AccessKind::Write) << 1
            | u32::from(self.user) << 2
            | u32::from(fetch) << 4
    }
}

/// One level of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Guest-physical address of the entry.
    pub slot: Gpa,
    /// The entry.
    pub entry: u64,
    /// 4 for the PML4E, 1 for the PTE.
    pub level: u8,
}

/// Why a walk ended without a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkFailure {
    /// An entry with P=0.
    #[error("not present")]
    NotPresent,
    /// An entry with a reserved bit set.
    #[error("a reserved bit is set")]
    Reserved,
    /// A table beyond memory.
    #[error("a table at {0}, beyond memory")]
    BeyondMemory(Gpa),
}

impl WalkFailure {
    /// The page-fault error code for `access`.
    #[must_use]
    pub fn error_code(&self, access: Access, paging: Paging) -> u32 {
        let reserved = *self == Self::Reserved;
        access.error_code(reserved, paging) | u32::from(reserved) << 3
    }
}

/// A walk: the levels visited, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// From the level where it began to the last one read.
    pub path: Vec<Step>,
    /// The translation.
    pub result: Result<Translation, WalkFailure>,
}

/// Where a walk begins: the root, or what a paging-structure cache gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The table.
    pub table: Gpa,
    /// Its level: 4 for a PML4.
    pub level: u8,
    /// Rights gathered so far.
    pub rights: Rights,
}

impl Start {
    /// At the root.
    #[must_use]
    pub const fn root(root: Gpa) -> Self {
        Self { table: root, level: 4, rights: Rights::ALL }
    }
}

/// Bit position of the lowest address bit that `level` translates.
#[must_use]
pub const fn shift(level: u8) -> u32 {
    12 + 9 * (level as u32 - 1)
}

/// The slot in `table` of `level` that translates `va`.
#[must_use]
pub const fn slot(table: Gpa, level: u8, va: Gva) -> Gpa {
    Gpa(table.0 + ((va.0 >> shift(level)) & 0x1ff) * 8)
}

/// What one paging-structure entry means at `level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// P=0.
    NotPresent,
    /// A reserved bit is set.
    Reserved,
    /// It maps a page of this size.
    Leaf(PageSize),
    /// It references a table of the next level.
    Table(Gpa),
}

/// Reads one entry (SDM vol. 3, tables 4-14 to 4-20).
#[must_use]
pub fn meaning(bits: u64, level: u8, paging: Paging) -> Meaning {
    if bits & entry::PRESENT == 0 {
        return Meaning::NotPresent;
    }
    let above = entry::FRAME & !((1u64 << MAX_PHYSICAL_BITS) - 1);
    let mut reserved = above | if paging.nxe { 0 } else { entry::NO_EXECUTE };
    let large = bits & entry::PAGE_SIZE != 0;
    let size = match level {
        1 => Some(PageSize::Small),
        2 if large => Some(PageSize::Large),
        3 if large => Some(PageSize::Huge),
        _ => None,
    };
    if let Some(size @ (PageSize::Large | PageSize::Huge)) = size {
        // Below the frame of a large page only bit 12, PAT, is defined.
        reserved |= (size.bytes() - 1) & !0x1fff;
    }
    if level == 4 || level == 3 && !paging.gib_pages {
        reserved |= entry::PAGE_SIZE;
    }
    if bits & reserved != 0 {
        return Meaning::Reserved;
    }
    size.map_or(Meaning::Table(Gpa(bits & entry::FRAME)), Meaning::Leaf)
}

/// The translation that a leaf entry gives to `va`.
#[must_use]
pub fn leaf(bits: u64, size: PageSize, va: Gva, rights: Rights, paging: Paging) -> Translation {
    let rights = rights.and(bits);
    let mask = !(size.bytes() - 1);
    Translation {
        page: Gva(va.0 & mask),
        size,
        frame: Gpa(bits & entry::FRAME & mask),
        writable: rights.writable,
        user: rights.user,
        no_execute: rights.no_execute && paging.nxe,
        dirty: bits & entry::DIRTY != 0,
        global: paging.pge && bits & entry::GLOBAL != 0,
        memory_type: memory_type(bits, size),
    }
}

/// PAT, PCD and PWT of a leaf, as one number.
fn memory_type(bits: u64, size: PageSize) -> u8 {
    let pat = if size == PageSize::Small { entry::PAT } else { entry::LARGE_PAT };
    [(pat, 4), (entry::CACHE_DISABLE, 2), (entry::WRITE_THROUGH, 1)]
        .into_iter()
        .filter(|(bit, _)| bits & bit != 0)
        .fold(0, |number, (_, value)| number | value)
}

/// Walks from `start` for `va`. Changes nothing: A and D are the caller's to set.
pub fn walk(tables: &dyn Tables, start: Start, va: Gva, paging: Paging) -> Walk {
    let Start { mut table, mut level, mut rights } = start;
    let mut path = Vec::with_capacity(4);
    let result = loop {
        let slot = slot(table, level, va);
        let Some(bits) = tables.entry(slot) else { break Err(WalkFailure::BeyondMemory(slot)) };
        path.push(Step { slot, entry: bits, level });
        match meaning(bits, level, paging) {
            Meaning::NotPresent => break Err(WalkFailure::NotPresent),
            Meaning::Reserved => break Err(WalkFailure::Reserved),
            Meaning::Leaf(size) => break Ok(leaf(bits, size, va, rights, paging)),
            Meaning::Table(next) => {
                rights = rights.and(bits);
                table = next;
                level -= 1;
            }
        }
    };
    Walk { path, result }
}
