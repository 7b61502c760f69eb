//! A guest that misbehaves gets an outcome, the VMM neither a panic nor a hang.

use crate::common::guest_image;
use crate::common::{Rig, builtin, config, rigs, scenario};
use object::{Object, ObjectSection};
use stalemate::arch::fault;
use stalemate::executor::Backend;
use stalemate::kernel::steps::{Guest, Image, ImageError};
use stalemate::machine::Stop;
use stalemate::runner::Outcome;
use stalemate::scenario::{Policy, RunConfig};
use stalemate::schedule::Schedule;
#[cfg(feature = "kvm")]
use std::time::Duration;

/// Long enough for any trap, short enough to wait for.
#[cfg(feature = "kvm")]
const SOON: Duration = Duration::from_secs(2);
const SOON_INSTRUCTIONS: u64 = 1_000_000;

/// The same with little patience.
fn impatient(mut rig: Rig) -> Rig {
    match &mut rig.backend {
        #[cfg(feature = "kvm")]
        Backend::Kvm { limit, .. } => *limit = SOON,
        Backend::Interp { limit, .. } => *limit = SOON_INSTRUCTIONS,
    }
    rig
}

/// How a guest stops that is asked to misbehave, on each executor.
fn stops(how: &str) -> Vec<(Outcome, Stop)> {
    stops_on("pcid", how)
}

fn stops_on(cpu: &str, how: &str) -> Vec<(Outcome, Stop)> {
    let scenario = scenario(&format!("misbehave {how}"));
    let stop = |rig| {
        let result = impatient(rig).run(&scenario, config(cpu, Policy::Split, true), &[]);
        let (stop, _) = result.stop.expect("the guest stops");
        (result.outcome, stop)
    };
    rigs().into_iter().map(stop).collect()
}

#[test]
fn a_triple_fault_is_a_crash() {
    for (outcome, stop) in stops("triple-fault") {
        assert_eq!(
            (outcome, stop),
            (Outcome::Crash, Stop::Processor(fault::Stop::TripleFault { vector: 6 }))
        );
    }
}

#[test]
fn a_loop_without_traps_is_a_hang() {
    for (outcome, stop) in stops("loop") {
        let endless = matches!(stop, Stop::Timeout { .. } | Stop::InstructionLimit { .. });
        assert!(endless, "{stop}");
        assert_eq!(outcome, Outcome::Hang);
    }
}

#[test]
fn a_loop_that_is_stepped_through_is_a_hang_too() {
    let rig = impatient(Rig::new(Backend::interp()));
    let steps = scenario("cpu1 user nop\nmisbehave loop");
    let one = config("pcid", Policy::Split, true);
    let stepped = RunConfig { cpus: 2, schedule: Schedule::Instructions(1), ..one };
    assert_eq!(rig.run(&steps, stepped, &[]).outcome, Outcome::Hang);
    let result = rig.run(&scenario("misbehave loop"), one, &["nmi@each"]);
    assert_eq!(result.outcome, Outcome::Hang);
    // It is one hang, and not one at each boundary.
    assert_eq!(result.sweep.expect("a sweep").swept.tried, 0);
}

#[test]
fn a_loop_of_traps_is_a_hang() {
    for (outcome, stop) in stops("trap-loop") {
        assert!(matches!(stop, Stop::TrapBudget { .. }), "{stop}");
        assert_eq!(outcome, Outcome::Hang);
    }
}

#[test]
fn memory_beyond_its_own_is_a_crash() {
    for (outcome, stop) in stops("beyond-memory") {
        assert!(matches!(stop, Stop::Processor(fault::Stop::BeyondMemory(_))), "{stop}");
        assert_eq!(outcome, Outcome::Crash);
    }
}

#[test]
fn an_unknown_privileged_instruction_is_unsupported_by_name() {
    for (outcome, stop) in stops("wbinvd") {
        assert_eq!(outcome, Outcome::Unsupported);
        assert!(stop.to_string().starts_with("WBINVD (0f 09)"), "{stop}");
    }
}

#[test]
fn a_panic_names_its_place() {
    for (outcome, stop) in stops("panic") {
        assert_eq!(outcome, Outcome::Crash);
        assert!(stop.to_string().contains("guest/src/steps.rs"), "{stop}");
    }
}

#[test]
fn an_idt_without_gates_is_a_triple_fault() {
    for (outcome, stop) in stops("zero-idt") {
        assert_eq!(
            (outcome, stop),
            (Outcome::Crash, Stop::Processor(fault::Stop::TripleFault { vector: 6 }))
        );
    }
}

#[test]
fn a_store_to_code_that_is_read_only_faults() {
    for (outcome, stop) in stops("store-to-code") {
        assert_eq!(outcome, Outcome::Crash);
        assert!(stop.to_string().contains("exception in kernel mode"), "{stop}");
    }
}

#[test]
fn a_kernel_that_unmaps_itself_cannot_go_on() {
    for (_, stop) in stops_on("pcid-nopge", "zero-root") {
        assert!(matches!(stop, Stop::Processor(fault::Stop::TripleFault { vector: 14 })), "{stop}");
    }
    // Where the trampoline is global its entries stay: the fault is delivered, faults on the
    // handler's first step outside, and is delivered again.
    for (_, stop) in stops("zero-root") {
        assert!(matches!(stop, Stop::TrapBudget { .. }), "{stop}");
    }
}

#[test]
fn an_instruction_outside_the_interpreters_set_is_unsupported_by_name_and_place() {
    let at = user_program();
    // POPCNT, x87, AVX: a processor has them, the interpreter does not guess.
    for (bytes, name) in [
        (&[0xf3, 0x0f, 0xb8, 0xc0][..], "POPCNT (f3 0f b8 c0)"),
        (&[0xd9, 0xe8], "FLD1 (d9 e8)"),
        (&[0xc5, 0xf8, 0x77], "VZEROUPPER (c5 f8 77)"),
    ] {
        let guest = Guest::from_elf(patched(at, bytes)).expect("a kernel");
        let rig = Rig::of(Backend::interp(), guest);
        let nop = scenario("user nop");
        let result = rig.run(&nop, config("pcid", Policy::Split, true), &[]);
        let (stop, vcpu) = result.stop.expect("the guest stops");
        assert_eq!(result.outcome, Outcome::Unsupported, "{stop}");
        assert!(stop.to_string().starts_with(name), "{stop}");
        assert_eq!((vcpu.rip, vcpu.cpl), (stalemate_shared::layout::USER_CODE, 3));
    }
}

#[test]
fn a_run_begins_with_the_sse_registers_of_every_other() {
    // MOVQ RAX, XMM15; TEST RAX, RAX; JZ over UD2; NOT RAX; MOVQ XMM15, RAX; SYSCALL.
    let program = [
        &[0x66, 0x4c, 0x0f, 0x7e, 0xf8, 0x48, 0x85, 0xc0, 0x74, 0x02, 0x0f, 0x0b][..],
        &[0x48, 0xf7, 0xd0, 0x66, 0x4c, 0x0f, 0x6e, 0xf8, 0x0f, 0x05],
    ];
    let image = patched(user_program(), &program.concat());
    let guest = Guest::from_elf(image).expect("a kernel");
    for backend in crate::common::backends() {
        let rig = Rig::of(backend, guest.clone());
        let config = config("pcid", Policy::Split, true);
        let mut runner = rig.runner();
        let mut outcome = |steps: &str| {
            let run = scenario(steps).run(config, &[]);
            runner.run(&run, None).expect("the host works").outcome
        };
        let name = rig.backend.name();
        // Nothing is flushed, and the program faults nowhere.
        assert_eq!([(); 2].map(|()| outcome("user nop")), [Outcome::Vacuous; 2], "{name}");
        assert_eq!(outcome("user nop\nuser nop"), Outcome::Mismatch, "{name}: the program looks");
    }
}

/// Where the user program is in the file.
fn user_program() -> usize {
    let image = guest_image();
    let file = object::File::parse(&image[..]).expect("an ELF file");
    let section = file.section_by_name(".user_code").expect("it is there");
    section.file_range().expect("it is in the file").0 as usize
}

#[test]
fn the_executor_works_again_after_a_hang() {
    for rig in rigs() {
        let rig = impatient(rig);
        let config = config("pcid", Policy::Split, true);
        assert_eq!(rig.run(&scenario("misbehave loop"), config, &[]).outcome, Outcome::Hang);
        let clean = rig.run(&builtin("user-flush-on-next-return"), config, &[]);
        assert_eq!(clean.outcome, Outcome::Clean);
    }
}

#[test]
fn a_kernel_that_faults_on_the_user_cr3_crashes_and_says_so() {
    for rig in rigs() {
        let marked = builtin("user-flush-on-next-return");
        let config = config("pcid", Policy::Split, true);
        let result = rig.run(&marked, config, &["drop cr3@entry#1"]);
        assert_eq!(result.outcome, Outcome::Crash);
        let (stop, _) = result.stop.expect("the guest stops");
        assert!(stop.to_string().contains("exception in kernel mode"), "{stop}");
    }
}

#[test]
fn nothing_stale_is_vacuous_and_a_fault_that_cannot_apply_is_not_applied() {
    for rig in rigs() {
        let config = config("pcid", Policy::Split, true);
        let idle = scenario("map u0 red\nuser read u0 -> red");
        assert_eq!(rig.run(&idle, config, &[]).outcome, Outcome::Vacuous);
        let marked = builtin("user-flush-on-next-return");
        assert_eq!(rig.run(&marked, config, &["drop invpcid#1"]).outcome, Outcome::NotApplied);
    }
}

#[test]
fn clearing_a_alone_makes_nothing_due() {
    for rig in rigs() {
        let aged = scenario("map u0 red\nuser read u0 -> red\nage u0\nuser read u0 -> red");
        let config = config("pcid", Policy::Split, true);
        assert_eq!(rig.run(&aged, config, &[]).outcome, Outcome::Vacuous);
    }
}

/// The guest with some bytes changed.
fn patched(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = guest_image();
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
    image
}

/// Offset in the file of field `field` of program header `index`.
fn program_header(index: usize, field: usize) -> usize {
    64 + index * 56 + field
}

#[test]
fn an_image_that_is_none_says_why() {
    let image = guest_image();
    let error = |bytes: &[u8]| Image::parse(bytes).expect_err("no kernel");
    assert!(matches!(error(&image[..40]), ImageError::Header(_)));
    assert!(matches!(error(&image[..0x2000]), ImageError::Truncated { .. }));
    assert!(matches!(
        error(b"not an ELF file at all, but long enough to be one........................"),
        ImageError::Header(_)
    ));
    // EI_CLASS 1: 32-bit.
    assert!(matches!(error(&patched(4, &[1])), ImageError::Class));
    assert!(matches!(error(&patched(18, &[183, 0])), ImageError::Machine(183)));
    assert!(matches!(error(&patched(16, &[3, 0])), ImageError::Type(3)));
    let memsz = 0x1000_0000u64.to_le_bytes();
    assert!(matches!(error(&patched(program_header(2, 40), &memsz)), ImageError::TooLarge { .. }));
    let low = 0x1000u64.to_le_bytes();
    assert!(matches!(error(&patched(program_header(1, 24), &low)), ImageError::TooLow { .. }));
    let first = 0x10_0000u64.to_le_bytes();
    assert!(matches!(error(&patched(program_header(1, 24), &first)), ImageError::Overlap { .. }));
    assert!(matches!(error(&patched(24, &low)), ImageError::Entry(0x1000)));
}
