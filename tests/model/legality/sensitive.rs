//! Instructions that show or change the virtual processor without a fault on a real one.

use super::world::{GDT, IDT, World};
use stalemate_model::arch::addr::{Gpa, Gva};
use stalemate_model::arch::fault::Fault;
use stalemate_model::arch::op::Op;
use stalemate_model::arch::sensitive::{Destination, Word};
use stalemate_model::arch::vcpu::{flags, gpr};

#[test]
fn pushf_and_popf_show_and_change_the_virtual_flags() {
    let mut world = World::new(true, true);
    world.vcpu.gpr[gpr::RSP] = 0xc008;
    world.vcpu.rflags = 0x2 | flags::IF | flags::CF;
    world.execute(Op::PushFlags).expect("no fault");
    assert_eq!(world.memory.read_word(Gpa(0xc000)), 0x2 | flags::IF | flags::CF);
    world.memory.write_word(Gpa(0xc000), flags::IOPL | flags::ZF);
    world.execute(Op::PopFlags).expect("no fault");
    assert_eq!(world.vcpu.rflags, 0x2 | flags::IOPL | flags::ZF);
    // At CPL 3 with IOPL 0 neither IF nor IOPL changes; that is no fault.
    world.vcpu.cpl = 3;
    world.vcpu.rflags = 0x2 | flags::IF;
    let user = world.execute(Op::PopFlags);
    assert!(matches!(user, Err(Fault::Exception(fault)) if fault.vector == 14), "{user:?}");
    world.vcpu.cpl = 0;
    world.vcpu.gpr[gpr::RSP] = 0xc000;
    world.make_user_page();
    world.with(|core| core.load_cr3(0x1000)).expect("a legal load");
    world.vcpu.cpl = 3;
    world.execute(Op::PopFlags).expect("no fault");
    assert_eq!(world.vcpu.rflags, 0x2 | flags::IF | flags::ZF);
}

#[test]
fn sgdt_smsw_and_selectors_show_the_virtual_processor() {
    let mut world = World::new(true, true);
    world.execute(Op::Sgdt(Gva(0xc000))).expect("no fault");
    assert_eq!(world.memory.read_word(Gpa(0xc000)), 0xff | GDT << 16);
    world.execute(Op::Sidt(Gva(0xc006))).expect("no fault");
    assert_eq!(world.memory.read_word(Gpa(0xc008)), IDT);
    let to = |size| Destination::Register { number: gpr::RAX, size };
    world.vcpu.gpr[gpr::RAX] = u64::MAX;
    world.execute(Op::StoreWord { word: Word::Msw, to: to(2) }).expect("no fault");
    assert_eq!(world.vcpu.gpr[gpr::RAX], !0xffff | world.vcpu.cr0 & 0xffff);
    world.execute(Op::StoreWord { word: Word::Msw, to: to(4) }).expect("no fault");
    assert_eq!(world.vcpu.gpr[gpr::RAX], world.vcpu.cr0);
    world.vcpu.cs = 0x80;
    world.execute(Op::StoreWord { word: Word::Cs, to: to(8) }).expect("no fault");
    assert_eq!(world.vcpu.gpr[gpr::RAX], 0x80);
}
