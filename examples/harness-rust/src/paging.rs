//! Page tables: a root for each address space, all with the kernel's half as it was at boot.

use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use stalemate_shared::layout::*;
use stalemate_shared::note::pages;
use stalemate_shared::page::Page;
use stalemate_shared::step::flags;

/// The kinds of test pages that it maps.
pub const PAGES: u64 = pages::USER | pages::LARGE | pages::KERNEL;

const FRAME: u64 = 0xf_ffff_ffff_f000;

/// The root of an address space.
pub fn root(mm: u64) -> u64 {
    TABLE_FRAMES + mm * PAGE_SIZE
}

static NEXT_TABLE: AtomicU64 = AtomicU64::new(TABLE_FRAMES + MM_COUNT as u64 * PAGE_SIZE);

fn slot(table: u64, va: u64, shift: u32) -> *mut u64 {
    (KERNEL_BASE + (table & FRAME) + (va >> shift & 511) * 8) as *mut u64
}

/// The entry that maps `va`, or would.
fn entry(mm: u64, va: u64) -> *mut u64 {
    let last = if matches!(Page::at(va), Some(Page::Large(_))) { 21 } else { 12 };
    let mut entry = slot(root(mm), va, 39);
    for shift in [30, 21, 12].into_iter().filter(|shift| *shift >= last) {
        unsafe {
            if read_volatile(entry) & 1 == 0 {
                write_volatile(entry, NEXT_TABLE.fetch_add(PAGE_SIZE, Relaxed) | 7);
            }
            entry = slot(read_volatile(entry), va, shift);
        }
    }
    entry
}

/// Changes the entry that maps `va`, in one store.
fn edit(mm: u64, va: u64, change: impl FnOnce(u64) -> u64) {
    let entry = entry(mm, va);
    unsafe { write_volatile(entry, change(read_volatile(entry))) };
}

/// Maps `va` to `frame`, as [`flags`] say.
pub fn map(mm: u64, va: u64, frame: u64, how: u64) {
    let bit = |flag: u64, bit: u64| if how & flag != 0 { bit } else { 0 };
    let user = if va < USER_END { 4 } else { 0 };
    let bits = bit(flags::WRITABLE, 2) | bit(flags::DIRTY, 0x40) | bit(flags::LARGE, 0x80);
    edit(mm, va, |_| frame | user | bits | 1);
}

/// Points a page that is mapped at another frame.
pub fn remap(mm: u64, va: u64, frame: u64, how: u64) {
    map(mm, va, frame, how);
}

/// Takes a page away.
pub fn unmap(mm: u64, va: u64) {
    edit(mm, va, |_| 0);
}

/// Lets a page be written, or not.
pub fn protect(mm: u64, va: u64, how: u64) {
    let writable = if how & flags::WRITABLE != 0 { 2 } else { 0 };
    edit(mm, va, |bits| bits & !2 | writable);
}

/// Clears D.
pub fn clean(mm: u64, va: u64) {
    edit(mm, va, |bits| bits & !0x40);
}

/// Clears A.
pub fn age(mm: u64, va: u64) {
    edit(mm, va, |bits| bits & !0x20);
}

/// Builds the roots, each with the kernel's half and the page of user code at `user_code`.
pub fn init(user_code: u64) {
    for mm in 0..MM_COUNT as u64 {
        let half = unsafe { read_volatile(slot(BOOT_TABLES, u64::MAX, 39)) };
        unsafe { write_volatile(slot(root(mm), u64::MAX, 39), half) };
        edit(mm, USER_CODE, |_| user_code | 5);
    }
}
