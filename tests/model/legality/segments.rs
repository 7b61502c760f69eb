//! Segment registers, and the instructions that ask about a descriptor: what they accept, and what
//! they change.

use super::world::{GDT, World};
use stalemate_model::arch::addr::{Gpa, Gva};
use stalemate_model::arch::fault::{Exception, Fault, Stop};
use stalemate_model::arch::op::Op;
use stalemate_model::arch::segment::{DataSegment, Query, SegmentRegister, Source};
use stalemate_model::arch::sensitive::{Destination, Word};
use stalemate_model::arch::vcpu::{cr0, flags, gpr};

const WORD: u64 = 0xc000;

/// User data whose base is 0x12345678, accessed; then kernel data, not accessed yet; then user data
/// that is not there; then code that cannot be read; then conforming code.
const DESCRIPTORS: [(u16, u64); 5] = [
    (0x90, 0x12cf_f334_5678_ffff),
    (0x98, 0x00cf_9200_0000_ffff),
    (0xa0, 0x00cf_7300_0000_ffff),
    (0xa8, 0x00af_f900_0000_ffff),
    (0xb0, 0x00af_9f00_0000_ffff),
];

fn world() -> World {
    let mut world = World::new(true, true);
    for (selector, descriptor) in DESCRIPTORS {
        world.memory.write_word(Gpa(GDT + u64::from(selector)), descriptor);
    }
    world.vcpu.gs_base = 0x7777;
    world.vcpu.fs_base = 0x6666;
    world
}

fn load(world: &mut World, register: SegmentRegister, selector: u16) -> Result<(), Fault> {
    world.execute(Op::LoadSegment { register, source: Source::Value(selector) })
}

fn refused(vector: u8, error: u32) -> Result<(), Fault> {
    Err(Exception { error: Some(error), ..Exception::of_processor(vector, 0) }.into())
}

#[test]
fn a_null_selector_clears_the_base_and_another_one_loads_it() {
    use SegmentRegister as S;
    let mut world = world();
    assert_eq!(load(&mut world, S::Gs, 3), Ok(()));
    assert_eq!((world.vcpu.gs.selector, world.vcpu.gs_base, world.vcpu.fs_base), (3, 0, 0x6666));
    assert_eq!(load(&mut world, S::Fs, 0x93), Ok(()));
    let fs = DataSegment { selector: 0x93, dpl: 3 };
    assert_eq!((world.vcpu.fs, world.vcpu.fs_base), (fs, 0x1234_5678));
    assert_eq!(load(&mut world, S::Ds, 0x98), Ok(()));
    assert_eq!(load(&mut world, S::Es, 0xb3), Ok(()), "conforming code is everybody's");
    let accessed = 1 << 40;
    assert_eq!(world.memory.read_word(Gpa(GDT + 0x98)), DESCRIPTORS[1].1 | accessed);
    for (word, expected) in [(Word::Fs, 0x93), (Word::Gs, 3), (Word::Ds, 0x98), (Word::Es, 0xb3)] {
        let to = Destination::Register { number: gpr::RAX, size: 8 };
        world.execute(Op::StoreWord { word, to }).expect("no fault");
        assert_eq!(world.vcpu.gpr[gpr::RAX], expected, "{word:?}");
    }
}

#[test]
fn a_selector_comes_from_memory_too() {
    let mut world = world();
    world.memory.write_word(Gpa(WORD), 0xffff_0093);
    let source = Source::Memory(Gva(WORD));
    world.execute(Op::LoadSegment { register: SegmentRegister::Gs, source }).expect("no fault");
    assert_eq!((world.vcpu.gs.selector, world.vcpu.gs_base), (0x93, 0x1234_5678));
    world.vcpu.cpl = 3;
    let hidden = world.execute(Op::LoadSegment { register: SegmentRegister::Gs, source });
    assert!(matches!(hidden, Err(Fault::Exception(fault)) if fault.vector == 14), "{hidden:?}");
}

#[test]
fn what_a_load_refuses() {
    use SegmentRegister as S;
    for (cpl, register, selector, expected) in [
        (0, S::Ds, 0x100, refused(13, 0x100)),
        (0, S::Ds, 0x94, refused(13, 0x94)),
        (0, S::Ds, 0xa3, refused(11, 0xa0)),
        (0, S::Ds, 0xa8, refused(13, 0xa8)),
        (0, S::Ds, 0x9b, refused(13, 0x98)),
        (3, S::Gs, 0x98, refused(13, 0x98)),
        (0, S::Ss, 0x93, refused(13, 0x90)),
        (0, S::Ss, 3, refused(13, 0)),
        (3, S::Ss, 3, refused(13, 0)),
        (3, S::Ss, 0xa3, refused(12, 0xa0)),
        (0, S::Ss, 0xb0, refused(13, 0xb0)),
    ] {
        let mut world = world();
        world.vcpu.cpl = cpl;
        let before = world.vcpu.clone();
        assert_eq!(load(&mut world, register, selector), expected, "{register:?} {selector:#x}");
        assert_eq!(world.vcpu, before, "{register:?} {selector:#x}");
    }
}

#[test]
fn a_stack_segment_keeps_interrupts_off_for_one_instruction() {
    let mut world = world();
    load(&mut world, SegmentRegister::Ss, 0x98).expect("kernel data");
    assert_eq!((world.vcpu.ss, world.vcpu.sti_shadow), (0x98, true));
    load(&mut world, SegmentRegister::Ss, 0).expect("null");
}

#[test]
fn what_a_descriptor_says_of_itself() {
    for (query, selector, expected) in [
        (Query::Writable, 0x93, Some(None)),
        (Query::Writable, 0x9b, None),
        (Query::Writable, 0xb0, None),
        (Query::Writable, 0, None),
        (Query::Readable, 0xb3, Some(None)),
        (Query::Readable, 0xa8, None),
        (Query::Readable, 0x100, None),
        (Query::Rights, 0x90, Some(Some(0x00cf_f300))),
        (Query::Limit, 0x90, Some(Some(0xffff_ffff))),
    ] {
        let mut world = world();
        world.vcpu.gpr[gpr::RDX] = 0x55;
        world.vcpu.rflags |= flags::ZF | flags::CF;
        let to = matches!(query, Query::Rights | Query::Limit)
            .then_some(Destination::Register { number: gpr::RDX, size: 8 });
        let source = Source::Value(selector);
        world.execute(Op::Query { query, source, to }).expect("no fault");
        let zf = world.vcpu.rflags & (flags::ZF | flags::CF);
        let set = if expected.is_some() { flags::ZF } else { 0 };
        assert_eq!(zf, set | flags::CF, "{query:?} {selector:#x}");
        let value = expected.flatten().unwrap_or(0x55);
        assert_eq!(world.vcpu.gpr[gpr::RDX], value, "{query:?} {selector:#x}");
    }
}

#[test]
fn there_is_no_local_descriptor_table() {
    let mut world = world();
    assert_eq!(world.execute(Op::Lldt(Source::Value(0))), Ok(()));
    let stop = world.execute(Op::Lldt(Source::Value(0x90)));
    let expected = Stop::NotModelled("LLDT of a selector that is not null".to_owned());
    assert_eq!(stop, Err(expected.into()));
}

#[test]
fn a_far_return_takes_its_segments_from_the_stack() {
    let mut world = world();
    world.memory.write_word(Gpa(GDT + 0x88), 0x00af_fb00_0000_ffff);
    world.vcpu.gpr[gpr::RSP] = WORD;
    world.vcpu.rflags |= flags::IF;
    let frame = |world: &World, words: [u64; 4]| {
        for (index, word) in (0..).zip(words) {
            world.memory.write_word(Gpa(WORD + index * 8), word);
        }
    };
    frame(&world, [0x1234, 0x80, 0, 0]);
    world.execute(Op::Retf { released: 8 }).expect("to the same level");
    assert_eq!((world.vcpu.rip, world.vcpu.gpr[gpr::RSP]), (0x1234, WORD + 24));
    world.vcpu.gpr[gpr::RSP] = WORD;
    for (bad, error) in [([0x1234, 0x90, 0, 0], 0x90), ([1 << 47, 0x80, 0, 0], 0), ([0; 4], 0)] {
        frame(&world, bad);
        let before = world.vcpu.clone();
        assert_eq!(world.execute(Op::Retf { released: 0 }), refused(13, error), "{bad:x?}");
        assert_eq!(world.vcpu, before);
    }
    load(&mut world, SegmentRegister::Ds, 0x98).expect("kernel data");
    load(&mut world, SegmentRegister::Es, 0x90).expect("user data");
    frame(&world, [0x1234, 0x8b, 0x5678, 0x93]);
    world.execute(Op::Retf { released: 0 }).expect("to user mode");
    let vcpu = &world.vcpu;
    assert_eq!((vcpu.cpl, vcpu.cs, vcpu.ss, vcpu.gpr[gpr::RSP]), (3, 0x8b, 0x93, 0x5678));
    assert_eq!((vcpu.ds.selector, vcpu.es.selector), (0, 0x90), "what user mode may not use goes");
}

#[test]
fn alignment_checks_are_named_when_user_mode_asks_for_them() {
    let mut world = world();
    world.make_user_page();
    world.with(|core| core.load_cr3(0x1000)).expect("a legal load");
    world.memory.write_word(Gpa(WORD), flags::AC | 2);
    world.vcpu.gpr[gpr::RSP] = WORD;
    world.vcpu.cr0 |= cr0::AM;
    world.execute(Op::PopFlags).expect("the kernel may");
    world.vcpu.gpr[gpr::RSP] = WORD;
    world.vcpu.cpl = 3;
    let stop = world.execute(Op::PopFlags);
    assert!(matches!(stop, Err(Fault::Stop(Stop::NotModelled(_)))), "{stop:?}");
}

#[test]
fn debug_registers_are_kept_and_breakpoints_named() {
    let mut world = world();
    let read = |world: &mut World, number| {
        world.execute(Op::ReadDr { number, to: gpr::RAX }).expect("no fault");
        world.vcpu.gpr[gpr::RAX]
    };
    for (number, written, expected) in [
        (0, u64::MAX, u64::MAX),
        (3, 5, 5),
        (4, 0, 0xffff_0ff0),
        (6, 0xffff_ffff, 0xffff_efff),
        (5, 0, 0x400),
        (7, 0xffff_0000, 0xffff_0400),
    ] {
        world.execute(Op::WriteDr { number, value: written }).expect("no fault");
        assert_eq!(read(&mut world, number), expected, "DR{number}");
    }
    assert_eq!(world.execute(Op::WriteDr { number: 6, value: 1 << 32 }), refused(13, 0));
    for value in [1, 1 << 13] {
        let stop = world.execute(Op::WriteDr { number: 7, value });
        assert!(matches!(stop, Err(Fault::Stop(Stop::NotModelled(_)))), "{stop:?}");
    }
    world.vcpu.cpl = 3;
    assert_eq!(world.execute(Op::ReadDr { number: 0, to: gpr::RAX }), refused(13, 0));
}

#[test]
fn ports_and_the_clock_have_an_answer_or_a_name() {
    let mut world = world();
    for (size, expected) in
        [(1, 0xffff_ffff_ffff_ff78), (2, 0xffff_ffff_ffff_5678), (4, 0x1234_5678)]
    {
        world.vcpu.gpr[gpr::RAX] = u64::MAX;
        world.with(|core| core.input(size, 0x1234_5678, 0x5002));
        assert_eq!((world.vcpu.gpr[gpr::RAX], world.vcpu.rip), (expected, 0x5002));
    }
    world.with(|core| core.read_time(0x1_2345_6789, 0x5004));
    let vcpu = &world.vcpu;
    assert_eq!((vcpu.gpr[gpr::RDX], vcpu.gpr[gpr::RAX]), (1, 0x2345_6789));
    for op in [Op::In { port: 0x60, size: 1 }, Op::Out { port: 0x60, size: 1, value: 0 }, Op::Rdtsc]
    {
        let stop = world.execute(op);
        assert!(matches!(stop, Err(Fault::Stop(Stop::NotModelled(_)))), "{op}: {stop:?}");
    }
}
