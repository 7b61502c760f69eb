//! Random bytes as code.

use crate::entropy::Entropy;
use crate::raw::Raw;
use crate::rig::{CODE, CODE_LEN, DATA, MIXED, PAGE, STACK_MIDDLE, State};
use stalemate::executor::Trap;

/// Runs of one seed.
const RUNS: u64 = 50_000;
/// Runs from one state of memory.
const RUNS_OF_A_STATE: u64 = 50;

/// Bytes that begin instructions more often than random ones do.
fn bytes(e: &mut Entropy<'_>) -> Vec<u8> {
    const LIKELY: [u8; 16] = [
        0x0f, 0x48, 0x66, 0xf2, 0xf3, 0xf0, 0x65, 0x67, 0x41, 0x8b, 0x89, 0xc3, 0xff, 0xf7, 0xc7,
        0xe8,
    ];
    let len = 1 + e.below(48);
    (0..len).map(|_| if e.one_in(3) { e.pick(&LIKELY) } else { e.bits() as u8 }).collect()
}

#[test]
fn raw_bytes_as_code() {
    let seed = crate::from_environment("STALEMATE_FUZZ_SEED", 1);
    let mut e = Entropy::new(seed);
    let mut raw = Raw::new();
    let mut limits = 0;
    for run in 0..RUNS {
        if run % RUNS_OF_A_STATE == 0 {
            raw.load(State::any(&mut e));
        }
        let code = bytes(&mut e);
        let at = match e.below(4) {
            0 => MIXED + e.below(PAGE - 48),
            1 => CODE + CODE_LEN - code.len() as u64,
            _ => CODE + e.below(CODE_LEN - 48),
        };
        let trap = raw.run(at, &code);
        limits += u64::from(matches!(trap, Trap::InstructionLimit { .. }));
        if run % RUNS_OF_A_STATE == RUNS_OF_A_STATE - 1 {
            raw.check();
        }
        // A stack and a pointer, now and then.
        if e.one_in(4) {
            raw.side.vcpu.gpr[4] = STACK_MIDDLE;
            raw.side.vcpu.gpr[e.below(16) as usize] = DATA + e.below(PAGE);
        }
    }
    assert!(limits < RUNS / 2, "most of what is random traps");
}
