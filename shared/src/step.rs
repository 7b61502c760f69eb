//! The steps that the VMM hands to the kernel, one at a time.
//!
//! Arguments are (RDI, RSI, RDX, RCX) of [`crate::hypercall::NEXT_STEP`]'s answer. `mm` is the
//! number of an address space, `va` a page's address, `frame` a guest-physical address, `flags`
//! bits of [`flags`].

/// Step opcodes.
pub mod op {
    /// Nothing to do: the run is over; the VMM does not resume the guest after this.
    pub const STOP: u64 = 0;
    /// (mm, va, frame, flags): make a not-present page present. A kernel page if `va` is one.
    pub const MAP: u64 = 1;
    /// (mm, va, frame, flags): point a present page at another frame, in one store.
    pub const REMAP: u64 = 2;
    /// (mm, va): make a page not present, in one store.
    pub const UNMAP: u64 = 3;
    /// (mm, va, flags): change the permissions of a present page, in one store.
    pub const PROTECT: u64 = 4;
    /// (mm, va): clear the D bit.
    pub const CLEAN: u64 = 5;
    /// (mm, va): clear the A bit.
    pub const AGE: u64 = 6;
    /// (mm, va): make a page not present, its flush left to a later [`FLUSH_BATCHED`]
    pub const UNMAP_BATCHED: u64 = 7;
    /// (mm, child): the child gets the 4 KiB user pages of `mm`, both copy on write; and flush
    pub const FORK: u64 = 8;
    /// (mm, va): replace a 2 MiB page by 4 KiB pages of the same frames; and flush
    pub const SPLIT_LARGE: u64 = 9;
    /// (mm, va): the reverse, and free the table; and flush
    pub const MERGE_LARGE: u64 = 50;
    /// (mm, va): take away the page table that maps `va`, flush, and free it
    pub const FREE_TABLE: u64 = 51;
    /// (frame): give a frame back
    pub const FREE_FRAME: u64 = 52;
    /// (mm, start, end): unmap what is mapped of user pages, flush, and free the frames
    pub const UNMAP_RANGE: u64 = 53;
    /// (mm, from, to): move a page's frame from one address to another; and flush
    pub const MOVE_PAGE: u64 = 54;
    /// (mm, va, frame): give a page another frame by way of not present; and flush
    pub const MIGRATE: u64 = 55;
    /// (mm, va): clear D; and flush
    pub const MAKE_CLEAN: u64 = 56;
    /// (mm, va): take the right to write away; and flush
    pub const WRITE_PROTECT: u64 = 57;
    /// (mm, va): `flush_tlb_one_user`
    pub const FLUSH_ONE_USER: u64 = 10;
    /// (mm, va): `flush_tlb_one_kernel`; mm is ignored
    pub const FLUSH_ONE_KERNEL: u64 = 11;
    /// (mm, start, end): `flush_tlb_range` over user addresses, end exclusive
    pub const FLUSH_RANGE: u64 = 12;
    /// (mm): `flush_tlb_mm`
    pub const FLUSH_MM: u64 = 13;
    /// (): `flush_tlb_all`
    pub const FLUSH_ALL: u64 = 14;
    /// (mm, start, end): `flush_tlb_kernel_range`; mm is ignored
    pub const FLUSH_KERNEL_RANGE: u64 = 15;
    /// (): flush what was unmapped with [`UNMAP_BATCHED`]
    pub const FLUSH_BATCHED: u64 = 16;
    /// (mm): `switch_mm`
    pub const SWITCH_MM: u64 = 20;
    /// (): run a kernel thread on the loaded address space, lazily (`enter_lazy_tlb`)
    pub const LAZY: u64 = 21;
    /// (): load the address space without a user half
    pub const LEAVE_MM: u64 = 22;
    /// (mm, va): load 8 bytes at `va` in user mode, switching to `mm` first where it is not loaded
    pub const USER_READ: u64 = 30;
    /// (mm, va, value): store 8 bytes likewise
    pub const USER_WRITE: u64 = 31;
    /// (mm): enter user mode and come back by SYSCALL at once
    pub const USER_NOP: u64 = 32;
    /// (mm, va, rounds): load and store at `va` and compute, over and over, in user mode
    pub const USER_SPIN: u64 = 35;
    /// (mm, va): load 8 bytes in kernel mode, switching to `mm` first where it is not loaded
    pub const KERNEL_READ: u64 = 33;
    /// (mm, va, value): store 8 bytes likewise
    pub const KERNEL_WRITE: u64 = 34;
    /// (how): do what a broken kernel does, a [`super::misbehaviour`]
    pub const MISBEHAVE: u64 = 40;
}

/// Flags of MAP, REMAP and PROTECT. A page is readable, user pages are user-accessible and
/// not executable.
pub mod flags {
    /// The page may be written.
    pub const WRITABLE: u64 = 1 << 0;
    /// The page is 2 MiB.
    pub const LARGE: u64 = 1 << 1;
    /// The D bit is set at once (else the processor sets it at the first store).
    pub const DIRTY: u64 = 1 << 2;
}

/// What a step came to.
pub mod status {
    /// First request: no step was done.
    pub const NONE: u64 = 0;
    /// Done; the value is what was read, where something was.
    pub const DONE: u64 = 1;
    /// The access faulted; the value is the page-fault error code, the second value CR2.
    pub const FAULT: u64 = 2;
    /// The kernel refused (a page already mapped, not mapped, …); nothing was changed.
    pub const REFUSED: u64 = 3;
}

/// Ways to misbehave, for testing the VMM itself.
pub mod misbehaviour {
    /// Load an IDT of limit 0 and execute UD2.
    pub const TRIPLE_FAULT: u64 = 1;
    /// Jump to itself.
    pub const LOOP: u64 = 2;
    /// Trap for ever (INVLPG in a loop).
    pub const TRAP_LOOP: u64 = 3;
    /// Map a kernel page to a frame beyond memory and read it.
    pub const BEYOND_MEMORY: u64 = 4;
    /// Execute WBINVD, which the VMM does not carry out.
    pub const WBINVD: u64 = 5;
    /// Panic.
    pub const PANIC: u64 = 6;
    /// Clear the IDT's gates in place, and execute UD2.
    pub const ZERO_IDT: u64 = 7;
    /// Store to the kernel's own code.
    pub const STORE_TO_CODE: u64 = 8;
    /// Clear the entry of the root that maps the kernel, flush, and go on.
    pub const ZERO_ROOT: u64 = 9;
}
