//! The hypercalls: `out PORT, al` at virtual CPL 0, which traps on every host.
//!
//! RAX carries the number, RDI, RSI, RDX and RCX the arguments; RAX, RDI, RSI, RDX and RCX carry
//! what comes back, where something does. No hypercall stands for a CR3 load or an invalidation.

/// The I/O port.
pub const PORT: u8 = 0x5a;

/// Where the kernel may print, from version 4 on: `out DEBUG_PORT, al` is one byte of text, which reports show.
pub const DEBUG_PORT: u8 = 0xe9;

/// The kernel has booted and completed its boot block; nothing comes back.
pub const READY: u64 = 1;
/// Report a step and ask for the next. RDI: a [`Status`](crate::step::Status), RSI: its value, RDX: its
/// second value. Back: RAX an [`Op`](crate::step::Op), RDI to RCX its arguments.
pub const NEXT_STEP: u64 = 2;
/// A flush begins. RDI: a [`Primitive`], RSI: guest-physical address of the address space's kernel
/// root (0 for kernel ranges), RDX and RCX: the caller's range, end exclusive. Back: RAX a number
/// that is this flush's alone.
pub const BEGIN: u64 = 3;
/// A flush returns: everything in its range has been flushed, wherever it must be. RDI: the number
/// that [`BEGIN`] gave it. Flushes may overlap, and return in any order and on any CPU.
pub const END: u64 = 4;
/// A frame is given back. RDI: its guest-physical address.
pub const FRAME_FREED: u64 = 5;
/// A frame's contents are taken from here on: read for a copy, or shared by what they are. Nobody
/// may write them by what was cached before. RDI: the frame's guest-physical address.
pub const CONTENTS_TAKEN: u64 = 9;
/// A paging-structure entry was read, and what this CPU stores to it next is made of what was read, by
/// a plain store. RDI: the entry's guest-physical address, RSI: what was read. Who edits atomically need
/// not say it.
pub const ENTRY_READ: u64 = 10;
/// The CPU waits for another one; nothing comes back.
pub const YIELD: u64 = 7;
/// The flush of what was just unmapped is deferred. RDI: until when, a [`Deferral`]; RSI, RDX and
/// RCX as for [`BEGIN`].
pub const DEFER: u64 = 8;
/// The kernel cannot go on. RDI: line number in the source, RSI and RDX: address and length of
/// the file's name.
pub const PANIC: u64 = 6;

numbered! {
    /// The flush primitives, as announced.
    pub enum Primitive {
        /// `flush_tlb_one_user`
        OneUser = 1,
        /// `flush_tlb_one_kernel`
        OneKernel = 2,
        /// `flush_tlb_range`
        Range = 3,
        /// `flush_tlb_mm`
        Mm = 4,
        /// `flush_tlb_all`
        All = 5,
        /// `flush_tlb_kernel_range`
        KernelRange = 6,
        /// `flush_tlb_batched`: what was deferred
        Batched = 7,
        /// The tables that map a range are taken away and freed
        FreeTables = 8,
        /// `flush_tlb_one_kernel_here`: of this CPU alone
        OneKernelHere = 9,
    }
}

numbered! {
    /// Until when a flush is deferred.
    pub enum Deferral {
        /// Until the CPU's next [`Primitive::Batched`] returns.
        Batched = 7,
        /// Until somebody maps the addresses anew, who then owes it. Frames may be given back before.
        Reuse = 9,
        /// The same, of addresses that each CPU uses for itself: who maps them anew owes the flush of
        /// this CPU alone.
        ReuseHere = 10,
    }
}
