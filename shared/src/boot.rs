//! The boot block: what the VMM tells the kernel, and what the kernel tells back.

/// First word of a boot block: "STALEM8\0" read as a little-endian integer.
pub const MAGIC: u64 = u64::from_le_bytes(*b"STALEM8\0");

/// The largest number of trampoline ranges a kernel may declare.
pub const TRAMPOLINE_RANGES: usize = 8;

/// A range of guest-virtual addresses, end exclusive.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
}

numbered! {
    /// Which flush policy the kernel installs; the numbers are the boot block's.
    pub enum Policy {
        /// Kernel PCID now, user PCID marked.
        Split = 0,
        /// One function for user and kernel pages; `invalidate_other` is never set.
        Unsplit = 1,
        /// Every flush is the big hammer.
        Full = 2,
        /// The user PCID is flushed at once, never marked.
        Eager = 3,
        /// As `Split`, but a kernel page is flushed by the big hammer where other ASIDs may hold it.
        Fallback = 4,
        /// Kernel and user PCID always flushed together, never marked.
        Joined = 5,
    }
}

/// Bits of [`BootBlock::features`]: what the processor has. CPUID does not trap on every host, so
/// the kernel is told.
pub mod features {
    /// CR4.PCIDE can be set.
    pub const PCID: u64 = 1 << 0;
    /// INVPCID exists.
    pub const INVPCID: u64 = 1 << 1;
    /// CR4.PGE can be set.
    pub const PGE: u64 = 1 << 2;
    /// CR4.SMEP can be set.
    pub const SMEP: u64 = 1 << 3;
}

/// Bits of [`BootBlock::options`].
pub mod options {
    /// Page-table isolation: a kernel and a user root per address space.
    pub const PTI: u32 = 1 << 0;
    /// Kernel pages are global even with PTI on: a broken variant that shows `pti-leak`.
    pub const GLOBAL_WITH_PTI: u32 = 1 << 1;
    /// The paranoid exit rewrites a kernel CR3 with NOFLUSH (Linux before bb998361999e, 6.9).
    pub const PARANOID_REWRITE: u32 = 1 << 2;
    /// The NMI handler write-protects the first user test page of the loaded address space and
    /// flushes it: INVLPG, and a mark. Linux forbids itself to flush in an NMI
    /// (`nmi_uaccess_okay`); this kernel shows why. Only with policy `split`, PTI and PCIDs.
    pub const NMI_FLUSH: u32 = 1 << 3;
}

/// Written by the VMM at [`crate::layout::BOOT_BLOCK`] before entry, completed by the kernel
/// before its first hypercall.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootBlock {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`crate::VERSION`].
    pub version: u32,
    /// Bytes of this structure.
    pub size: u32,
    /// Bytes of guest-physical memory.
    pub memory_size: u64,
    /// A [`Policy`] as its number.
    pub policy: u32,
    /// Bits of [`options`].
    pub options: u32,
    /// Bits of [`features`].
    pub features: u64,
    /// Virtual CPUs, at most [`crate::layout::MAX_CPUS`].
    pub cpus: u64,
    /// A broken or fixed variant of the kernel's primitives, by its [`crate::variant`] number; 0
    /// for none.
    pub variant: u64,

    /// From the kernel: guest-physical address of the `TlbState` of CPU 0; those of the others
    /// follow, a page each. 0 if it has none.
    pub tlb_state: u64,
    /// From the kernel: guest-physical address, page-aligned, of an array of
    /// [`crate::layout::MM_STATES`] `MmState`. 0 if it has none.
    pub mm_states: u64,
    /// From the kernel: where the other CPUs begin, on the boot tables, with RDI = their number.
    pub ap_entry: u64,
    /// From the kernel: whether its pages outside the trampoline are global (0 or 1).
    pub kernel_global: u64,
    /// From the kernel: how many of `trampoline` are in use.
    pub trampoline_count: u64,
    /// From the kernel: what the user root maps of the kernel half, page-aligned.
    pub trampoline: [Range; TRAMPOLINE_RANGES],
    /// From the kernel: whether user mode has roots of its own, each 4 KiB above the kernel root of
    /// its address space (0 or 1).
    pub isolated: u64,
    /// From the kernel: guest-physical address of an array of [`WordRow`](crate::words::WordRow), which
    /// describes its words instead of `tlb_state` and `mm_states`; 0 if it has none. From version 5 on.
    pub words: u64,
    /// From the kernel: how many rows that has. From version 5 on.
    pub word_rows: u64,
}
