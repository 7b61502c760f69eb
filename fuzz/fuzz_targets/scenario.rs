//! Text as a scenario file: an error with a place, or scenarios whose runs can be listed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stalemate::ink::Ink;
use stalemate::scenario::{CPUS, Selection, parse_all};

fuzz_target!(|text: &str| {
    match parse_all("fuzz", "fuzz.toml", text) {
        Err(error) => assert!(!error.render(Ink::Plain).is_empty()),
        Ok(scenarios) => {
            let all = Selection::of(&CPUS);
            for scenario in scenarios.iter().take(16) {
                scenario.runs(&all).iter().take(64).for_each(|run| drop(run.steps()));
            }
        }
    }
});
