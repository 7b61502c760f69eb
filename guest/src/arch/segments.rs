//! GDT, IDT and TSS, in the trampoline: the processor reads them under either root.

use super::cpu::wrmsr;
use super::memory::{symbol, write_word};
use super::percpu::{self, Words};
use core::arch::asm;
use stalemate_shared::layout::{
    ENTRY_STACKS, IST_DOUBLE_FAULT, IST_FAULT, IST_IRQ, IST_NMI, KERNEL_BASE, KERNEL_CS, KERNEL_SS,
    MAX_CPUS, PAGE_SIZE, SHOOTDOWN_VECTOR, STACKS, SYSRET_BASE, TSS_SELECTOR, USER_CS, USER_SS,
};

const VECTORS: usize = SHOOTDOWN_VECTOR as usize + 1;
const GDT_WORDS: usize = TSS_SELECTOR as usize / 8 + 2 * MAX_CPUS;
const TSS_WORDS: usize = 13;

#[unsafe(link_section = ".trampoline.data")]
static GDT: Words<[u64; GDT_WORDS]> = Words::new([0; GDT_WORDS]);
#[unsafe(link_section = ".trampoline.data")]
static IDT: Words<[u64; VECTORS * 2]> = Words::new([0; VECTORS * 2]);
#[unsafe(link_section = ".trampoline.data")]
static TSS: Words<[[u64; TSS_WORDS]; MAX_CPUS]> = Words::new([[0; TSS_WORDS]; MAX_CPUS]);

/// Base and limit as LGDT and LIDT read them: the limit in the last two bytes of the first word.
#[repr(C, align(16))]
struct Pointer([u64; 2]);

impl Pointer {
    fn new(base: u64, bytes: usize) -> Self {
        Self([(bytes as u64 - 1) << 48, base])
    }

    fn address(&self) -> u64 {
        self.0.as_ptr() as u64 + 6
    }
}

/// Builds the tables, for every CPU.
pub fn build() {
    gdt();
    (0..MAX_CPUS as u64).for_each(tss);
    idt();
}

/// Loads a CPU's GDTR, CS, SS, TR, IDTR and SYSCALL registers.
pub fn init(cpu: u64) {
    load(TSS_SELECTOR + 16 * cpu as u16);
    syscall(cpu);
}

fn tss_address(cpu: u64) -> u64 {
    TSS.address() + cpu * TSS_WORDS as u64 * 8
}

fn gdt() {
    let set = |selector: u16, descriptor: u64| {
        write_word(GDT.address() + u64::from(selector & !7), descriptor);
    };
    set(KERNEL_CS, 0x00af_9b00_0000_ffff);
    set(KERNEL_SS, 0x00cf_9300_0000_ffff);
    set(USER_SS, 0x00cf_f300_0000_ffff);
    set(USER_CS, 0x00af_fb00_0000_ffff);
    for cpu in 0..MAX_CPUS as u16 {
        let base = tss_address(u64::from(cpu));
        let limit = (TSS_WORDS * 8 - 1) as u64;
        let low = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        set(TSS_SELECTOR + 16 * cpu, low);
        set(TSS_SELECTOR + 16 * cpu + 8, base >> 32);
    }
}

fn tss(cpu: u64) {
    // RSP0 at offset 4, IST1 at 0x24: 8-byte fields at 4-byte alignment.
    let set = |offset: u64, value: u64| {
        let at = tss_address(cpu) + offset;
        // SAFETY: an unaligned word inside the TSS, which nobody else uses yet.
        unsafe { (at as *mut u64).write_unaligned(value) };
    };
    let first = KERNEL_BASE + STACKS + cpu * ENTRY_STACKS * PAGE_SIZE;
    let top = |index: u64| first + (index + 1) * PAGE_SIZE;
    set(4, top(0));
    for ist in [IST_DOUBLE_FAULT, IST_NMI, IST_FAULT, IST_IRQ] {
        let ist = u64::from(ist);
        set(0x24 + (ist - 1) * 8, top(ist));
    }
}

fn idt() {
    for vector in 0..VECTORS as u64 {
        let handler = symbol!(vector_stubs) + vector * 16;
        let ist = match vector {
            2 => IST_NMI,
            8 => IST_DOUBLE_FAULT,
            32.. => IST_IRQ,
            _ => IST_FAULT,
        };
        // Interrupt gates; DPL 3 for #BP alone.
        let kind = if vector == 3 { 0xee00 } else { 0x8e00 };
        let low = handler & 0xffff
            | u64::from(KERNEL_CS) << 16
            | (kind | u64::from(ist)) << 32
            | (handler >> 16 & 0xffff) << 48;
        write_word(IDT.address() + vector * 16, low);
        write_word(IDT.address() + vector * 16 + 8, handler >> 32);
    }
}

/// Clears the IDT, and meets it.
pub fn break_idt() -> ! {
    super::cpu::broken::zero_idt(IDT.address(), VECTORS * 2)
}

fn load(tss: u16) {
    let gdt = Pointer::new(GDT.address(), GDT_WORDS * 8);
    let idt = Pointer::new(IDT.address(), VECTORS * 16);
    // SAFETY: the tables are complete and never move. IRETQ loads CS and SS, since far returns
    // and MOV to SS would not trap; it goes to the next instruction on the same stack.
    unsafe {
        asm!(
            "lgdt [{gdt}]",
            "mov {scratch}, rsp",
            "push {ss}",
            "push {scratch}",
            "push 2",
            "push {cs}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "iretq",
            "2:",
            "lidt [{idt}]",
            "ltr {tss:x}",
            gdt = in(reg) gdt.address(),
            idt = in(reg) idt.address(),
            tss = in(reg) tss,
            ss = const KERNEL_SS,
            cs = const KERNEL_CS,
            scratch = out(reg) _,
        );
    };
}

fn syscall(cpu: u64) {
    const EFER: u32 = 0xc000_0080;
    const STAR: u32 = 0xc000_0081;
    const LSTAR: u32 = 0xc000_0082;
    const FMASK: u32 = 0xc000_0084;
    const GS_BASE: u32 = 0xc000_0101;
    const KERNEL_GS_BASE: u32 = 0xc000_0102;
    // LME and LMA stay; SCE and NXE.
    wrmsr(EFER, 1 | 1 << 8 | 1 << 10 | 1 << 11);
    wrmsr(STAR, u64::from(SYSRET_BASE) << 48 | u64::from(KERNEL_CS) << 32);
    wrmsr(LSTAR, symbol!(entry_syscall));
    // TF, IF, DF, IOPL, NT, AC.
    wrmsr(FMASK, 0x4_7700);
    wrmsr(GS_BASE, percpu::block_of(cpu));
    wrmsr(KERNEL_GS_BASE, 0);
}
