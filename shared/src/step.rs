//! The steps that the VMM hands to the kernel, one at a time.
//!
//! Arguments are (RDI, RSI, RDX, RCX) of [`crate::hypercall::NEXT_STEP`]'s answer. `mm` is the
//! number of an address space, `va` a page's address, `frame` a guest-physical address, `flags`
//! bits of [`flags`].

numbered! {
    /// What a step is.
    pub enum Op {
        /// Nothing to do: the run is over; the VMM does not resume the guest after this.
        Stop = 0,
        /// (mm, va, frame, flags): make a not-present page present. A kernel page if `va` is one.
        Map = 1,
        /// (mm, va, frame, flags): point a present page at another frame, in one store.
        Remap = 2,
        /// (mm, va): make a page not present, in one store.
        Unmap = 3,
        /// (mm, va, flags): change the permissions of a present page, in one store.
        Protect = 4,
        /// (mm, va): clear the D bit.
        Clean = 5,
        /// (mm, va): clear the A bit.
        Age = 6,
        /// (mm, va): make a page not present, its flush left to a later [`Op::FlushBatched`]
        UnmapBatched = 7,
        /// (mm, child): the child gets the 4 KiB user pages of `mm`, both copy on write; and flush
        Fork = 8,
        /// (mm, va): replace a 2 MiB page by 4 KiB pages of the same frames; and flush
        SplitLarge = 9,
        /// (mm, va): the reverse, and free the table; and flush
        MergeLarge = 50,
        /// (mm, va): take away the page table that maps `va`, flush, and free it
        FreeTable = 51,
        /// (frame): give a frame back
        FreeFrame = 52,
        /// (mm, start, end): unmap what is mapped of user pages, flush, and free the frames
        UnmapRange = 53,
        /// (mm, from, to): move a page's frame from one address to another; and flush
        MovePage = 54,
        /// (mm, va, frame): give a page another frame by way of not present; and flush
        Migrate = 55,
        /// (mm, va): clear D; and flush
        MakeClean = 56,
        /// (mm, va): take the right to write away; and flush
        WriteProtect = 57,
        /// (mm, va): `flush_tlb_one_user`
        FlushOneUser = 10,
        /// (mm, va): `flush_tlb_one_kernel`; mm is ignored
        FlushOneKernel = 11,
        /// (mm, start, end): `flush_tlb_range` over user addresses, end exclusive
        FlushRange = 12,
        /// (mm): `flush_tlb_mm`
        FlushMm = 13,
        /// (): `flush_tlb_all`
        FlushAll = 14,
        /// (mm, start, end): `flush_tlb_kernel_range`; mm is ignored
        FlushKernelRange = 15,
        /// (mm, va, deferral): make a kernel page not present; its flush waits until it is mapped anew
        UnmapLazily = 58,
        /// (mm, va): flush one kernel page on this CPU alone
        FlushOneKernelHere = 59,
        /// (): flush what was unmapped with [`Op::UnmapBatched`]
        FlushBatched = 16,
        /// (mm): `switch_mm`
        SwitchMm = 20,
        /// (): run a kernel thread on the loaded address space, lazily (`enter_lazy_tlb`)
        Lazy = 21,
        /// (): load the address space without a user half
        LeaveMm = 22,
        /// (mm, va): load 8 bytes at `va` in user mode, switching to `mm` first where it is not loaded
        UserRead = 30,
        /// (mm, va, value): store 8 bytes likewise
        UserWrite = 31,
        /// (mm): enter user mode and come back by SYSCALL at once
        UserNop = 32,
        /// (mm, va, rounds): load and store at `va` and compute, over and over, in user mode
        UserSpin = 35,
        /// (mm, va): load 8 bytes in kernel mode, switching to `mm` first where it is not loaded
        KernelRead = 33,
        /// (mm, va, value): store 8 bytes likewise
        KernelWrite = 34,
        /// (how): do what a broken kernel does, a [`Misbehaviour`]
        Misbehave = 40,
    }
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

numbered! {
    /// What a step came to.
    pub enum Status {
        /// First request: no step was done.
        None = 0,
        /// Done; the value is what was read, where something was.
        Done = 1,
        /// The access faulted; the value is the page-fault error code, the second value CR2.
        Fault = 2,
        /// The kernel refused (a page already mapped, not mapped, …); nothing was changed.
        Refused = 3,
    }
}

numbered! {
    /// Ways to misbehave, for testing the VMM itself.
    pub enum Misbehaviour {
        /// Load an IDT of limit 0 and execute UD2.
        TripleFault = 1,
        /// Jump to itself.
        Loop = 2,
        /// Trap for ever (INVLPG in a loop).
        TrapLoop = 3,
        /// Map a kernel page to a frame beyond memory and read it.
        BeyondMemory = 4,
        /// Execute WBINVD, which the VMM does not carry out.
        Wbinvd = 5,
        /// Panic.
        Panic = 6,
        /// Clear the IDT's gates in place, and execute UD2.
        ZeroIdt = 7,
        /// Store to the kernel's own code.
        StoreToCode = 8,
        /// Clear the entry of the root that maps the kernel, flush, and go on.
        ZeroRoot = 9,
    }
}
