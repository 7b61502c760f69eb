//! A small kernel that isolates page tables and announces nothing. Its tasks are scripts: what user
//! mode does, and what each of its system calls does in the kernel.

use super::assembler::{Assembler, assemble, at};
use super::elf::Image;
use super::layout::*;
use iced_x86::{Code, Instruction, Register};
use std::collections::BTreeMap;

/// What the kernel does in a system call, one after another.
#[derive(Clone, Debug)]
pub enum Does {
    /// Stores a word at a guest-physical address.
    Store(u64, u64),
    /// Reads from an address.
    Read(u64),
    /// INVLPG.
    Invlpg(u64),
    /// INVPCID of one address under a PCID.
    InvpcidAddress(u64, u64),
    /// INVPCID of all that is cached under a PCID.
    InvpcidAll(u64),
    /// Loads CR3.
    Cr3(u64),
    /// The next return to user mode under this PCID's user half loads CR3 without NOFLUSH.
    Mark(u64),
    /// The next return to user mode loads this into CR3.
    Return(u64),
    /// Goes on as this task, until that one switches back.
    Switch(usize),
    /// Waits for the timer, whose interrupt goes on as this task.
    Sleep(usize),
    /// Prints.
    Print(&'static str),
    /// Reads from a port.
    In(u16),
    /// Writes an MSR.
    Wrmsr(u32),
    /// Calls a function of this name, with what RDI, RSI and RDX hold then; it does these and returns.
    Function(&'static str, [u64; 3], Vec<Does>),
    /// Any instruction.
    Bytes(&'static [u8]),
    /// Asks for a reset: a fault that nothing handles.
    Reset,
    /// Halts with interrupts off.
    Halt,
}

/// What user mode does.
#[derive(Clone, Debug)]
pub enum User {
    /// Reads from an address; nothing if that faults.
    Read(u64),
    /// Writes to an address; nothing if that faults.
    Write(u64),
    /// A system call.
    Call(Vec<Does>),
}

/// A task: its address space and its script.
pub type Task = (Space, Vec<User>);

const SAVED_RSP: u64 = KERNEL + VARIABLES;
pub const STACK_TOP: u64 = SAVED_RSP + 8;
pub const MARKS: u64 = SAVED_RSP + 0x10;
const RETURN: u64 = SAVED_RSP + 0x18;
const CURRENT: u64 = SAVED_RSP + 0x20;
const PREEMPTING: u64 = SAVED_RSP + 0x28;
const STACKS_OF_TASKS: u64 = SAVED_RSP + 0x40;

const KERNEL_CS: u64 = 0x10;
/// From which SYSRET makes the selectors of user mode: code at 16 beyond, data at 8.
const USER_BASE: u64 = 0x20;
const USER_DS: u64 = USER_BASE + 8 + 3;
const USER_CS: u64 = USER_BASE + 16 + 3;
const TSS_SELECTOR: u64 = 0x38;
const TSS_LIMIT: u64 = 0x67;
const PAGE_FAULT: u64 = 14;
const TIMER: u64 = 0x20;
/// What initialises the interrupt controllers, which let the timer through alone, and makes the
/// timer tick: ports with what is written to them.
const DEVICES: [(u8, u8); 13] = [
    (0x20, 0x11),
    (0x21, TIMER as u8),
    (0x21, 4),
    (0x21, 1),
    (0xa0, 0x11),
    (0xa1, TIMER as u8 + 8),
    (0xa1, 2),
    (0xa1, 1),
    (0x21, 0xfe),
    (0xa1, 0xff),
    (0x43, 0x34),
    (0x40, 0x00),
    (0x40, 0x10),
];
const USER_STACK: u64 = data(15) + 0x1000;
const RFLAGS: u64 = 2;
const SERIAL: u16 = 0x3f8;

const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const FMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
/// SYSCALL, long mode enabled and active.
const EFER_VALUE: u64 = 0x501;
const CR4_PGE: i64 = 1 << 7;
const CR4_PCIDE: i64 = 1 << 17;

/// The kernel with these tasks, as an ELF file. It begins with the first of them.
pub fn kernel(tasks: &[Task]) -> Vec<u8> {
    kernel_with_symbols(tasks).0
}

/// The same, and the addresses of its functions by their names.
pub fn kernel_with_symbols(tasks: &[Task]) -> (Vec<u8>, BTreeMap<String, u64>) {
    assert!(tasks.len() as u64 <= STACK_MOST);
    let (user, entries) = assemble(USER, |code| user_code(code, tasks));
    let entry = |task: usize| entries[&format!("task {task}")];
    let (code, labels) = assemble(KERNEL + CODE, |code| kernel_code(code, tasks, entry(0)));
    assert!(code.len() as u64 <= GDT - CODE, "{} bytes of code", code.len());
    assert!(user.len() as u64 <= CODE_PAGES << 12, "{} bytes of user code", user.len());
    let mut image = Image::new();
    image.bytes(CODE, code);
    image.bytes(USER_CODE, user);
    descriptors(&mut image);
    gate(&mut image, PAGE_FAULT, labels["page fault"]);
    gate(&mut image, TIMER, labels["timer"]);
    tables(&mut image);
    for task in 0..tasks.len() {
        // What the kernel finds on a stack when it switches to a task that has not begun.
        let found = [labels["exit"], USER_STACK, RFLAGS, entry(task)];
        let begin = stack(task) - 8 * found.len() as u64;
        for (index, word) in found.into_iter().enumerate() {
            image.word(begin - KERNEL + index as u64 * 8, word);
        }
        image.word(STACKS_OF_TASKS - KERNEL + task as u64 * 8, begin);
    }
    image.word(STACK_TOP - KERNEL, stack(0));
    image.reserve(A.frame(0), 0x10_0000);
    (image.elf(labels["boot"], KERNEL), labels)
}

fn descriptors(image: &mut Image) {
    let tss = KERNEL + TSS;
    let system = TSS_LIMIT | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
    let gdt = [
        0,
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        system,
        tss >> 32,
    ];
    for (index, descriptor) in gdt.into_iter().enumerate() {
        image.word(GDT + index as u64 * 8, descriptor);
    }
    // RSP0, at an odd multiple of four.
    let stack = KERNEL + ENTRY_STACK + 0x1000;
    image.word(TSS, stack << 32);
    image.word(TSS + 8, stack >> 32);
    // What LGDT and LIDT read: the limit, and from the third byte on the base.
    for (at, base, limit) in [(GDT + 0x80, GDT, 9 * 8 - 1), (GDT + 0x90, IDT, (TIMER + 1) * 16 - 1)]
    {
        image.word(at, limit | (KERNEL + base) << 16);
        image.word(at + 8, (KERNEL + base) >> 48);
    }
    image.reserve(ENTRY_STACK, 0x1000);
}

/// An interrupt gate.
fn gate(image: &mut Image, vector: u64, handler: u64) {
    let [low, middle] = [handler & 0xffff, handler >> 16 & 0xffff];
    image.word(IDT + vector * 16, low | KERNEL_CS << 16 | 0x8e << 40 | middle << 48);
    image.word(IDT + vector * 16 + 8, handler >> 32);
}

fn tables(image: &mut Image) {
    let index = |va: u64, level: u64| (va >> (12 + 9 * level) & 511) * 8;
    for page in 0..512 {
        image.word(KERNEL_PD + page * 8, page << 21 | LARGE);
        image.word(IDENTITY_PD + page * 8, page << 21 | LARGE);
    }
    image.word(KERNEL_PDPT + index(KERNEL, 2), KERNEL_PD | TABLE);
    image.word(TRAMPOLINE_PDPT + index(KERNEL, 2), TRAMPOLINE_PD | TABLE);
    image.word(TRAMPOLINE_PD, LARGE);
    image.word(IDENTITY_PDPT, IDENTITY_PD | TABLE);
    image.word(BOOT_ROOT, IDENTITY_PDPT | TABLE);
    image.word(BOOT_ROOT + index(KERNEL, 3), KERNEL_PDPT | TABLE);
    image.word(AREA_PDPT, AREA_PD | TABLE);
    image.word(AREA_PD, AREA_PT | TABLE);
    for page in 0..GLOBAL {
        image.word(area_slot(page), C.frame(8 + page) | KERNEL_PAGE);
    }
    image.word(area_slot(GLOBAL), C.frame(8 + GLOBAL) | GLOBAL_PAGE);
    for space in [A, B, C] {
        let [pdpt, pd, pt, of_far] = space.tables();
        for root in [space.root(), space.root() | USER_ROOT] {
            image.word(root + index(USER, 3), pdpt | TABLE);
        }
        image.word(space.root() + index(KERNEL, 3), KERNEL_PDPT | TABLE);
        image.word(space.root() + index(AREA, 3), AREA_PDPT | TABLE);
        image.word((space.root() | USER_ROOT) + index(KERNEL, 3), TRAMPOLINE_PDPT | TABLE);
        image.word(pdpt + index(USER, 2), pd | TABLE);
        image.word(pd + index(USER, 1), pt | TABLE);
        image.word(space.far_slot(), of_far | TABLE);
        for page in 0..CODE_PAGES {
            image.word(pt + page * 8, (USER_CODE + page * 0x1000) | READ_ONLY);
        }
        for page in 0..16 {
            image.word(space.slot(page), space.frame(page) | PAGE);
            image.word(of_far + page * 8, space.frame(page) | PAGE);
        }
    }
}

fn user_code(code: &mut Assembler<'_>, tasks: &[Task]) {
    let mut call = 0;
    for (task, (_, script)) in tasks.iter().enumerate() {
        code.label(&format!("task {task}"));
        for user in script {
            match user {
                User::Read(va) => {
                    code.set(Register::RDI, *va);
                    read(code);
                }
                User::Write(va) => {
                    code.set(Register::RDI, *va);
                    write(code);
                }
                User::Call(_) => {
                    code.number(Code::Mov_r32_imm32, Register::EAX, call);
                    code.plain(Code::Syscall);
                    call += 1;
                }
            }
        }
        code.plain(Code::Ud2);
    }
}

/// Three bytes, which the handler of page faults goes on behind.
fn read(code: &mut Assembler<'_>) {
    let load = Instruction::with2(Code::Mov_r64_rm64, Register::RAX, at(Register::RDI));
    code.put(load.expect("a load"));
}

fn write(code: &mut Assembler<'_>) {
    let store = Instruction::with2(Code::Mov_rm64_r64, at(Register::RDI), Register::RAX);
    code.put(store.expect("a store"));
}

fn kernel_code(code: &mut Assembler<'_>, tasks: &[Task], first: u64) {
    boot(code, tasks[0].0, first);
    system_call(code);
    let calls = tasks.iter().flat_map(|(_, script)| script).filter_map(|user| match user {
        User::Call(does) => Some(does),
        _ => None,
    });
    let calls: Vec<&Vec<Does>> = calls.collect();
    code.label("dispatch");
    for call in 0..calls.len() {
        code.number(Code::Cmp_EAX_imm32, Register::EAX, call as i64);
        code.branch(Code::Je_rel32_64, &format!("call {call}"));
    }
    code.plain(Code::Ud2);
    for (call, does) in calls.into_iter().enumerate() {
        code.label(&format!("call {call}"));
        does.iter().for_each(|does| carry_out(code, does));
        code.plain(Code::Retnq);
    }
    (0..tasks.len()).for_each(|task| switch(code, task));
    code.label("page fault");
    // On the entry stack, under the user CR3: the error code goes, and RIP goes on.
    code.number(Code::Add_rm64_imm8, Register::RSP, 8);
    let next = Instruction::with2(Code::Add_rm64_imm8, at(Register::RSP), 3);
    code.put(next.expect("an addition"));
    code.plain(Code::Iretq);
    timer(code);
}

/// The timer's interrupt, on the stack of the task that waits.
fn timer(code: &mut Assembler<'_>) {
    const SAVED: [Register; 4] = [Register::RAX, Register::RCX, Register::RDX, Register::RDI];
    code.label("timer");
    SAVED.iter().for_each(|register| code.one(Code::Push_r64, *register));
    out(code, 0x20, 0x20);
    code.load(Register::RCX, PREEMPTING);
    code.two(Code::Xor_r64_rm64, Register::RAX, Register::RAX);
    code.store(PREEMPTING, Register::RAX);
    code.two(Code::Test_rm64_r64, Register::RCX, Register::RCX);
    code.branch(Code::Je_rel32_64, "handled");
    code.one(Code::Call_rm64, Register::RCX);
    code.label("handled");
    SAVED.iter().rev().for_each(|register| code.one(Code::Pop_r64, *register));
    code.plain(Code::Iretq);
}

fn out(code: &mut Assembler<'_>, port: u8, value: u8) {
    code.number(Code::Mov_r32_imm32, Register::EAX, i64::from(value));
    let out = Instruction::with2(Code::Out_imm8_AL, i32::from(port), Register::AL);
    code.put(out.expect("a port and a register"));
}

fn boot(code: &mut Assembler<'_>, space: Space, first: u64) {
    code.label("boot");
    load_cr3(code, BOOT_ROOT);
    let high = code.of("high");
    code.set(Register::RAX, high);
    code.one(Code::Jmp_rm64, Register::RAX);
    code.label("high");
    code.near(Code::Lgdt_m1664, KERNEL + GDT + 0x80);
    code.near(Code::Lidt_m1664, KERNEL + GDT + 0x90);
    code.number(Code::Mov_r32_imm32, Register::EAX, TSS_SELECTOR as i64);
    code.one(Code::Ltr_r32m16, Register::EAX);
    code.two(Code::Mov_r64_cr, Register::RAX, Register::CR4);
    code.number(Code::Or_rm64_imm32, Register::RAX, CR4_PCIDE | CR4_PGE);
    code.two(Code::Mov_cr_r64, Register::CR4, Register::RAX);
    wrmsr(code, EFER, EFER_VALUE);
    wrmsr(code, STAR, KERNEL_CS << 32 | USER_BASE << 48);
    let entry = code.of("system call");
    wrmsr(code, LSTAR, entry);
    wrmsr(code, FMASK, 0x700);
    wrmsr(code, GS_BASE, KERNEL);
    DEVICES.iter().for_each(|&(port, value)| out(code, port, value));
    load_cr3(code, space.cr3());
    // The first entry to user mode, from the stack that user roots map.
    code.set(Register::RSP, KERNEL + ENTRY_STACK + 0x1000);
    for word in [USER_DS, USER_STACK, RFLAGS, USER_CS, first] {
        code.set(Register::RAX, word);
        code.one(Code::Push_r64, Register::RAX);
    }
    load_cr3(code, space.cr3() | USER_HALF);
    code.plain(Code::Iretq);
}

fn load_cr3(code: &mut Assembler<'_>, value: u64) {
    code.set(Register::RAX, value);
    code.two(Code::Mov_cr_r64, Register::CR3, Register::RAX);
}

fn wrmsr(code: &mut Assembler<'_>, msr: u32, value: u64) {
    code.set(Register::RCX, u64::from(msr));
    code.set(Register::RAX, value & u64::from(u32::MAX));
    code.set(Register::RDX, value >> 32);
    code.plain(Code::Wrmsr);
}

fn system_call(code: &mut Assembler<'_>) {
    code.label("system call");
    code.store(SAVED_RSP, Register::RSP);
    code.two(Code::Mov_r64_cr, Register::RSP, Register::CR3);
    code.number(Code::And_rm64_imm32, Register::RSP, !(USER_HALF as i64));
    code.number(Code::Bts_rm64_imm8, Register::RSP, 63);
    code.two(Code::Mov_cr_r64, Register::CR3, Register::RSP);
    code.load(Register::RSP, STACK_TOP);
    code.one(Code::Push_r64, Register::RCX);
    code.one(Code::Push_r64, Register::R11);
    code.near(Code::Push_rm64, SAVED_RSP);
    code.branch(Code::Call_rel32_64, "dispatch");
    code.label("exit");
    code.one(Code::Pop_r64, Register::R10);
    code.one(Code::Pop_r64, Register::R11);
    code.one(Code::Pop_r64, Register::RCX);
    code.two(Code::Mov_r64_rm64, Register::RSP, Register::R10);
    code.load(Register::RAX, RETURN);
    code.two(Code::Test_rm64_r64, Register::RAX, Register::RAX);
    code.branch(Code::Jne_rel32_64, "as requested");
    code.two(Code::Mov_r64_cr, Register::RAX, Register::CR3);
    code.two(Code::Mov_r64_rm64, Register::R8, Register::RAX);
    code.number(Code::And_rm64_imm32, Register::R8, 0x3f);
    code.number(Code::Or_rm64_imm32, Register::RAX, USER_HALF as i64);
    code.load(Register::R9, MARKS);
    code.two(Code::Btr_rm64_r64, Register::R9, Register::R8);
    code.store(MARKS, Register::R9);
    code.branch(Code::Jb_rel32_64, "marked");
    code.number(Code::Bts_rm64_imm8, Register::RAX, 63);
    code.label("marked");
    code.two(Code::Mov_cr_r64, Register::CR3, Register::RAX);
    code.plain(Code::Sysretq);
    code.label("as requested");
    code.two(Code::Xor_r64_rm64, Register::R9, Register::R9);
    code.store(RETURN, Register::R9);
    code.two(Code::Mov_cr_r64, Register::CR3, Register::RAX);
    code.plain(Code::Sysretq);
}

fn carry_out(code: &mut Assembler<'_>, does: &Does) {
    match *does {
        Does::Store(at, value) => {
            code.set(Register::RDI, KERNEL + at);
            code.set(Register::RAX, value);
            write(code);
        }
        Does::Read(va) => {
            code.set(Register::RDI, va);
            read(code);
        }
        Does::Invlpg(va) => {
            code.set(Register::RDI, va);
            let invlpg = Instruction::with1(Code::Invlpg_m, at(Register::RDI));
            code.put(invlpg.expect("memory"));
        }
        Does::InvpcidAddress(pcid, va) => invpcid(code, 0, pcid, va),
        Does::InvpcidAll(pcid) => invpcid(code, 1, pcid, 0),
        Does::Cr3(value) => load_cr3(code, value),
        Does::Mark(pcid) => {
            code.load(Register::RAX, MARKS);
            code.number(Code::Bts_rm64_imm8, Register::RAX, pcid as i64);
            code.store(MARKS, Register::RAX);
        }
        Does::Return(cr3) => {
            code.set(Register::RAX, cr3);
            code.store(RETURN, Register::RAX);
        }
        Does::Switch(task) => code.branch(Code::Call_rel32_64, &format!("switch {task}")),
        Does::Sleep(task) => {
            let switch = code.of(&format!("switch {task}"));
            code.set(Register::RAX, switch);
            code.store(PREEMPTING, Register::RAX);
            [Code::Sti, Code::Hlt, Code::Cli].into_iter().for_each(|it| code.plain(it));
        }
        Does::Print(text) => {
            code.set(Register::RDX, u64::from(SERIAL));
            for byte in text.bytes() {
                code.number(Code::Mov_r32_imm32, Register::EAX, i64::from(byte));
                code.two(Code::Out_DX_AL, Register::DX, Register::AL);
            }
        }
        Does::In(port) => {
            code.set(Register::RDX, u64::from(port));
            code.two(Code::In_AL_DX, Register::AL, Register::DX);
        }
        Does::Wrmsr(msr) => wrmsr(code, msr, 0),
        Does::Function(name, arguments, ref does) => {
            let behind = format!("behind {name}");
            for (register, argument) in
                [Register::RDI, Register::RSI, Register::RDX].into_iter().zip(arguments)
            {
                code.set(register, argument);
            }
            code.branch(Code::Call_rel32_64, name);
            code.branch(Code::Jmp_rel32_64, &behind);
            code.label(name);
            does.iter().for_each(|does| carry_out(code, does));
            code.plain(Code::Retnq);
            code.label(&behind);
        }
        Does::Bytes(bytes) => {
            let bytes = Instruction::with_declare_byte(bytes);
            code.put(bytes.expect("few bytes"));
        }
        Does::Reset => code.plain(Code::Ud2),
        Does::Halt => code.plain(Code::Hlt),
    }
}

fn invpcid(code: &mut Assembler<'_>, kind: u64, pcid: u64, va: u64) {
    for word in [va, pcid] {
        code.set(Register::RAX, word);
        code.one(Code::Push_r64, Register::RAX);
    }
    code.set(Register::RCX, kind);
    let invpcid = Instruction::with2(Code::Invpcid_r64_m128, Register::RCX, at(Register::RSP));
    code.put(invpcid.expect("a register and memory"));
    code.number(Code::Add_rm64_imm8, Register::RSP, 16);
}

/// Leaves the current task's stack for that of `task`, whose thread-local storage comes with it.
fn switch(code: &mut Assembler<'_>, task: usize) {
    code.label(&format!("switch {task}"));
    code.set(Register::RDI, STACKS_OF_TASKS);
    code.load(Register::RAX, CURRENT);
    code.number(Code::Shl_rm64_imm8, Register::RAX, 3);
    code.two(Code::Add_r64_rm64, Register::RDI, Register::RAX);
    let leave = Instruction::with2(Code::Mov_rm64_r64, at(Register::RDI), Register::RSP);
    code.put(leave.expect("a store"));
    code.set(Register::RAX, task as u64);
    code.store(CURRENT, Register::RAX);
    code.load(Register::RSP, STACKS_OF_TASKS + task as u64 * 8);
    code.set(Register::RAX, stack(task));
    code.store(STACK_TOP, Register::RAX);
    wrmsr(code, FS_BASE, (task as u64 + 1) << 12);
    code.plain(Code::Retnq);
}
