//! Edits that flush what they take away themselves, under the address space's page-table lock.

use super::{Downgrade, Refused, change, get, pool, put, unmap};
use crate::arch::hypercall;
use crate::arch::memory::Word;
use crate::{entry, flush, variant};
use stalemate_shared::layout::{
    KERNEL_PAGE_COUNT, KERNEL_PAGES, MM_COUNT, PAGE_SIZE, USER_PAGE_COUNT, USER_PAGES,
    USER_TABLE_PAGE_COUNT, USER_TABLE_PAGES,
};
use stalemate_shared::variant::Variant;

/// The page-table lock of each address space.
static LOCKS: [Word; MM_COUNT] = [const { Word::new(0) }; MM_COUNT];

/// The page-table lock, held.
struct Locked(usize);

fn lock(mm: usize) -> Locked {
    while !LOCKS[mm].take_bit(0) {
        hypercall::wait_for_others();
    }
    Locked(mm)
}

impl Drop for Locked {
    fn drop(&mut self) {
        LOCKS[self.0].clear_bit(0);
    }
}

fn flush_one(mm: usize, token: Downgrade) {
    let va = token.page;
    flush::flush_tlb_one_user(mm, va);
    let _ = token.discharge(Some(mm), va, va + 1);
}

/// The first half of the user test pages, and the second: two mappings.
const SECOND_MAPPING: u64 = USER_PAGES + USER_PAGE_COUNT / 2 * PAGE_SIZE;

/// Gives the frame of a page that was unmapped back, unless some other page maps it still.
fn release(frame: u64) {
    let pages =
        |first: u64, count: u64| (first..first + count * PAGE_SIZE).step_by(PAGE_SIZE as usize);
    let user =
        || pages(USER_PAGES, USER_PAGE_COUNT).chain(pages(USER_TABLE_PAGES, USER_TABLE_PAGE_COUNT));
    let maps = |mm: usize, va: u64| get(mm, va).is_ok_and(|bits| entry::frame(bits) == frame);
    let by_user = (0..MM_COUNT).any(|mm| user().any(|va| maps(mm, va)));
    if !by_user && !pages(KERNEL_PAGES, KERNEL_PAGE_COUNT).any(|va| maps(0, va)) {
        pool::give_back(frame);
    }
}

/// Unmaps what is mapped of `[start, end)`, flushes, and gives the frames back.
///
/// # Errors
/// Where these are no 4 KiB user pages.
pub fn unmap_range(mm: usize, start: u64, end: u64) -> Result<(), Refused> {
    let within = |first: u64, count: u64| first <= start && end <= first + count * PAGE_SIZE;
    let known =
        within(USER_PAGES, USER_PAGE_COUNT) || within(USER_TABLE_PAGES, USER_TABLE_PAGE_COUNT);
    if start >= end || !known {
        return Err(Refused);
    }
    let _locked = lock(mm);
    let pages = || (start..end).step_by(PAGE_SIZE as usize);
    let mut frames = [None; USER_PAGE_COUNT as usize];
    for (frame, va) in frames.iter_mut().zip(pages()) {
        if let Ok(bits) = get(mm, va) {
            *frame = Some(entry::frame(bits));
            let token = unmap(mm, va)?;
            // The flush of the range follows.
            let _ = token.discharge(Some(mm), va, va + 1);
        }
    }
    // What a batch has unmapped is still cached: no entry here means no flush there.
    if flush::has_batch() && !variant::is(Variant::BatchForgotten) {
        flush::flush_tlb_batched();
    }
    let found = frames.iter().any(Option::is_some);
    let first_only = variant::is(Variant::SecondMappingForgotten) && start < SECOND_MAPPING;
    if found && first_only {
        flush::flush_tlb_range_announcing(mm, start, end, end.min(SECOND_MAPPING));
    } else if found {
        flush::flush_tlb_range(mm, start, end);
    } else {
        flush::nothing_to_flush(mm, start, end);
    }
    frames.iter().flatten().for_each(|&frame| release(frame));
    Ok(())
}

/// Moves the frame of one page to another address.
///
/// # Errors
/// Where `from` is not present, or `to` is.
pub fn move_page(mm: usize, from: u64, to: u64) -> Result<(), Refused> {
    let locked = lock(mm);
    let bits = get(mm, from)?;
    if get(mm, to).is_ok() {
        return Err(Refused);
    }
    let token = unmap(mm, from)?;
    put(mm, to, bits)?;
    // Once the lock is dropped another CPU may unmap the new page and free its frame: what is
    // cached of the old one must be gone by then.
    let held = (!variant::is(Variant::MoveUnlocksFirst)).then_some(locked);
    flush_one(mm, token);
    drop(held);
    Ok(())
}

/// Gives a page another frame, by way of an entry that is not present, and frees the old one.
///
/// # Errors
/// Where the page is not present.
pub fn migrate(mm: usize, va: u64, frame: u64) -> Result<(), Refused> {
    let locked = lock(mm);
    let bits = get(mm, va)?;
    let token = unmap(mm, va)?;
    let held = (!variant::is(Variant::MigrationUnlocksFirst)).then_some(locked);
    if held.is_none() {
        // Whoever comes now sees no page, flushes nothing, and takes the frame for unused.
        release(entry::frame(bits));
        flush_one(mm, token);
    } else {
        flush_one(mm, token);
        release(entry::frame(bits));
    }
    put(mm, va, entry::moved(bits, frame))?;
    drop(held);
    Ok(())
}

/// Clears D, so that the next store sets it again.
///
/// # Errors
/// Where the page is not present.
pub fn make_clean(mm: usize, va: u64) -> Result<(), Refused> {
    let _locked = lock(mm);
    let token = change(mm, va, entry::clean)?;
    if variant::is(Variant::CleanIsLocal) {
        flush::flush_tlb_here(mm, token);
    } else {
        flush_one(mm, token);
    }
    Ok(())
}

/// Takes the right to write away.
///
/// # Errors
/// Where the page is not present.
pub fn write_protect(mm: usize, va: u64) -> Result<(), Refused> {
    let _locked = lock(mm);
    if variant::is(Variant::FlushBeforeStore) {
        flush::flush_tlb_one_user(mm, va);
        let token = change(mm, va, |bits| entry::protected(bits, 0))?;
        let _ = token.discharge(Some(mm), va, va + 1);
    } else {
        flush_one(mm, change(mm, va, |bits| entry::protected(bits, 0))?);
    }
    Ok(())
}
