//! Bytes as code on the interpreter: the first two say where, the rest is executed.
#![no_main]
#![allow(dead_code)]

#[path = "../../tests/differential/entropy.rs"]
mod entropy;
#[path = "../../tests/differential/raw.rs"]
mod raw;
#[path = "../../tests/differential/rig.rs"]
mod rig;

use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

thread_local! {
    static RAW: RefCell<raw::Raw> = RefCell::new(raw::Raw::new());
}

fuzz_target!(|bytes: &[u8]| {
    let Some((place, code)) = bytes.split_first_chunk::<2>() else { return };
    let code = &code[..code.len().min(256)];
    let offset = u64::from(u16::from_le_bytes(*place));
    let at = match offset % 2 {
        0 => rig::MIXED + offset / 2 % (rig::PAGE - code.len() as u64),
        _ => rig::CODE + offset / 2 % (rig::CODE_LEN - code.len() as u64),
    };
    RAW.with_borrow_mut(|raw| {
        raw.load(rig::State::any(&mut entropy::Entropy::new(offset)));
        raw.run(at, code);
        raw.check();
    });
});
