//! User mode: its one page of code, and the way there and back.

use core::arch::global_asm;

// The page of user code: RDI address, RSI operation, RDX value; ends in SYSCALL.
global_asm!(
    ".section .user_code, \"ax\"",
    ".balign 4096",
    ".global user_program",
    "user_program:",
    "cmp esi, 1",
    "je 2f",
    "cmp esi, 2",
    "je 3f",
    "cmp esi, 3",
    "je 4f",
    "syscall",
    "2:",
    "mov rax, [rdi]",
    "syscall",
    "3:",
    "mov [rdi], rdx",
    "syscall",
    // A loop of loads, stores, arithmetic and branches, RDX times.
    ".global user_spin, user_spin_end",
    "user_spin:",
    "4:",
    "mov rcx, [rdi]",
    "lea rax, [rcx + 8 * rdx]",
    "xor rax, rcx",
    "shr rax, 3",
    "movzx ecx, al",
    "cmp rcx, 0x80",
    "jb 5f",
    "add rax, [rdi + 8]",
    "5:",
    "mov [rdi + 8], rax",
    "add rax, rcx",
    "mov [rdi], rax",
    "dec rdx",
    "jnz 4b",
    "user_spin_end:",
    "syscall",
    "ud2",
);

/// What user mode begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UserContext {
    /// First instruction.
    pub rip: u64,
    /// Stack pointer; the user program uses no stack.
    pub rsp: u64,
    /// First argument: an address.
    pub address: u64,
    /// Second argument: 0 nothing, 1 load, 2 store, 3 a loop of both.
    pub operation: u64,
    /// Third argument: what to store, or how many rounds.
    pub value: u64,
}

/// How user mode was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserExit {
    /// By SYSCALL, with RAX.
    Syscall(u64),
    /// By an exception.
    Fault {
        /// Its vector.
        vector: u64,
        /// Its error code.
        error: u64,
        /// CR2.
        address: u64,
    },
}

/// Enters user mode, and comes back when it is left.
#[must_use]
pub fn enter_user(context: &UserContext) -> UserExit {
    unsafe extern "C" {
        #[link_name = "enter_user"]
        fn enter_user_asm(context: *const UserContext);
    }
    // SAFETY: the assembly saves what the ABI wants saved, and comes back on this stack; user
    // code runs at CPL 3 on tables that give it none of the kernel's memory.
    unsafe { enter_user_asm(context) };
    let word = |offset| super::memory::read_word(super::percpu::block() + offset);
    match word(8) {
        0 => UserExit::Syscall(word(16)),
        kind => UserExit::Fault { vector: kind - 1, error: word(16), address: word(24) },
    }
}
