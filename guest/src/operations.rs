//! Operations on address spaces: edits that flush what they take away themselves.

use crate::arch::memory::Word;
use crate::arch::{self, hypercall, memory};
use crate::fence::LOCK;
use crate::paging::{Downgrade, Refused, change, edit, get, pool, put, tables, take, unmap};
use crate::{entry, flush, variant};
use core::ops::Range;
use stalemate_shared::layout::{
    KERNEL_PAGE_COUNT, KERNEL_PAGES, LARGE_PAGE_SIZE, MM_COUNT, PAGE_SIZE, USER_PAGE_COUNT,
    USER_PAGES, USER_TABLE_PAGE_COUNT, USER_TABLE_PAGES,
};
use stalemate_shared::variant::Variant;

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
    // What a batch has unmapped, on whatever CPU, is still cached: no entry does not mean no flush.
    flush::flush_pending(mm);
    let pages = || (start..end).step_by(PAGE_SIZE as usize);
    let mut frames = [None; USER_PAGE_COUNT as usize];
    for (frame, va) in frames.iter_mut().zip(pages()) {
        if let Ok((bits, token)) = take(mm, va) {
            *frame = Some(entry::frame(bits));
            // The flush of the range follows.
            let _ = token.discharge(Some(mm), va, va + 1);
        }
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
    for (index, frame) in frames.iter().enumerate() {
        // Two of the pages may have shown one frame.
        if let Some(frame) = frame.filter(|_| !frames[..index].contains(frame)) {
            release(mm, frame);
        }
    }
    Ok(())
}

/// Makes a page not present; its flush is left to the CPU's next batched one.
///
/// # Errors
/// Where it is not present.
pub fn unmap_batched(mm: usize, va: u64) -> Result<(), Refused> {
    let _locked = lock(mm);
    flush::hold_frame(entry::frame(get(mm, va)?));
    flush::defer(mm, unmap(mm, va)?);
    Ok(())
}

/// Moves the frame of one page to another address.
///
/// # Errors
/// Where `from` is not present, or `to` is.
pub fn move_page(mm: usize, from: u64, to: u64) -> Result<(), Refused> {
    let locked = lock(mm);
    if get(mm, from).is_err() || get(mm, to).is_ok() {
        return Err(Refused);
    }
    // What was at the new address before may be cached still.
    flush::flush_pending(mm);
    let (bits, token) = take(mm, from)?;
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
    let (bits, token) = take(mm, va)?;
    let held = (!variant::is(Variant::MigrationUnlocksFirst)).then_some(locked);
    if held.is_none() {
        // Whoever comes now sees no page, flushes nothing, and takes the frame for unused.
        release(mm, entry::frame(bits));
        flush_one(mm, token);
    } else {
        flush_one(mm, token);
        // Whoever migrates copies the page here; steps give it a frame with contents of its own.
        hypercall::contents_taken(entry::frame(bits));
        release(mm, entry::frame(bits));
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
    } else if variant::is(Variant::WriteProtectNotFlushed) {
        let token = change(mm, va, |bits| entry::protected(bits, 0))?;
        let _ = token.discharge(Some(mm), va, va + 1);
    } else {
        flush_one(mm, change(mm, va, |bits| entry::protected(bits, 0))?);
    }
    Ok(())
}

/// Gives address space `child` the 4 KiB user test pages of `mm`, both to copy at the first store.
///
/// # Errors
/// Where the child has one of them already.
pub fn fork(mm: usize, child: usize) -> Result<(), Refused> {
    let pages = || (0..USER_PAGE_COUNT).map(|number| USER_PAGES + number * PAGE_SIZE);
    if mm == child {
        return Err(Refused);
    }
    // Until the flush is over nobody may copy a page that is write-protected here already: by what
    // is cached its old frame can still be written.
    let locks = variant::is(Variant::ForkTakesNoLock);
    let _locked = (!locks).then(|| (lock(mm.min(child)), lock(mm.max(child))));
    if pages().any(|va| get(child, va).is_ok()) {
        return Err(Refused);
    }
    flush::flush_pending(child);
    for va in pages() {
        let Ok(mut bits) = get(mm, va) else { continue };
        // First here: what the child gets has every D that was set until then.
        if entry::shared(bits) != bits {
            let token;
            (bits, token) = edit(mm, va, entry::shared)?;
            // The flush of the whole address space follows.
            let _ = token.discharge(Some(mm), va, va + 1);
        }
        put(child, va, bits)?;
    }
    flush::flush_tlb_mm(mm);
    // From here on the child has the contents as they are.
    for va in pages() {
        if let Ok(bits) = get(child, va) {
            hypercall::contents_taken(entry::frame(bits));
        }
    }
    Ok(())
}

/// What was done about a page fault of user mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// The page was copied.
    Copied,
    /// The page allows the access by now: it was in the middle of an edit, or what was cached of it
    /// allowed less.
    Already,
}

/// The page-fault error code's bit of a store.
const STORE: u64 = 2;

/// Mends a page fault of user mode in `mm`, which is loaded, so that the access can be tried again.
///
/// # Errors
/// Where the page does not allow it.
pub fn mend_fault(mm: usize, va: u64, error: u64) -> Result<Mended, Refused> {
    let page = va & !(PAGE_SIZE - 1);
    let _locked = (!variant::is(Variant::CopyTakesNoLock)).then(|| lock(mm));
    let bits = get(mm, page)?;
    if error & STORE != 0 && entry::is_shared(bits) {
        copy(mm, page, bits)?;
        return Ok(Mended::Copied);
    }
    let allows = entry::is_user(bits) && (error & STORE == 0 || entry::is_writable(bits));
    if allows { Ok(Mended::Already) } else { Err(Refused) }
}

/// Copies the shared page at `page`, whose entry is `bits`, for `mm`, which is loaded and locked.
/// Between the old frame and the new one the page is not present: else one CPU could read the old
/// frame while another one writes the new.
fn copy(mm: usize, page: u64, bits: u64) -> Result<(), Refused> {
    let frame = pool::take().ok_or(Refused)?;
    hypercall::contents_taken(entry::frame(bits));
    for word in (0..PAGE_SIZE).step_by(8) {
        // The old frame is read as user mode would, through the page itself.
        let value = arch::probe_read(page + word).map_err(|_| Refused)?;
        memory::write_physical(frame + word, value);
    }
    if variant::is(Variant::CopySetsFirst) {
        let token = change(mm, page, |bits| entry::copied(bits, frame))?;
        flush_one(mm, token);
        return Ok(());
    }
    let (bits, token) = take(mm, page)?;
    flush_one(mm, token);
    put(mm, page, entry::copied(bits, frame))
}

/// Replaces the 2 MiB page at `va` by 4 KiB pages of the same frames. Not in one store: for a while
/// the processor could hold both sizes (SDM vol. 3, 4.10.2.3).
///
/// # Errors
/// Where there is none, or no frame for the table.
pub fn split(mm: usize, va: u64) -> Result<(), Refused> {
    let _locked = lock(mm);
    if !entry::is_large(get(mm, va)?) {
        return Err(Refused);
    }
    let table = pool::take().ok_or(Refused)?;
    // Until here another CPU may have set A and D.
    let (bits, token) = take(mm, va)?;
    tables::fill_with_parts(table, bits);
    let end = va + LARGE_PAGE_SIZE;
    flush::flush_tlb_range(mm, va, end);
    let _ = token.discharge(Some(mm), va, end);
    tables::put(mm, va, table)
}

/// Replaces the 4 KiB pages at `va` by the 2 MiB page that they are parts of, and frees their
/// table.
///
/// # Errors
/// Where they are no such parts.
pub fn merge(mm: usize, va: u64) -> Result<(), Refused> {
    if !tables::large_pages().contains(&va) {
        return Err(Refused);
    }
    let _locked = lock(mm);
    let table = tables::get(mm, va)?;
    let first = tables::entries(table).next().ok_or(Refused)?;
    let plain = |bits: u64| entry::clean(entry::aged(bits));
    let same = |(index, bits)| plain(bits) == plain(entry::part(first, index));
    if !(0..).zip(tables::entries(table)).all(same) {
        return Err(Refused);
    }
    // A and D of all parts count for the whole.
    let joined = || {
        tables::entries(table).fold(entry::joined(first), |joined, bits| {
            joined | bits & (entry::ACCESSED | entry::DIRTY)
        })
    };
    if variant::is(Variant::MergeNotFlushed) {
        let _ = tables::replace(mm, va, joined())?;
        pool::give_back(table);
        return Ok(());
    }
    let token = tables::replace(mm, va, 0)?;
    let end = va + LARGE_PAGE_SIZE;
    flush::flush_tlb_freeing(mm, va, end);
    let _ = token.discharge(Some(mm), va, end);
    // Until the flush other CPUs set A and D in the parts.
    put(mm, va, joined())?;
    pool::give_back(table);
    Ok(())
}

/// Takes away the page table that maps `va`, with what it maps, and frees it once no CPU can walk
/// it any more.
///
/// # Errors
/// Where there is none, or `va` is no page whose table comes and goes.
pub fn free_table(mm: usize, va: u64) -> Result<(), Refused> {
    let Range { start, end } = tables::table_pages();
    if !(start..end).contains(&va) {
        return Err(Refused);
    }
    let _locked = lock(mm);
    let table = tables::get(mm, va)?;
    let token = tables::replace(mm, va, 0)?;
    let maps_nothing = tables::entries(table).all(|bits| bits == 0);
    let forgets = variant::is(Variant::TableNotFlushed)
        || variant::is(Variant::EmptyTableNotFlushed) && maps_nothing;
    let early = variant::is(Variant::TableFreedFirst);
    if forgets || early {
        pool::give_back(table);
    }
    if forgets {
        return Ok(());
    }
    // One address in reach of the table would do for paging-structure caches (SDM vol. 3,
    // 4.10.4.1, INVLPG); the pages that it mapped are flushed one by one.
    flush::flush_tlb_freeing(mm, start, end);
    let _ = token.discharge(Some(mm), start, end);
    if !early {
        pool::give_back(table);
    }
    Ok(())
}

/// The page-table lock of each address space.
static LOCKS: [Word; MM_COUNT] = [const { Word::new(0) }; MM_COUNT];

/// The page-table lock, held.
struct Locked(usize);

#[inline(always)]
fn lock(mm: usize) -> Locked {
    while !LOCKS[mm].take_bit_fenced::<LOCK>(0) {
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

/// Gives the frame of a page that `mm` has unmapped back, unless some other page maps it still, or a
/// batch that has unmapped it is not over.
fn release(mm: usize, frame: u64) {
    let pages =
        |first: u64, count: u64| (first..first + count * PAGE_SIZE).step_by(PAGE_SIZE as usize);
    let user =
        || pages(USER_PAGES, USER_PAGE_COUNT).chain(pages(USER_TABLE_PAGES, USER_TABLE_PAGE_COUNT));
    let maps = |mm: usize, va: u64| get(mm, va).is_ok_and(|bits| entry::frame(bits) == frame);
    let one = variant::is(Variant::ReleaseAsksOneSpace);
    let mut spaces = if one { mm..mm + 1 } else { 0..MM_COUNT };
    let by_user = spaces.any(|mm| user().any(|va| maps(mm, va)));
    let by_kernel = || pages(KERNEL_PAGES, KERNEL_PAGE_COUNT).any(|va| maps(0, va));
    if !by_user && !by_kernel() && !flush::is_held(frame) {
        pool::give_back(frame);
    }
}
