//! The TLB against a naive model that shares no code with it: no sets, no incremental state, just
//! the whole history of operations, from which each question is answered anew.
#![allow(missing_docs)]

use proptest::prelude::*;
use stalemate::arch::addr::{Gpa, Gva, Pcid};
use stalemate::arch::features::Paging;
use stalemate::arch::tlb::{Fill, Tag, Tlb, TlbModel};
use stalemate::arch::vcpu::cr4;
use stalemate::arch::walk::{Tables, walk};
use std::collections::BTreeMap;

const PAGING: Paging =
    Paging { pcide: true, pge: true, wp: true, smep: false, nxe: true, gib_pages: true };
/// Root 0x1000 has PDPT 0x3000 and PD 0x4000. The PD's first entry references one of the tables
/// 0x5000 and 0x6000; its second is a 2 MiB page or not present. Root 0x2000 has tables of its
/// own down to 0x6000, which is always its first, and no 2 MiB page.
const ROOTS: [u64; 2] = [0x1000, 0x2000];
const PDE: u64 = 0x4000;
const PDE_LARGE: u64 = 0x4008;
const PAGES: u64 = 3;
const LARGE: u64 = 0x20_0000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    /// PTE of a page in a table: a frame, or none; with these bits of G, R/W and A.
    Store {
        table: u64,
        page: u64,
        frame: Option<u64>,
        bits: u64,
    },
    /// The first PDE references this table.
    Pde {
        table: u64,
    },
    /// The 2 MiB page.
    Large {
        frame: Option<u64>,
    },
    Load {
        pcid: u16,
        root: usize,
        flush: bool,
    },
    Access {
        va: u64,
    },
    Invlpg {
        va: u64,
    },
    Invpcid {
        kind: u64,
        pcid: u16,
        va: u64,
    },
    Pge,
}

type World = BTreeMap<u64, u64>;

struct Ram(World);

impl Tables for Ram {
    fn entry(&self, slot: Gpa) -> Option<u64> {
        Some(self.0.get(&slot.0).copied().unwrap_or(0))
    }
}

fn initial() -> World {
    let mut world = World::new();
    world.insert(ROOTS[0], 0x3067);
    world.insert(ROOTS[1], 0x7067);
    world.insert(0x7000, 0x8067);
    world.insert(0x8000, 0x6067);
    world.insert(0x3000, 0x4067);
    world.insert(PDE, 0x5067);
    world
}

fn store(world: &mut World, op: Op) {
    match op {
        Op::Store { table, page, frame, bits } => {
            world.insert(table + page * 8, frame.map_or(0, |frame| frame | 0x45 | bits));
        }
        Op::Pde { table } => {
            world.insert(PDE, table | 0x67);
        }
        Op::Large { frame } => {
            world.insert(PDE_LARGE, frame.map_or(0, |frame| frame | 0xe7));
        }
        _ => {}
    }
}

/// The naive walk: the slot of a page's leaf entry, via the PDE as it is.
fn naive_slot(world: &World, root: usize, va: u64) -> Option<u64> {
    if va >= LARGE {
        return (root == 0).then_some(PDE_LARGE);
    }
    let table = if root == 1 { 0x6000 } else { world[&PDE] & !0xfff };
    Some(table + (va >> 12) * 8)
}

/// The leaf entry, if it is present.
fn naive_walk(world: &World, root: usize, va: u64) -> Option<u64> {
    let entry = world.get(&naive_slot(world, root, va)?).copied().unwrap_or(0);
    (entry & 1 != 0).then_some(entry)
}

const GLOBAL: u64 = 0x100;
const ACCESSED: u64 = 0x20;
const WRITABLE: u64 = 2;

/// Whether, after all of `history`, (pcid, va) may be cached with this frame and R/W, globally or
/// not. Decides by looking for a moment at which it was filled and after which nothing had to
/// remove it.
fn may_hold(
    history: &[Op],
    fill: Fill,
    pcid: Option<u16>,
    va: u64,
    (frame, writable): (u64, bool),
) -> bool {
    let mut world = initial();
    let mut current = None;
    let mut root = 0;
    let mut held = false;
    for &op in history {
        let removes = match (op, pcid) {
            (Op::Load { pcid: new, flush, .. }, Some(pcid)) => flush && new == pcid,
            (Op::Invlpg { va: gone }, Some(pcid)) => gone == va && current == Some(pcid),
            (Op::Invlpg { va: gone }, None) => gone == va,
            (Op::Invpcid { kind: 0, pcid: of, va: gone }, Some(pcid)) => gone == va && of == pcid,
            (Op::Invpcid { kind: 1, pcid: of, .. }, Some(pcid)) => of == pcid,
            (Op::Invpcid { kind: 2, .. } | Op::Pge, _) => true,
            (Op::Invpcid { kind: 3, .. }, Some(_)) => true,
            _ => false,
        };
        held &= !removes;
        store(&mut world, op);
        if let Op::Load { pcid: new, root: loaded, .. } = op {
            current = Some(new);
            root = loaded;
        }
        if let (Op::Access { va }, Some(_)) = (op, current)
            && let Some(entry) = naive_walk(&world, root, va)
            && let Some(slot) = naive_slot(&world, root, va)
        {
            world.insert(slot, entry | ACCESSED);
        }
        let Some(entry) = naive_walk(&world, root, va) else { continue };
        let fills = match fill {
            Fill::WorstCase => true,
            Fill::LazyA => entry & ACCESSED != 0,
            Fill::OnDemand | Fill::Seeded => op == Op::Access { va },
        };
        let tag = if entry & GLOBAL != 0 { None } else { current };
        let same = entry & 0xf_ffff_f000 == frame && (entry & WRITABLE != 0) == writable;
        held |= fills && same && tag == pcid && current.is_some();
    }
    held
}

fn run(history: &[Op], fill: Fill) -> Tlb {
    // Without structure caches: the naive model walks from the root.
    let mut tlb = Tlb::new(TlbModel { fill, structure_caches: false, seed: 0 });
    let mut census = stalemate::arch::census::Census::default();
    let mut ram = Ram(initial());
    for &op in history {
        match op {
            Op::Store { table, page, .. } => {
                change(&mut tlb, &mut census, &mut ram, op, table + page * 8)
            }
            Op::Pde { .. } => change(&mut tlb, &mut census, &mut ram, op, PDE),
            Op::Large { .. } => change(&mut tlb, &mut census, &mut ram, op, PDE_LARGE),
            Op::Load { pcid, root, flush } => {
                census.add_root(&ram, Gpa(ROOTS[root]));
                tlb.load_cr3(&ram, PAGING, Pcid::new(pcid), Gpa(ROOTS[root]), flush);
            }
            Op::Access { va } => {
                if let Some(start) = tlb.walk_start(Gva(va)) {
                    let walked = walk(&ram, start, Gva(va), PAGING);
                    if let Ok(translation) = walked.result {
                        for step in walked.path.iter().filter(|step| step.entry & ACCESSED == 0) {
                            let new = step.entry | ACCESSED;
                            ram.0.insert(step.slot.0, new);
                            tlb.accessed_dirty(&census, step.slot, step.entry, new);
                        }
                        tlb.fill(PAGING, &walked, &translation);
                    }
                }
            }
            Op::Invlpg { va } => {
                tlb.invlpg(&ram, PAGING, Gva(va));
            }
            Op::Invpcid { kind, pcid, va } => {
                tlb.invpcid(&ram, PAGING, kind, Pcid::new(pcid), Gva(va));
            }
            Op::Pge => {
                tlb.write_cr4(&ram, PAGING, cr4::PGE, 0);
            }
        }
        for (slot, old, new) in tlb.speculate(&ram, PAGING) {
            ram.0.insert(slot.0, new);
            tlb.accessed_dirty(&census, slot, old, new);
        }
    }
    tlb
}

fn change(
    tlb: &mut Tlb,
    census: &mut stalemate::arch::census::Census,
    ram: &mut Ram,
    op: Op,
    slot: u64,
) {
    let old = ram.entry(Gpa(slot)).unwrap_or(0);
    store(&mut ram.0, op);
    let new = ram.entry(Gpa(slot)).unwrap_or(0);
    tlb.table_store(census, stalemate::arch::tlb::Store { slot: Gpa(slot), old, new });
    census.store(ram, Gpa(slot), old, new);
}

fn ops() -> impl Strategy<Value = Op> {
    let table = prop_oneof![Just(0x5000u64), Just(0x6000u64)];
    let frame = prop_oneof![1 => Just(None), 3 => (1u64..4).prop_map(|n| Some(n << 16))];
    let bit = |bit, weight| prop::bool::weighted(weight).prop_map(move |set| u64::from(set) * bit);
    let bits = (bit(GLOBAL, 0.3), bit(WRITABLE, 0.7), bit(ACCESSED, 0.6));
    let bits = bits.prop_map(|(global, writable, accessed)| global | writable | accessed);
    let va = prop_oneof![3 => (0..PAGES).prop_map(|page| page << 12), 1 => Just(LARGE)];
    let pcid = 1u16..4;
    prop_oneof![
        4 => (table.clone(), 0..PAGES, frame, bits)
            .prop_map(|(table, page, frame, bits)| Op::Store { table, page, frame, bits }),
        1 => table.prop_map(|table| Op::Pde { table }),
        1 => prop_oneof![Just(None), Just(Some(0x40_0000)), Just(Some(0x60_0000))]
            .prop_map(|frame| Op::Large { frame }),
        4 => (pcid.clone(), 0usize..2, any::<bool>())
            .prop_map(|(pcid, root, flush)| Op::Load { pcid, root, flush }),
        4 => va.clone().prop_map(|va| Op::Access { va }),
        2 => va.clone().prop_map(|va| Op::Invlpg { va }),
        2 => (0u64..4, pcid, va).prop_map(|(kind, pcid, va)| Op::Invpcid { kind, pcid, va }),
        1 => Just(Op::Pge),
    ]
}

fn check(history: &[Op], fill: Fill) -> Result<(), TestCaseError> {
    let tlb = run(history, fill);
    for va in (0..PAGES).map(|page| page << 12).chain([LARGE]) {
        let frames = [1u64 << 16, 2 << 16, 3 << 16, 0x40_0000, 0x60_0000];
        for (frame, writable) in frames.into_iter().flat_map(|at| [(at, false), (at, true)]) {
            for pcid in [None, Some(1), Some(2), Some(3)] {
                let tag = pcid.map_or(Tag::Global, |pcid| Tag::Pcid(Pcid::new(pcid)));
                let mut entries = tlb.entries_in(tag, Gva(va), Gva(va));
                let held = entries.any(|entry| {
                    entry.covers(Gva(va))
                        && entry.translation.at(Gva(va)) == Gpa(frame)
                        && entry.translation.writable == writable
                });
                let naive = may_hold(history, fill, pcid, va, (frame, writable));
                prop_assert_eq!(held, naive, "{:?} {:#x} {:#x} {}", tag, va, frame, writable);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_demand_agrees_with_the_whole_history(history in prop::collection::vec(ops(), 1..40)) {
        check(&history, Fill::OnDemand)?;
    }

    #[test]
    fn worst_case_agrees_with_the_whole_history(history in prop::collection::vec(ops(), 1..40)) {
        check(&history, Fill::WorstCase)?;
    }

    #[test]
    fn lazy_a_agrees_with_the_whole_history(history in prop::collection::vec(ops(), 1..40)) {
        check(&history, Fill::LazyA)?;
    }
}
