//! The hypercalls: `out PORT, al` at virtual CPL 0, which traps on every host.
//!
//! RAX carries the number, RDI, RSI, RDX and RCX the arguments; RAX, RDI, RSI, RDX and RCX carry
//! what comes back, where something does. No hypercall stands for a CR3 load or an invalidation.

/// The I/O port.
pub const PORT: u8 = 0x5a;

/// The kernel has booted and completed its boot block; nothing comes back.
pub const READY: u64 = 1;
/// Report a step and ask for the next. RDI: a [`crate::step::status`], RSI: its value, RDX: its
/// second value. Back: RAX a [`crate::step::op`], RDI to RCX its arguments.
pub const NEXT_STEP: u64 = 2;
/// A flush primitive begins. RDI: a [`primitive`], RSI: guest-physical address of the address space's kernel
/// root (0 for kernel ranges), RDX and RCX: the caller's range, end exclusive.
pub const BEGIN: u64 = 3;
/// The flush primitive that began last returns. RDI: its [`primitive`].
pub const END: u64 = 4;
/// A frame is given back. RDI: its guest-physical address.
pub const FRAME_FREED: u64 = 5;
/// The CPU waits for another one; nothing comes back.
pub const YIELD: u64 = 7;
/// The flush of what was just unmapped is deferred: RSI, RDX and RCX as for [`BEGIN`]. It is due
/// when the next [`primitive::BATCHED`] returns.
pub const DEFER: u64 = 8;
/// The kernel cannot go on. RDI: line number in the source, RSI and RDX: address and length of
/// the file's name.
pub const PANIC: u64 = 6;

/// The flush primitives, as announced.
pub mod primitive {
    /// `flush_tlb_one_user`
    pub const ONE_USER: u64 = 1;
    /// `flush_tlb_one_kernel`
    pub const ONE_KERNEL: u64 = 2;
    /// `flush_tlb_range`
    pub const RANGE: u64 = 3;
    /// `flush_tlb_mm`
    pub const MM: u64 = 4;
    /// `flush_tlb_all`
    pub const ALL: u64 = 5;
    /// `flush_tlb_kernel_range`
    pub const KERNEL_RANGE: u64 = 6;
    /// `flush_tlb_batched`: what was deferred
    pub const BATCHED: u64 = 7;
    /// The tables that map a range are taken away and freed
    pub const FREE_TABLES: u64 = 8;
}
