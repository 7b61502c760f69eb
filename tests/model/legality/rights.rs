//! Which accesses a walk and what is cached grant: CR0.WP, CR4.SMEP, page sizes.

use super::world::{GDT, World};
use stalemate_model::arch::addr::{CpuId, Gpa, Gva};
use stalemate_model::arch::core::IMPLICIT_WRITE;
use stalemate_model::arch::fault::{Exception, Fault};
use stalemate_model::arch::features::CpuFeatures;
use stalemate_model::arch::op::{ControlRegister, Op};
use stalemate_model::arch::tlb::Scope;
use stalemate_model::arch::vcpu::{cr0, cr4, efer};
use stalemate_model::arch::walk::{Access, AccessKind};

#[test]
fn wp_judges_cached_rights_at_once_and_invalidates_nothing() {
    let mut world = World::new(true, true);
    world.memory.write_word(Gpa(0x4000 + 0xc * 8), 0xc061);
    let store =
        |world: &mut World| world.with(|core| core.write(Gva(0xc000), &[1], IMPLICIT_WRITE));
    let read_only: Result<(), Fault> = Err(Exception::page_fault(Gva(0xc000), 3).into());
    assert_eq!(store(&mut world), read_only);
    let (with, held) = (world.vcpu.cr0, world.held());
    world.write(ControlRegister::Cr0, with & !cr0::WP).expect("legal");
    assert_eq!(store(&mut world), Ok(()));
    let filled = world.held();
    assert!(filled > held);
    world.log.scopes.clear();
    world.write(ControlRegister::Cr0, with).expect("legal");
    assert_eq!(world.held(), filled);
    assert_eq!(
        world.log.scopes,
        [(CpuId(0), Scope::Everything)],
        "what runs natively is looked at again"
    );
    assert_eq!(store(&mut world), read_only);
}

/// A world whose page at 0xc000 is a user page.
fn with_a_user_page() -> World {
    let world = World::new(true, true);
    world.make_user_page();
    world
}

fn fetch(world: &mut World, user: bool) -> Result<(), Fault> {
    let access = Access { kind: AccessKind::Execute, user };
    world.with(|core| core.translate(Gva(0xc000), access)).map(|_| ())
}

#[test]
fn smep_keeps_the_kernel_from_executing_user_pages() {
    let mut world = with_a_user_page();
    assert_eq!(fetch(&mut world, false), Ok(()));
    world.write(ControlRegister::Cr4, cr4::PAE | cr4::SMEP).expect("legal");
    // P and I/D.
    let refused: Result<(), Fault> = Err(Exception::page_fault(Gva(0xc000), 0x11).into());
    assert_eq!(fetch(&mut world, false), refused);
    assert_eq!(fetch(&mut world, true), Ok(()), "user mode may");
    assert_eq!(fetch(&mut world, false), refused, "nor by what user mode has cached");
    assert!(world.with(|core| core.read_implicit(Gva(0xc000))).is_ok(), "reading is SMAP's");
    world.write(ControlRegister::Cr4, cr4::PAE).expect("legal");
    assert_eq!(fetch(&mut world, false), Ok(()));
}

#[test]
fn a_fetch_says_so_in_its_error_code_with_smep_or_nxe_only() {
    let absent = |world: &mut World| {
        let access = Access { kind: AccessKind::Execute, user: false };
        world.with(|core| core.translate(Gva(0x30_0000), access))
    };
    for (nxe, smep, error) in
        [(true, false, 0x10), (false, true, 0x10), (true, true, 0x10), (false, false, 0)]
    {
        let mut world = World::new(true, true);
        if !nxe {
            world.vcpu.efer &= !efer::NXE;
        }
        if smep {
            world.write(ControlRegister::Cr4, cr4::PAE | cr4::SMEP).expect("legal");
        }
        let expected = Exception::page_fault(Gva(0x30_0000), error);
        assert_eq!(absent(&mut world), Err(expected.into()), "NXE {nxe} SMEP {smep}");
    }
}

#[test]
fn setting_smep_empties_the_current_pcid_and_clearing_it_nothing() {
    let mut world = with_a_user_page();
    fetch(&mut world, false).expect("mapped");
    world.write(ControlRegister::Cr4, cr4::PAE | cr4::SMEP).expect("legal");
    assert_eq!(world.held(), 0);
    fetch(&mut world, true).expect("mapped");
    let held = world.held();
    world.write(ControlRegister::Cr4, cr4::PAE).expect("legal");
    assert_eq!(world.held(), held);
}

const GIB: u64 = 1 << 30;

/// Reads the first word of the GDT through the second gibibyte, mapped by this PDPTE.
fn read_through_pdpte(features: CpuFeatures, entry: u64) -> Result<u64, Fault> {
    let mut world = World::with_features(features);
    world.memory.write_word(Gpa(0x2008), entry);
    world.with(|core| core.read_implicit(Gva(GIB + GDT + 0x80)))
}

#[test]
fn a_pdpte_maps_a_1_gib_page_where_the_processor_has_them() {
    let has = CpuFeatures { gib_pages: true, ..CpuFeatures::default() };
    let segment = 0x00af_9b00_0000_ffff;
    assert_eq!(read_through_pdpte(has, 0xe3), Ok(segment));
    assert_eq!(read_through_pdpte(has, 0x10e3), Ok(segment), "bit 12 is PAT");
    // P and RSVD.
    let reserved: Result<u64, Fault> = Err(Exception::page_fault(Gva(GIB + GDT + 0x80), 9).into());
    assert_eq!(read_through_pdpte(CpuFeatures::default(), 0xe3), reserved);
    for bit in 13..30 {
        assert_eq!(read_through_pdpte(has, 0xe3 | 1 << bit), reserved, "bit {bit}");
    }
    let says = |features| World::with_features(features).vcpu.cpuid(0x8000_0001, 0)[3] >> 26 & 1;
    assert_eq!([has, CpuFeatures::default()].map(says), [1, 0]);
}

#[test]
fn the_page_size_bit_of_a_pml4e_is_reserved() {
    let mut world = World::new(true, true);
    world.memory.write_word(Gpa(0x1008), 0x20e3);
    let va = Gva(1 << 39);
    let expected = Exception::page_fault(va, 9);
    assert_eq!(world.with(|core| core.read_implicit(va)), Err(expected.into()));
}

#[test]
fn a_walk_sets_a_on_each_level_and_a_store_d_at_the_leaf_alone() {
    let mut world = World::new(true, true);
    let slots = [0x7000u64, 0x6000, 0x2008];
    for (slot, entry) in slots.into_iter().zip([0xc003, 0x7003, 0x6003]) {
        world.memory.write_word(Gpa(slot), entry);
    }
    let low_bits = |world: &World| slots.map(|slot| world.memory.read_word(Gpa(slot)) & 0xfff);
    world.with(|core| core.read_implicit(Gva(GIB))).expect("mapped");
    assert_eq!(low_bits(&world), [0x23, 0x23, 0x23]);
    // From the root again, not from what is cached.
    world.execute(Op::Invlpg(Gva(GIB))).expect("legal");
    world.with(|core| core.write(Gva(GIB), &[1], IMPLICIT_WRITE)).expect("mapped");
    assert_eq!(low_bits(&world), [0x63, 0x23, 0x23]);
}
