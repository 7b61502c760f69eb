//! What a policy is: five methods, and what each promises when it returns.

/// One complete design of the flush primitives.
///
/// Each method works on the CPU that calls it and on the address space that this CPU has loaded.
/// *Stale* is a cached translation, or a cached paging-structure entry, that grants what a walk of
/// the tables did not grant when the method was called. No method promises anything of another
/// CPU, or of a table that is stored to while it runs, and none raises a generation: that is for
/// its callers.
///
/// A method may leave the user PCID to a mark, until its tables are next loaded, and the other
/// slots to `invalidate_other`, until they are.
pub trait Policy: Sync {
    /// Flushes the user page at `va`, of 4 KiB or 2 MiB.
    ///
    /// Promises: the kernel PCID of the loaded address space holds nothing stale of the page.
    ///
    /// Does not promise yet: that its user PCID holds nothing stale of it. It may until user mode
    /// is next entered. Other slots keep what they have.
    fn flush_tlb_one_user(&self, va: u64);

    /// Flushes the 4 KiB kernel page at `va`.
    ///
    /// Promises: neither the kernel PCID of the loaded address space nor a global entry holds
    /// anything stale of the page.
    ///
    /// Does not promise yet: the same of the user PCID, which maps the pages of the trampoline and
    /// may hold one until user mode is next entered; nor of the other slots, which may until they
    /// are next loaded.
    fn flush_tlb_one_kernel(&self, va: u64);

    /// Flushes the user half of the loaded address space.
    ///
    /// Promises: its kernel PCID holds nothing stale of any user page.
    ///
    /// Does not promise yet: that its user PCID holds nothing stale of them. It may until user mode
    /// is next entered. Global entries and other slots keep what they have.
    fn flush_tlb_mm(&self);

    /// Flushes everything.
    ///
    /// Promises: neither the kernel PCID of the loaded address space nor a global entry holds
    /// anything stale.
    ///
    /// Does not promise yet: the same of its user PCID, which may until user mode is next entered;
    /// nor of the other slots, which may until they are next loaded.
    fn flush_tlb_all(&self);

    /// Loads `cr3`: the kernel root of an address space with the kernel PCID of slot `asid`. Only
    /// with PCIDs.
    ///
    /// Promises: CR3 is loaded, and the kernel PCID of the slot holds nothing that was cached
    /// before.
    ///
    /// Does not promise yet: the same of the user PCID of the slot, which may until user mode is
    /// next entered. It records nothing: `loaded_mm`, `loaded_mm_asid` and the slot are its
    /// caller's to write.
    fn switch_mm_flush(&self, cr3: u64, asid: u16);
}
