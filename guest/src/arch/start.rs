//! The first instruction.

use core::arch::global_asm;
use stalemate_shared::layout::{KERNEL_BASE, KERNEL_STACK_PAGES, KERNEL_STACKS, PAGE_SIZE};

// CPU 0 is entered with RDI = address of the boot block, the others with RDI = their number; all of
// them on the VMM's tables, without a stack.
global_asm!(
    ".section .text._start, \"ax\"",
    ".global _start, ap_start",
    "_start:",
    "mov rsp, {stacks} + {size}",
    "xor ebp, ebp",
    "lea rsi, [rip + ap_start]",
    "call {main}",
    "ud2",
    "ap_start:",
    "lea rax, [rdi + 1]",
    "imul rax, rax, {size}",
    "mov rsp, {stacks}",
    "add rsp, rax",
    "xor ebp, ebp",
    "call {ap_main}",
    "ud2",
    stacks = const (KERNEL_BASE + KERNEL_STACKS) as i64,
    size = const KERNEL_STACK_PAGES * PAGE_SIZE,
    main = sym crate::boot::kernel_main,
    ap_main = sym crate::boot::ap_main,
);
