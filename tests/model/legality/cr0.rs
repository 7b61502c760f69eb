//! What MOV to CR0 accepts.

use super::world::{World, gp};
use stalemate_model::arch::fault::{Fault, Stop};
use stalemate_model::arch::op::ControlRegister;
use stalemate_model::arch::vcpu::{cr0, cr4};

#[test]
fn bits_63_to_32_of_cr0_fault() {
    for bit in 32..64 {
        let mut world = World::new(true, true);
        let value = world.vcpu.cr0 | 1 << bit;
        assert_eq!(world.write(ControlRegister::Cr0, value), gp(), "bit {bit}");
    }
}

#[test]
fn other_reserved_bits_of_cr0_stay_clear_and_et_stays_set() {
    let mut world = World::new(true, true);
    let before = world.vcpu.cr0;
    let reserved = !cr0::DEFINED & 0xffff_ffff;
    assert_eq!(reserved, 0x1ffa_ffc0);
    assert_eq!(world.write(ControlRegister::Cr0, (before | reserved) & !cr0::ET), Ok(()));
    assert_eq!(world.vcpu.cr0, before);
}

#[test]
fn every_defined_bit_of_cr0_that_may_change_does() {
    for bit in [cr0::MP, cr0::NE, cr0::WP, cr0::AM, cr0::CD] {
        let mut world = World::new(true, true);
        let value = world.vcpu.cr0 ^ bit;
        assert_eq!(world.write(ControlRegister::Cr0, value), Ok(()), "{bit:#x}");
        assert_eq!(world.vcpu.cr0, value);
    }
}

#[test]
fn paging_needs_protection() {
    let mut world = World::new(true, true);
    let value = world.vcpu.cr0 & !cr0::PE;
    assert_eq!(world.write(ControlRegister::Cr0, value), gp());
}

#[test]
fn nw_needs_cd() {
    let mut world = World::new(true, true);
    let value = world.vcpu.cr0;
    assert_eq!(world.write(ControlRegister::Cr0, value | cr0::NW), gp());
    assert_eq!(world.write(ControlRegister::Cr0, value | cr0::CD), Ok(()));
    assert_eq!(world.write(ControlRegister::Cr0, value | cr0::CD | cr0::NW), Ok(()));
}

#[test]
fn paging_cannot_be_cleared_in_64_bit_mode_with_or_without_pcide() {
    let mut world = World::new(true, true);
    let (before, without) = (world.vcpu.cr0, world.vcpu.cr0 & !cr0::PG);
    assert_eq!(world.write(ControlRegister::Cr0, without), gp());
    assert_eq!(world.write(ControlRegister::Cr0, without & !cr0::PE), gp());
    world.write(ControlRegister::Cr4, cr4::PAE | cr4::PCIDE).expect("legal");
    assert_eq!(world.write(ControlRegister::Cr0, without), gp());
    assert_eq!(world.vcpu.cr0, before);
}

#[test]
fn em_and_ts_are_stops() {
    let mut world = World::new(true, true);
    let now = world.vcpu.cr0;
    for bit in [cr0::EM, cr0::TS] {
        let stop = world.write(ControlRegister::Cr0, now | bit);
        assert!(matches!(stop, Err(Fault::Stop(Stop::NotModelled(_)))), "{bit:#x}: {stop:?}");
    }
}
