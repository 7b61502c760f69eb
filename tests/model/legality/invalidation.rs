//! When INVPCID and INVLPG fault, what they let go of, and what invalidates nothing.

use super::world::{IDT, World, gp, ud};
use stalemate_model::arch::addr::{Gpa, Gva};
use stalemate_model::arch::core::{Done, IMPLICIT_WRITE};
use stalemate_model::arch::happened::Happened;
use stalemate_model::arch::op::{ControlRegister, Op};
use stalemate_model::arch::vcpu::cr4;

#[test]
fn invpcid_is_undefined_where_it_does_not_exist() {
    assert_eq!(World::new(true, false).invpcid(2, 0, 0), ud());
    assert_eq!(World::new(true, true).invpcid(2, 0, 0), Ok(()));
}

#[test]
fn invpcid_refuses_bad_types_descriptors_and_addresses() {
    let mut world = World::new(true, true);
    world.write(ControlRegister::Cr4, cr4::PAE | cr4::PCIDE).expect("legal");
    assert_eq!(world.invpcid(4, 0, 0), gp());
    assert_eq!(world.invpcid(1, 0x1000, 0), gp());
    // XSA-279.
    assert_eq!(world.invpcid(0, 1, 0x8000_0000_0000_0000), gp());
    assert_eq!(world.invpcid(1, 1, 0x8000_0000_0000_0000), Ok(()));
}

#[test]
fn invpcid_of_a_pcid_needs_pcide() {
    let mut world = World::new(true, true);
    assert_eq!(world.invpcid(0, 1, 0x1000), gp());
    assert_eq!(world.invpcid(1, 1, 0), gp());
    assert_eq!(world.invpcid(1, 0, 0), Ok(()));
    assert_eq!(world.invpcid(3, 1, 0), Ok(()));
}

#[test]
fn invlpg_never_faults_at_cpl_0_and_always_at_cpl_3() {
    let mut world = World::new(true, true);
    assert_eq!(world.execute(Op::Invlpg(Gva(0x8000_0000_0000_0000))), Ok(()));
    world.vcpu.cpl = 3;
    assert_eq!(world.execute(Op::Invlpg(Gva(0x1000))), gp());
    let read = Op::ReadCr { register: ControlRegister::Cr3, to: 0 };
    assert_eq!(world.execute(read), gp());
}

#[test]
fn wrmsr_and_swapgs_invalidate_nothing() {
    const EFER: u32 = 0xc000_0080;
    let mut world = World::new(true, true);
    world.with(|core| core.read_implicit(Gva(IDT))).expect("mapped");
    let before = world.held();
    assert!(before > 0);
    let value = world.vcpu.efer | 1;
    world.execute(Op::Wrmsr { msr: EFER, value }).expect("SCE may be set");
    world.execute(Op::Swapgs).expect("legal");
    assert_eq!(world.held(), before);
}

#[test]
fn a_table_that_only_a_cached_entry_reaches_is_one_until_that_goes() {
    const PD: u64 = 0x6000;
    const PT: u64 = 0x7000;
    let va = Gva(1 << 30);
    let mut world = World::new(true, true);
    let store = |world: &mut World, slot: u64, entry: u64| {
        world
            .with(|core| core.write(Gva(slot), &entry.to_le_bytes(), IMPLICIT_WRITE))
            .expect("mapped");
    };
    let is_table = |world: &mut World| world.with(|core| core.is_protected(Gpa(PT)));
    for (slot, entry) in [(PT, 0xc063), (PD, PT | 0x63), (0x2008, PD | 0x63)] {
        store(&mut world, slot, entry);
    }
    assert!(is_table(&mut world));
    world.with(|core| core.read_implicit(va)).expect("mapped");
    store(&mut world, PD, 0);
    assert!(is_table(&mut world), "the cached entry of the PD reaches it");
    world.log.entries.clear();
    world.execute(Op::Invlpg(va)).expect("legal");
    assert!(!is_table(&mut world));
    let unlinked = Done::Happened(Happened::TableUnlinked { table: Gpa(PT) });
    assert_eq!(world.log.entries.iter().filter(|entry| entry.what == unlinked).count(), 1);
}
