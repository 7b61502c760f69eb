//! Bytes steer the generator of `tests/differential`; KVM and the interpreter run the sequence.
#![no_main]
#![allow(dead_code)]

#[path = "../../tests/differential/duel.rs"]
mod duel;
#[path = "../../tests/differential/entropy.rs"]
mod entropy;
#[path = "../../tests/differential/generate.rs"]
mod generate;
#[path = "../../tests/differential/host.rs"]
mod host;
#[path = "../../tests/differential/operand.rs"]
mod operand;
#[path = "../../tests/differential/rig.rs"]
mod rig;
#[path = "../../tests/differential/sequence.rs"]
mod sequence;

use libfuzzer_sys::fuzz_target;
use stalemate::executor::Backend;
use std::cell::RefCell;

struct Both {
    generator: generate::Generator,
    duel: duel::Duel,
}

thread_local! {
    static BOTH: RefCell<Both> = RefCell::new(Both {
        generator: generate::Generator::new(),
        duel: duel::Duel::new(
            &Backend::kvm("/dev/kvm".as_ref()).unwrap_or_else(|error| panic!("{error}")),
            &Backend::Interp { limit: rig::LIMIT, flaw: None },
        ),
    });
}

fuzz_target!(|bytes: &[u8]| {
    BOTH.with_borrow_mut(|Both { generator, duel }| {
        let (state, sequence) = generator.sequence(&mut entropy::Entropy::from_bytes(bytes));
        if let Some(difference) = duel.fight(&state, &sequence) {
            panic!("{}", difference.report);
        }
    });
});
