//! The tables as they are at boot.

use crate::arch::memory::{self, write_physical};
use crate::arch::{percpu, trampoline};
use crate::config::Config;
use crate::entry::{self, Protection};
use crate::mm::{self, INIT};
use stalemate_shared::layout::{
    BOOT_BLOCK, KERNEL_BASE, KERNEL_PAGES, KERNEL_STACK_PAGES, KERNEL_STACKS, MM_STATES, PAGE_SIZE,
    POOL_FRAME_COUNT, POOL_FRAMES, TABLE_FRAMES, TABLE_FRAMES_END, USER_CODE,
};
use stalemate_shared::pcid::USER_ROOT_BIT;
use stalemate_shared::tlb_state::MmState;

/// Hands out zeroed frames for tables.
struct Frames {
    next: u64,
}

impl Frames {
    fn take(&mut self) -> u64 {
        assert!(self.next < TABLE_FRAMES_END, "out of table frames");
        let frame = self.next;
        self.next += PAGE_SIZE;
        for word in 0..512 {
            write_physical(frame + word * 8, 0);
        }
        frame
    }

    /// A kernel root, with its user root 4 KiB above.
    fn take_pair(&mut self) -> u64 {
        if self.next & USER_ROOT_BIT != 0 {
            self.next += PAGE_SIZE;
        }
        let kernel = self.take();
        self.take();
        kernel
    }
}

fn slot(table: u64, va: u64, level: u32) -> u64 {
    table + (va >> (12 + 9 * (level - 1)) & 0x1ff) * 8
}

/// Builds the kernel's tables and all address spaces.
pub fn init(config: &Config) {
    let mut frames = Frames { next: TABLE_FRAMES };
    let (kernel, direct) = kernel_half(&mut frames);
    let trampoline = user_kernel_half(&mut frames, config);
    for number in 0..MM_STATES {
        let root = frames.take_pair();
        if number != INIT {
            user_half(&mut frames, config, root);
        }
        write_physical(slot(root, KERNEL_BASE, 4), entry::kernel_table(kernel));
        if config.pti {
            let user = root | USER_ROOT_BIT;
            write_physical(slot(user, KERNEL_BASE, 4), entry::kernel_table(trampoline));
        }
        let state =
            MmState { ctx_id: mm::ctx_id(number), tlb_gen: 1, kernel_root: root, cpumask: 0 };
        percpu::set_mm_state(number, state);
    }
    direct_map(direct, frames.next, config);
}

/// The PDPT of the kernel half, shared by all kernel roots: direct map and test pages. And the
/// table of the direct map.
fn kernel_half(frames: &mut Frames) -> (u64, u64) {
    let [pdpt, pd, direct, tests] = core::array::from_fn(|_| frames.take());
    write_physical(slot(pdpt, KERNEL_BASE, 3), entry::kernel_table(pd));
    write_physical(slot(pd, KERNEL_BASE, 2), entry::kernel_table(direct));
    write_physical(slot(pd, KERNEL_PAGES, 2), entry::kernel_table(tests));
    (pdpt, direct)
}

/// Maps what the kernel uses, and no more: each page is one that a processor may cache.
fn direct_map(direct: u64, tables_end: u64, config: &Config) {
    let boot_block = BOOT_BLOCK..BOOT_BLOCK + PAGE_SIZE;
    let pool = POOL_FRAMES..POOL_FRAMES + POOL_FRAME_COUNT * PAGE_SIZE;
    let stacks = KERNEL_STACKS..KERNEL_STACKS + config.cpus * KERNEL_STACK_PAGES * PAGE_SIZE;
    let image = memory::image();
    let image = image.start - KERNEL_BASE..image.end - KERNEL_BASE;
    let entry_stacks = trampoline::stacks(config.cpus);
    let ranges = [boot_block, pool, entry_stacks, stacks, image, TABLE_FRAMES..tables_end];
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let va = KERNEL_BASE + at;
            let global = if trampoline::contains(va, config.cpus) {
                config.pge
            } else {
                config.kernel_global
            };
            write_physical(slot(direct, va, 1), entry::direct(at, protection(va), global));
            at += PAGE_SIZE;
        }
    }
}

/// The PDPT of the user roots' kernel half: the trampoline and nothing else.
fn user_kernel_half(frames: &mut Frames, config: &Config) -> u64 {
    let [pdpt, pd, pt] = core::array::from_fn(|_| frames.take());
    write_physical(slot(pdpt, KERNEL_BASE, 3), entry::kernel_table(pd));
    write_physical(slot(pd, KERNEL_BASE, 2), entry::kernel_table(pt));
    for range in trampoline::ranges(config.cpus) {
        let mut va = range.start;
        while va < range.end {
            let bits = entry::direct(va - KERNEL_BASE, protection(va), config.pge);
            write_physical(slot(pt, va, 1), bits);
            va += PAGE_SIZE;
        }
    }
    pdpt
}

/// A user half, empty but for the page of user code.
fn user_half(frames: &mut Frames, config: &Config, root: u64) {
    let [pdpt, pd, pt] = core::array::from_fn(|_| frames.take());
    write_physical(slot(pdpt, USER_CODE, 3), entry::table(pd));
    write_physical(slot(pd, USER_CODE, 2), entry::table(pt));
    let code = memory::user_code().start - KERNEL_BASE;
    write_physical(slot(pt, USER_CODE, 1), entry::user_code(code));
    let top = entry::table(pdpt);
    if config.pti {
        write_physical(slot(root, USER_CODE, 4), entry::poisoned(top));
        write_physical(slot(root | USER_ROOT_BIT, USER_CODE, 4), top);
    } else {
        write_physical(slot(root, USER_CODE, 4), top);
    }
}

fn protection(va: u64) -> Protection {
    if memory::user_code().contains(&va) || memory::rodata().contains(&va) {
        Protection::Read
    } else if memory::text().contains(&va) {
        Protection::Execute
    } else {
        Protection::Write
    }
}
