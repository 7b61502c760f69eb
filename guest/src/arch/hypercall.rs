//! Hypercalls: `out PORT, al` with arguments in registers.

use core::arch::asm;
use stalemate_shared::hypercall::{self as call, Deferral, PORT, Primitive};
use stalemate_shared::step::Status;

/// Makes hypercall `number`; RAX, RDI, RSI, RDX and RCX come back.
#[inline(always)]
fn hypercall(number: u64, args: [u64; 4]) -> [u64; 5] {
    let [mut rdi, mut rsi, mut rdx, mut rcx] = args;
    let mut rax = number;
    // SAFETY: the VMM reads and writes these registers and touches no memory of the kernel's.
    unsafe {
        asm!("out {port}, al", port = const PORT, inout("rax") rax, inout("rdi") rdi,
             inout("rsi") rsi, inout("rdx") rdx, inout("rcx") rcx,
             options(nostack, preserves_flags));
    };
    [rax, rdi, rsi, rdx, rcx]
}

/// The kernel has booted.
pub fn ready() {
    hypercall(call::READY, [0; 4]);
}

/// Reports (status, value, second value); returns the next step's opcode and arguments. While it
/// waits for that, and if there are other CPUs, the CPU takes interrupts.
#[must_use]
pub fn next_step(report: (Status, u64, u64), interruptible: bool) -> (u64, [u64; 4]) {
    let (status, value, second) = report;
    if interruptible {
        super::cpu::enable_interrupts();
    }
    let [op, a, b, c, d] = hypercall(call::NEXT_STEP, [status as u64, value, second, 0]);
    if interruptible {
        super::cpu::disable_interrupts();
    }
    (op, [a, b, c, d])
}

/// A flush that has begun.
#[must_use]
pub struct Flush(u64);

/// A flush primitive begins, over the caller's range.
#[inline(always)]
pub fn begin(primitive: Primitive, root: u64, start: u64, end: u64) -> Flush {
    let [number, ..] = hypercall(call::BEGIN, [primitive as u64, root, start, end]);
    Flush(number)
}

/// It returns.
#[inline(always)]
pub fn end(flush: Flush) {
    hypercall(call::END, [flush.0, 0, 0, 0]);
}

/// The flush of this range of an address space is deferred.
pub fn defer(until: Deferral, root: u64, start: u64, end: u64) {
    hypercall(call::DEFER, [until as u64, root, start, end]);
}

/// A frame is given back.
pub fn frame_freed(frame: u64) {
    hypercall(call::FRAME_FREED, [frame, 0, 0, 0]);
}

/// The contents of a frame are taken from here on.
pub fn contents_taken(frame: u64) {
    hypercall(call::CONTENTS_TAKEN, [frame, 0, 0, 0]);
}

/// `bits` were read from the entry at `slot`, to be edited and stored plainly.
#[inline(always)]
pub fn entry_read(slot: u64, bits: u64) {
    hypercall(call::ENTRY_READ, [slot, bits, 0, 0]);
}

/// Waits a little for another CPU, with interrupts on.
pub fn wait_for_others() {
    super::cpu::enable_interrupts();
    hypercall(call::YIELD, [0; 4]);
    super::cpu::disable_interrupts();
}

/// The kernel cannot go on.
pub fn panicked(file: &str, line: u32) -> ! {
    loop {
        hypercall(call::PANIC, [u64::from(line), file.as_ptr() as u64, file.len() as u64, 0]);
    }
}
