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
    /// PTE of a page in a table: a frame, or none; global or not.
    Store {
        table: u64,
        page: u64,
        frame: Option<u64>,
        global: bool,
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
        Op::Store { table, page, frame, global } => {
            let entry = frame.map_or(0, |frame| frame | 0x67 | if global { 0x100 } else { 0 });
            world.insert(table + page * 8, entry);
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

/// The naive walk: (frame, global) of a page, via the PDE as it is.
fn naive_walk(world: &World, root: usize, va: u64) -> Option<(u64, bool)> {
    if va >= LARGE && root == 1 {
        return None;
    }
    if va >= LARGE {
        let entry = world.get(&PDE_LARGE).copied().unwrap_or(0);
        return (entry & 1 != 0).then_some((entry & !0xfff & !(1 << 63), false));
    }
    let table = if root == 1 { 0x6000 } else { world[&PDE] & !0xfff };
    let entry = world.get(&(table + (va >> 12) * 8)).copied().unwrap_or(0);
    (entry & 1 != 0).then_some((entry & !0xfff, entry & 0x100 != 0))
}

/// Whether, after all of `history`, (pcid, va, frame) may be cached, globally or not. Decides by
/// looking for a moment at which it was filled and after which nothing had to remove it.
fn may_hold(history: &[Op], fill: Fill, pcid: Option<u16>, va: u64, frame: u64) -> bool {
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
        let fills = match fill {
            Fill::WorstCase => current.is_some(),
            Fill::OnDemand => current.is_some() && op == Op::Access { va },
        };
        let Some((now, global)) = naive_walk(&world, root, va) else { continue };
        let tag = if global { None } else { current };
        held |= fills && now == frame && tag == pcid && current.is_some();
    }
    held
}

fn run(history: &[Op], fill: Fill) -> Tlb {
    // Without structure caches: the naive model walks from the root.
    let mut tlb = Tlb::new(TlbModel { fill, structure_caches: false });
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
        tlb.speculate(&ram, PAGING);
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
    let va = prop_oneof![3 => (0..PAGES).prop_map(|page| page << 12), 1 => Just(LARGE)];
    let pcid = 1u16..4;
    prop_oneof![
        4 => (table.clone(), 0..PAGES, frame, prop::bool::weighted(0.3))
            .prop_map(|(table, page, frame, global)| Op::Store { table, page, frame, global }),
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
        for frame in [1 << 16, 2 << 16, 3 << 16, 0x40_0000, 0x60_0000] {
            for pcid in [None, Some(1), Some(2), Some(3)] {
                let tag = pcid.map_or(Tag::Global, |pcid| Tag::Pcid(Pcid::new(pcid)));
                let mut entries = tlb.entries_in(tag, Gva(va), Gva(va));
                let held = entries.any(|entry| {
                    entry.covers(Gva(va)) && entry.translation.at(Gva(va)) == Gpa(frame)
                });
                let naive = may_hold(history, fill, pcid, va, frame);
                prop_assert_eq!(held, naive, "{:?} {:#x} {:#x}", tag, va, frame);
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
}
