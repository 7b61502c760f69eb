//! Exceptions go through the guest's own tables.

use super::world::{GDT, IDT, World};
use stalemate_model::arch::addr::{Gpa, Gva};
use stalemate_model::arch::core::{Done, Memory};
use stalemate_model::arch::deliver::deliver;
use stalemate_model::arch::fault::{Exception, Stop};
use stalemate_model::arch::happened::Happened;
use stalemate_model::arch::op::Op;
use stalemate_model::arch::vcpu::{flags, gpr};

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

/// The vector of the last delivery.
fn delivered(world: &World) -> Option<u8> {
    let mut vectors = world.log.entries.iter().filter_map(|entry| match entry.what {
        Done::Happened(Happened::Delivered { vector, .. }) => Some(vector),
        _ => None,
    });
    vectors.next_back()
}

#[test]
fn a_second_fault_doubles_or_is_delivered_itself() {
    let page_fault = Exception::page_fault(Gva(0x30_0000), 0);
    let general = Exception::general_protection(0);
    // A gate that is none makes #GP, a stack that is not mapped #PF (SDM vol. 3, table 6-5).
    for (first, bad_gate, expected) in [
        (page_fault, true, 8),
        (page_fault, false, 8),
        (general, true, 8),
        (general, false, 14),
        (Exception::INVALID_OPCODE, true, 13),
        (Exception::INVALID_OPCODE, false, 14),
    ] {
        let mut world = World::new(true, true);
        [6, 8, 13, 14].into_iter().for_each(|vector| world.gate(vector));
        let gate = IDT + u64::from(first.vector) * 16;
        if bad_gate {
            world.memory.write(Gpa(gate + 5), &[0]);
        } else {
            world.stack(2, 0x30_0000);
            world.memory.write(Gpa(gate + 4), &[2]);
        }
        assert_eq!(world.with(|core| deliver(core, first)), Ok(()));
        assert_eq!(delivered(&world), Some(expected), "{first:?}, bad gate {bad_gate}");
    }
}

#[test]
fn faults_push_rf_and_nothing_else_does() {
    for (exception, pushed) in [
        (Exception::INVALID_OPCODE, true),
        (Exception::page_fault(Gva(0x30_0000), 0), true),
        (Exception::NMI, false),
        (Exception::interrupt(3), false),
        (Exception::interrupt(32), false),
    ] {
        let mut world = World::new(true, true);
        world.gate(exception.vector.into());
        world.vcpu.rflags |= flags::TF;
        assert_eq!(world.with(|core| deliver(core, exception)), Ok(()));
        let image = world.memory.read_word(Gpa(0x1_0000 - 24));
        assert_eq!(image & flags::RF != 0, pushed, "{exception:?}");
        assert_eq!(image & flags::TF, flags::TF);
        assert_eq!(world.vcpu.rflags & (flags::TF | flags::RF | flags::IF), 0);
    }
}

#[test]
fn an_nmi_blocks_nmis_until_iret_and_other_vectors_do_not() {
    let mut world = World::new(true, true);
    [2, 32].into_iter().for_each(|vector| world.gate(vector));
    assert_eq!(world.with(|core| deliver(core, Exception::interrupt(32))), Ok(()));
    assert!(!world.vcpu.nmi_blocked);
    assert_eq!(world.with(|core| deliver(core, Exception::NMI)), Ok(()));
    assert!(world.vcpu.nmi_blocked);
    world.vcpu.nmi_pending = true;
    assert!(!world.vcpu.is_interrupted());
    assert_eq!(world.execute(Op::Iret), Ok(()));
    assert!(!world.vcpu.nmi_blocked && world.vcpu.is_interrupted());
}

#[test]
fn a_gate_leads_to_kernel_code_only() {
    let mut world = World::new(true, true);
    world.gate(6);
    world.gate(11);
    world.gate(13);
    // Not present, data, without L, of privilege 3.
    for (descriptor, vector) in
        [(0x00af_1b00u64, 11), (0x00af_9300, 13), (0x008f_9b00, 13), (0x00af_fb00, 13)]
    {
        world.memory.write_word(Gpa(GDT + 0x90), descriptor << 32 | 0xffff);
        world.memory.write(Gpa(IDT + 6 * 16 + 2), &[0x90, 0]);
        assert_eq!(world.with(|core| deliver(core, Exception::INVALID_OPCODE)), Ok(()));
        assert_eq!(delivered(&world), Some(vector), "{descriptor:#x}");
        assert_eq!(world.memory.read_word(Gpa(0x1_0000 - 48)), 0x90, "{descriptor:#x}");
    }
}
