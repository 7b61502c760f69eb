//! Page tables by the `x86_64` crate's `OffsetPageTable`.

use crate::flush::{has, promised};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use stalemate_shared::boot::features;
use stalemate_shared::layout::*;
use stalemate_shared::note::pages;
use stalemate_shared::step::flags;
use x86_64::structures::paging::mapper::TranslateResult;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame, Size4KiB,
    Translate,
};
use x86_64::{PhysAddr, VirtAddr};

/// The kinds of test pages that it maps.
pub const PAGES: u64 = pages::USER | pages::KERNEL;

/// The root of an address space.
pub fn root(mm: u64) -> u64 {
    TABLE_FRAMES + mm * PAGE_SIZE
}

static NEXT_TABLE: AtomicU64 = AtomicU64::new(TABLE_FRAMES + MM_COUNT as u64 * PAGE_SIZE);

struct Frames;

unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        Some(frame(NEXT_TABLE.fetch_add(PAGE_SIZE, Relaxed)))
    }
}

fn frame(at: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(at))
}

fn page(va: u64) -> Page<Size4KiB> {
    Page::containing_address(VirtAddr::new(va))
}

fn table(at: u64) -> &'static mut PageTable {
    unsafe { &mut *((KERNEL_BASE + at) as *mut PageTable) }
}

fn mapper(mm: u64) -> OffsetPageTable<'static> {
    unsafe { OffsetPageTable::new(table(root(mm)), VirtAddr::new(KERNEL_BASE)) }
}

/// What the crate calls the bits of a test page.
fn bits(va: u64, how: u64) -> PageTableFlags {
    let mut bits = PageTableFlags::PRESENT;
    bits.set(PageTableFlags::WRITABLE, how & flags::WRITABLE != 0);
    bits.set(PageTableFlags::DIRTY, how & flags::DIRTY != 0);
    bits.set(PageTableFlags::USER_ACCESSIBLE, va < USER_END);
    bits.set(PageTableFlags::GLOBAL, va >= USER_END && has(features::PGE));
    bits
}

/// Maps `va` to the frame at `at`: nothing is cached of a page that was not there.
pub fn map(mm: u64, va: u64, at: u64, how: u64) {
    let parents =
        PageTableFlags::PRESENT | PageTableFlags::WRITABLE | PageTableFlags::USER_ACCESSIBLE;
    let mapped = unsafe {
        mapper(mm).map_to_with_table_flags(page(va), frame(at), bits(va, how), parents, &mut Frames)
    };
    mapped.expect("it is not mapped").ignore();
}

/// Points a page that is mapped at another frame.
pub fn remap(mm: u64, va: u64, at: u64, how: u64) {
    unmap(mm, va);
    map(mm, va, at, how);
}

/// Takes a page away.
pub fn unmap(mm: u64, va: u64) {
    let (_, promise) = mapper(mm).unmap(page(va)).expect("it is mapped");
    promised(va, promise);
}

fn update(mm: u64, va: u64, change: impl FnOnce(&mut PageTableFlags)) {
    let mut mapper = mapper(mm);
    let TranslateResult::Mapped { mut flags, .. } = mapper.translate(VirtAddr::new(va)) else {
        panic!("it is mapped");
    };
    change(&mut flags);
    promised(va, unsafe { mapper.update_flags(page(va), flags) }.expect("it is mapped"));
}

/// Lets a page be written, or not.
pub fn protect(mm: u64, va: u64, how: u64) {
    update(mm, va, |bits| bits.set(PageTableFlags::WRITABLE, how & flags::WRITABLE != 0));
}

/// Clears D.
pub fn clean(mm: u64, va: u64) {
    update(mm, va, |bits| bits.remove(PageTableFlags::DIRTY));
}

/// Clears A.
pub fn age(mm: u64, va: u64) {
    update(mm, va, |bits| bits.remove(PageTableFlags::ACCESSED));
}

/// Builds the roots, each with the kernel's half and the page of user code at `user_code`.
pub fn init(user_code: u64) {
    // The table below the root is there in each of them.
    let half = table(BOOT_TABLES)[511].clone();
    for mm in 0..MM_COUNT as u64 {
        table(root(mm))[511] = half.clone();
        map(mm, USER_CODE, user_code, 0);
    }
}
