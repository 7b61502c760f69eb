//! The way to an entry, and page tables as wholes.

use super::pool;
use super::token::{Downgrade, Refused};
use crate::arch::memory::{exchange_physical, read_physical, write_physical};
use crate::arch::percpu;
use crate::entry;
use core::ops::Range;
use stalemate_shared::layout::{
    LARGE_PAGE_SIZE, PAGE_SIZE, USER_LARGE_PAGE_COUNT, USER_LARGE_PAGES, USER_TABLE_PAGE_COUNT,
    USER_TABLE_PAGES,
};

/// Level of the entries that reference page tables.
const PDE: u32 = 2;
/// Entries of a table.
const ENTRIES: u64 = 512;

/// The user pages whose page table comes and goes.
#[must_use]
pub fn table_pages() -> Range<u64> {
    USER_TABLE_PAGES..USER_TABLE_PAGES + USER_TABLE_PAGE_COUNT * PAGE_SIZE
}

/// The user pages of 2 MiB, or what they were split into.
#[must_use]
pub fn large_pages() -> Range<u64> {
    USER_LARGE_PAGES..USER_LARGE_PAGES + USER_LARGE_PAGE_COUNT * LARGE_PAGE_SIZE
}

/// The slot of level `level` on the way to `va`.
pub(super) fn slot_at(mm: usize, va: u64, level: u32) -> Result<u64, Refused> {
    let mut table = percpu::mm_state(mm).kernel_root;
    let mut at = 4u32;
    loop {
        let slot = table + (va >> (12 + 9 * (at - 1)) & 0x1ff) * 8;
        if at == level {
            return Ok(slot);
        }
        let bits = read_physical(slot);
        if !entry::is_present(bits) || entry::is_large(bits) {
            return Err(Refused);
        }
        table = entry::frame(bits);
        at -= 1;
    }
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

/// The slot that references the page table for `va`, and that table.
fn referenced(mm: usize, va: u64) -> Result<(u64, u64), Refused> {
    let slot = slot_at(mm, va, PDE)?;
    let bits = read_physical(slot);
    let is_table = entry::is_present(bits) && !entry::is_large(bits);
    if is_table { Ok((slot, entry::frame(bits))) } else { Err(Refused) }
}

/// The frame of the page table for `va`.
///
/// # Errors
/// Where there is none.
pub fn get(mm: usize, va: u64) -> Result<u64, Refused> {
    referenced(mm, va).map(|(_, table)| table)
}

/// The entries of the page table in frame `table`.
pub fn entries(table: u64) -> impl Iterator<Item = u64> {
    (0..ENTRIES).map(move |index| read_physical(table + index * 8))
}

/// Makes `table`, which nothing references yet, one of the 4 KiB parts of the large page `bits`.
pub fn fill_with_parts(table: u64, bits: u64) {
    (0..ENTRIES).for_each(|index| write_physical(table + index * 8, entry::part(bits, index)));
}

/// References the page table in frame `table` for `va`, where nothing is present. Nothing can be
/// cached of it: negative results are not.
///
/// # Errors
/// Where something is.
pub fn put(mm: usize, va: u64, table: u64) -> Result<(), Refused> {
    let slot = slot_at(mm, va, PDE)?;
    if entry::is_present(read_physical(slot)) {
        return Err(Refused);
    }
    write_physical(slot, entry::table(table));
    Ok(())
}

/// Puts `bits` in the place of the page table for `va`: 0, or a large page. Walks do not reach the
/// table any more; what is cached of it, and of the pages that it maps, still does. The caller
/// frees it.
///
/// # Errors
/// Where there is none.
pub fn replace(mm: usize, va: u64, bits: u64) -> Result<Downgrade, Refused> {
    let (slot, _) = referenced(mm, va)?;
    // A processor may set A in it meanwhile, which nobody needs; D it has none.
    exchange_physical(slot, bits);
    Ok(Downgrade { page: va, mm: Some(mm) })
}
