//! What MOV to CR3 and CR4 and WRMSR of EFER accept, and who may write a control register.

use super::world::{IDT, World, gp};
use stalemate_model::arch::addr::{Gpa, Gva, Pcid};
use stalemate_model::arch::fault::Stop;
use stalemate_model::arch::features::CpuFeatures;
use stalemate_model::arch::op::{ControlRegister, Op};
use stalemate_model::arch::vcpu::{cr4, efer};

const NOFLUSH: u64 = 1 << 63;

#[test]
fn bit_63_of_cr3_needs_pcide_and_is_never_stored() {
    let mut world = World::new(true, true);
    assert_eq!(world.write(ControlRegister::Cr3, 0x1000 | NOFLUSH), gp());
    world.write(ControlRegister::Cr4, cr4::PAE | cr4::PCIDE).expect("legal");
    world.write(ControlRegister::Cr3, 0x1001 | NOFLUSH).expect("legal");
    assert_eq!(world.vcpu.cr3, 0x1001);
}

#[test]
fn reserved_bits_of_cr3_fault_and_roots_beyond_memory_stop() {
    let mut world = World::new(true, true);
    assert_eq!(world.write(ControlRegister::Cr3, 1 << 52), gp());
    assert_eq!(world.write(ControlRegister::Cr3, 1 << 40), gp());
    let beyond = world.write(ControlRegister::Cr3, 0x10_0000);
    assert_eq!(beyond, Err(Stop::BeyondMemory(Gpa(0x10_0000)).into()));
}

#[test]
fn pcide_needs_the_feature_and_a_cr3_whose_low_bits_are_0() {
    let with = cr4::PAE | cr4::PCIDE;
    assert_eq!(World::new(false, false).write(ControlRegister::Cr4, with), gp());
    let mut world = World::new(true, true);
    world.write(ControlRegister::Cr3, 0x1018).expect("PWT and PCD");
    assert_eq!(world.write(ControlRegister::Cr4, with), gp());
    world.write(ControlRegister::Cr3, 0x1000).expect("legal");
    assert_eq!(world.write(ControlRegister::Cr4, with), Ok(()));
}

#[test]
fn every_bit_of_cr4_that_the_processor_lacks_is_refused() {
    let basic = cr4::PSE | cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    let none = CpuFeatures::default();
    for (features, extra) in [
        (none, 0),
        (CpuFeatures { pge: true, ..none }, cr4::PGE),
        (CpuFeatures { pcid: true, ..none }, cr4::PCIDE),
        (CpuFeatures { smep: true, ..none }, cr4::SMEP),
    ] {
        for bit in (0..64).map(|bit| 1u64 << bit) {
            let legal = (basic | extra) & bit != 0;
            let mut world = World::with_features(features);
            let before = world.vcpu.clone();
            let got = world.write(ControlRegister::Cr4, cr4::PAE | bit);
            assert_eq!(got, if legal { Ok(()) } else { gp() }, "{features:?} {bit:#x}");
            if !legal {
                assert_eq!(world.vcpu, before, "{bit:#x} refused and yet changed something");
            }
        }
    }
}

#[test]
fn pae_cannot_be_cleared_in_long_mode() {
    let mut world = World::new(true, true);
    assert_eq!(world.write(ControlRegister::Cr4, 0), gp());
    assert_eq!(world.write(ControlRegister::Cr4, cr4::PGE), gp());
    assert_eq!(world.write(ControlRegister::Cr4, cr4::PAE | cr4::PGE), Ok(()));
}

#[test]
fn pcide_needs_long_mode_when_it_is_set_and_nothing_to_stay() {
    let with = cr4::PAE | cr4::PCIDE;
    let mut world = World::new(true, true);
    let long_mode = world.vcpu.efer;
    world.vcpu.efer &= !efer::LMA;
    assert_eq!(world.write(ControlRegister::Cr4, with), gp());
    world.vcpu.efer = long_mode;
    world.write(ControlRegister::Cr4, with).expect("legal");
    world.write(ControlRegister::Cr3, 0x1001).expect("legal");
    assert_eq!(world.write(ControlRegister::Cr4, with | cr4::PGE), Ok(()), "it does not change");
}

#[test]
fn clearing_pcide_makes_pcid_0_current_and_empties_the_tlb() {
    let mut world = World::new(true, true);
    world.write(ControlRegister::Cr4, cr4::PAE | cr4::PCIDE).expect("legal");
    world.write(ControlRegister::Cr3, 0x1001).expect("legal");
    world.with(|core| core.read_implicit(Gva(IDT))).expect("mapped");
    world.write(ControlRegister::Cr4, cr4::PAE).expect("legal");
    assert_eq!((world.vcpu.pcid(), world.tlb.current()), (Pcid::new(0), Pcid::new(0)));
    assert_eq!(world.held(), 0);
    world.with(|core| core.read_implicit(Gva(IDT))).expect("mapped");
    assert!(world.tlb.peek(&world.memory, Pcid::new(0), Gva(IDT)).is_some(), "filled under PCID 0");
}

#[test]
fn user_mode_writes_no_control_register() {
    let mut world = World::new(true, true);
    world.vcpu.cpl = 3;
    for (register, value) in [
        (ControlRegister::Cr0, world.vcpu.cr0),
        (ControlRegister::Cr2, 0),
        (ControlRegister::Cr3, world.vcpu.cr3),
        (ControlRegister::Cr4, world.vcpu.cr4),
    ] {
        assert_eq!(world.write(register, value), gp(), "{register:?}");
    }
}

#[test]
fn efer_keeps_lme_while_paging_is_on_and_lma_always() {
    let mut world = World::new(true, true);
    let wrmsr = |world: &mut World, value| world.execute(Op::Wrmsr { msr: 0xc000_0080, value });
    let now = world.vcpu.efer;
    assert_eq!(wrmsr(&mut world, now & !efer::LME), gp());
    assert_eq!(wrmsr(&mut world, now | 1 << 12), gp());
    assert_eq!(world.vcpu.efer, now);
    assert_eq!(wrmsr(&mut world, now & !(efer::LMA | efer::NXE)), Ok(()));
    assert_eq!(world.vcpu.efer, now & !efer::NXE, "LMA is read-only");
}
