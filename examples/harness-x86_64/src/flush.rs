//! The `x86_64` crate's flushes, as kernels use them: what a mapper returned is kept until the flush
//! step, and a whole address space or everything goes by `flush_all`. Address spaces have a PCID each
//! where the processor has PCIDs, and a switch keeps what is cached; kernel pages are global where
//! it has that.

use core::ptr::addr_of_mut;
use stalemate_shared::boot::features;
use stalemate_shared::note::kernel;
use x86_64::PhysAddr;
use x86_64::instructions::tlb::{self, Pcid};
use x86_64::registers::control::{Cr3, Cr3Flags, Cr4, Cr4Flags};
use x86_64::structures::paging::mapper::{MapperFlush, MapperFlushAll};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

/// What it uses.
pub const USES: u64 = kernel::NO_PTI | kernel::PCID | kernel::GLOBAL;

static mut FEATURES: u64 = 0;

/// Whether the processor has this.
pub fn has(feature: u64) -> bool {
    unsafe { FEATURES & feature != 0 }
}

/// Promises of the mapper that a flush step keeps, by page.
static mut PROMISES: [Option<(u64, MapperFlush<Size4KiB>)>; 64] = [const { None }; 64];

/// Keeps what an edit of the page at `va` returned.
pub fn promised(va: u64, promise: MapperFlush<Size4KiB>) {
    let promises = unsafe { &mut *addr_of_mut!(PROMISES) };
    match promises.iter_mut().find(|slot| slot.is_none()) {
        Some(slot) => *slot = Some((va, promise)),
        None => promise.flush(),
    }
}

fn keep_promises(va: u64) {
    let promises = unsafe { &mut *addr_of_mut!(PROMISES) };
    for slot in promises {
        if slot.as_ref().is_some_and(|(page, _)| *page == va)
            && let Some((_, promise)) = slot.take()
        {
            promise.flush();
        }
    }
}

/// Called once; bits of `features` say what the processor has.
pub fn init(features: u64) {
    unsafe {
        FEATURES = features;
        let pge = if has(features::PGE) { Cr4Flags::PAGE_GLOBAL } else { Cr4Flags::empty() };
        let pcid = if has(features::PCID) { Cr4Flags::PCID } else { Cr4Flags::empty() };
        Cr4::write(Cr4::read() | pge | pcid);
    }
}

/// Loads address space `mm`, whose root is at guest-physical `root`.
pub fn switch_mm(mm: u64, root: u64) {
    let frame = PhysFrame::containing_address(PhysAddr::new(root));
    if Cr3::read().0 == frame {
        return;
    }
    match Pcid::new(mm as u16 + 1) {
        Ok(pcid) if has(features::PCID) => unsafe { Cr3::write_pcid_no_flush(frame, pcid) },
        _ => unsafe { Cr3::write(frame, Cr3Flags::empty()) },
    }
}

/// A page of address space `mm` has changed.
pub fn flush_one_user(_mm: u64, va: u64) {
    keep_promises(va);
}

/// A kernel page has changed.
pub fn flush_one_kernel(va: u64) {
    keep_promises(va);
}

/// Any page of the user half of `mm` has changed.
pub fn flush_mm(_mm: u64) {
    tlb::flush_all();
}

/// Anything has changed.
pub fn flush_all() {
    MapperFlushAll::new().flush_all();
}
