//! The kernel's image: its entry point is in `arch`, this file gives it a panic handler.
#![no_std]
#![no_main]

use core::panic::PanicInfo;
// Links the kernel in.
use stalemate_guest as _;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let (file, line) = info.location().map_or(("unknown", 0), |at| (at.file(), at.line()));
    stalemate_guest::arch::hypercall::panicked(file, line)
}
