//! The first instruction.

use core::arch::global_asm;

// Entered with RDI = address of the boot block, on the VMM's tables, without a stack.
global_asm!(
    ".section .text._start, \"ax\"",
    ".global _start",
    "_start:",
    "lea rsp, [rip + {stack} + {size}]",
    "xor ebp, ebp",
    "call {main}",
    "ud2",
    stack = sym KERNEL_STACK,
    size = const KERNEL_STACK_SIZE,
    main = sym crate::boot::kernel_main,
);

const KERNEL_STACK_SIZE: usize = 16 << 10;

#[repr(C, align(4096))]
struct Stack([u8; KERNEL_STACK_SIZE]);

/// The kernel's stack: not mapped in user roots.
static KERNEL_STACK: super::percpu::Words<Stack> =
    super::percpu::Words::new(Stack([0; KERNEL_STACK_SIZE]));
