//! Text as what an audit is told of a kernel: a profile, a baseline, a System.map.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stalemate::audit::{Baseline, Profile};
use stalemate::ink::Ink;
use stalemate::symbols::{Symbols, system_map};

fuzz_target!(|text: &str| {
    if let Err(error) = Profile::parse("fuzz.toml", text) {
        assert!(!error.render(Ink::Plain).is_empty());
    }
    let _ = Baseline::parse(text);
    if let Ok(symbols) = system_map::parse(text) {
        let symbols = Symbols::of_kernel(&symbols);
        symbols
            .functions("flush")
            .take(16)
            .for_each(|(at, _)| drop(symbols.locate(at).to_string()));
    }
});
