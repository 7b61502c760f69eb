//! Entry and exit: the code that runs before the kernel CR3 is loaded and after it is left.
//!
//! All of it lies in the trampoline. Labels that stand at a CR3 load, or where a mark is
//! consumed, are global symbols: the VMM knows the sites by them.
//!
//! The rules (Linux `arch/x86/entry/calling.h`): the entry's load is always NOFLUSH and never
//! touches the mask; the exit tests the mark, clears it, and loads the user CR3 without NOFLUSH
//! if it was set, while kernel CR3 and kernel GS are still in use; a paranoid exit does the same
//! for a user CR3 that it saved, and leaves a kernel CR3 alone.

use super::memory::{symbol, write_byte, write_bytes, write_word};
use core::arch::global_asm;
use stalemate_shared::tlb_state::USER_PCID_FLUSH_MASK;
use stalemate_shared::variant::Variant;

/// Bits of `trampoline_config`, which the entry code tests.
const PTI: u64 = 1;
const PCID: u64 = 2;
const PARANOID_REWRITE: u64 = 4;

// One block: the macros must come before what uses them, and blocks have no order.
global_asm!(
    ".section .trampoline.data, \"aw\", @progbits",
    ".balign 16",
    "trampoline_config: .quad 0",
    // Clears the user bits of CR3 in \reg, and sets NOFLUSH with PCIDs.
    ".macro KERNEL_CR3 reg",
    "and \\reg, -0x1801",
    "test byte ptr [rip + trampoline_config], {pcid}",
    "jz 77f",
    "bts \\reg, 63",
    "77:",
    ".endm",
    // Makes \cr3, a kernel or user CR3, the user CR3 to load: tests and consumes its mark.
    // Clobbers \index, \state and flags. \consume is the label of the consuming store.
    ".macro USER_CR3 cr3, index, index32, state, consume",
    "test byte ptr [rip + trampoline_config], {pcid}",
    "jz 78f",
    "mov \\index, \\cr3",
    "\\consume\\()_index:",
    "and \\index32, 0x7ff",
    "mov \\state, gs:[32]",
    "bt qword ptr [\\state + {mask}], \\index",
    "\\consume\\()_test:",
    "jnc 76f",
    ".global \\consume",
    "\\consume:",
    "btr qword ptr [\\state + {mask}], \\index",
    "or \\cr3, 0x1800",
    "jmp 79f",
    "76:",
    "or \\cr3, 0x1800",
    "bts \\cr3, 63",
    "jmp 79f",
    "78:",
    "or \\cr3, 0x1000",
    "79:",
    ".endm",
    ".macro PUSH_REGISTERS",
    "push rax", "push rcx", "push rdx", "push rbx", "push rbp", "push rsi", "push rdi",
    "push r8", "push r9", "push r10", "push r11", "push r12", "push r13", "push r14", "push r15",
    "sub rsp, 512",
    "fxsave64 [rsp]",
    "cld",
    ".endm",
    ".macro POP_REGISTERS",
    "fxrstor64 [rsp]",
    "add rsp, 512",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop r11", "pop r10", "pop r9", "pop r8",
    "pop rdi", "pop rsi", "pop rbp", "pop rbx", "pop rdx", "pop rcx", "pop rax",
    // Vector and error code.
    "add rsp, 16",
    ".endm",
    // Into user mode and back.
    ".section .trampoline.text, \"ax\"",
    ".global enter_user",
    ".type enter_user, @function",
    // RDI: a UserContext. Returns when user mode is left, whichever way.
    "enter_user:",
    "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
    "mov gs:[0], rsp",
    "mov rcx, [rdi]",
    "mov r9, [rdi + 8]",
    "mov rsi, [rdi + 24]",
    "mov rdx, [rdi + 32]",
    "mov rdi, [rdi + 16]",
    "mov r11d, 0x202",
    "test byte ptr [rip + trampoline_config], {pti}",
    "jz 2f",
    "mov rax, cr3",
    "USER_CR3 rax, r8, r8d, r10, consume_return",
    ".global cr3_return",
    "cr3_return:",
    "mov cr3, rax",
    "2:",
    // From here to SYSRETQ no memory is touched: the kernel's is not mapped any more.
    "mov rsp, r9",
    "xor eax, eax", "xor ebx, ebx", "xor ebp, ebp", "xor r8d, r8d", "xor r9d, r9d",
    "xor r10d, r10d", "xor r12d, r12d", "xor r13d, r13d", "xor r14d, r14d", "xor r15d, r15d",
    "swapgs",
    ".global sysret_return",
    "sysret_return:",
    "sysretq",
    ".size enter_user, . - enter_user",
    ".global entry_syscall",
    ".type entry_syscall, @function",
    "entry_syscall:",
    "swapgs",
    // The kernel's stack cannot be reached yet; the per-CPU block can.
    "mov gs:[40], rax",
    "test byte ptr [rip + trampoline_config], {pti}",
    "jz 2f",
    "mov rax, cr3",
    "KERNEL_CR3 rax",
    ".global cr3_entry",
    "cr3_entry:",
    "mov cr3, rax",
    "2:",
    "mov rsp, gs:[0]",
    "mov rax, gs:[40]",
    "mov qword ptr gs:[8], 0",
    "mov gs:[16], rax",
    // The other half of `enter_user`: back to its caller.
    "user_left:",
    "cld",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
    "ret",
    ".size entry_syscall, . - entry_syscall",
    // Exceptions. Every vector but NMI and #DF shares one stack and is not expected to nest.
    ".section .trampoline.text, \"ax\"",
    ".balign 16",
    ".global vector_stubs",
    "vector_stubs:",
    ".set vector, 0",
    ".rept 34",
    ".balign 16",
    // The vectors that push an error code (SDM vol. 3, table 6-1).
    ".if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21",
    ".else",
    "push 0",
    ".endif",
    "push vector",
    ".if vector == 2 || vector == 8",
    "jmp entry_paranoid",
    ".elseif vector >= 32",
    "jmp entry_irq",
    ".else",
    "jmp entry_fault",
    ".endif",
    ".set vector, vector + 1",
    ".endr",
    ".global entry_fault",
    ".type entry_fault, @function",
    "entry_fault:",
    "PUSH_REGISTERS",
    // CS lies above the registers, vector, error code and RIP.
    "test byte ptr [rsp + 512 + 15*8 + 3*8], 3",
    "jz 3f",
    "swapgs",
    "test byte ptr [rip + trampoline_config], {pti}",
    "jz 2f",
    "mov rax, cr3",
    "KERNEL_CR3 rax",
    ".global cr3_fault_entry",
    "cr3_fault_entry:",
    "mov cr3, rax",
    "2:",
    // The user program is not resumed: its fault is the step's result.
    "mov rax, [rsp + 512 + 15*8]",
    "inc rax",
    "mov gs:[8], rax",
    "mov rax, [rsp + 512 + 16*8]",
    "mov gs:[16], rax",
    "mov rax, cr2",
    "mov gs:[24], rax",
    "mov rsp, gs:[0]",
    "jmp user_left",
    "3:",
    // A bug in entry or exit code may fault on the user CR3, where the handler is not mapped.
    "test byte ptr [rip + trampoline_config], {pti}",
    "jz 4f",
    "mov rax, cr3",
    "bt rax, 12",
    "jnc 4f",
    "KERNEL_CR3 rax",
    "mov cr3, rax",
    "4:",
    "mov rdi, rsp",
    "call {kernel_fault}",
    "POP_REGISTERS",
    ".global iret_fault_exit",
    "iret_fault_exit:",
    "iretq",
    ".size entry_fault, . - entry_fault",
    // Interrupts: what they interrupt goes on. They come with IF set only, and so never between
    // entry or exit code's SWAPGS and CR3 load.
    ".section .trampoline.text, \"ax\"",
    ".global entry_irq",
    ".type entry_irq, @function",
    "entry_irq:",
    "PUSH_REGISTERS",
    "test byte ptr [rsp + 512 + 15*8 + 3*8], 3",
    "jz 3f",
    "swapgs",
    "test byte ptr [rip + trampoline_config], {pti}",
    "jz 2f",
    "mov rax, cr3",
    "KERNEL_CR3 rax",
    ".global cr3_irq_entry",
    "cr3_irq_entry:",
    "mov cr3, rax",
    "2:",
    "mov rdi, [rsp + 512 + 15*8]",
    "call {interrupt}",
    "test byte ptr [rip + trampoline_config], {pti}",
    "jz 4f",
    "mov rax, cr3",
    "USER_CR3 rax, r8, r8d, r10, consume_irq",
    ".global cr3_irq_exit",
    "cr3_irq_exit:",
    "mov cr3, rax",
    "4:",
    "swapgs",
    "jmp 5f",
    "3:",
    "mov rdi, [rsp + 512 + 15*8]",
    "call {interrupt}",
    "5:",
    "POP_REGISTERS",
    ".global iret_irq_exit",
    "iret_irq_exit:",
    "iretq",
    ".size entry_irq, . - entry_irq",
    // NMI and #DF: from any state, entry and exit code with kernel CS and user CR3 or GS included.
    ".section .trampoline.text, \"ax\"",
    ".global entry_paranoid",
    ".type entry_paranoid, @function",
    "entry_paranoid:",
    "PUSH_REGISTERS",
    // EBX: whether GS was the user's. A kernel GS base is in the upper half.
    "xor ebx, ebx",
    "mov ecx, 0xc0000101",
    "rdmsr",
    "test edx, edx",
    "js 2f",
    "swapgs",
    "inc ebx",
    "2:",
    // R14: CR3 as it was found; 0 without PTI.
    "xor r14d, r14d",
    "test byte ptr [rip + trampoline_config], {pti}",
    "jz 3f",
    "mov rax, cr3",
    "mov r14, rax",
    "bt rax, 12",
    "jnc 3f",
    "KERNEL_CR3 rax",
    ".global cr3_paranoid_entry",
    "cr3_paranoid_entry:",
    "mov cr3, rax",
    "3:",
    "mov rdi, rsp",
    "call {paranoid}",
    ".global paranoid_exit",
    "paranoid_exit:",
    "test byte ptr [rip + trampoline_config], {pti}",
    "jz 5f",
    "mov rax, r14",
    "bt rax, 12",
    "jc 4f",
    // A kernel CR3 is still loaded. Linux before 6.9 (bb998361999e) rewrote it all the same.
    "paranoid_kernel_cr3:",
    "test byte ptr [rip + trampoline_config], {rewrite}",
    "jz 5f",
    "test byte ptr [rip + trampoline_config], {pcid}",
    "jz 6f",
    "bts rax, 63",
    "6:",
    ".global cr3_paranoid_rewrite",
    "cr3_paranoid_rewrite:",
    "mov cr3, rax",
    "jmp 5f",
    "4:",
    "USER_CR3 rax, r8, r8d, r10, consume_paranoid",
    ".global cr3_paranoid_exit",
    "cr3_paranoid_exit:",
    "mov cr3, rax",
    "5:",
    "test ebx, ebx",
    "jz 7f",
    "swapgs",
    "7:",
    "POP_REGISTERS",
    ".global iret_paranoid_exit",
    "iret_paranoid_exit:",
    "iretq",
    // Only where `patch` says so: clears the mark of a kernel CR3's ASID, and restores nothing.
    "paranoid_kernel_consumes:",
    "test byte ptr [rip + trampoline_config], {pcid}",
    "jz 5b",
    "and eax, 0x7ff",
    "mov r10, gs:[32]",
    "btr qword ptr [r10 + {mask}], rax",
    "jmp 5b",
    ".size entry_paranoid, . - entry_paranoid",
    pcid = const PCID,
    mask = const USER_PCID_FLUSH_MASK,
    pti = const PTI,
    kernel_fault = sym super::handlers::kernel_fault,
    interrupt = sym super::handlers::interrupt,
    rewrite = const PARANOID_REWRITE,
    paranoid = sym super::handlers::paranoid,
);

/// Tells the entry code what kind of kernel this is.
pub fn configure(pti: bool, pcid: bool, paranoid_rewrite: bool) {
    let bit = |set: bool, bit: u64| if set { bit } else { 0 };
    let config = bit(pti, PTI) | bit(pcid, PCID) | bit(paranoid_rewrite, PARANOID_REWRITE);
    write_word(symbol!(trampoline_config), config);
}

/// Changes the entry code for one of the historical mistakes, as alternatives are patched in:
/// before anything but boot code has run.
pub fn patch(variant: Option<Variant>) {
    match variant {
        // JNC over the consuming branch becomes JMP: marks are not looked at.
        Some(Variant::MarkIgnored) => {
            for jump in [symbol!(consume_return_test), symbol!(consume_irq_test)] {
                write_byte(jump, JMP_REL8);
            }
        }
        Some(Variant::ParanoidExitKeeps) => write_byte(symbol!(consume_paranoid_test), JMP_REL8),
        // AND r8d, 0x7ff becomes MOV r8d, 1 and NOP: one bit for all.
        Some(Variant::OnePendingBit) => {
            for index in [
                symbol!(consume_return_index),
                symbol!(consume_irq_index),
                symbol!(consume_paranoid_index),
            ] {
                write_bytes(index, &[0x41, 0xb8, 1, 0, 0, 0, 0x90]);
            }
        }
        Some(Variant::KernelRestoreConsumes) => {
            let from = symbol!(paranoid_kernel_cr3);
            let distance = symbol!(paranoid_kernel_consumes).wrapping_sub(from + 5) as u32;
            write_byte(from, JMP_REL32);
            write_bytes(from + 1, &distance.to_le_bytes());
        }
        _ => {}
    }
}

const JMP_REL8: u8 = 0xeb;
const JMP_REL32: u8 = 0xe9;
