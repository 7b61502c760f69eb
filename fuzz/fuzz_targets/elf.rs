//! Bytes as the ELF file of a kernel that is handed steps: its segments, its symbols, its code.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stalemate::kernel::steps::{Guest, escapes};

fuzz_target!(|bytes: &[u8]| {
    let Ok(guest) = Guest::from_elf(bytes.to_vec()) else { return };
    for escape in escapes::find(guest.image().bytes()).iter().take(16) {
        let _ = guest.symbols().locate(escape.at).to_string();
    }
});
