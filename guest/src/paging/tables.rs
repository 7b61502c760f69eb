//! Edits of whole page tables: made and freed, large pages split and merged, address spaces copied.

use super::{Downgrade, Refused, change, get, leaf, pool, put, slot_at};
use crate::arch::memory::{read_physical, write_physical};
use crate::{entry, flush};
use core::ops::Range;
use stalemate_shared::layout::{
    LARGE_PAGE_SIZE, PAGE_SIZE, USER_LARGE_PAGE_COUNT, USER_LARGE_PAGES, USER_PAGE_COUNT,
    USER_PAGES, USER_TABLE_PAGE_COUNT, USER_TABLE_PAGES,
};

/// Level of the entries that reference page tables.
const PDE: u32 = 2;
/// Entries of a table.
const ENTRIES: u64 = 512;

fn table_pages() -> Range<u64> {
    USER_TABLE_PAGES..USER_TABLE_PAGES + USER_TABLE_PAGE_COUNT * PAGE_SIZE
}

/// Makes the page table for `va`, where that is a page whose table comes and goes and there is
/// none.
///
/// # Errors
/// Where no frame is left.
pub(super) fn provide(mm: usize, va: u64) -> Result<(), Refused> {
    if !table_pages().contains(&va) {
        return Ok(());
    }
    let slot = slot_at(mm, va, PDE)?;
    if !entry::is_present(read_physical(slot)) {
        let table = pool::take_zeroed().ok_or(Refused)?;
        write_physical(slot, entry::table(table));
    }
    Ok(())
}

/// Takes away the page table that maps `va`, with what it maps, and frees it once no CPU can walk
/// it any more.
///
/// # Errors
/// Where there is none, or `va` is no page whose table comes and goes.
pub fn free_table(mm: usize, va: u64) -> Result<(), Refused> {
    if !table_pages().contains(&va) {
        return Err(Refused);
    }
    let slot = slot_at(mm, va, PDE)?;
    let bits = read_physical(slot);
    if !entry::is_present(bits) {
        return Err(Refused);
    }
    write_physical(slot, 0);
    // One address in reach of the table would do for paging-structure caches (SDM vol. 3,
    // 4.10.4.1, INVLPG); the pages that it mapped are flushed one by one.
    let Range { start, end } = table_pages();
    flush::flush_tlb_freeing(mm, start, end);
    pool::give_back(entry::frame(bits));
    Ok(())
}

fn large_slot(mm: usize, va: u64) -> Result<u64, Refused> {
    let end = USER_LARGE_PAGES + USER_LARGE_PAGE_COUNT * LARGE_PAGE_SIZE;
    if !(USER_LARGE_PAGES..end).contains(&va) {
        return Err(Refused);
    }
    slot_at(mm, va, PDE)
}

/// Replaces the 2 MiB page at `va` by 4 KiB pages of the same frames. Not in one store: for a while
/// the processor could hold both sizes (SDM vol. 3, 4.10.2.3).
///
/// # Errors
/// Where there is none, or no frame for the table.
pub fn split(mm: usize, va: u64) -> Result<(), Refused> {
    let slot = large_slot(mm, va)?;
    let bits = read_physical(slot);
    if !entry::is_present(bits) || !entry::is_large(bits) {
        return Err(Refused);
    }
    let table = pool::take().ok_or(Refused)?;
    (0..ENTRIES).for_each(|index| write_physical(table + index * 8, entry::part(bits, index)));
    write_physical(slot, 0);
    flush::flush_tlb_range(mm, va, va + LARGE_PAGE_SIZE);
    write_physical(slot, entry::table(table));
    Ok(())
}

/// Replaces the 4 KiB pages at `va` by the 2 MiB page that they are parts of, and frees their
/// table.
///
/// # Errors
/// Where they are no such parts.
pub fn merge(mm: usize, va: u64) -> Result<(), Refused> {
    let slot = large_slot(mm, va)?;
    let bits = read_physical(slot);
    if !entry::is_present(bits) || entry::is_large(bits) {
        return Err(Refused);
    }
    let table = entry::frame(bits);
    let first = read_physical(table);
    let same = |index: u64| {
        let plain = |bits: u64| entry::clean(entry::aged(bits));
        plain(read_physical(table + index * 8)) == plain(entry::part(first, index))
    };
    if !(0..ENTRIES).all(same) {
        return Err(Refused);
    }
    // A and D of all parts count for the whole.
    let joined = (0..ENTRIES).fold(entry::joined(first), |joined, index| {
        joined | read_physical(table + index * 8) & (entry::ACCESSED | entry::DIRTY)
    });
    write_physical(slot, 0);
    flush::flush_tlb_freeing(mm, va, va + LARGE_PAGE_SIZE);
    write_physical(slot, joined);
    pool::give_back(table);
    Ok(())
}

/// Gives address space `child` the 4 KiB user test pages of `mm`, both to copy at the first store.
///
/// # Errors
/// Where the child has one of them already.
pub fn fork(mm: usize, child: usize) -> Result<(), Refused> {
    let pages = || (0..USER_PAGE_COUNT).map(|number| USER_PAGES + number * PAGE_SIZE);
    if mm == child || pages().any(|va| get(child, va).is_ok()) {
        return Err(Refused);
    }
    for va in pages() {
        let Ok(bits) = get(mm, va) else { continue };
        let shared = entry::shared(bits);
        put(child, va, shared)?;
        if shared != bits {
            let token = change(mm, va, |_| shared)?;
            // The flush of the whole address space follows.
            let _ = token.discharge(Some(mm), va, va + 1);
        }
    }
    flush::flush_tlb_mm(mm);
    Ok(())
}

/// Copies a shared page for `mm`, which is loaded, after a store to it has faulted.
///
/// # Errors
/// Where the page is not shared, or no frame is left.
pub fn copy(mm: usize, va: u64) -> Result<(), Refused> {
    let page = va & !(PAGE_SIZE - 1);
    let (page_leaf, bits) = leaf(mm, page)?.present()?;
    if !entry::is_shared(bits) {
        return Err(Refused);
    }
    let frame = pool::take().ok_or(Refused)?;
    for word in (0..PAGE_SIZE).step_by(8) {
        // The old frame is read as user mode would, through the page itself.
        let value = crate::arch::probe_read(page + word).map_err(|_| Refused)?;
        write_physical(frame + word, value);
    }
    page_leaf.set(entry::copied(bits, frame));
    flush::flush_tlb_one_user(mm, page);
    let token: Downgrade = page_leaf.token;
    let _ = token.discharge(Some(mm), page, page + 1);
    Ok(())
}
