//! Variants of the kernel's primitives: each is one historical mistake, rebuilt in the function
//! that made it. A scenario of the zoo runs with the variant and without.

/// Declares the variants, and the table that tells of them.
macro_rules! variants {
    ($($variant:ident = $number:literal, $name:literal, $function:literal, $what:literal;)*) => {
        /// A variant, by its number in the boot block.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Variant {
            $(#[doc = $what] $variant = $number,)*
        }

        /// What there is to know of a variant.
        #[derive(Clone, Copy, Debug)]
        pub struct About {
            /// The variant.
            pub variant: Variant,
            /// Its name in scenarios.
            pub name: &'static str,
            /// The function of the guest that it changes.
            pub function: &'static str,
            /// What that does then.
            pub what: &'static str,
        }

        /// Every variant.
        pub const VARIANTS: &[About] = &[
            $(About {
                variant: Variant::$variant,
                name: $name,
                function: $function,
                what: $what,
            },)*
        ];
    };
}

variants! {
    KernelRangeAsUser = 1, "kernel-range-as-user", "shootdown::kernel",
        "A kernel range is flushed by the function for user pages.";
    UserPcidForgotten = 2, "user-pcid-forgotten", "flush_tlb_one_user",
        "A user page is flushed in the kernel PCID alone.";
    KernelRestoreConsumes = 3, "kernel-restore-consumes", "entry_paranoid",
        "The paranoid exit clears the mark although it restores a kernel CR3.";
    ParanoidExitKeeps = 4, "paranoid-exit-keeps", "entry_paranoid",
        "The paranoid exit restores a user CR3 with NOFLUSH, whatever is marked.";
    NarrowMask = 5, "narrow-mask", "mark",
        "The mask has fewer bits than there are ASIDs; a mark beyond it goes to its neighbour.";
    OtherForCurrent = 6, "other-for-current", "flush_tlb_one_user",
        "The user PCID is left to invalidate_other, which does not mean the current ASID.";
    OnePendingBit = 7, "one-pending-bit", "USER_CR3",
        "One mark serves the whole CPU, not each ASID.";
    FlushedWhileLoaded = 8, "flushed-while-loaded", "mm::load",
        "A slot's PCID is flushed under the old root, and loaded with NOFLUSH for the new one.";
    KernelFlushIsLocal = 9, "kernel-flush-is-local", "flush::flush_everywhere",
        "A kernel page is flushed on the CPU that asks, and on no other.";
    GenerationOffByOne = 10, "generation-off-by-one", "shootdown::user",
        "A CPU whose generation is one behind is taken for up to date.";
    AllButSelf = 11, "all-but-self", "shootdown::flush_on",
        "The CPU that asks is not among those that flush.";
    GenerationAfterIpi = 12, "generation-after-ipi", "flush::flush_user",
        "The generation is raised after the CPUs were asked, not before.";
    SwitchWithInterrupts = 13, "switch-with-interrupts", "mm::switch_mm",
        "Interrupts come between the CR3 load and loaded_mm, and find the old one.";
    SwitchingPassedOver = 14, "switching-passed-over", "shootdown::must_flush",
        "A CPU that is changing CR3 is not asked.";
    LeavesEarly = 15, "leaves-early", "mm::switch_mm",
        "A CPU leaves the cpumask before it has left the address space's tables.";
    ForeignPcidAtBoot = 16, "foreign-pcid-at-boot", "boot::load_first_mm",
        "A CPU comes up with another PCID in CR3 than its state says.";
    KernelFlushNeedsSameMm = 17, "kernel-flush-needs-same-mm", "shootdown::kernel",
        "A flush of kernel pages does nothing where another address space is loaded.";
    SlotNotFlushed = 18, "slot-not-flushed", "mm::load",
        "A slot that changes hands is not flushed.";
    MoveUnlocksFirst = 19, "move-unlocks-first", "operations::move_page",
        "A page that was moved is flushed after the page-table lock was dropped.";
    BatchForgotten = 20, "batch-forgotten", "operations::unmap_range",
        "An unmap of what a batch has unmapped already asks for no flush.";
    SecondMappingForgotten = 21, "second-mapping-forgotten", "operations::unmap_range",
        "An unmap of two mappings flushes the first.";
    TableNotFlushed = 22, "table-not-flushed", "operations::free_table",
        "A page table is given back, and nobody flushes.";
    TableFreedFirst = 23, "table-freed-first", "operations::free_table",
        "A page table is given back before the shootdown.";
    LazyKeepsTables = 24, "lazy-keeps-tables", "shootdown::must_flush",
        "A lazy CPU is not asked, although page tables are freed.";
    MigrationUnlocksFirst = 25, "migration-unlocks-first", "operations::migrate",
        "The old frame's entry is cleared, and the flush comes after the lock was dropped.";
    CleanIsLocal = 26, "clean-is-local", "operations::make_clean",
        "A page is made clean, and CPUs that may write it without setting D are not told.";
    StrideOfToday = 27, "stride-of-today", "flush::flush_tlb_freeing",
        "The stride of a flush is the size of the page as it will be, not as it was.";
    SpeculationIgnored = 28, "speculation-ignored", "shootdown::user",
        "Where user mode has not run since the address space was loaded nothing is flushed.";
    AcknowledgesFirst = 29, "acknowledges-first", "shootdown::answer",
        "A CPU acknowledges before it has flushed.";
    UserFlushIsLocal = 30, "user-flush-is-local", "flush::flush_user",
        "A user page is flushed on the CPU that asks, and on no other.";
    NobodyWaits = 31, "nobody-waits", "shootdown::ask",
        "The CPU that asks goes on before the others have acknowledged.";
    FlushKeeps = 32, "flush-keeps", "flush_tlb_mm",
        "CR3 is written back with NOFLUSH set.";
    SlotByNumber = 33, "slot-by-number", "mm::load",
        "The slot goes by the address space's number, and nobody asks who had it.";
    EmptyTableNotFlushed = 34, "empty-table-not-flushed", "operations::free_table",
        "A page table that maps nothing is given back without a flush.";
    FlushBeforeStore = 35, "flush-before-store", "operations::write_protect",
        "A page is flushed first, and write-protected afterwards.";
    MergeNotFlushed = 36, "merge-not-flushed", "operations::merge",
        "4 KiB pages become a large one in one store, and nobody flushes.";
    MarkIgnored = 37, "mark-ignored", "USER_CR3",
        "The way back to user mode does not look at the marks.";
    LazyDoesNotCatchUp = 38, "lazy-does-not-catch-up", "mm::switch_mm",
        "A lazy CPU goes on without a look at the generation.";
    PlainEdits = 39, "plain-edits", "paging::Leaf::change",
        "An entry that is present is read and written back: a D that was set meanwhile is lost.";
    BatchOfOwnCpu = 40, "batch-of-own-cpu", "flush::flush_pending",
        "An address space's pending flushes are looked for on the CPU that asks, and on no other.";
    BatchHoldsNoFrames = 41, "batch-holds-no-frames", "operations::release",
        "A frame is given back although a batch that unmapped it elsewhere has not flushed.";
    ForkTakesNoLock = 42, "fork-takes-no-lock", "operations::fork",
        "A page may be copied while a fork has write-protected it and not flushed.";
    CopySetsFirst = 43, "copy-sets-first", "operations::copy",
        "A copy takes the place of its page in one store, and the flush comes afterwards.";
    CopyTakesNoLock = 44, "copy-takes-no-lock", "operations::mend_fault",
        "A page is copied that a fork has write-protected and not flushed.";
    NoFenceLazyExit = 45, "no-fence-lazy-exit", "mm::switch_mm",
        "A CPU that is no longer lazy may have read the generation before others see that.";
    NoFenceSwitch = 46, "no-fence-switch", "mm::switch_mm",
        "A CPU that changes CR3 may have read the generation before others see that.";
    NoFenceGeneration = 47, "no-fence-generation", "percpu::raise_tlb_gen",
        "A generation is raised without LOCK: the cpumask may have been read before others see it.";
    NoFenceIpi = 48, "no-fence-ipi", "apic::send_shootdown",
        "An interrupt may be sent before others see what it is for.";
    NoFenceLock = 49, "no-fence-lock", "operations::lock",
        "The page-table lock is taken without LOCK: what it guards may have been read before.";
    LazyStays = 50, "lazy-stays", "mm::switch_mm",
        "A CPU that was lazy loads an address space, and goes on to say that it is lazy.";
    KernelRangeElsewhere = 51, "kernel-range-elsewhere", "flush::flush_tlb_kernel_range",
        "The range that is flushed is not the range that was changed.";
    KernelAreaNotFlushed = 52, "kernel-area-not-flushed", "flush::flush_tlb_kernel_range",
        "A kernel area is dropped, and nobody flushes it.";
    WindowFlushedAtWrap = 53, "window-flushed-at-wrap", "flush::flush_tlb_one_kernel",
        "A window of kernel pages is flushed when its first page is used again, and no other.";
    WriteProtectNotFlushed = 54, "write-protect-not-flushed", "operations::write_protect",
        "A page is write-protected, and nobody flushes.";
    LastSlotKept = 55, "last-slot-kept", "mm::clear_asid_other",
        "Kernel entries in other ASIDs are stale, and the last slot is not among those that flush.";
    CatchesUpWhileLazy = 56, "catches-up-while-lazy", "mm::switch_mm",
        "A lazy CPU looks at the generation before it ceases to be lazy.";
    LaterGenerationsForgotten = 57, "later-generations-forgotten", "shootdown::user",
        "One page is flushed although later flushes are on their way, and the slot counts as up to date.";
    GenerationReadAgain = 58, "generation-read-again", "shootdown::user",
        "What the slot is said to be flushed up to is read after the flush.";
    ReleaseAsksOneSpace = 59, "release-asks-one-space", "operations::release",
        "A frame is given back although another address space maps it.";
    GenerationBeforeCpumask = 60, "generation-before-cpumask", "mm::switch_mm",
        "The generation is read before the CPU has joined the cpumask.";
    CpumaskBeforeGeneration = 61, "cpumask-before-generation", "flush::flush_user",
        "The cpumask is read before the generation is raised.";
    BatchForgetsCpus = 62, "batch-forgets-cpus", "flush::defer",
        "A batch asks the CPUs of its last page, and no others.";
    FlushAllIsLocal = 63, "flush-all-is-local", "flush::flush_tlb_all",
        "Everything is flushed on the CPU that asks, and on no other.";
}

impl Variant {
    /// The variant of this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        let found = VARIANTS.iter().find(|about| about.variant as u64 == number);
        found.map(|about| about.variant)
    }

    /// Whether it shows only where a load may pass an earlier store of its CPU, by which a store
    /// buffer is seen. No executor has one yet.
    #[must_use]
    pub fn needs_store_buffers(self) -> bool {
        matches!(
            self,
            Self::NoFenceLazyExit
                | Self::NoFenceSwitch
                | Self::NoFenceGeneration
                | Self::NoFenceIpi
                | Self::NoFenceLock
        )
    }

    /// What there is to know of it.
    #[must_use]
    pub fn about(self) -> &'static About {
        // Numbers count from 1 in the order of the table; a test says so.
        &VARIANTS[self as usize - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_from_one_in_the_order_of_the_table() {
        for (index, about) in VARIANTS.iter().enumerate() {
            assert_eq!(about.variant as usize, index + 1, "{}", about.name);
            assert_eq!(Variant::from_number(index as u64 + 1), Some(about.variant));
            assert_eq!(about.variant.about().name, about.name);
        }
        assert_eq!(Variant::from_number(0), None);
    }
}
