//! The flush code under test: a small right one, for kernels that use neither PCIDs nor global
//! pages. Put yours in its place.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use stalemate_shared::note::kernel;

/// What it uses: add `kernel::PCID` and `kernel::GLOBAL` where yours does.
pub const USES: u64 = kernel::NO_PTI;

/// The address space in CR3.
static LOADED: AtomicU64 = AtomicU64::new(u64::MAX);

fn read_cr3() -> u64 {
    let cr3;
    // SAFETY: reads a register; this is the kernel.
    unsafe { asm!("mov {}, cr3", out(reg) cr3) };
    cr3
}

fn load_cr3(cr3: u64) {
    // SAFETY: every root that is loaded here maps the kernel's half, and so this code and its stack.
    unsafe { asm!("mov cr3, {}", in(reg) cr3) };
}

fn invlpg(va: u64) {
    // SAFETY: what it removes a walk brings back.
    unsafe { asm!("invlpg [{}]", in(reg) va) };
}

/// Called once; bits of `features` say what the processor has.
pub fn init(_features: u64) {}

/// Loads address space `mm`, whose root is at guest-physical `root`.
pub fn switch_mm(mm: u64, root: u64) {
    if LOADED.swap(mm, Relaxed) != mm {
        load_cr3(root);
    }
}

/// A page of address space `mm`, which need not be the loaded one, has changed.
pub fn flush_one_user(mm: u64, va: u64) {
    // Without PCIDs nothing is cached of an address space that is not loaded.
    if LOADED.load(Relaxed) == mm {
        invlpg(va);
    }
}

/// A kernel page has changed.
pub fn flush_one_kernel(va: u64) {
    invlpg(va);
}

/// Any page of the user half of `mm` has changed.
pub fn flush_mm(mm: u64) {
    if LOADED.load(Relaxed) == mm {
        load_cr3(read_cr3());
    }
}

/// Anything has changed.
pub fn flush_all() {
    load_cr3(read_cr3());
}
