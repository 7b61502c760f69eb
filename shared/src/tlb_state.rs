//! The state of the flush protocol that the VMM watches in guest memory.

use crate::pcid::ASID_SLOTS;

/// What one ASID slot caches.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Context id of the address space that owns the slot; 0 where none does.
    pub ctx_id: u64,
    /// The generation of that address space up to which the slot has been flushed.
    pub tlb_gen: u64,
}

/// One CPU's TLB state, alone on a page of its own.
#[repr(C, align(4096))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlbState {
    /// Context id of the address space in CR3; 0 before the first switch, [`SWITCHING`] while CR3
    /// and this word may disagree.
    pub loaded_mm: u64,
    /// ASID slot of the loaded address space.
    pub loaded_mm_asid: u64,
    /// 1 while a kernel thread runs on an address space that is not its own.
    pub is_lazy: u64,
    /// The slot that the round-robin allocator takes next.
    pub next_asid: u64,
    /// 1 where kernel entries in the *other* ASIDs are stale.
    pub invalidate_other: u64,
    /// Bit `kernel_pcid(asid)`: the user PCID of `asid` must be flushed when its user tables are
    /// next loaded. The mark.
    pub user_pcid_flush_mask: u64,
    /// Shadow of CR4.
    pub cr4: u64,
    /// The slots.
    pub slots: [Slot; ASID_SLOTS],
    /// Bit `n`: CPU `n` asks this one to flush. Other CPUs set bits.
    pub pending: u64,
    /// Bit `n`: CPU `n` has not yet acknowledged what this one asked for. CPU `n` clears it: its
    /// acknowledgement.
    pub waiting: u64,
}

/// [`TlbState::loaded_mm`] while CR3 is being changed.
pub const SWITCHING: u64 = u64::MAX;

impl TlbState {
    /// The state of a CPU that has loaded no address space.
    pub const NEW: Self = Self {
        loaded_mm: 0,
        loaded_mm_asid: 0,
        is_lazy: 0,
        next_asid: 0,
        invalidate_other: 0,
        user_pcid_flush_mask: 0,
        cr4: 0,
        slots: [Slot { ctx_id: 0, tlb_gen: 0 }; ASID_SLOTS],
        pending: 0,
        waiting: 0,
    };
}

/// Byte offset of [`TlbState::user_pcid_flush_mask`], for assembly and for the VMM.
pub const USER_PCID_FLUSH_MASK: u64 = core::mem::offset_of!(TlbState, user_pcid_flush_mask) as u64;

/// Byte offset of [`TlbState::invalidate_other`].
pub const INVALIDATE_OTHER: u64 = core::mem::offset_of!(TlbState, invalidate_other) as u64;

/// Words of a [`TlbState`] up to its last field.
pub const TLB_STATE_WORDS: usize = core::mem::offset_of!(TlbState, waiting) / 8 + 1;

/// Byte offset of [`TlbState::loaded_mm`].
pub const LOADED_MM: u64 = core::mem::offset_of!(TlbState, loaded_mm) as u64;

/// Byte offset of [`TlbState::is_lazy`].
pub const IS_LAZY: u64 = core::mem::offset_of!(TlbState, is_lazy) as u64;

/// Byte offset of [`TlbState::pending`].
pub const PENDING: u64 = core::mem::offset_of!(TlbState, pending) as u64;

/// Byte offset of [`TlbState::waiting`].
pub const WAITING: u64 = core::mem::offset_of!(TlbState, waiting) as u64;

/// One address space, as the VMM reads it in guest memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MmState {
    /// Unique, never reused, never 0.
    pub ctx_id: u64,
    /// Rises with every change that needs a flush.
    pub tlb_gen: u64,
    /// Guest-physical address of the kernel root; the user root, with PTI, is 4 KiB above.
    pub kernel_root: u64,
    /// Bit `n`: CPU `n` may have it loaded.
    pub cpumask: u64,
}

/// Offset of the pointer to a CPU's [`TlbState`] in the block that GS points to.
pub const POINTER_IN_GS: u64 = 32;
