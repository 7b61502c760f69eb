//! What is in memory before a guest's first instruction, and what the kernel then says of itself.

use super::words::Layout;
use crate::arch::addr::Gpa;
use crate::arch::core::Memory;
use crate::arch::features::CpuFeatures;
use crate::memory::GuestMemory;
use stalemate_shared::boot::BootBlock;
use stalemate_shared::variant::Variant;
use stalemate_shared::{VERSION, boot, layout};

/// Words of a [`BootBlock`] that the VMM reads and writes.
const BOOT_BLOCK_WORDS: usize = size_of::<BootBlock>() / 8;

/// What the kernel is told to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelOptions {
    /// The flush policy.
    pub policy: boot::Policy,
    /// Bits of `shared::boot::options`.
    pub options: u32,
    /// The historical mistake that it makes.
    pub variant: Option<Variant>,
}

/// What the kernel completed its boot block with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Where its words are.
    pub layout: Layout,
    /// Where the other CPUs begin.
    pub ap_entry: u64,
    /// Whether user mode has roots of its own.
    pub isolated: bool,
    /// Whether kernel pages outside the trampoline are global.
    pub kernel_global: bool,
    /// What the user root maps of the kernel half.
    pub trampoline: Vec<(u64, u64)>,
}

/// Writes everything that is in memory at entry but the image: boot block, boot tables, colours.
pub fn prepare(memory: &GuestMemory, features: CpuFeatures, kernel: &KernelOptions, cpus: u8) {
    let version_and_size = u64::from(VERSION) | (size_of::<BootBlock>() as u64) << 32;
    let policy_and_options = kernel.policy as u64 | u64::from(kernel.options) << 32;
    let variant = kernel.variant.map_or(0, |variant| variant as u64);
    let bits = [
        (features.pcid, boot::features::PCID),
        (features.invpcid, boot::features::INVPCID),
        (features.pge, boot::features::PGE),
        (features.smep, boot::features::SMEP),
    ];
    let features = bits.iter().filter(|(has, _)| *has).map(|(_, bit)| bit).sum();
    let block = [
        boot::MAGIC,
        version_and_size,
        memory.len(),
        policy_and_options,
        features,
        u64::from(cpus),
        variant,
    ];
    for (index, word) in block.into_iter().enumerate() {
        memory.write_word(Gpa(layout::BOOT_BLOCK + index as u64 * 8), word);
    }
    boot_tables(memory);
    for (index, _) in layout::COLOURS.iter().enumerate() {
        let small = layout::COLOUR_FRAMES + index as u64 * layout::PAGE_SIZE;
        fill(memory, small, layout::PAGE_SIZE, index);
        if index < layout::LARGE_COLOURS {
            let large = layout::LARGE_COLOUR_FRAMES + index as u64 * layout::LARGE_PAGE_SIZE;
            fill(memory, large, layout::LARGE_PAGE_SIZE, index);
        }
    }
}

fn fill(memory: &GuestMemory, start: u64, len: u64, colour: usize) {
    let word = layout::colour_word(colour).to_le_bytes();
    let page = word.repeat(512);
    for at in (start..start + len).step_by(layout::PAGE_SIZE as usize) {
        memory.write(Gpa(at), &page);
    }
}

/// A PML4, PDPT, PD and PT that map the first 2 MiB at `KERNEL_BASE`, with A and D set; and what is above
/// the coloured frames, by 2 MiB pages.
fn boot_tables(memory: &GuestMemory) {
    const TABLE: u64 = 0x23;
    const PAGE: u64 = 0x63;
    const LARGE_PAGE: u64 = 0xe3;
    let table = |level: u64| layout::BOOT_TABLES + level * layout::PAGE_SIZE;
    let index = |shift: u32| (layout::KERNEL_BASE >> shift & 0x1ff) * 8;
    memory.write_word(Gpa(table(0) + index(39)), table(1) | TABLE);
    memory.write_word(Gpa(table(1) + index(30)), table(2) | TABLE);
    memory.write_word(Gpa(table(2) + index(21)), table(3) | TABLE);
    for page in 0..512 {
        memory.write_word(Gpa(table(3) + page * 8), (page * layout::PAGE_SIZE) | PAGE);
    }
    let above = (layout::MEMORY_SIZE..memory.len()).step_by(layout::LARGE_PAGE_SIZE as usize);
    for at in above {
        let slot = table(2) + index(21) + at / layout::LARGE_PAGE_SIZE * 8;
        memory.write_word(Gpa(slot), at | LARGE_PAGE);
    }
}

/// Reads the boot block that the kernel completed.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn kernel_info(memory: &GuestMemory) -> Result<KernelInfo, String> {
    let words: Vec<u64> = (0..BOOT_BLOCK_WORDS)
        .map(|index| memory.read_word(Gpa(layout::BOOT_BLOCK + index as u64 * 8)))
        .collect();
    let at = |offset: usize| words[offset / 8];
    let count = at(std::mem::offset_of!(BootBlock, trampoline_count)) as usize;
    let layout = described(memory, at)?;
    if count > boot::TRAMPOLINE_RANGES {
        return Err(format!("{count} trampoline ranges, at most {}", boot::TRAMPOLINE_RANGES));
    }
    let first = std::mem::offset_of!(BootBlock, trampoline);
    let range = |index: usize| (at(first + index * 16), at(first + index * 16 + 8));
    Ok(KernelInfo {
        layout,
        isolated: at(std::mem::offset_of!(BootBlock, isolated)) != 0,
        ap_entry: at(std::mem::offset_of!(BootBlock, ap_entry)),
        kernel_global: at(std::mem::offset_of!(BootBlock, kernel_global)) != 0,
        trampoline: (0..count).map(range).collect(),
    })
}

/// Where the words are of a kernel whose boot block has this at each offset: in its table, in its
/// `TlbState` and `MmState`, or nowhere.
fn described(memory: &GuestMemory, at: impl Fn(usize) -> u64) -> Result<Layout, String> {
    let tlb_state = at(std::mem::offset_of!(BootBlock, tlb_state));
    let mm_states = at(std::mem::offset_of!(BootBlock, mm_states));
    let table = at(std::mem::offset_of!(BootBlock, words));
    let cpus = at(std::mem::offset_of!(BootBlock, cpus)).clamp(1, layout::MAX_CPUS as u64);
    if table != 0 {
        let rows = at(std::mem::offset_of!(BootBlock, word_rows));
        return Layout::read(memory, table, rows, cpus as u8);
    }
    if (tlb_state, mm_states) == (0, 0) {
        return Ok(Layout::nothing(cpus as u8));
    }
    let pages = |at: u64, pages: u64| {
        let is_page = at != 0 && at.is_multiple_of(layout::PAGE_SIZE);
        is_page && at.checked_add(pages * layout::PAGE_SIZE).is_some_and(|end| end <= memory.len())
    };
    if !pages(tlb_state, cpus) {
        let what = "is not a page of memory for each CPU";
        return Err(format!("TlbState at guest-physical {tlb_state:#x} {what}"));
    }
    if !pages(mm_states, 1) {
        return Err(format!("address spaces at guest-physical {mm_states:#x}: no page of memory"));
    }
    Ok(Layout::of_states(Gpa(tlb_state), Gpa(mm_states), cpus as u8))
}
