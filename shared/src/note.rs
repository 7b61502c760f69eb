//! What a kernel says of itself in its file, before it runs: an ELF note, which it may have.
//!
//! Without one it is taken for one that does everything that this project's guest does.

use crate::VERSION;
use crate::step::Op;

/// The section that the note is in.
pub const SECTION: &str = ".note.stalemate";
/// The note's name, with the zero that ends it and two that fill it up.
pub const NAME: [u8; 12] = *b"Stalemate\0\0\0";
/// The note's type.
pub const KIND: u32 = 1;

/// Bits of [`Description::pages`]: the kinds of test pages that it maps.
pub mod pages {
    /// u0, u1, …
    pub const USER: u64 = 1 << 0;
    /// h0, h1: 2 MiB.
    pub const LARGE: u64 = 1 << 1;
    /// v0, v1, …, whose page table can be freed.
    pub const TABLE: u64 = 1 << 2;
    /// k0, k1, …
    pub const KERNEL: u64 = 1 << 3;
}

/// Bits of [`Description::features`].
pub mod kernel {
    /// It uses PCIDs where the processor has them.
    pub const PCID: u64 = 1 << 0;
    /// User mode has roots of its own where [`PTI`](crate::boot::options::PTI) is set.
    pub const PTI: u64 = 1 << 1;
    /// User mode runs on the kernel's roots where that is not set.
    pub const NO_PTI: u64 = 1 << 2;
    /// Kernel pages are global where the processor has global pages and user mode no roots of its own.
    pub const GLOBAL: u64 = 1 << 3;
    /// It takes NMIs and interrupts at any instruction, and goes on.
    pub const INTERRUPTS: u64 = 1 << 4;
    /// It has the flush policies of [`Policy`](crate::boot::Policy).
    pub const POLICIES: u64 = 1 << 5;
    /// It has the other bits of [`options`](crate::boot::options), and the historical mistakes.
    pub const MISTAKES: u64 = 1 << 6;
}

/// What a kernel says of itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// The [`VERSION`] of the interface that it was built with.
    pub version: u32,
    /// CPUs that it boots, at most; 0 stands for one.
    pub cpus: u32,
    /// Bit `n`: it does the step whose number is `n`.
    pub steps: u64,
    /// Bits of [`pages`].
    pub pages: u64,
    /// Bits of [`kernel`].
    pub features: u64,
    /// Address spaces that it has, at most; 0 stands for one.
    pub spaces: u64,
    /// Bytes of memory that it needs, in whole 2 MiB, at most
    /// [`MAX_MEMORY_SIZE`](crate::layout::MAX_MEMORY_SIZE); 0 stands for
    /// [`MEMORY_SIZE`](crate::layout::MEMORY_SIZE). From version 4 on.
    pub memory: u64,
    /// Where it has the test pages u0, h0, v0 and k0; 0 for where
    /// [`layout`](crate::layout) has them. From version 5 on.
    pub user_pages: u64,
    /// See [`Description::user_pages`].
    pub large_pages: u64,
    /// See [`Description::user_pages`].
    pub table_pages: u64,
    /// See [`Description::user_pages`].
    pub kernel_pages: u64,
}

impl Description {
    /// Of a kernel that can nothing.
    pub const NOTHING: Self = Self {
        version: VERSION,
        cpus: 0,
        steps: 0,
        pages: 0,
        features: 0,
        spaces: 0,
        memory: 0,
        user_pages: 0,
        large_pages: 0,
        table_pages: 0,
        kernel_pages: 0,
    };
}

/// The bits of [`Description::steps`] of these steps.
#[must_use]
pub const fn steps(ops: &[Op]) -> u64 {
    let mut bits = 0;
    let mut at = 0;
    // A constant function knows no iterators.
    while at < ops.len() {
        bits |= 1 << ops[at] as u64;
        at += 1;
    }
    bits
}

/// The note as it lies in [`SECTION`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    name_size: u32,
    size: u32,
    kind: u32,
    name: [u8; 12],
    description: Description,
}

impl Note {
    /// The note that says this.
    #[must_use]
    pub const fn new(description: Description) -> Self {
        Self {
            name_size: 10,
            size: size_of::<Description>() as u32,
            kind: KIND,
            name: NAME,
            description,
        }
    }
}
