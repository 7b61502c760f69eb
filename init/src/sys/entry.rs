//! Where the program begins.

use core::arch::global_asm;
use core::ffi::CStr;

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start,
);

/// What the kernel put on the first stack: the number of arguments, pointers to them, 0.
extern "C" fn start(stack: *const u64) -> ! {
    let mut options = crate::options::Options::default();
    // SAFETY: the System V ABI promises so many pointers to strings that end in 0, for ever.
    let count = unsafe { stack.read() };
    for index in 0..count as usize {
        // SAFETY: as above.
        let word = unsafe { CStr::from_ptr(*stack.add(1 + index) as *const core::ffi::c_char) };
        options.word(word.to_bytes());
    }
    crate::life::live(options)
}
