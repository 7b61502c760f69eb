//! The init's image: its entry point is in `sys`, this file gives it a panic handler.
#![no_std]
#![no_main]

use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let (file, line) = info.location().map_or(("unknown", 0), |at| (at.file(), at.line()));
    stalemate_init::console::say(format_args!("PANIC at {file}:{line}"));
    stalemate_init::exit(101)
}
