//! What each operation must invalidate and what may stay: two tests for each line of the
//! invalidation table (SDM vol. 3, 4.10.4.1; INVLPG and INVPCID pages).

use crate::memory::TestMemory;
use stalemate_model::arch::addr::{CpuId, Gpa, Gva, Pcid};
use stalemate_model::arch::census::Census;
use stalemate_model::arch::choice::{Chooser, Point};
use stalemate_model::arch::features::Paging;
use stalemate_model::arch::tlb::{Chosen, Fill, Scope, Store, Tag, Tlb, TlbModel, split_mix};
use stalemate_model::arch::vcpu::cr4;
use stalemate_model::arch::walk::{Start, Walk, WalkFailure, walk};

const PAGING: Paging =
    Paging { pcide: true, pge: true, wp: true, smep: false, nxe: true, gib_pages: true };
const ROOT: Gpa = Gpa(0x1000);
const OTHER_ROOT: Gpa = Gpa(0x2000);
const A: Gva = Gva(0x10_0000);
const B: Gva = Gva(0x10_1000);
const GLOBAL: Gva = Gva(0x10_2000);
const LARGE: Gva = Gva(0x20_0000);
const P1: Pcid = Pcid::new(1);
const P2: Pcid = Pcid::new(2);

/// Two roots over the same PDPT: 0x3000, PD 0x4000, PT 0x5000.
fn tables() -> TestMemory {
    let memory = TestMemory::new(0x1_0000);
    for (slot, entry) in [
        (ROOT.0, 0x3067),
        (OTHER_ROOT.0, 0x3067),
        (0x3000, 0x4067),
        (0x4000, 0x5067),
        (0x4008, 0x40_00e7),
        (0x5000 + 0x100 * 8, 0xa_0067),
        (0x5000 + 0x101 * 8, 0xb_0067),
        (0x5000 + 0x102 * 8, 0xc_0167),
    ] {
        memory.write_word(Gpa(slot), entry);
    }
    memory
}

struct World {
    memory: TestMemory,
    tlb: Tlb,
}

impl World {
    /// Everything is cached under PCIDs 1 and 2; 1 is current.
    fn new() -> Self {
        let model = TlbModel { fill: Fill::OnDemand, structure_caches: true, seed: 0 };
        let mut world = Self { memory: tables(), tlb: Tlb::new(model) };
        for pcid in [P2, P1] {
            world.load(pcid, ROOT, true);
            for va in [A, B, GLOBAL, LARGE] {
                world.access(va);
            }
        }
        world
    }

    fn load(&mut self, pcid: Pcid, root: Gpa, flush: bool) {
        self.tlb.load_cr3(&self.memory, PAGING, pcid, root, flush);
    }

    fn access(&mut self, va: Gva) -> Walk {
        let start = self.tlb.walk_start(&self.memory, va).expect("a root is loaded");
        let walked = walk(&self.memory, start, va, PAGING);
        let translation = walked.result.expect("mapped");
        self.tlb.fill(&self.memory, PAGING, &walked, &translation);
        walked
    }

    fn has(&self, pcid: Pcid, va: Gva) -> bool {
        self.tlb.entries_in(Tag::Pcid(pcid), va, va).any(|entry| entry.covers(va))
    }

    fn has_global(&self) -> bool {
        self.tlb.entries_in(Tag::Global, GLOBAL, GLOBAL).next().is_some()
    }

    fn structures(&self, pcid: Pcid) -> usize {
        self.tlb.structures(pcid).count()
    }
}

#[test]
fn everything_is_cached_to_begin_with() {
    let world = World::new();
    for pcid in [P1, P2] {
        for va in [A, B, LARGE] {
            assert!(world.has(pcid, va), "{pcid} {va}");
        }
        assert_eq!(world.structures(pcid), 3);
    }
    assert!(world.has_global() && !world.has(P1, GLOBAL));
}

#[test]
fn invlpg_removes_the_page_and_all_structures_of_the_current_pcid() {
    let mut world = World::new();
    world.tlb.invlpg(&world.memory, PAGING, A, false);
    assert!(!world.has(P1, A));
    assert_eq!(world.structures(P1), 0);
}

#[test]
fn invlpg_keeps_other_pages_and_other_pcids() {
    let mut world = World::new();
    world.tlb.invlpg(&world.memory, PAGING, A, false);
    assert!(world.has(P1, B) && world.has(P2, A) && world.has_global());
    assert_eq!(world.structures(P2), 3);
}

#[test]
fn invlpg_removes_a_global_page() {
    let mut world = World::new();
    world.tlb.invlpg(&world.memory, PAGING, GLOBAL, false);
    assert!(!world.has_global());
}

#[test]
fn invlpg_of_any_address_removes_a_large_page() {
    let mut world = World::new();
    world.tlb.invlpg(&world.memory, PAGING, Gva(LARGE.0 + 0x5000), false);
    assert!(!world.has(P1, LARGE) && world.has(P2, LARGE));
}

#[test]
fn invlpg_of_a_page_that_was_split_may_keep_the_other_fractures() {
    let mut world = World::new();
    // The 2 MiB page becomes a table that maps its first page elsewhere.
    world.memory.write_word(Gpa(0x4008), 0x6067);
    world.memory.write_word(Gpa(0x6000), 0xd_0067);
    world.tlb.invlpg(&world.memory, PAGING, LARGE, false);
    assert!(!world.has(P1, LARGE));
    assert!(world.has(P1, Gva(LARGE.0 + 0x1000)));
}

#[test]
fn invpcid_address_removes_the_page_of_that_pcid() {
    let mut world = World::new();
    world.tlb.invpcid(&world.memory, PAGING, 0, P2, A);
    assert!(!world.has(P2, A));
    assert_eq!(world.structures(P2), 0, "all of them translate A");
}

#[test]
fn invpcid_address_keeps_globals_and_other_pcids() {
    let mut world = World::new();
    world.tlb.invpcid(&world.memory, PAGING, 0, P2, GLOBAL);
    world.tlb.invpcid(&world.memory, PAGING, 0, P2, A);
    assert!(world.has_global() && world.has(P1, A) && world.has(P2, B));
}

#[test]
fn invpcid_of_a_pcid_removes_all_that_is_not_global_in_it() {
    let mut world = World::new();
    world.tlb.invpcid(&world.memory, PAGING, 1, P2, Gva(0));
    assert!(!world.has(P2, A) && !world.has(P2, B) && !world.has(P2, LARGE));
    assert_eq!(world.structures(P2), 0);
}

#[test]
fn invpcid_of_a_pcid_keeps_globals_and_other_pcids() {
    let mut world = World::new();
    world.tlb.invpcid(&world.memory, PAGING, 1, P2, Gva(0));
    assert!(world.has_global() && world.has(P1, A));
}

#[test]
fn invpcid_all_removes_everything() {
    let mut world = World::new();
    world.tlb.invpcid(&world.memory, PAGING, 2, P1, Gva(0));
    assert!(!world.has(P1, A) && !world.has(P2, A) && !world.has_global());
    assert_eq!(world.structures(P1) + world.structures(P2), 0);
}

#[test]
fn invpcid_all_but_globals_keeps_globals() {
    let mut world = World::new();
    world.tlb.invpcid(&world.memory, PAGING, 3, P1, Gva(0));
    assert!(!world.has(P1, A) && !world.has(P2, A) && world.has_global());
}

#[test]
fn a_cr3_load_removes_what_is_tagged_with_the_new_pcid() {
    let mut world = World::new();
    world.load(P2, ROOT, true);
    assert!(!world.has(P2, A));
    assert_eq!(world.structures(P2), 0);
}

#[test]
fn a_cr3_load_keeps_the_old_pcid_and_globals() {
    let mut world = World::new();
    world.load(P2, ROOT, true);
    assert!(world.has(P1, A) && world.has_global());
}

#[test]
fn a_noflush_load_keeps_everything() {
    let mut world = World::new();
    world.load(P2, OTHER_ROOT, false);
    assert!(world.has(P1, A) && world.has(P2, A) && world.has_global());
    let foreign = world.tlb.entries(Tag::Pcid(P2)).all(|entry| entry.root == ROOT);
    assert!(foreign, "the entries remember the root that they came from");
}

#[test]
fn a_noflush_load_makes_the_pcid_current_for_the_new_root() {
    let mut world = World::new();
    world.load(P2, OTHER_ROOT, false);
    assert_eq!(world.tlb.current(), P2);
    assert_eq!(world.tlb.root(Tag::Pcid(P2)), Some(OTHER_ROOT));
}

#[test]
fn without_pcide_a_cr3_load_removes_pcid_0() {
    let zero = Pcid::new(0);
    let mut world = World::new();
    world.load(zero, ROOT, true);
    world.access(A);
    world.load(zero, ROOT, true);
    assert!(!world.has(zero, A));
}

#[test]
fn without_pcide_a_cr3_load_keeps_globals() {
    let mut world = World::new();
    world.load(Pcid::new(0), ROOT, true);
    assert!(world.has_global());
}

#[test]
fn a_change_of_pge_removes_everything() {
    for (old, new) in [(0, cr4::PGE), (cr4::PGE, 0)] {
        let mut world = World::new();
        world.tlb.write_cr4(&world.memory, PAGING, old, new);
        assert!(!world.has(P1, A) && !world.has(P2, A) && !world.has_global());
    }
}

#[test]
fn a_write_to_cr4_that_changes_nothing_keeps_everything() {
    let mut world = World::new();
    world.tlb.write_cr4(&world.memory, PAGING, cr4::PGE, cr4::PGE | cr4::OSFXSR);
    assert!(world.has(P1, A) && world.has(P2, A) && world.has_global());
}

#[test]
fn clearing_pcide_removes_everything_and_setting_it_nothing() {
    let mut world = World::new();
    world.tlb.write_cr4(&world.memory, PAGING, 0, cr4::PCIDE);
    assert!(world.has(P1, A) && world.has(P2, A));
    world.tlb.write_cr4(&world.memory, PAGING, cr4::PCIDE, 0);
    assert!(!world.has(P1, A) && !world.has(P2, A) && !world.has_global());
}

#[test]
fn setting_smep_removes_the_current_pcid_and_keeps_others() {
    let mut world = World::new();
    world.tlb.write_cr4(&world.memory, PAGING, 0, cr4::SMEP);
    assert!(!world.has(P1, A) && world.has(P2, A));
    assert!(world.has_global(), "it may have been cached under PCID 2");
    let mut world = World::new();
    world.tlb.write_cr4(&world.memory, PAGING, cr4::SMEP, 0);
    assert!(world.has(P1, A), "clearing it removes nothing");
}

#[test]
fn setting_smep_removes_the_globals_that_only_the_current_pcid_can_have_cached() {
    let model = TlbModel { fill: Fill::OnDemand, structure_caches: true, seed: 0 };
    let mut world = World { memory: tables(), tlb: Tlb::new(model) };
    world.load(P1, ROOT, true);
    world.access(GLOBAL);
    assert!(world.has_global());
    world.tlb.write_cr4(&world.memory, PAGING, 0, cr4::SMEP);
    assert!(!world.has_global());
}

#[test]
fn a_page_fault_removes_its_global_without_pcids_only() {
    for pcide in [true, false] {
        let mut world = World::new();
        world.tlb.page_fault(&world.memory, Paging { pcide, ..PAGING }, GLOBAL);
        assert_eq!(world.has_global(), pcide);
    }
}

#[test]
fn a_page_fault_removes_its_page_in_the_current_pcid() {
    let mut world = World::new();
    world.tlb.page_fault(&world.memory, PAGING, A);
    assert!(!world.has(P1, A));
    assert_eq!(world.structures(P1), 0, "those used for A");
}

#[test]
fn a_page_fault_keeps_other_pages_and_pcids() {
    let mut world = World::new();
    world.tlb.page_fault(&world.memory, PAGING, A);
    assert!(world.has(P1, B) && world.has(P2, A) && world.has_global());
    assert_eq!(world.structures(P2), 3);
}

#[test]
fn a_stale_structure_entry_leads_a_walk_to_the_old_table() {
    let mut world = World::new();
    // The PDE points at an empty table; the cached one still reaches the old table.
    world.memory.write_word(Gpa(0x4000), 0x7067);
    let unseen = Gva(0x10_3000);
    world.memory.write_word(Gpa(0x5000 + 0x103 * 8), 0xe_0067);
    assert_eq!(world.access(unseen).result.expect("mapped there").frame, Gpa(0xe_0000));
    world.tlb.invlpg(&world.memory, PAGING, B, false);
    let start = world.tlb.walk_start(&world.memory, unseen).expect("a root");
    assert!(walk(&world.memory, start, unseen, PAGING).result.is_err());
}

#[test]
fn without_structure_caches_a_walk_begins_at_the_root() {
    let mut world = World::new();
    world.tlb = Tlb::new(TlbModel { fill: Fill::OnDemand, structure_caches: false, seed: 0 });
    world.load(P1, ROOT, true);
    world.access(A);
    assert_eq!(world.structures(P1), 0);
    assert_eq!(world.tlb.walk_start(&world.memory, A).map(|start| start.table), Some(ROOT));
}

#[test]
fn the_worst_case_fills_what_nobody_touched_and_sets_a_never_d() {
    let memory = tables();
    memory.write_word(Gpa(0x5000 + 0x104 * 8), 0xf_0007);
    let mut tlb = Tlb::new(TlbModel { fill: Fill::WorstCase, structure_caches: true, seed: 0 });
    tlb.load_cr3(&memory, PAGING, P1, ROOT, true);
    let updates = tlb.speculate(&memory, PAGING);
    assert_eq!(updates, [(Gpa(0x5000 + 0x104 * 8), 0xf_0007, 0xf_0027)]);
    let page = Gva(0x10_4000);
    assert_eq!(tlb.held_in(&memory, Tag::Pcid(P1), page, page).len(), 1);
}

#[test]
fn a_global_that_was_removed_under_another_root_is_filled_again() {
    for by_cr4 in [false, true] {
        let memory = tables();
        // OTHER_ROOT maps nothing, so that the refill after the removal finds nothing there.
        memory.write_word(OTHER_ROOT, 0);
        let model = TlbModel { fill: Fill::WorstCase, structure_caches: false, seed: 0 };
        let mut tlb = Tlb::new(model);
        let global = |tlb: &Tlb| !tlb.held_in(&memory, Tag::Global, GLOBAL, GLOBAL).is_empty();
        tlb.load_cr3(&memory, PAGING, P1, ROOT, true);
        tlb.speculate(&memory, PAGING);
        assert!(global(&tlb));
        tlb.load_cr3(&memory, PAGING, P2, OTHER_ROOT, true);
        tlb.speculate(&memory, PAGING);
        if by_cr4 {
            tlb.write_cr4(&memory, PAGING, 0, cr4::PGE);
        } else {
            tlb.invlpg(&memory, PAGING, GLOBAL, false);
        }
        tlb.speculate(&memory, PAGING);
        assert!(!global(&tlb));
        tlb.load_cr3(&memory, PAGING, P1, ROOT, false);
        tlb.speculate(&memory, PAGING);
        assert!(global(&tlb), "a speculating processor may hold it again");
    }
}

/// Tables that both roots have are not looked through when one follows the other, as long as they do.
#[test]
fn globals_of_tables_that_two_roots_share_no_longer_stay_when_the_other_is_loaded() {
    let memory = tables();
    let mut census = Census::default();
    census.add_root(&memory, ROOT);
    census.add_root(&memory, OTHER_ROOT);
    let model = TlbModel { fill: Fill::WorstCase, structure_caches: false, seed: 0 };
    let mut tlb = Tlb::new(model);
    for (pcid, root) in [(P1, ROOT), (P2, OTHER_ROOT), (P1, ROOT)] {
        tlb.load_cr3(&memory, PAGING, pcid, root, true);
        tlb.speculate(&memory, PAGING);
    }
    assert_eq!(tlb.entries(Tag::Global).count(), 0, "walks of either root give it");
    memory.write_word(OTHER_ROOT, 0);
    tlb.table_store(&memory, &census, Store { slot: OTHER_ROOT, old: 0x3067, new: 0 });
    tlb.load_cr3(&memory, PAGING, P2, OTHER_ROOT, true);
    tlb.speculate(&memory, PAGING);
    assert_eq!(tlb.held_in(&memory, Tag::Global, GLOBAL, GLOBAL).len(), 1);
    assert!(tlb.held_in(&memory, Tag::Pcid(P2), A, A).is_empty());
}

#[test]
fn invpcid_address_empties_the_page_of_a_pcid_that_is_not_current_until_it_is() {
    let memory = tables();
    let model = TlbModel { fill: Fill::WorstCase, structure_caches: true, seed: 0 };
    let mut tlb = Tlb::new(model);
    for pcid in [P2, P1] {
        tlb.load_cr3(&memory, PAGING, pcid, ROOT, true);
        tlb.speculate(&memory, PAGING);
    }
    let has = |tlb: &Tlb, pcid, va| !tlb.held_in(&memory, Tag::Pcid(pcid), va, va).is_empty();
    tlb.invpcid(&memory, PAGING, 0, P2, A);
    assert!(!has(&tlb, P2, A) && has(&tlb, P2, B) && has(&tlb, P1, A));
    assert_eq!(tlb.held_structures(&memory, P2).len(), 0, "all of them translate A");
    tlb.load_cr3(&memory, PAGING, P2, ROOT, false);
    tlb.speculate(&memory, PAGING);
    assert!(has(&tlb, P2, A), "speculation may bring it back");
    assert_eq!(tlb.held_structures(&memory, P2).len(), 3);
}

#[test]
fn lazy_a_fills_nothing_whose_a_bit_is_clear_and_sets_none() {
    let memory = tables();
    let slot = 0x5000 + 0x104 * 8;
    memory.write_word(Gpa(slot), 0xf_0007);
    let mut census = Census::default();
    census.add_root(&memory, ROOT);
    let mut tlb = Tlb::new(TlbModel { fill: Fill::LazyA, structure_caches: true, seed: 0 });
    tlb.load_cr3(&memory, PAGING, P1, ROOT, true);
    assert_eq!(tlb.speculate(&memory, PAGING), []);
    let page = Gva(0x10_4000);
    let has = |tlb: &Tlb, va| !tlb.held_in(&memory, Tag::Pcid(P1), va, va).is_empty();
    assert!(has(&tlb, A) && !has(&tlb, page));
    // An access sets A: from now on speculation may fill it.
    memory.write_word(Gpa(slot), 0xf_0027);
    let accessed = Store { slot: Gpa(slot), old: 0xf_0007, new: 0xf_0027 };
    tlb.accessed_dirty(&memory, &census, accessed);
    tlb.speculate(&memory, PAGING);
    assert!(has(&tlb, page));
    tlb.invlpg(&memory, PAGING, page, false);
    assert!(has(&tlb, page), "a speculating processor may have it back at once");
    memory.write_word(Gpa(slot), 0xf_0007);
    let cleared = Store { slot: Gpa(slot), old: 0xf_0027, new: 0xf_0007 };
    tlb.table_store(&memory, &census, cleared);
    tlb.invlpg(&memory, PAGING, page, false);
    tlb.speculate(&memory, PAGING);
    assert!(!has(&tlb, page), "A was cleared, and then it was flushed");
}

/// Fills and evicts one in eight.
struct Chance(u64);

impl Chooser for Chance {
    fn choose(&mut self, _: Point<'_>) -> usize {
        usize::from(split_mix(&mut self.0).is_multiple_of(8))
    }
}

#[test]
fn seeded_choices_are_the_same_for_the_same_seed_and_not_for_another() {
    let memory = tables();
    let run = |seed| {
        let mut tlb = Tlb::new(TlbModel { fill: Fill::Seeded, structure_caches: true, seed });
        tlb.load_cr3(&memory, PAGING, P1, ROOT, true);
        let mut chance = Chance(seed);
        let mut choose = || tlb.choose(&memory, PAGING, CpuId(0), &mut chance);
        (0..64).flat_map(|_| choose()).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let filled = |chosen: &&Chosen| matches!(chosen, Chosen::Filled(_));
    let evicted = |chosen: &&Chosen| matches!(chosen, Chosen::Evicted(..));
    assert!(run(1).iter().any(|chosen| filled(&chosen)));
    assert!(run(1).iter().any(|chosen| evicted(&chosen)));
}

#[test]
fn an_eviction_takes_one_page_of_one_tag() {
    let mut world = World::new();
    world.tlb.evict(Tag::Pcid(P1), A);
    assert!(!world.has(P1, A) && world.has(P1, B) && world.has(P2, A));
}

/// Where the 1 GiB page is mapped, and its frame.
const HUGE: Gva = Gva(0x4000_0000);

fn with_huge() -> World {
    let mut world = World::new();
    world.memory.write_word(Gpa(0x3008), 0x8000_00e7);
    world.access(HUGE);
    world
}

#[test]
fn a_1_gib_page_translates_all_of_itself_and_any_invlpg_in_it_removes_it() {
    let mut world = with_huge();
    let last = Gva(HUGE.0 + (1 << 30) - 1);
    assert!(world.has(P1, HUGE) && world.has(P1, last) && !world.has(P1, Gva(last.0 + 1)));
    let found = world.tlb.peek(&world.memory, P1, last).expect("cached");
    assert_eq!(found.at(last), Gpa(0x8000_0000 + (1 << 30) - 1));
    world.tlb.invlpg(&world.memory, PAGING, Gva(HUGE.0 + 0x1234_5000), false);
    assert!(!world.has(P1, HUGE) && !world.has(P1, last));
}

#[test]
fn of_a_1_gib_page_that_was_split_the_other_fractures_may_stay() {
    let mut world = with_huge();
    world.memory.write_word(Gpa(0x3008), 0x7067);
    world.memory.write_word(Gpa(0x7000), 0xc000_00e7);
    world.tlb.invlpg(&world.memory, PAGING, HUGE, false);
    assert!(!world.has(P1, HUGE) && !world.has(P1, Gva(HUGE.0 + 0x1000)));
    assert!(world.has(P1, Gva(HUGE.0 + 0x20_0000)));
}

#[test]
fn without_1_gib_pages_ps_in_a_pdpte_is_reserved_and_with_them_bits_29_to_13_are() {
    let memory = tables();
    memory.write_word(Gpa(0x3008), 0x8000_00e7);
    let without = Paging { gib_pages: false, ..PAGING };
    let result = |paging| walk(&memory, Start::root(ROOT), HUGE, paging).result;
    assert_eq!(result(without), Err(WalkFailure::Reserved));
    assert!(result(PAGING).is_ok());
    for bit in 13..30 {
        memory.write_word(Gpa(0x3008), 0x8000_00e7 | 1 << bit);
        assert_eq!(result(PAGING), Err(WalkFailure::Reserved), "bit {bit}");
    }
    memory.write_word(Gpa(0x3008), 0x8000_00e7 | 1 << 12);
    assert!(result(PAGING).is_ok(), "bit 12 is PAT");
}

#[test]
fn dropped_fractures_leave_the_shadow_pages() {
    let mut world = World::new();
    world.memory.write_word(Gpa(0x4008), 0x6067);
    world.memory.write_word(Gpa(0x6000), 0xd_0067);
    let effect = world.tlb.invlpg(&world.memory, PAGING, LARGE, false);
    assert_eq!(effect.scope, Scope::Pages(vec![LARGE]));
}

/// The last page of all ends where addresses do.
#[test]
fn the_topmost_page_turns_stale_like_any_other() {
    let top = Gva(0xffff_ffff_ffff_f000);
    let mut world = World::new();
    for (slot, entry) in
        [(ROOT.0 + 0xff8, 0x6067), (0x6ff8, 0x7067), (0x7ff8, 0x8067), (0x8ff8, 0xa_0067)]
    {
        world.memory.write_word(Gpa(slot), entry);
    }
    world.access(top);
    let stale = |world: &World| {
        let tag = Tag::Pcid(P1);
        let entry = world.tlb.entries_in(tag, top, top).next().expect("it is cached");
        world.tlb.stale_at(&world.memory, PAGING, tag, entry)
    };
    assert_eq!(stale(&world), None);
    world.memory.write_word(Gpa(0x8ff8), 0);
    assert_eq!(stale(&world), Some(top));
}
