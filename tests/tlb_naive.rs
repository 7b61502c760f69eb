//! The TLB against a naive model that shares no code with it: plain sets, no incremental state. What
//! may be held after a history is what may be held without its last operation, less what that must
//! remove, and all that every walk from every root and cached entry gives now.
#![allow(missing_docs)]

use proptest::prelude::*;
use stalemate::arch::addr::{Gpa, Gva, Pcid};
use stalemate::arch::census::Census;
use stalemate::arch::features::Paging;
use stalemate::arch::tlb::{Fill, Lookup, Store, Tag, Tlb, TlbModel};
use stalemate::arch::vcpu::cr4;
use stalemate::arch::walk::{Access, AccessKind, Tables, Translation, walk};
use std::collections::{BTreeMap, BTreeSet};

const PAGING: Paging =
    Paging { pcide: true, pge: true, wp: true, smep: false, nxe: true, gib_pages: true };
const P: u64 = 1;
const W: u64 = 1 << 1;
const U: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const NX: u64 = 1 << 63;
const FRAME: u64 = 0xff_ffff_f000;

/// Root 0x1000 has PDPT 0x3000 and PD 0x4000. Root 0x2000 has tables of its own down to the PT
/// 0x6000, which is the other's too at times, and nothing else.
const ROOTS: [u64; 2] = [0x1000, 0x2000];
const PDE: u64 = 0x4000;
const PDE_LARGE: u64 = 0x4008;
const PDPTE_HUGE: u64 = 0x3008;
const LARGE: u64 = 0x20_0000;
const HUGE: u64 = 0x4000_0000;
/// The addresses that are looked at: small pages, fractures of a 2 MiB and of a 1 GiB page; among
/// them all that the slots of `store` translate.
const VAS: [u64; 11] = [
    0,
    0x1000,
    0x2000,
    LARGE,
    LARGE + 0x1000,
    LARGE + 0x2000,
    LARGE + 0x5000,
    HUGE,
    HUGE + 0x1000,
    HUGE + 0x2000,
    HUGE + 0x20_0000,
];

type World = BTreeMap<u64, u64>;

struct Ram(World);

impl Tables for Ram {
    fn entry(&self, slot: Gpa) -> Option<u64> {
        Some(self.0.get(&slot.0).copied().unwrap_or(0))
    }
}

fn initial() -> World {
    let table = |at: u64| at | P | W | U | A;
    [
        (ROOTS[0], table(0x3000)),
        (0x3000, table(0x4000)),
        (PDE, table(0x5000)),
        (ROOTS[1], table(0x7000)),
        (0x7000, table(0x8000)),
        (0x8000, table(0x6000)),
    ]
    .into()
}

/// What is asked of the TLB.
#[derive(Clone, Copy, Debug)]
enum Op {
    Store { slot: u64, bits: u64 },
    Load { pcid: u16, root: usize, flush: bool },
    Access { va: u64, write: bool },
    Invlpg { va: u64 },
    Invpcid { kind: u64, pcid: u16, va: u64 },
    Pge,
}

/// What came of it: an access is a fill, a fault or nothing, and sets A and D.
#[derive(Clone, Copy, Debug)]
enum Did {
    Store { slot: u64, bits: u64 },
    Load { pcid: u16, root: u64, flush: bool },
    Filled { va: u64 },
    Faulted { va: u64 },
    Invlpg { va: u64 },
    Invpcid { kind: u64, pcid: u16, va: u64 },
    Pge,
}

/// The TLB at work, as a core drives it.
struct Driver {
    tlb: Tlb,
    census: Census,
    ram: Ram,
    did: Vec<Did>,
}

impl Driver {
    fn run(history: &[Op], model: TlbModel) -> Self {
        let (tlb, ram) = (Tlb::new(model), Ram(initial()));
        let mut driver = Self { tlb, census: Census::default(), ram, did: Vec::new() };
        history.iter().for_each(|&op| driver.operate(op));
        driver
    }

    fn operate(&mut self, op: Op) {
        let (tlb, ram) = (&mut self.tlb, &self.ram);
        match op {
            Op::Store { slot, bits } => {
                let old = ram.entry(Gpa(slot)).unwrap_or(0);
                self.did.push(Did::Store { slot, bits });
                self.ram.0.insert(slot, bits);
                self.tlb.table_store(&self.census, Store { slot: Gpa(slot), old, new: bits });
                self.census.pin(&self.ram, &self.tlb.reached_tables());
                self.census.store(&self.ram, Gpa(slot), old, bits);
                self.speculate();
            }
            Op::Load { pcid, root, flush } => {
                let root = ROOTS[root];
                self.census.add_root(ram, Gpa(root));
                tlb.load_cr3(ram, PAGING, Pcid::new(pcid), Gpa(root), flush);
                self.flushed(Did::Load { pcid, root, flush });
            }
            Op::Access { va, write } => self.access(va, write),
            Op::Invlpg { va } => {
                tlb.invlpg(ram, PAGING, Gva(va));
                self.flushed(Did::Invlpg { va });
            }
            Op::Invpcid { kind, pcid, va } => {
                tlb.invpcid(ram, PAGING, kind, Pcid::new(pcid), Gva(va));
                self.flushed(Did::Invpcid { kind, pcid, va });
            }
            Op::Pge => {
                tlb.write_cr4(ram, PAGING, cr4::PGE, 0);
                self.flushed(Did::Pge);
            }
        }
    }

    fn access(&mut self, va: u64, write: bool) {
        let kind = if write { AccessKind::Write } else { AccessKind::Read };
        let access = Access { kind, user: false };
        let Some(start) = self.tlb.walk_start(Gva(va)) else { return };
        if matches!(self.tlb.lookup(PAGING, Gva(va), access), Lookup::Hit(_)) {
            return;
        }
        let walked = walk(&self.ram, start, Gva(va), PAGING);
        let allowed = |found: &Translation| found.check(access, PAGING).is_ok();
        let Some(found) = walked.result.ok().filter(allowed) else {
            self.tlb.page_fault(&self.ram, PAGING, Gva(va));
            return self.flushed(Did::Faulted { va });
        };
        let leaf = walked.path.len() - 1;
        for (index, step) in walked.path.iter().enumerate() {
            let new = step.entry | A | if write && index == leaf { D } else { 0 };
            if new != step.entry {
                self.did.push(Did::Store { slot: step.slot.0, bits: new });
                self.set(step.slot, step.entry, new);
            }
        }
        self.tlb.fill(PAGING, &walked, &Translation { dirty: found.dirty || write, ..found });
        self.did.push(Did::Filled { va });
        self.speculate();
    }

    fn flushed(&mut self, did: Did) {
        self.did.push(did);
        self.census.pin(&self.ram, &self.tlb.reached_tables());
        self.speculate();
    }

    fn set(&mut self, slot: Gpa, old: u64, new: u64) {
        self.ram.0.insert(slot.0, new);
        self.tlb.accessed_dirty(&self.census, slot, old, new);
    }

    fn speculate(&mut self) {
        for (slot, old, new) in self.tlb.speculate(&self.ram, PAGING) {
            self.set(slot, old, new);
        }
    }
}

/// The rights of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Grants {
    writable: bool,
    user: bool,
    executable: bool,
    dirty: bool,
}

impl Grants {
    fn and(self, bits: u64) -> Self {
        Self {
            writable: self.writable && bits & W != 0,
            user: self.user && bits & U != 0,
            executable: self.executable && bits & NX == 0,
            dirty: bits & D != 0,
        }
    }

    fn cover(self, other: Self) -> bool {
        self.writable >= other.writable
            && self.user >= other.user
            && self.executable >= other.executable
            && self.dirty >= other.dirty
    }
}

/// A 4 KiB piece of a translation; `shift` says of how large a page, `pcid` is none for globals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    pcid: Option<u16>,
    va: u64,
    shift: u32,
    frame: u64,
    grants: Grants,
}

/// A place where a walk begins: it translates what `va` and `base` have in common above `shift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Begin {
    pcid: u16,
    base: u64,
    shift: u32,
    table: u64,
    grants: Grants,
}

const ALL: Grants = Grants { writable: true, user: true, executable: true, dirty: false };

struct Naive {
    model: TlbModel,
    world: World,
    current: Option<u16>,
    roots: BTreeMap<u16, u64>,
    pieces: BTreeSet<Piece>,
    cached: BTreeSet<Begin>,
}

impl Naive {
    fn new(history: &[Did], model: TlbModel) -> Self {
        let mut naive = Self {
            model,
            world: initial(),
            current: None,
            roots: BTreeMap::new(),
            pieces: BTreeSet::new(),
            cached: BTreeSet::new(),
        };
        for &did in history {
            naive.remove(did);
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
            Did::Invpcid { .. } | Did::Pge => {
                self.pieces.clear();
                self.cached.clear();
            }
        }
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
            if bits & P == 0 {
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
            if bits & P == 0 || self.model.fill == Fill::LazyA && bits & A == 0 {
                return;
            }
            self.world.insert(slot, bits | A);
            grants = grants.and(bits);
            if shift == 12 || bits & PS != 0 {
                let pcid = if bits & G != 0 { None } else { Some(pcid) };
                let offset = va & ((1 << shift) - 1) & !0xfff;
                let frame = (bits & FRAME) + offset;
                self.pieces.insert(Piece { pcid, va, shift, frame, grants });
                return;
            }
            table = bits & FRAME;
            if self.model.structure_caches {
                let grants = Grants { dirty: false, ..grants };
                self.cached.insert(Begin { pcid, base: va >> shift, shift, table, grants });
            }
        }
    }
}

fn check(history: &[Op], fill: Fill, structure_caches: bool) -> Result<(), TestCaseError> {
    let model = TlbModel { fill, structure_caches, seed: 0 };
    let driver = Driver::run(history, model);
    let naive = Naive::new(&driver.did, model);
    prop_assert_eq!(&driver.ram.0, &naive.world, "A and D");
    for va in VAS {
        for pcid in [None, Some(1), Some(2), Some(3)] {
            let tag = pcid.map_or(Tag::Global, |pcid| Tag::Pcid(Pcid::new(pcid)));
            let entries = driver.tlb.entries_in(tag, Gva(va), Gva(va));
            let held: Vec<(u64, Grants)> = entries
                .filter(|entry| entry.covers(Gva(va)))
                .map(|entry| {
                    let Translation { writable, user, no_execute, dirty, .. } = entry.translation;
                    let grants = Grants { writable, user, executable: !no_execute, dirty };
                    (entry.translation.at(Gva(va)).0, grants)
                })
                .collect();
            let pieces = naive.pieces.iter().filter(|piece| piece.pcid == pcid && piece.va == va);
            let may: Vec<(u64, Grants)> = pieces.map(|piece| (piece.frame, piece.grants)).collect();
            // What grants less than another that is there as long does not matter.
            let covered = |of: &[(u64, Grants)], (frame, grants): &(u64, Grants)| {
                of.iter().any(|(other, all)| other == frame && all.cover(*grants))
            };
            for entry in &held {
                prop_assert!(covered(&may, entry), "{tag:?} {va:#x} holds {entry:x?} of {may:x?}");
            }
            for piece in &may {
                prop_assert!(covered(&held, piece), "{tag:?} {va:#x} lacks {piece:x?}: {held:x?}");
            }
        }
    }
    Ok(())
}

/// An entry of `base` with some of `flags`, each as likely set as not.
fn entry(base: u64, flags: &'static [u64]) -> impl Strategy<Value = u64> {
    prop::collection::vec(any::<bool>(), flags.len()).prop_map(move |set| {
        let chosen = flags.iter().zip(set).filter(|(_, set)| *set).map(|(flag, _)| *flag);
        base | P | chosen.fold(0, |all, flag| all | flag)
    })
}

fn leaf(frames: [u64; 2], ps: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        1 => Just(0),
        3 => prop::sample::select(frames.to_vec())
            .prop_flat_map(move |frame| entry(frame | ps, &[W, U, NX, A, D, W | A])),
        1 => entry(frames[0] | ps, &[W, A, G]),
    ]
}

fn table(of: &'static [u64]) -> impl Strategy<Value = u64> {
    let entries = prop::sample::select(of).prop_flat_map(|table| entry(table, &[W, U, NX, A, A]));
    prop_oneof![1 => Just(0), 6 => entries]
}

fn store() -> impl Strategy<Value = Op> {
    let pte = (prop::sample::select(&[0x5000u64, 0x6000, 0x9000][..]), 0u64..3)
        .prop_map(|(table, page)| table + page * 8);
    let with = |slot: u64, bits: BoxedStrategy<u64>| {
        bits.prop_map(move |bits| Op::Store { slot, bits }).boxed()
    };
    prop_oneof![
        6 => (pte, leaf([0x1_0000, 0x2_0000], 0)).prop_map(|(slot, bits)| Op::Store { slot, bits }),
        2 => with(PDE, table(&[0x5000, 0x6000]).boxed()),
        2 => with(PDE_LARGE, leaf([0x40_0000, 0x60_0000], PS).boxed()),
        1 => with(PDE_LARGE, table(&[0x9000]).boxed()),
        2 => with(PDPTE_HUGE, leaf([HUGE, 2 * HUGE], PS).boxed()),
        1 => with(PDPTE_HUGE, table(&[0xa000]).boxed()),
        1 => with(0xa000, leaf([0x40_0000, 0x60_0000], PS).boxed()),
        1 => with(0xa000, table(&[0x9000]).boxed()),
        1 => with(0x8000, table(&[0x6000]).boxed()),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let va = || prop::sample::select(&VAS[..]);
    let pcid = 1u16..4;
    prop_oneof![
        6 => store(),
        3 => (pcid.clone(), 0usize..2, any::<bool>())
            .prop_map(|(pcid, root, flush)| Op::Load { pcid, root, flush }),
        4 => (va(), any::<bool>()).prop_map(|(va, write)| Op::Access { va, write }),
        2 => va().prop_map(|va| Op::Invlpg { va }),
        2 => (0u64..4, pcid, va()).prop_map(|(kind, pcid, va)| Op::Invpcid { kind, pcid, va }),
        1 => Just(Op::Pge),
    ]
}

fn history() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(ops(), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_demand_agrees_with_the_naive_model(history in history()) {
        check(&history, Fill::OnDemand, false)?;
    }

    #[test]
    fn worst_case_agrees_with_the_naive_model(history in history()) {
        check(&history, Fill::WorstCase, false)?;
    }

    #[test]
    fn worst_case_with_structure_caches_agrees_with_the_naive_model(history in history()) {
        check(&history, Fill::WorstCase, true)?;
    }

    #[test]
    fn lazy_a_agrees_with_the_naive_model(history in history()) {
        check(&history, Fill::LazyA, false)?;
    }

    #[test]
    fn lazy_a_with_structure_caches_agrees_with_the_naive_model(history in history()) {
        check(&history, Fill::LazyA, true)?;
    }
}
