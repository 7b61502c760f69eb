//! The interpreter against the processor, one instruction at a time: random sequences run on
//! both from the same state, and must leave the same registers, defined flags, memory and traps.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
#[macro_use]
mod common;
mod duel;
mod entropy;
mod fpu;
mod generate;
mod host;
#[cfg(feature = "kvm")]
mod native;
mod operand;
mod precise;
mod raw;
mod raw_bytes;
mod rig;
mod sequence;
mod spaces;
mod table;

use duel::{Difference, Duel};
use entropy::Entropy;
use generate::Generator;
use iced_x86::Mnemonic;
use sequence::Sequence;
use stalemate::executor::Backend;
use stalemate::executor::interp::Flaw;

/// Subjects, of the instructions that are executed, that one test run compares at least.
const SUBJECTS: u64 = 200_000;
/// Sequences in which each form is alone.
const SEQUENCES_OF_A_FORM: u64 = 4;

fn from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

fn flawed(flaw: Option<Flaw>) -> Backend {
    Backend::Interp { limit: rig::LIMIT, flaw }
}

/// Compares until `count` subjects have completed; the first difference and its seed.
fn compare(duel: &mut Duel, seed: u64, count: u64) -> Result<u64, (u64, Box<Difference>)> {
    let generator = Generator::new();
    let mut sequences = 0;
    while duel.completed < count {
        let seed = seed + sequences;
        let (state, sequence) = generator.sequence(&mut Entropy::new(seed));
        if let Some(difference) = duel.fight(&state, &sequence) {
            return Err((seed, difference));
        }
        sequences += 1;
    }
    Ok(sequences)
}

#[test]
fn the_interpreter_does_what_the_processor_does() {
    let kvm = kvm_or_skip!();
    let mut duel = Duel::new(&kvm, &flawed(None));
    let seed = from_environment("STALEMATE_FUZZ_SEED", 1);
    let count = from_environment("STALEMATE_FUZZ_COUNT", SUBJECTS);
    let sequences = compare(&mut duel, seed, count).unwrap_or_else(|(seed, difference)| {
        panic!(
            "{}\nSTALEMATE_FUZZ_SEED={seed} STALEMATE_FUZZ_COUNT=1 cargo test -p stalemate --test \
             differential the_interpreter",
            difference.report
        )
    });
    let instructions = duel.tested.instructions().unwrap_or(0);
    eprintln!(
        "{} subjects in {instructions} instructions, {sequences} sequences, {} traps compared",
        duel.completed, duel.traps
    );
    assert!(duel.completed >= count && instructions >= duel.completed);
}

#[test]
fn every_form_completes() {
    let kvm = kvm_or_skip!();
    let mut duel = Duel::new(&kvm, &flawed(None));
    for &code in Generator::new().codes() {
        let generator = Generator::only(code);
        let before = duel.completed;
        for seed in 0..SEQUENCES_OF_A_FORM {
            let (state, sequence) = generator.sequence(&mut Entropy::new(seed));
            if let Some(difference) = duel.fight(&state, &sequence) {
                panic!("{code:?} alone, seed {seed}\n{}", difference.report);
            }
        }
        assert!(duel.completed > before, "{code:?} never completed");
    }
}

#[test]
fn a_wrong_interpreter_is_found() {
    // Where there is no KVM, a right interpreter shows what a wrong one does.
    let right = common::kvm().unwrap_or_else(|reason| {
        common::say(&reason);
        flawed(None)
    });
    for (flaw, mnemonic) in [
        (Flaw::CarryOfAdc, Mnemonic::Adc),
        (Flaw::OperandSizeOfMov, Mnemonic::Mov),
        (Flaw::BitOfBts, Mnemonic::Bts),
    ] {
        let mut duel = Duel::new(&right, &flawed(Some(flaw)));
        let Err((_, difference)) = compare(&mut duel, 1, SUBJECTS) else {
            panic!("{flaw:?} is not noticed");
        };
        assert_eq!(difference.subject.mnemonic(), mnemonic, "{}", difference.report);
    }
}

#[test]
fn bytes_steer_the_generator() {
    let sequence =
        |bytes: &[u8]| Generator::new().sequence(&mut Entropy::from_bytes(bytes)).1.bytes;
    let (a, b) = ([0x5a; 4000], [0xa5; 4000]);
    assert_eq!(sequence(&a), sequence(&a));
    assert_ne!(sequence(&a), sequence(&b));
    assert!(!sequence(&[]).is_empty());
}

#[test]
fn a_report_names_the_instruction_and_both_states() {
    let mut duel = Duel::new(&flawed(None), &flawed(Some(Flaw::CarryOfAdc)));
    let mut out = sequence::Assembler::new(rig::CODE);
    let add = |code| {
        let (to, from) = (iced_x86::Register::RAX, iced_x86::Register::RBX);
        iced_x86::Instruction::with2(code, to, from).expect("valid operands")
    };
    for code in [iced_x86::Code::Add_rm64_r64, iced_x86::Code::Adc_rm64_r64] {
        out.begin_item(code, false);
        out.emit(add(code)).expect("can be encoded");
    }
    let sequence: Sequence = out.finish();
    let mut state = rig::State::zero();
    (state.gpr[0], state.gpr[3]) = (u64::MAX, 1);
    let difference = duel.fight(&state, &sequence).expect("it is wrong");
    assert_eq!(difference.steps.len(), 1);
    for expected in ["0x400003  48 11 d8 ", "adc rax,rbx", "rax ", " <\n", "flags"] {
        assert!(difference.report.contains(expected), "{}", difference.report);
    }
}
