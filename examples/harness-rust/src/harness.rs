//! From the first instruction to the step loop; docs/guest.md says what all of it means. It calls
//! `crate::paging` where a step is an edit, and `crate::flush` where one is a flush.

use crate::{flush, paging};
use core::arch::{asm, global_asm};
use core::ptr::{addr_of, addr_of_mut};
use stalemate_shared::boot::BootBlock;
use stalemate_shared::hypercall::{BEGIN, END, NEXT_STEP, PANIC, PORT, Primitive, READY};
use stalemate_shared::layout::*;
use stalemate_shared::note::{Description, Note, steps};
use stalemate_shared::page::Page as TestPage;
use stalemate_shared::step::{Op, Status};

#[used]
#[unsafe(link_section = ".note.stalemate")]
static NOTE: Note = Note::new(Description {
    cpus: 1,
    spaces: MM_COUNT as u64,
    pages: paging::PAGES,
    features: flush::USES,
    #[rustfmt::skip]
    steps: steps(&[
        Op::Map, Op::Remap, Op::Unmap, Op::Protect, Op::Clean, Op::Age, Op::FlushOneUser,
        Op::FlushOneKernel, Op::FlushRange, Op::FlushKernelRange, Op::FlushMm, Op::FlushAll,
        Op::SwitchMm, Op::UserNop, Op::UserRead, Op::UserWrite, Op::KernelRead, Op::KernelWrite,
    ]),
    ..Description::NOTHING
});

fn hypercall(number: u64, a: u64, b: u64, c: u64, d: u64) -> [u64; 5] {
    let (mut rax, mut rdi, mut rsi, mut rdx, mut rcx) = (number, a, b, c, d);
    // SAFETY: the VMM reads and writes these registers alone, and memory where a step says so.
    unsafe {
        asm!("out {}, al", const PORT, inout("rax") rax, inout("rdi") rdi, inout("rsi") rsi,
             inout("rdx") rdx, inout("rcx") rcx);
    }
    [rax, rdi, rsi, rdx, rcx]
}

// Accesses that may fault, in kernel mode or in user mode: what is read, or an error code.

const NOTHING: u64 = 0;
const LOAD: u64 = 1;
const STORE: u64 = 2;

global_asm!(
    ".section .text",
    ".globl _start",
    "_start: lea rsp, [rip + stack + 8192]",
    "jmp {boot}",
    ".section .user, \"ax\"",
    "user_code: cmp esi, 1", "je 2f", "cmp esi, 2", "je 3f", "syscall",
    "2: mov rax, [rdi]", "syscall",
    "3: mov [rdi], rdx", "syscall",
    ".text",
    "access: push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
    "mov [rip + access_stack], rsp",
    "mov qword ptr [rip + access_fault], 0",
    "test ecx, ecx", "jnz 4f",
    "cmp esi, 1", "je 2f", "mov [rdi], rdx", "jmp left",
    "2: mov rax, [rdi]", "jmp left",
    "4: mov ecx, {user}", "mov r11d, 2", "sysretq",
    "fault: pop rax", "inc qword ptr [rip + access_fault]",
    "mov rcx, cr2", "mov [rip + access_cr2], rcx",
    "left: mov rsp, [rip + access_stack]",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx", "ret",
    ".bss",
    ".balign 16",
    "stack: .space 8192",
    "access_stack: .space 8", "access_fault: .space 8", "access_cr2: .space 8",
    ".text",
    boot = sym boot,
    user = const USER_CODE,
);

// What compilers call, and no standard library provides here.
global_asm!(
    ".globl memcpy, memmove, memset, memcmp",
    "memcpy: mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    "memset: mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    "memmove: mov rax, rdi",
    "mov rcx, rdx",
    "cmp rdi, rsi",
    "jbe 2f",
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "std",
    "2: rep movsb",
    "cld",
    "ret",
    "memcmp: mov rcx, rdx",
    "xor eax, eax",
    "cmp eax, eax",
    "repe cmpsb",
    "je 3f",
    "movzx eax, byte ptr [rdi - 1]",
    "movzx ecx, byte ptr [rsi - 1]",
    "sub ecx, eax",
    "mov eax, ecx",
    "3: ret",
);

unsafe extern "C" {
    fn access(va: u64, what: u64, value: u64, user: u64) -> u64;
    static access_fault: u64;
    static access_cr2: u64;
    static user_code: u8;
    static stack: u8;
    fn left();
    fn fault();
}

static mut GDT: [u64; 32] = [0; 32];
static mut IDT: [u64; 30] = [0; 30];
static mut TSS: [u64; 14] = [0; 14];

fn wrmsr(register: u32, value: u64) {
    // SAFETY: `init_cpu` alone calls it, with registers of SYSCALL and EFER.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32);
    }
}

/// A page fault in user mode switches to RSP0, and needs a code segment; SYSCALL needs registers.
fn init_cpu() {
    let (tss, handler) = (addr_of_mut!(TSS) as u64 + 4, fault as *const () as u64);
    let cs = u64::from(KERNEL_CS);
    // SAFETY: runs once, on the one CPU, before any other code looks at these tables.
    unsafe {
        GDT[KERNEL_CS as usize / 8] = 0x00af_9b00_0000_ffff;
        GDT[TSS_SELECTOR as usize / 8] =
            103 | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
        GDT[TSS_SELECTOR as usize / 8 + 1] = tss >> 32;
        // RSP0 is four bytes into the TSS, which begins four bytes into the array.
        TSS[1] = addr_of!(stack) as u64 + 8192;
        IDT[28] = handler & 0xffff | cs << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
        IDT[29] = handler >> 32;
        // The limit is in the two bytes before the base.
        let table = [255u64 << 48, addr_of!(GDT) as u64];
        asm!("lgdt [{}]", in(reg) table.as_ptr() as u64 + 6);
        let table = [239u64 << 48, addr_of!(IDT) as u64];
        asm!("lidt [{}]", in(reg) table.as_ptr() as u64 + 6);
        asm!("ltr {:x}", in(reg) TSS_SELECTOR);
    }
    wrmsr(0xc000_0080, 0xd01); // EFER: SCE, LME, LMA, NXE
    wrmsr(0xc000_0081, u64::from(SYSRET_BASE) << 48 | cs << 32);
    wrmsr(0xc000_0082, left as *const () as u64);
    wrmsr(0xc000_0084, 0x4_7700);
}

type Report = (Status, u64, u64);

fn accessed(mm: u64, va: u64, what: u64, value: u64, user: bool) -> Report {
    flush::switch_mm(mm, paging::root(mm));
    // SAFETY: `access` catches the fault that the address may raise; there is one CPU.
    unsafe {
        match (access(va, what, value, user.into()), access_fault) {
            (value, 0) => (Status::Done, value, 0),
            (error, _) => (Status::Fault, error, access_cr2),
        }
    }
}

fn page_size(va: u64) -> u64 {
    TestPage::at(va).map_or(PAGE_SIZE, TestPage::size)
}

/// A flush, between what says that it begins and that it returns.
#[inline(never)]
fn announced(primitive: Primitive, mm: u64, start: u64, end: u64) {
    let kernel = start >= USER_END || primitive == Primitive::All;
    let root = if kernel { 0 } else { paging::root(mm) };
    let [number, ..] = hypercall(BEGIN, primitive as u64, root, start, end);
    match primitive {
        Primitive::Mm => flush::flush_mm(mm),
        Primitive::All => flush::flush_all(),
        _ => {
            let mut va = start;
            while va < end {
                if kernel {
                    flush::flush_one_kernel(va)
                } else {
                    flush::flush_one_user(mm, va)
                }
                va += page_size(va);
            }
        }
    }
    hypercall(END, number, 0, 0, 0);
}

fn step(op: u64, [mm, va, third, fourth]: [u64; 4]) -> Report {
    const REFUSED: Report = (Status::Refused, 0, 0);
    if mm >= MM_COUNT as u64 {
        return REFUSED;
    }
    match Op::try_from(op) {
        Ok(Op::Map) => paging::map(mm, va, third, fourth),
        Ok(Op::Remap) => paging::remap(mm, va, third, fourth),
        Ok(Op::Unmap) => paging::unmap(mm, va),
        Ok(Op::Protect) => paging::protect(mm, va, third),
        Ok(Op::Clean) => paging::clean(mm, va),
        Ok(Op::Age) => paging::age(mm, va),
        Ok(Op::FlushOneUser) => announced(Primitive::OneUser, mm, va, va + page_size(va)),
        Ok(Op::FlushOneKernel) => announced(Primitive::OneKernel, mm, va, va + PAGE_SIZE),
        Ok(Op::FlushRange) => announced(Primitive::Range, mm, va, third),
        Ok(Op::FlushKernelRange) => announced(Primitive::KernelRange, mm, va, third),
        Ok(Op::FlushMm) => announced(Primitive::Mm, mm, 0, USER_END),
        Ok(Op::FlushAll) => announced(Primitive::All, mm, 0, u64::MAX),
        Ok(Op::SwitchMm) => flush::switch_mm(mm, paging::root(mm)),
        Ok(Op::UserNop) => return accessed(mm, 0, NOTHING, 0, true),
        Ok(Op::UserRead) => return accessed(mm, va, LOAD, 0, true),
        Ok(Op::UserWrite) => return accessed(mm, va, STORE, third, true),
        Ok(Op::KernelRead) => return accessed(mm, va, LOAD, 0, false),
        Ok(Op::KernelWrite) => return accessed(mm, va, STORE, third, false),
        _ => return REFUSED,
    }
    (Status::Done, 0, 0)
}

extern "C" fn boot(block: *mut BootBlock) -> ! {
    let physical = |at: u64| at - KERNEL_BASE;
    paging::init(physical(addr_of!(user_code) as u64));
    init_cpu();
    // SAFETY: the VMM passes the boot block's address, and nobody else uses it; so below.
    flush::init(unsafe { (*block).features });
    flush::switch_mm(0, paging::root(0));
    hypercall(READY, 0, 0, 0, 0);
    let mut report = (Status::None, 0, 0);
    loop {
        let (status, value, second) = report;
        let [op, args @ ..] = hypercall(NEXT_STEP, status as u64, value, second, 0);
        report = step(op, args);
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let (file, line) = info.location().map_or(("", 0), |at| (at.file(), at.line()));
    loop {
        hypercall(PANIC, line.into(), file.as_ptr() as u64, file.len() as u64, 0);
    }
}
