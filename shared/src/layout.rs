//! Where things are in guest-physical and guest-virtual memory.
//!
//! ```text
//! guest-physical                         guest-virtual
//! 0x001000  boot block                   0x0000_0000_0040_0000  user code (one page)
//! 0x010000  frames handed out at run     0x0000_0000_0041_0000  u0..u15, user test pages
//! 0x0a0000  stacks, CPU by CPU           0x0000_0000_0080_0000  h0..h1, user 2 MiB pages
//! 0x100000  kernel image, .bss           0x0000_0000_00c0_0000  v0..v3, on tables of their own
//! 0x160000  frames for page tables       0xffff_ffff_8000_0000  direct map of the first 2 MiB
//! 0x1e0000  coloured 4 KiB frames        0xffff_ffff_a000_0000  k0..k15, kernel test pages
//! 0x200000  coloured 2 MiB frames
//! 0x800000  end of memory
//! ```

/// Bytes in a small page.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes in a 2 MiB page.
pub const LARGE_PAGE_SIZE: u64 = 2 << 20;

/// Bytes of guest-physical memory, where a kernel's note asks for no more. What is above is the kernel's
/// own: segments may be there too, and the tables at entry map it at [`KERNEL_BASE`] + its address.
pub const MEMORY_SIZE: u64 = 8 << 20;
/// Bytes of guest-physical memory at most.
pub const MAX_MEMORY_SIZE: u64 = 256 << 20;
/// Guest-physical address of the boot block.
pub const BOOT_BLOCK: u64 = 0x1000;
/// Guest-physical frames of the page tables that the VMM hands the kernel at entry: a PML4, a
/// PDPT, a PD and a PT that map the first 2 MiB at [`KERNEL_BASE`], all writable and executable.
pub const BOOT_TABLES: u64 = 0x2000;
/// Number of frames at [`BOOT_TABLES`].
pub const BOOT_TABLE_FRAMES: u64 = 4;
/// Guest-physical address at which the kernel image is loaded.
pub const IMAGE: u64 = 0x10_0000;
/// First of the frames that the kernel hands out while it runs: copies and page tables.
pub const POOL_FRAMES: u64 = 0x1_0000;
/// Number of those frames.
pub const POOL_FRAME_COUNT: u64 = 32;
/// Stacks that the processor switches to: [`ENTRY_STACKS`] for each CPU, a page each, in the
/// trampoline.
pub const STACKS: u64 = 0xa_0000;
/// The entry stack and the IST stacks.
pub const ENTRY_STACKS: u64 = 5;
/// The CPUs' kernel stacks, [`KERNEL_STACK_PAGES`] each.
pub const KERNEL_STACKS: u64 = STACKS + MAX_CPUS as u64 * ENTRY_STACKS * PAGE_SIZE;
/// Pages of a kernel stack.
pub const KERNEL_STACK_PAGES: u64 = 4;
/// The image, with .bss, ends before this guest-physical address.
pub const IMAGE_END: u64 = 0x16_0000;
/// First frame that the kernel takes page tables from.
pub const TABLE_FRAMES: u64 = 0x16_0000;
/// End of the frames for page tables.
pub const TABLE_FRAMES_END: u64 = 0x1e_0000;
/// First coloured 4 KiB frame; see [`COLOURS`].
pub const COLOUR_FRAMES: u64 = 0x1e_0000;
/// First coloured 2 MiB frame; the first [`LARGE_COLOURS`] of [`COLOURS`] have one.
pub const LARGE_COLOUR_FRAMES: u64 = 0x20_0000;
/// Number of coloured 2 MiB frames.
pub const LARGE_COLOURS: usize = 3;

/// The names of the coloured frames. The VMM fills every 8-byte word of frame `i`, small and
/// large, with [`colour_word`]`(i)`.
pub const COLOURS: [&str; 12] = [
    "red", "blue", "green", "yellow", "black", "white", "orange", "purple", "cyan", "magenta",
    "brown", "grey",
];

/// The word that fills the frames of colour `index`.
#[must_use]
pub const fn colour_word(index: usize) -> u64 {
    0xc010_0000_0000_0000 | ((index as u64 + 1) * 0x0001_0001_0001)
}

/// Base of the kernel's direct map: virtual = physical + this, for the first 2 MiB.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Bytes covered by the direct map.
pub const DIRECT_MAP_SIZE: u64 = LARGE_PAGE_SIZE;
/// First of the kernel test pages k0, k1, …
pub const KERNEL_PAGES: u64 = 0xffff_ffff_a000_0000;
/// Number of kernel test pages.
pub const KERNEL_PAGE_COUNT: u64 = 16;
/// The page of user code, mapped in every address space.
pub const USER_CODE: u64 = 0x40_0000;
/// First of the user test pages u0, u1, …
pub const USER_PAGES: u64 = 0x41_0000;
/// Number of user test pages.
pub const USER_PAGE_COUNT: u64 = 16;
/// First of the user 2 MiB test pages h0, h1.
pub const USER_LARGE_PAGES: u64 = 0x80_0000;
/// Number of user 2 MiB test pages.
pub const USER_LARGE_PAGE_COUNT: u64 = 2;
/// First of the user test pages v0, v1, …, whose page table is theirs alone: it is made when the
/// first of them is mapped, and can be freed.
pub const USER_TABLE_PAGES: u64 = 0xc0_0000;
/// Number of those.
pub const USER_TABLE_PAGE_COUNT: u64 = 4;
/// End (exclusive) of the user half.
pub const USER_END: u64 = 0x0000_8000_0000_0000;
/// Number of address spaces, named A to L in scenarios and numbered from 0 here.
pub const MM_COUNT: usize = 12;
/// Number of `MmState`: the address spaces, and one without a user half, which CPUs load that run
/// none (Linux's `init_mm`).
pub const MM_STATES: usize = MM_COUNT + 1;
/// Virtual CPUs at most.
pub const MAX_CPUS: usize = 8;

/// The kernel's code selector at virtual CPL 0. Guest selectors are 0x80 and above, so that
/// IRETQ and far returns to them trap on every host.
pub const KERNEL_CS: u16 = 0x80;
/// The kernel's stack selector; SYSCALL requires `KERNEL_CS + 8`.
pub const KERNEL_SS: u16 = 0x88;
/// User stack selector with RPL 3; SYSRET requires `STAR[63:48] + 8`.
pub const USER_SS: u16 = 0x98 | 3;
/// User code selector with RPL 3; SYSRETQ requires `STAR[63:48] + 16`.
pub const USER_CS: u16 = 0xa0 | 3;
/// Base of the SYSRET selectors, `STAR[63:48]`.
pub const SYSRET_BASE: u16 = 0x90 | 3;
/// The task-state segment's selector of CPU 0; the others' follow (16-byte descriptors).
pub const TSS_SELECTOR: u16 = 0xa8;

/// IST index (1-based) of the double fault stack.
pub const IST_DOUBLE_FAULT: u8 = 1;
/// IST index (1-based) of the NMI stack.
pub const IST_NMI: u8 = 2;
/// IST index (1-based) of the page-fault and other kernel exceptions' stack.
pub const IST_FAULT: u8 = 3;
/// IST index (1-based) of the interrupts' stack.
pub const IST_IRQ: u8 = 4;

/// The vector of the interrupt that the VMM can raise.
pub const IRQ_VECTOR: u8 = 32;
/// The vector by which a CPU asks others to flush.
pub const SHOOTDOWN_VECTOR: u8 = 33;
