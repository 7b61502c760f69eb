//! The naive model.

use super::driver::Did;
use super::space::{A, Bit, D, FRAME, G, NX, P, PS, U, VAS, W, WT, World, initial};
use stalemate_model::arch::tlb::{Fill, TlbModel};
use std::collections::{BTreeMap, BTreeSet};

/// The rights of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grants {
    pub writable: bool,
    pub user: bool,
    pub executable: bool,
    pub dirty: bool,
    pub write_through: bool,
}

impl Grants {
    fn and(self, bits: u64) -> Self {
        Self {
            writable: self.writable && bits & W != 0,
            user: self.user && bits & U != 0,
            executable: self.executable && bits & NX == 0,
            dirty: bits & D != 0,
            write_through: bits & WT != 0,
        }
    }

    pub fn cover(self, other: Self) -> bool {
        self.writable >= other.writable
            && self.user >= other.user
            && self.executable >= other.executable
            && self.dirty >= other.dirty
            && self.write_through == other.write_through
    }
}

/// A 4 KiB piece of a translation; `shift` says of how large a page, `pcid` is none for globals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    pub pcid: Option<u16>,
    pub va: u64,
    shift: u32,
    pub frame: u64,
    pub grants: Grants,
}

/// A place where a walk begins: it translates what `va` and `base` have in common above `shift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Begin {
    pub pcid: u16,
    base: u64,
    shift: u32,
    table: u64,
    pub grants: Grants,
}

pub const ALL: Grants =
    Grants { writable: true, user: true, executable: true, dirty: false, write_through: false };

pub struct Naive {
    model: TlbModel,
    pub world: World,
    pcide: bool,
    pge: bool,
    smep: bool,
    nxe: bool,
    current: Option<u16>,
    roots: BTreeMap<u16, u64>,
    pub pieces: BTreeSet<Piece>,
    cached: BTreeSet<Begin>,
}

impl Naive {
    pub fn new(history: &[Did], model: TlbModel) -> Self {
        let mut naive = Self {
            model,
            world: initial(),
            pcide: true,
            pge: true,
            smep: false,
            nxe: true,
            current: None,
            roots: BTreeMap::new(),
            pieces: BTreeSet::new(),
            cached: BTreeSet::new(),
        };
        for &did in history {
            naive.remove(did);
            if let Did::Toggled(bit) = did {
                naive.toggle(bit);
            }
            if let Did::Store { slot, bits } = did {
                naive.world.insert(slot, bits);
            }
            if let Did::Load { pcid, root, .. } = did {
                naive.current = Some(pcid);
                naive.roots.insert(pcid, root);
            }
            match (model.fill, did) {
                (Fill::OnDemand, Did::Filled { va }) => {
                    let vas = naive.same_page(va);
                    naive.fill(&vas);
                }
                (Fill::OnDemand, _) => {}
                _ => naive.fill(&VAS),
            }
        }
        naive
    }

    /// The addresses that the current root maps by one page with `va`.
    fn same_page(&self, va: u64) -> Vec<u64> {
        let root = self.current.and_then(|pcid| self.roots.get(&pcid));
        let shift = root.and_then(|&root| self.page_shift(root, va)).unwrap_or(12);
        VAS.into_iter().filter(|other| other >> shift == va >> shift).collect()
    }

    fn remove(&mut self, did: Did) {
        let current = self.current;
        match did {
            Did::Store { .. } | Did::Filled { .. } => {}
            Did::Load { pcid, flush, .. } => {
                self.pieces.retain(|piece| !flush || piece.pcid != Some(pcid));
                self.cached.retain(|cached| !flush || cached.pcid != pcid);
            }
            Did::Invlpg { va } => {
                self.remove_page(current, va);
                self.remove_page(None, va);
                self.cached.retain(|cached| Some(cached.pcid) != current);
            }
            Did::Faulted { va } => {
                self.remove_page(current, va);
                self.remove_cached(current, va);
                if !self.pcide {
                    self.remove_page(None, va);
                }
            }
            Did::Invpcid { kind: 0, pcid, va } => {
                self.remove_page(Some(pcid), va);
                self.remove_cached(Some(pcid), va);
            }
            Did::Invpcid { kind: 1, pcid, .. } => {
                self.pieces.retain(|piece| piece.pcid != Some(pcid));
                self.cached.retain(|cached| cached.pcid != pcid);
            }
            Did::Invpcid { kind: 3, .. } => {
                self.pieces.retain(|piece| piece.pcid.is_none());
                self.cached.clear();
            }
            Did::Toggled(Bit::Smep) if !self.smep => {
                // A global that no other PCID can have brought in is the current one's too.
                let alone = self.roots.keys().all(|pcid| Some(*pcid) == current);
                self.pieces.retain(|piece| match piece.pcid {
                    None => !alone,
                    pcid => pcid != current,
                });
                self.cached.retain(|cached| Some(cached.pcid) != current);
            }
            Did::Toggled(Bit::Pcide) if !self.pcide => {}
            Did::Invpcid { .. } | Did::Toggled(Bit::Pge | Bit::Pcide) => {
                self.pieces.clear();
                self.cached.clear();
            }
            Did::Toggled(Bit::Smep | Bit::Wp | Bit::Nxe) => {}
        }
    }

    fn toggle(&mut self, bit: Bit) {
        match bit {
            Bit::Pge => self.pge = !self.pge,
            Bit::Smep => self.smep = !self.smep,
            Bit::Nxe => self.nxe = !self.nxe,
            Bit::Wp => {}
            Bit::Pcide => {
                self.pcide = !self.pcide;
                let root = self.current.map(|pcid| self.roots[&pcid]);
                if let Some(root) = root.filter(|_| !self.pcide) {
                    self.current = Some(0);
                    self.roots.insert(0, root);
                }
            }
        }
    }

    /// Whether a walk goes on, or ends, with this entry.
    fn is_valid(&self, bits: u64) -> bool {
        bits & P != 0 && (self.nxe || bits & NX == 0)
    }

    /// What translates the address, with all pieces of its page; where memory maps a smaller page
    /// today, those in it.
    fn remove_page(&mut self, pcid: Option<u16>, va: u64) {
        let root = pcid.or(self.current).and_then(|pcid| self.roots.get(&pcid));
        let today = root.and_then(|&root| self.page_shift(root, va));
        let of = |piece: &Piece| {
            let offset = piece.va & ((1 << piece.shift) - 1);
            (piece.pcid, piece.shift, piece.va - offset, piece.frame - offset, piece.grants)
        };
        let here = self.pieces.iter().filter(|piece| piece.pcid == pcid && piece.va == va);
        let found: BTreeSet<_> = here.map(of).collect();
        self.pieces.retain(|piece| {
            let shift = today.map_or(piece.shift, |today| today.min(piece.shift));
            !found.contains(&of(piece)) || piece.va >> shift != va >> shift
        });
    }

    fn remove_cached(&mut self, pcid: Option<u16>, va: u64) {
        self.cached.retain(|cached| Some(cached.pcid) != pcid || cached.base != va >> cached.shift);
    }

    fn entry(&self, table: u64, shift: u32, va: u64) -> (u64, u64) {
        let slot = table + (va >> shift & 0x1ff) * 8;
        (slot, self.world.get(&slot).copied().unwrap_or(0))
    }

    fn page_shift(&self, root: u64, va: u64) -> Option<u32> {
        let mut table = root;
        for shift in [39, 30, 21, 12] {
            let (_, bits) = self.entry(table, shift, va);
            if !self.is_valid(bits) {
                return None;
            }
            if shift == 12 || bits & PS != 0 {
                return Some(shift);
            }
            table = bits & FRAME;
        }
        None
    }

    fn fill(&mut self, vas: &[u64]) {
        let Some(pcid) = self.current else { return };
        let root = Begin { pcid, base: 0, shift: 48, table: self.roots[&pcid], grants: ALL };
        let cached = self.cached.iter().filter(|cached| cached.pcid == pcid).copied();
        let begins: Vec<Begin> = cached.chain([root]).collect();
        for begin in begins {
            for &va in vas {
                if va >> begin.shift == begin.base {
                    self.walk(begin, va);
                }
            }
        }
    }

    fn walk(&mut self, begin: Begin, va: u64) {
        let Begin { pcid, mut shift, mut table, mut grants, .. } = begin;
        loop {
            shift -= 9;
            let (slot, bits) = self.entry(table, shift, va);
            if !self.is_valid(bits) || self.model.fill == Fill::LazyA && bits & A == 0 {
                return;
            }
            self.world.insert(slot, bits | A);
            grants = grants.and(bits);
            if shift == 12 || bits & PS != 0 {
                let pcid = if self.pge && bits & G != 0 { None } else { Some(pcid) };
                let offset = va & ((1 << shift) - 1) & !0xfff;
                let frame = (bits & FRAME) + offset;
                let grants = Grants { executable: grants.executable || !self.nxe, ..grants };
                self.pieces.insert(Piece { pcid, va, shift, frame, grants });
                return;
            }
            table = bits & FRAME;
            if self.model.structure_caches {
                let grants = Grants { dirty: false, write_through: false, ..grants };
                self.cached.insert(Begin { pcid, base: va >> shift, shift, table, grants });
            }
        }
    }
}
