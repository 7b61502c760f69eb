//! The flush primitives. What callers use is here: it announces begin and return with the
//! caller's range, keeps generations, and leaves the work to the policy. No policy announces.
//! They are inlined, so that the place of an announcement tells its caller.

mod eager;
mod fallback;
mod full;
mod joined;
mod split;
mod unsplit;

use crate::arch::{cpu, hypercall, percpu};
use crate::boot::Config;
use crate::mm::is_loaded;
use crate::{entry, paging};
use stalemate_shared::boot::Policy as PolicyName;
use stalemate_shared::hypercall::primitive;
use stalemate_shared::layout::{
    LARGE_PAGE_SIZE, MM_COUNT, PAGE_SIZE, USER_END, USER_LARGE_PAGES, USER_PAGES,
};
use stalemate_shared::pcid::{PCID_MASK, ROOT_MASK, kernel_pcid};
use stalemate_shared::tlb_state::Slot;

/// Pages above which a range is flushed as a whole address space.
const RANGE_CEILING: u64 = 8;

/// One complete design of the flush primitives. Each works on the loaded address space.
pub trait Policy: Sync {
    /// Flushes one user page.
    fn flush_tlb_one_user(&self, va: u64);
    /// Flushes one kernel page, in every address space of this CPU.
    fn flush_tlb_one_kernel(&self, va: u64);
    /// Flushes the user half.
    fn flush_tlb_mm(&self);
    /// Flushes everything.
    fn flush_tlb_all(&self);
    /// Loads `cr3`, a kernel CR3 of slot `asid`, so that nothing older is used under either PCID
    /// of the slot. Only with PCIDs.
    fn switch_mm_flush(&self, cr3: u64, asid: u16);
}

static CONFIG: crate::arch::percpu::Once<Config> = crate::arch::percpu::Once::new();

/// Chooses the policy, once, at boot.
pub fn install(config: Config) {
    CONFIG.set(config);
}

/// What this kernel is.
#[must_use]
pub fn config() -> &'static Config {
    CONFIG.get()
}

/// The policy that this kernel was booted with.
#[must_use]
pub fn policy() -> &'static dyn Policy {
    match config().policy {
        PolicyName::Split => &split::Split,
        PolicyName::Unsplit => &unsplit::Unsplit,
        PolicyName::Full => &full::Full,
        PolicyName::Eager => &eager::Eager,
        PolicyName::Fallback => &fallback::Fallback,
        PolicyName::Joined => &joined::Joined,
    }
}

/// One user page of address space `number`.
#[inline(always)]
pub fn flush_tlb_one_user(number: usize, va: u64) {
    let end = va + page_size(va);
    user(number, primitive::ONE_USER, va, end, |policy| policy.flush_tlb_one_user(va));
}

/// User pages of address space `number`, end exclusive.
#[inline(always)]
pub fn flush_tlb_range(number: usize, start: u64, end: u64) {
    user(number, primitive::RANGE, start, end, |policy| {
        if (end - start) / page_size(start) > RANGE_CEILING {
            policy.flush_tlb_mm();
            return;
        }
        let mut va = start;
        while va < end {
            policy.flush_tlb_one_user(va);
            va += page_size(va);
        }
    });
}

/// The user half of address space `number`.
#[inline(always)]
pub fn flush_tlb_mm(number: usize) {
    user(number, primitive::MM, 0, USER_END, |policy| policy.flush_tlb_mm());
}

/// One kernel page.
#[inline(always)]
pub fn flush_tlb_one_kernel(va: u64) {
    hypercall::begin(primitive::ONE_KERNEL, 0, va, va + PAGE_SIZE);
    policy().flush_tlb_one_kernel(va);
    hypercall::end(primitive::ONE_KERNEL);
}

/// Everything.
#[inline(always)]
pub fn flush_tlb_all() {
    hypercall::begin(primitive::ALL, 0, 0, u64::MAX);
    policy().flush_tlb_all();
    hypercall::end(primitive::ALL);
}

/// A flush of an address space: its generation rises; where it is loaded the policy works now,
/// else its next switch sees the generation and flushes.
#[inline(always)]
fn user(number: usize, id: u64, start: u64, end: u64, work: impl FnOnce(&dyn Policy)) {
    let mut mm = percpu::mm_state(number);
    hypercall::begin(id, mm.kernel_root, start, end);
    mm.tlb_gen += 1;
    percpu::set_mm_state(number, mm);
    if is_loaded(&mm) {
        work(policy());
        let asid = percpu::loaded_mm_asid() as u16;
        percpu::set_slot(asid, Slot { ctx_id: mm.ctx_id, tlb_gen: mm.tlb_gen });
    }
    hypercall::end(id);
}

/// What an NMI handler must not do: it changes the first user test page, where it can, and flushes
/// it by INVLPG and a mark. The address space is told by CR3, since `TlbState` may be halfway.
pub fn flush_in_nmi() {
    let split = matches!(config().policy, PolicyName::Split);
    if !(split && config().pti && config().pcid) {
        return;
    }
    let cr3 = cpu::read_cr3();
    let asid = (cr3 & PCID_MASK) as u16 - kernel_pcid(0);
    let number =
        (0..MM_COUNT).find(|&number| percpu::mm_state(number).kernel_root == cr3 & ROOT_MASK);
    let Some(number) = number else { return };
    let protect = |bits| entry::protected(bits, 0);
    if let Ok(token) = paging::change(number, USER_PAGES, protect) {
        cpu::invlpg(USER_PAGES);
        percpu::mark(asid);
        // The address space is loaded, so that INVLPG and the mark are all that is owed.
        let _ = token.discharge(Some(number), USER_PAGES, USER_PAGES + PAGE_SIZE);
    }
}

fn page_size(va: u64) -> u64 {
    if (USER_LARGE_PAGES..USER_END).contains(&va) { LARGE_PAGE_SIZE } else { PAGE_SIZE }
}
