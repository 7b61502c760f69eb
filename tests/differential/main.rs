//! The interpreter against the processor, one instruction at a time: random sequences run on
//! both from the same state, and must leave the same registers, defined flags, memory and traps.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
#[macro_use]
mod common;
mod bench;
mod duel;
mod entropy;
mod generate;
mod host;
mod operand;
mod sequence;

use duel::Duel;
use entropy::Entropy;
use generate::Generator;
use stalemate::executor::Backend;

/// Instructions that one test run compares at least.
const INSTRUCTIONS: u64 = 200_000;

fn from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// Compares until `count` instructions have completed; the seed of the first difference.
fn compare(duel: &mut Duel, seed: u64, count: u64) -> Result<u64, (u64, Box<duel::Difference>)> {
    let generator = Generator::new();
    let done = |duel: &Duel| duel.tested.instructions().expect("an interpreter counts");
    let begin = done(duel);
    let mut sequences = 0;
    while done(duel) - begin < count {
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
    let mut duel = Duel::new(&kvm, &Backend::interp());
    let seed = from_environment("STALEMATE_FUZZ_SEED", 1);
    let count = from_environment("STALEMATE_FUZZ_COUNT", INSTRUCTIONS);
    let sequences = compare(&mut duel, seed, count).unwrap_or_else(|(seed, difference)| {
        panic!(
            "{}\nSTALEMATE_FUZZ_SEED={seed} STALEMATE_FUZZ_COUNT=1 cargo test -p stalemate --test \
             differential",
            difference.report
        )
    });
    eprintln!("{count} instructions, {sequences} sequences, {} traps", duel.traps);
}
