//! Text as a recording: an error, or events that the oracle judges.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stalemate::oracle::Oracle;
use stalemate::report::Recording;

fuzz_target!(|text: &str| {
    let Ok(recording) = Recording::read(text) else { return };
    let mut oracle = Oracle::default();
    recording.trace().replay(&mut oracle);
    let _ = recording.run();
});
