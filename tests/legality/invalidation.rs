//! When INVPCID and INVLPG fault, and what invalidates nothing.

use crate::world::{IDT, World, gp, ud};
use stalemate::arch::addr::Gva;
use stalemate::arch::op::{ControlRegister, Op};
use stalemate::arch::vcpu::cr4;

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
