//! Exceptions, and the return from them, go through the guest's own tables.

use crate::world::{IDT, World, gp};
use stalemate::arch::addr::{Gpa, Gva};
use stalemate::arch::core::Memory;
use stalemate::arch::deliver::deliver;
use stalemate::arch::fault::{Exception, Stop};
use stalemate::arch::op::Op;
use stalemate::arch::vcpu::gpr;

#[test]
fn an_exception_pushes_its_frame_on_its_ist_stack() {
    let mut world = World::new(true, true);
    world.gate(14);
    world.vcpu.gpr[gpr::RSP] = 0x7000;
    let delivered = world.with(|core| deliver(core, Exception::page_fault(Gva(0xdead000), 2)));
    assert_eq!(delivered, Ok(()));
    assert_eq!((world.vcpu.rip, world.vcpu.cr2), (0x5500, 0xdead000));
    assert_eq!(world.vcpu.gpr[gpr::RSP], 0x1_0000 - 48);
    let word = |index: u64| world.memory.read_word(Gpa(0x1_0000 - 48 + index * 8));
    assert_eq!((word(0), word(1), word(4)), (2, 0x5000, 0x7000));
}

#[test]
fn a_stack_that_is_not_mapped_makes_a_double_and_then_a_triple_fault() {
    let mut world = World::new(true, true);
    world.gate(14);
    // The IST stack's page is unmapped.
    world.memory.write_word(Gpa(0x4000 + 0xf * 8), 0);
    let fault = Exception::page_fault(Gva(0x30_0000), 0);
    let triple = world.with(|core| deliver(core, fault));
    assert_eq!(triple, Err(Stop::TripleFault { vector: 14 }));
    // With a double fault gate on a stack that is mapped, the guest gets vector 8.
    world.stack(2, 0x1_1000);
    world.gate(8);
    world.memory.write(Gpa(IDT + 8 * 16 + 4), &[2]);
    assert_eq!(world.with(|core| deliver(core, fault)), Ok(()));
    assert_eq!(world.vcpu.gpr[gpr::RSP], 0x1_1000 - 48);
}

#[test]
fn delivery_goes_through_the_tlb_stale_entries_included() {
    let mut world = World::new(true, true);
    world.gate(14);
    world.with(|core| core.read_implicit(Gva(IDT + 14 * 16))).expect("mapped");
    // The IDT's page is unmapped in memory; the cached translation still serves.
    world.memory.write_word(Gpa(0x4000 + 9 * 8), 0);
    let fault = Exception::page_fault(Gva(0x30_0000), 0);
    assert_eq!(world.with(|core| deliver(core, fault)), Ok(()));
    world.execute(Op::Invlpg(Gva(IDT))).expect("legal");
    assert!(world.with(|core| deliver(core, fault)).is_err());
}

#[test]
fn an_unknown_msr_and_a_user_mode_return_to_the_kernel_fault() {
    let mut world = World::new(true, true);
    assert_eq!(world.execute(Op::Rdmsr(0x1234_5678)), gp());
    world.vcpu.cpl = 3;
    world.vcpu.gpr[gpr::RSP] = 0xc000;
    // CS 0x80 has RPL 0.
    world.memory.write_word(Gpa(0xc008), 0x80);
    world.make_user_page();
    let expected = Exception::general_protection(0x80);
    assert_eq!(world.execute(Op::Iret), Err(expected.into()));
}
