//! The flush primitives that callers use: each announces begin and return with the caller's range,
//! raises generations, and leaves the work to the policy, here and on every CPU that must.
//! They are inlined, so that the place of an announcement tells its caller.
//!
//! *Stale* is what it is in [`Policy`](crate::policy::contract::Policy). An address space is
//! *active* on a CPU that has it loaded and is not lazy. Where it is not active, a CPU may go on to
//! hold what is stale until the address space is active there again: its slot lags behind the
//! generation then, and is flushed first.

use crate::arch::memory::Word;
use crate::arch::{hypercall, percpu};
use crate::fence::LOCK;
use crate::paging::Downgrade;
use crate::shootdown::{EVERY_CPU, Request, What, flush_on};
use crate::variant;
use stalemate_shared::hypercall::{Deferral, Primitive};
use stalemate_shared::layout::{
    COLOUR_FRAMES, COLOURS, KERNEL_PAGES, LARGE_PAGE_SIZE, MAX_CPUS, MM_COUNT, PAGE_SIZE,
    POOL_FRAME_COUNT, POOL_FRAMES, USER_END, USER_LARGE_PAGES, USER_TABLE_PAGES,
};
use stalemate_shared::variant::Variant;

/// Flushes the user page at `va` of address space `number`.
///
/// Promises: no CPU on which it is active holds anything stale of the page under its kernel PCID.
///
/// Does not promise yet: that no user PCID holds anything stale of it. Each may until its CPU next
/// enters user mode.
#[inline(always)]
pub fn flush_tlb_one_user(number: usize, va: u64) {
    user(number, Primitive::OneUser, va, va + page_size(va));
}

/// Flushes the user pages in `[start, end)` of address space `number`, all of the size of the
/// first.
///
/// Promises, and does not promise yet: of each page as [`flush_tlb_one_user`].
#[inline(always)]
pub fn flush_tlb_range(number: usize, start: u64, end: u64) {
    user(number, Primitive::Range, start, end);
}

/// Announces a flush of `[start, end)` and flushes `[start, flushed_end)`, which is less in a
/// historical mistake.
///
/// Promises, and does not promise yet: as [`flush_tlb_range`], of what it flushes only.
#[inline(always)]
pub fn flush_tlb_range_announcing(number: usize, start: u64, end: u64, flushed_end: u64) {
    let flush =
        hypercall::begin(Primitive::Range, percpu::mm_state(number).kernel_root, start, end);
    let tlb_gen = percpu::raise_tlb_gen(number);
    let what = What::User { number, tlb_gen, frees_tables: false };
    let cpus = percpu::cpumask_after_raise(number);
    flush_on(cpus, &Request::new(what, start, flushed_end, PAGE_SIZE));
    hypercall::end(flush);
}

/// Flushes a user page on this CPU and no other, which is a historical mistake.
///
/// Promises: this CPU, if the address space is active on it, holds nothing stale of the page under
/// its kernel PCID.
///
/// Does not promise yet: the same of its user PCID, until user mode is next entered. Of other CPUs
/// it promises nothing: only the generation has risen.
#[inline(always)]
pub fn flush_tlb_here(number: usize, token: Downgrade) {
    let va = token.page;
    let end = va + page_size(va);
    let flush = hypercall::begin(Primitive::OneUser, percpu::mm_state(number).kernel_root, va, end);
    let tlb_gen = percpu::raise_tlb_gen(number);
    let what = What::User { number, tlb_gen, frees_tables: false };
    flush_on(0, &Request::new(what, va, end, page_size(va)));
    hypercall::end(flush);
    let _ = token.discharge(Some(number), va, end);
}

/// Flushes the user half of address space `number`.
///
/// Promises, and does not promise yet: of every user page as [`flush_tlb_one_user`].
#[inline(always)]
pub fn flush_tlb_mm(number: usize) {
    user(number, Primitive::Mm, 0, USER_END);
}

/// Flushes the user pages in `[start, end)` of address space `number` whose page table is about to
/// be freed: no walk reaches it any more.
///
/// Promises: as [`flush_tlb_range`], and no lazy CPU has the address space loaded. So no CPU walks
/// the table by what it has cached under the kernel PCID that is loaded.
///
/// Does not promise yet: the same of user PCIDs, until their CPU next enters user mode.
#[inline(always)]
pub fn flush_tlb_freeing(number: usize, start: u64, end: u64) {
    // The pages of a page table are small, whatever takes their place.
    let stride = if variant::is(Variant::StrideOfToday) { page_size(start) } else { PAGE_SIZE };
    announced_user(number, Primitive::FreeTables, start, end, stride, true);
}

/// Flushes the kernel page at `va`, on every CPU.
///
/// Promises: no CPU, lazy or not, holds anything stale of the page under the kernel PCID that it
/// has loaded, or in a global entry.
///
/// Does not promise yet: the same of user PCIDs, for a page of the trampoline, until their CPU next
/// enters user mode; nor of a CPU's other slots, until it next loads them.
#[inline(always)]
pub fn flush_tlb_one_kernel(va: u64) {
    if variant::is(Variant::WindowFlushedAtWrap) && va != KERNEL_PAGES {
        return;
    }
    announced(Primitive::OneKernel, What::Kernel, va, va + PAGE_SIZE);
}

/// Flushes the kernel page at `va` on this CPU alone: of a window that each CPU uses for itself.
///
/// Promises: this CPU holds nothing stale of the page under the kernel PCID that it has loaded, or in
/// a global entry.
///
/// Does not promise yet: the same of its other slots, until it next loads them. Of other CPUs it
/// promises nothing.
#[inline(always)]
pub fn flush_tlb_one_kernel_here(va: u64) {
    let flush = hypercall::begin(Primitive::OneKernelHere, 0, va, va + PAGE_SIZE);
    flush_on(0, &Request::new(What::Kernel, va, va + PAGE_SIZE, PAGE_SIZE));
    hypercall::end(flush);
}

/// Leaves the flush of a kernel page that was unmapped to whoever maps its address anew.
pub fn defer_until_reuse(until: Deferral, page: Downgrade) {
    let va = page.page;
    hypercall::defer(until, 0, va, va + PAGE_SIZE);
    let _ = page.discharge(None, va, va + PAGE_SIZE);
}

/// Flushes the kernel pages in `[start, end)`, on every CPU.
///
/// Promises, and does not promise yet: of each page as [`flush_tlb_one_kernel`].
#[inline(always)]
pub fn flush_tlb_kernel_range(start: u64, end: u64) {
    if variant::is(Variant::KernelAreaNotFlushed) {
        return;
    }
    let elsewhere = variant::is(Variant::KernelRangeElsewhere);
    let flushed = if elsewhere { (end, end + (end - start)) } else { (start, end) };
    let flush = hypercall::begin(Primitive::KernelRange, 0, start, end);
    flush_everywhere(What::Kernel, flushed.0, flushed.1);
    hypercall::end(flush);
}

/// Flushes everything, on every CPU.
///
/// Promises: no CPU, lazy or not, holds anything stale under the kernel PCID that it has loaded, or
/// in a global entry.
///
/// Does not promise yet: the same of user PCIDs, until their CPU next enters user mode; nor of a
/// CPU's other slots, until it next loads them.
#[inline(always)]
pub fn flush_tlb_all() {
    let flush = hypercall::begin(Primitive::All, 0, 0, u64::MAX);
    let cpus = if variant::is(Variant::FlushAllIsLocal) { 0 } else { EVERY_CPU };
    flush_on(cpus, &Request::new(What::Everything, 0, u64::MAX, PAGE_SIZE));
    hypercall::end(flush);
}

#[inline(always)]
fn announced(primitive: Primitive, what: What, start: u64, end: u64) {
    let flush = hypercall::begin(primitive, 0, start, end);
    flush_everywhere(what, start, end);
    hypercall::end(flush);
}

#[inline(never)]
fn flush_everywhere(what: What, start: u64, end: u64) {
    let cpus = if variant::is(Variant::KernelFlushIsLocal) { 0 } else { EVERY_CPU };
    flush_on(cpus, &Request::new(what, start, end, PAGE_SIZE));
}

#[inline(always)]
fn user(number: usize, primitive: Primitive, start: u64, end: u64) {
    announced_user(number, primitive, start, end, page_size(start), false);
}

#[inline(always)]
fn announced_user(
    number: usize,
    primitive: Primitive,
    start: u64,
    end: u64,
    stride: u64,
    frees_tables: bool,
) {
    let flush = hypercall::begin(primitive, percpu::mm_state(number).kernel_root, start, end);
    flush_user(number, start, end, stride, frees_tables);
    hypercall::end(flush);
}

/// A flush of an address space: its generation rises; CPUs that have it loaded work now, the
/// others see the generation at their next switch, and flush.
#[inline(never)]
fn flush_user(number: usize, start: u64, end: u64, stride: u64, frees_tables: bool) {
    let late = variant::is(Variant::GenerationAfterIpi);
    let early = variant::is(Variant::CpumaskBeforeGeneration);
    let early = early.then(|| percpu::mm_state(number).cpumask);
    let tlb_gen = match late {
        true => percpu::mm_state(number).tlb_gen + 1,
        false => percpu::raise_tlb_gen(number),
    };
    let what = What::User { number, tlb_gen, frees_tables };
    // Read after the generation was raised: a CPU that is not in it yet will see that.
    let local = variant::is(Variant::UserFlushIsLocal);
    let mask = || early.unwrap_or_else(|| percpu::cpumask_after_raise(number));
    let cpus = if local { 0 } else { mask() };
    flush_on(cpus, &Request::new(what, start, end, stride));
    if late {
        percpu::raise_tlb_gen(number);
    }
}

/// The CPUs that the next batched flush must ask, by the CPU that batches; and [`BATCHED`], where
/// something was deferred, though nobody may have to be asked.
static BATCHES: [Word; MAX_CPUS] = [const { Word::new(0) }; MAX_CPUS];

const BATCHED: u64 = 1 << 63;

/// By the CPU that batches, the frames of the pages that it has deferred, as bits: what is cached
/// may still reach them, so that nobody gives them back.
static BATCHED_FRAMES: [Word; MAX_CPUS] = [const { Word::new(0) }; MAX_CPUS];

/// By address space, 1 where a flush of it was deferred, by whatever CPU, and nobody has made sure
/// of it yet. Read and written under its page-table lock.
static PENDING: [Word; MM_COUNT] = [const { Word::new(0) }; MM_COUNT];

/// The bit of a frame in [`BATCHED_FRAMES`]; none of a frame that is never given back.
fn frame_bit(frame: u64) -> u64 {
    let number = |first: u64, count: u64| {
        let number = frame.checked_sub(first)? / PAGE_SIZE;
        (number < count).then_some(number)
    };
    let colour = || number(COLOUR_FRAMES, COLOURS.len() as u64);
    let of_pool = number(POOL_FRAMES, POOL_FRAME_COUNT);
    let bit = of_pool.or_else(|| colour().map(|colour| POOL_FRAME_COUNT + colour));
    bit.map_or(0, |bit| 1 << bit)
}

/// The frame of a page that is about to be unmapped, its flush deferred, stays until this CPU's
/// next [`flush_tlb_batched`]. Before the entry is cleared: whoever no longer finds the frame mapped
/// finds it here.
pub fn hold_frame(frame: u64) {
    let frames = &BATCHED_FRAMES[percpu::number() as usize];
    frames.set(frames.get() | frame_bit(frame));
}

/// Whether some CPU's next [`flush_tlb_batched`] is of a page of this frame.
#[must_use]
pub fn is_held(frame: u64) -> bool {
    let held = BATCHED_FRAMES.iter().any(|frames| frames.get() & frame_bit(frame) != 0);
    held && !variant::is(Variant::BatchHoldsNoFrames)
}

/// Leaves the flush of a user page that was unmapped to this CPU's next [`flush_tlb_batched`], or
/// to whoever needs it sooner. The caller has held the page-table lock since before the page was
/// unmapped.
///
/// Promises: the generation has risen, so that the address space becomes active nowhere without a
/// flush.
///
/// Does not promise yet: anything of a CPU on which it is active.
pub fn defer(number: usize, page: Downgrade) {
    let mm = percpu::mm_state(number);
    let va = page.page;
    hypercall::defer(Deferral::Batched, mm.kernel_root, va, va + page_size(va));
    PENDING[number].set(1);
    percpu::raise_tlb_gen(number);
    let batch = &BATCHES[percpu::number() as usize];
    let before = if variant::is(Variant::BatchForgetsCpus) { 0 } else { batch.get() };
    batch.set(before | percpu::cpumask_after_raise(number) | BATCHED);
    // The generation has risen: nobody can load the address space without a flush.
    let _ = page.discharge(None, 0, u64::MAX);
}

/// Flushes what any CPU has deferred of address space `number`, whose page-table lock the caller
/// holds. Who finds no entry, or makes one, relies on this: no entry does not mean that nothing is
/// cached.
///
/// Promises: no CPU on which the address space is active holds anything under its kernel PCID whose
/// flush was deferred.
///
/// Does not promise yet: the same of user PCIDs, until their CPU next enters user mode.
#[inline(always)]
pub fn flush_pending(number: usize) {
    let of_here = BATCHES[percpu::number() as usize].get() != 0;
    let missed =
        variant::is(Variant::BatchForgotten) || variant::is(Variant::BatchOfOwnCpu) && !of_here;
    if PENDING[number].get_after::<LOCK>() == 0 || missed {
        return;
    }
    flush_tlb_mm(number);
    PENDING[number].set(0);
}

/// Announces a flush of the user pages in `[start, end)`, none of which was mapped, and does no
/// more.
///
/// Promises nothing of its own: what is stale there has been flushed before.
#[inline(always)]
pub fn nothing_to_flush(number: usize, start: u64, end: u64) {
    let flush =
        hypercall::begin(Primitive::Range, percpu::mm_state(number).kernel_root, start, end);
    hypercall::end(flush);
}

/// Flushes what this CPU has deferred.
///
/// Promises: no CPU on which an address space is active holds anything under its kernel PCID that
/// this CPU had deferred for it.
///
/// Does not promise yet: the same of user PCIDs, until their CPU next enters user mode.
#[inline(always)]
pub fn flush_tlb_batched() {
    let flush = hypercall::begin(Primitive::Batched, 0, 0, USER_END);
    let batch = &BATCHES[percpu::number() as usize];
    let request = Request::new(What::Loaded, 0, USER_END, PAGE_SIZE);
    flush_on(batch.get() & !BATCHED, &request);
    batch.set(0);
    BATCHED_FRAMES[percpu::number() as usize].set(0);
    hypercall::end(flush);
}

/// Bytes of the page at `va`.
#[must_use]
pub fn page_size(va: u64) -> u64 {
    if (USER_LARGE_PAGES..USER_TABLE_PAGES).contains(&va) { LARGE_PAGE_SIZE } else { PAGE_SIZE }
}
