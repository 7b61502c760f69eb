//! The local APIC, in x2APIC mode.

use super::cpu::wrmsr;
use super::fence;
use crate::fence::IPI;
use stalemate_shared::layout::SHOOTDOWN_VECTOR;

const APIC_BASE: u32 = 0x1b;
const EOI: u32 = 0x80b;
const SPURIOUS: u32 = 0x80f;
const ICR: u32 = 0x830;

/// Turns this CPU's APIC on.
pub fn init() {
    // The address at which it would be mapped, enable, x2APIC mode.
    wrmsr(APIC_BASE, 0xfee0_0000 | 1 << 11 | 1 << 10);
    // Software enable; spurious interrupts come as vector 0xff, and none does.
    wrmsr(SPURIOUS, 0x1ff);
}

/// Asks `cpu` to flush. In x2APIC mode WRMSR to ICR waits for no store (SDM vol. 3, 10.12.3):
/// without the barrier the interrupt could come before what it is for.
#[inline(always)]
pub fn send_shootdown(cpu: u64) {
    fence::mfence_lfence::<IPI>();
    fence::wrmsr_after::<IPI>(ICR, cpu << 32 | u64::from(SHOOTDOWN_VECTOR));
}

/// The interrupt is handled.
pub(super) fn end_of_interrupt() {
    wrmsr(EOI, 0);
}
