//! Where this kernel has a full barrier, and which store it keeps before which load.
//!
//! x86 orders all accesses to memory but one pair: a load may be done before an earlier store of
//! the same processor has left its store buffer (SDM vol. 3, 8.2.3.4). Wherever two CPUs each store a
//! word and then load the other's, both may read what was there before, unless each has a barrier:
//! MFENCE, or an instruction with a LOCK prefix. The places are those of Linux. MOV CR3, INVLPG and
//! INVPCID are barriers too; what is before one of them needs none.

use stalemate_shared::variant::Variant;

/// One barrier.
#[derive(Clone, Copy, Debug)]
pub struct Fence {
    /// Its number in the image's table.
    pub number: u64,
    /// The function that it is in, or is inlined from.
    pub function: &'static str,
    /// What it is.
    pub instruction: Barrier,
    /// What is stored before it.
    pub store: &'static str,
    /// What is loaded after it, or else done.
    pub load: &'static str,
    /// What another CPU stores and loads, in the other order.
    pub other: &'static str,
    /// The variant of the kernel that has no barrier there.
    pub variant: Variant,
}

/// An instruction that is a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// MFENCE.
    Mfence,
    /// MFENCE and LFENCE: what comes after is no access to memory (SDM vol. 3, 10.12.3).
    MfenceLfence,
    /// The store itself, which has a LOCK prefix.
    Lock,
}

/// In [`FENCES`]: a CPU is no longer lazy.
pub const LAZY_EXIT: u64 = 0;
/// In [`FENCES`]: a CPU is about to load CR3.
pub const SWITCH: u64 = 1;
/// In [`FENCES`]: a generation is raised.
pub const GENERATION: u64 = 2;
/// In [`FENCES`]: a CPU is interrupted.
pub const IPI: u64 = 3;
/// In [`FENCES`]: a page-table lock is taken.
pub const LOCK: u64 = 4;

/// All of them.
pub const FENCES: [Fence; 5] = [
    Fence {
        number: LAZY_EXIT,
        function: "mm::switch_mm",
        instruction: Barrier::Mfence,
        store: "is_lazy is cleared",
        load: "tlb_gen of the address space, which may need a flush here",
        other: "tlb_gen is raised; is_lazy says whether this CPU must be asked",
        variant: Variant::NoFenceLazyExit,
    },
    Fence {
        number: SWITCH,
        function: "mm::switch_mm",
        instruction: Barrier::Mfence,
        store: "loaded_mm says that CR3 changes, and the cpumask is joined",
        load: "tlb_gen of the next address space",
        other: "tlb_gen is raised; cpumask and loaded_mm say whether this CPU must be asked",
        variant: Variant::NoFenceSwitch,
    },
    Fence {
        number: GENERATION,
        function: "percpu::raise_tlb_gen",
        instruction: Barrier::Lock,
        store: "page-table entries, and tlb_gen",
        load: "the cpumask, then loaded_mm and is_lazy of its CPUs",
        other: "the cpumask, loaded_mm or is_lazy is stored; tlb_gen is loaded",
        variant: Variant::NoFenceGeneration,
    },
    Fence {
        number: IPI,
        function: "apic::send_shootdown",
        instruction: Barrier::MfenceLfence,
        store: "the request, and the bit of it in pending",
        load: "the interrupt command register, whose WRMSR waits for no store",
        other: "the interrupt is taken; pending and the request are loaded",
        variant: Variant::NoFenceIpi,
    },
    Fence {
        number: LOCK,
        function: "operations::lock",
        instruction: Barrier::Lock,
        store: "the page-table lock is taken",
        load: "what it guards: entries, and whether flushes are pending",
        other: "the lock is taken; what it guards is stored",
        variant: Variant::NoFenceLock,
    },
];

/// One row of the image's table of barriers, section `.fences`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Address of an instruction.
    pub address: u64,
    /// Number of the barrier that it belongs to.
    pub number: u64,
    /// What it is: [`STORE`], [`BARRIER`] or [`AFTER`].
    pub kind: u64,
}

/// A [`Record`] of what must come before.
pub const STORE: u64 = 0;
/// A [`Record`] of the barrier.
pub const BARRIER: u64 = 1;
/// A [`Record`] of what must come after.
pub const AFTER: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_barrier_has_its_number_and_a_variant_of_its_own() {
        for (number, fence) in (0..).zip(&FENCES) {
            assert_eq!(fence.number, number);
            assert!(fence.variant.needs_store_buffers(), "{}", fence.variant.about().name);
            let same = FENCES.iter().filter(|other| other.variant == fence.variant);
            assert_eq!(same.count(), 1);
        }
    }
}
