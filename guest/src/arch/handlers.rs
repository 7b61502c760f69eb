//! What exceptions, NMIs and interrupts do, once entry code has made the kernel's world theirs.

use super::{apic, hypercall, probe};
use stalemate_shared::layout::SHOOTDOWN_VECTOR;

/// What PUSH_REGISTERS and the processor leave on the stack.
#[repr(C)]
pub(super) struct Frame {
    fpu: [u64; 64],
    registers: [u64; 14],
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
}

const PAGE_FAULT: u64 = 14;

/// An exception in kernel mode: a probe's page fault goes on at its end, anything else is a bug.
pub(super) extern "C" fn kernel_fault(frame: &mut Frame) {
    if let (PAGE_FAULT, Some(goes_on)) = (frame.vector, probe::fixup(frame.rip)) {
        frame.rip = goes_on;
        frame.rax = frame.error;
        return;
    }
    hypercall::panicked("exception in kernel mode, vector as line", frame.vector as u32);
}

/// An NMI; a double fault is a bug.
pub(super) extern "C" fn paranoid(frame: &mut Frame) {
    if frame.vector != 2 {
        hypercall::panicked("double fault", frame.vector as u32);
    }
    if crate::config::config().nmi_flush {
        crate::nmi::flush();
    }
}

/// An interrupt: another CPU asks for a flush, or nothing in particular.
pub(super) extern "C" fn interrupt(vector: u64) {
    if vector == u64::from(SHOOTDOWN_VECTOR) {
        crate::shootdown::answer();
    }
    apic::end_of_interrupt();
}
