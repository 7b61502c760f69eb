//! IRET, SYSRET and LTR: what they accept, and what they change.

use super::world::{GDT, World, gp};
use stalemate_model::arch::addr::Gpa;
use stalemate_model::arch::fault::{Exception, Fault};
use stalemate_model::arch::op::Op;
use stalemate_model::arch::vcpu::{efer, flags, gpr};

const USER_CODE: u64 = 0x8b;
const USER_DATA: u64 = 0x93;
const FRAME: u64 = 0xc000;

/// A world with a user code segment, and a stack that user mode may use.
fn world() -> World {
    let mut world = World::new(true, true);
    world.make_user_page();
    world.memory.write_word(Gpa(GDT + 0x88), 0x00af_fb00_0000_ffff);
    world.vcpu.gpr[gpr::RSP] = FRAME;
    world
}

/// IRETQ from this frame: RIP, CS, RFLAGS, RSP, SS.
fn iret(world: &mut World, frame: [u64; 5]) -> Result<(), Fault> {
    for (index, word) in (0..).zip(frame) {
        world.memory.write_word(Gpa(FRAME + index * 8), word);
    }
    world.execute(Op::Iret)
}

fn refused(selector: u32) -> Result<(), Fault> {
    Err(Exception::general_protection(selector).into())
}

#[test]
fn iret_takes_over_its_frame() {
    let mut world = world();
    let to = [0x1234, USER_CODE, flags::IF | flags::CF, 0x5678, USER_DATA];
    assert_eq!(iret(&mut world, to), Ok(()));
    let vcpu = &world.vcpu;
    assert_eq!((vcpu.rip, vcpu.gpr[gpr::RSP], vcpu.cpl), (0x1234, 0x5678, 3));
    assert_eq!((u64::from(vcpu.cs), u64::from(vcpu.ss)), (USER_CODE, USER_DATA));
    assert_eq!(vcpu.rflags, flags::FIXED | flags::IF | flags::CF);
}

#[test]
fn iret_refuses_bad_frames_and_changes_nothing() {
    for (what, frame, error) in [
        ("a null SS in user mode", [0x1234, USER_CODE, 2, 0, 3], 0),
        ("an SS of another privilege", [0x1234, USER_CODE, 2, 0, 0x90], 0x90),
        ("user mode in kernel code", [0x1234, 0x83, 2, 0, USER_DATA], 0x80),
        ("kernel mode in user code", [0x1234, 0x88, 2, 0, 0], 0x88),
        ("a null CS", [0x1234, 3, 2, 0, USER_DATA], 0),
        ("a CS beyond the GDT", [0x1234, 0x103, 2, 0, USER_DATA], 0x100),
        ("a CS of the LDT", [0x1234, 0x8f, 2, 0, USER_DATA], 0x8c),
        ("a RIP that is not canonical", [1 << 47, USER_CODE, 2, 0, USER_DATA], 0),
    ] {
        let mut world = world();
        let before = world.vcpu.clone();
        assert_eq!(iret(&mut world, frame), refused(error), "{what}");
        assert_eq!(world.vcpu, before, "{what}");
    }
    // In 64-bit mode the kernel runs with a null SS.
    assert_eq!(iret(&mut world(), [0x1234, 0x80, 2, 0x7000, 0]), Ok(()));
}

#[test]
fn user_mode_returns_to_user_mode_with_its_own_if_and_iopl() {
    let mut world = world();
    world.vcpu.cpl = 3;
    world.vcpu.rflags = flags::FIXED | flags::IF;
    let to = [0x1234, USER_CODE, flags::IOPL | flags::ZF, 0x5678, USER_DATA];
    assert_eq!(iret(&mut world, to), Ok(()));
    assert_eq!(world.vcpu.rflags, flags::FIXED | flags::IF | flags::ZF);
    world.vcpu.gpr[gpr::RSP] = FRAME;
    assert_eq!(iret(&mut world, [0x1234, 0x80, 2, 0, 0x88]), refused(0x80), "never upwards");
}

#[test]
fn sysret_needs_its_feature_and_a_canonical_rip() {
    let mut world = world();
    world.vcpu.gpr[gpr::RCX] = 0x1234;
    assert_eq!(world.execute(Op::Sysret), Err(Exception::INVALID_OPCODE.into()));
    world.vcpu.efer |= efer::SCE;
    world.vcpu.gpr[gpr::RCX] = 1 << 47;
    let before = world.vcpu.clone();
    assert_eq!(world.execute(Op::Sysret), gp());
    assert_eq!(world.vcpu, before);
    world.vcpu.gpr[gpr::RCX] = 0x1234;
    world.vcpu.gpr[gpr::R11] = flags::IF | flags::RF | flags::VM;
    world.vcpu.star = 0x78 << 48;
    assert_eq!(world.execute(Op::Sysret), Ok(()));
    let vcpu = &world.vcpu;
    assert_eq!((vcpu.rip, vcpu.cpl, vcpu.rflags), (0x1234, 3, flags::FIXED | flags::IF));
    assert_eq!((u64::from(vcpu.cs), vcpu.ss), (USER_CODE, 0x83));
}

#[test]
fn ltr_loads_an_available_tss_and_makes_it_busy() {
    let mut world = world();
    // Base 0x12_3456_789a, limit 0x1_0067.
    world.memory.write_word(Gpa(GDT + 0xa0), 0x3401_8956_789a_0067);
    world.memory.write_word(Gpa(GDT + 0xa8), 0x12);
    assert_eq!(world.execute(Op::Ltr(0xa0)), Ok(()));
    let vcpu = &world.vcpu;
    assert_eq!((vcpu.tr, vcpu.tss_base, vcpu.tss_limit), (0xa0, 0x12_3456_789a, 0x1_0067));
    assert_eq!(world.memory.read_word(Gpa(GDT + 0xa0)), 0x3401_8b56_789a_0067);
    assert_eq!(world.execute(Op::Ltr(0xa0)), refused(0xa0), "it is busy");
    assert_eq!(world.execute(Op::Ltr(0xf8)), refused(0xf8), "half of it is beyond the GDT");
    assert_eq!(world.execute(Op::Ltr(0x80)), refused(0x80), "it is code");
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
