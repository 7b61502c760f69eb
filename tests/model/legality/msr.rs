//! Model-specific registers, and how a processor describes itself.

use super::world::{World, gp};
use stalemate_model::arch::cpuid::Identity;
use stalemate_model::arch::fault::Fault;
use stalemate_model::arch::op::Op;
use stalemate_model::arch::vcpu::gpr;

fn read(world: &mut World, msr: u32) -> Result<u64, Fault> {
    world.execute(Op::Rdmsr(msr))?;
    Ok(world.vcpu.gpr[gpr::RDX] << 32 | world.vcpu.gpr[gpr::RAX])
}

#[test]
fn what_is_written_is_read() {
    let mut world = World::new(true, true);
    world.vcpu.identity = Identity::COMPLETE;
    for (msr, value) in [
        (0x174, 0x10),
        (0x175, 0xffff_8000_0000_0001),
        (0x176, 0x7fff_ffff_ffff),
        (0x277, 0x0407_0506_0007_0106),
        (0xc000_0081, u64::MAX),
        (0xc000_0082, 0xffff_8000_0000_0001),
        (0xc000_0083, 0xffff_8000_0000_0002),
        (0xc000_0084, 0x25_7fd5),
        (0xc000_0100, 0x7f00_0000_1000),
        (0xc000_0101, 0xffff_8000_0000_0003),
        (0xc000_0102, 0xffff_8000_0000_0004),
    ] {
        assert!(world.vcpu.has_msr(msr), "{msr:#x}");
        assert_eq!(world.execute(Op::Wrmsr { msr, value }), Ok(()), "{msr:#x}");
        assert_eq!(read(&mut world, msr), Ok(value), "{msr:#x}");
    }
    assert_eq!(world.vcpu.fs_base, 0x7f00_0000_1000);
}

#[test]
fn what_no_register_takes() {
    let mut world = World::new(true, true);
    world.vcpu.identity = Identity::COMPLETE;
    let odd = 1 << 47;
    for (msr, value) in [
        (0x175, odd),
        (0x176, odd),
        (0x277, 2),
        (0x277, 3 << 56),
        (0x277, 8),
        (0xc000_0082, odd),
        (0xc000_0083, odd),
        (0xc000_0084, 1 << 32),
        (0xc000_0100, odd),
        (0x10, 0),
        (0x48, 0),
    ] {
        assert_eq!(world.execute(Op::Wrmsr { msr, value }), gp(), "{msr:#x}");
    }
    for msr in [0x10, 0x48, 0x1b0, 0x802] {
        assert!(!world.vcpu.has_msr(msr), "{msr:#x}");
        assert!(read(&mut world, msr).is_err(), "{msr:#x}");
    }
}

#[test]
fn a_processor_has_what_it_says() {
    let mut world = World::new(true, true);
    assert_eq!(world.execute(Op::Wrmsr { msr: 0x277, value: 0 }), gp(), "CPUID has no PAT");
    let plain = world.vcpu.cpuid(1, 0);
    world.vcpu.identity = Identity { vendor: *b"GenuineTest!", ..Identity::COMPLETE };
    let complete = world.vcpu.cpuid(1, 0);
    assert_eq!((plain[0], complete[0]), (0, 0x611));
    assert_eq!(complete[2] ^ plain[2], 1 << 13, "CMPXCHG16B");
    assert_eq!(complete[3] ^ plain[3], 1 << 4 | 1 << 16, "TSC and PAT");
    assert_eq!(world.vcpu.cpuid(0x8000_0001, 0)[2], 1, "LAHF");
    let [_, b, c, d] = world.vcpu.cpuid(0, 0).map(u32::to_le_bytes);
    assert_eq!([b, d, c].concat(), b"GenuineTest!");
}
