//! The modelled processor's own instructions against a processor that runs them at CPL 0 and CPL 3, by
//! the descriptors of one table: each selector with each instruction.
#![allow(unsafe_code)]

use crate::common;
use kvm_bindings::{kvm_dtable, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use stalemate::arch::addr::{CpuId, Gpa};
use stalemate::arch::census::Census;
use stalemate::arch::choice::First;
use stalemate::arch::core::{Core, Log, Memory};
use stalemate::arch::fault::{Exception, Fault};
use stalemate::arch::features::{CpuFeatures, Errata};
use stalemate::arch::op::{Decoded, classify, decode};
use stalemate::arch::segment::DataSegment;
use stalemate::arch::tlb::{Fill, Tlb, TlbModel};
use stalemate::arch::vcpu::{Vcpu, cr0, cr4, efer, flags, gpr};
use stalemate::memory::GuestMemory;
use std::collections::BTreeSet;

const SIZE: usize = 0x2_0000;
const CODE: u64 = 0x5000;
/// Where RETFQ returns to user mode.
const USER_CODE: u64 = 0x5800;
const GATES: u64 = 0x6000;
const GATE_LEN: u64 = 32;
const GDT: u64 = 0x8000;
const IDT: u64 = 0x9000;
const TSS: u64 = 0xa000;
const STACK: u64 = 0xc800;
const STACK_0: u64 = 0xe000;
const TSS_SELECTOR: u16 = 0x70;
const KERNEL: [u16; 2] = [0x08, 0x10];
const USER: [u16; 2] = [0x1b, 0x23];

/// The table, by selector.
const DESCRIPTORS: [(u16, u64); 13] = [
    (0x08, 0x00af_9b00_0000_ffff),
    (0x10, 0x00cf_9300_0000_ffff),
    (0x18, 0x00af_fb00_0000_ffff),
    (0x20, 0x00cf_f300_0000_ffff),
    // User data with a base and a small limit; data that is not there, of both levels; data that
    // cannot be written; data that nobody has used yet.
    (0x28, 0x1240_f356_789a_0123),
    (0x30, 0x00cf_7300_0000_ffff),
    (0x38, 0x00cf_1300_0000_ffff),
    (0x40, 0x00cf_f100_0000_ffff),
    (0x48, 0x00cf_f200_0000_ffff),
    // Code that cannot be read, that is not there, and that conforms.
    (0x50, 0x00af_f900_0000_ffff),
    (0x58, 0x00af_7b00_0000_ffff),
    (0x60, 0x00af_9f00_0000_ffff),
    (TSS_SELECTOR, 0x0000_8b00_a000_0067),
];

/// Stores DS, ES, FS and GS, and halts: what a host says of them is not always true.
#[rustfmt::skip]
const HANDLER: [u8; 29] = [
    0x8c, 0x1c, 0x25, 0x00, 0xf0, 0, 0,
    0x8c, 0x04, 0x25, 0x02, 0xf0, 0, 0,
    0x8c, 0x24, 0x25, 0x04, 0xf0, 0, 0,
    0x8c, 0x2c, 0x25, 0x06, 0xf0, 0, 0,
    0xf4,
];
const STORED: u64 = 0xf000;

/// `mov ds, eax` and so on, and what only looks.
const INSTRUCTIONS: [&[u8]; 11] = [
    &[0x8e, 0xd8],
    &[0x8e, 0xc0],
    &[0x8e, 0xe0],
    &[0x8e, 0xe8],
    &[0x8e, 0xd0],
    // verr ax; verw ax; lar edx, eax; lar rdx, rax; lsl edx, eax; mov es, \[rsi\]
    &[0x0f, 0x00, 0xe0],
    &[0x0f, 0x00, 0xe8],
    &[0x0f, 0x02, 0xd0],
    &[0x48, 0x0f, 0x02, 0xd0],
    &[0x0f, 0x03, 0xd0],
    &[0x8e, 0x06],
];

/// What an instruction leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    /// The vector, 3 where it completed, and the error code.
    vector: u8,
    error: u64,
    rip: u64,
    rsp: u64,
    flags: u64,
    gpr: [u64; 16],
    /// CS, SS, DS, ES, FS, GS.
    selectors: [u16; 6],
    bases: [u64; 2],
    table: Vec<u8>,
}

/// One instruction, and what is in front of it.
struct Case {
    code: Vec<u8>,
    user: bool,
    rax: u64,
    stack: [u64; 4],
}

impl Case {
    /// The address after the instruction.
    fn end(&self) -> u64 {
        CODE + self.code.len() as u64
    }
}

/// Memory as each case finds it.
fn image(case: &Case) -> Vec<u8> {
    let mut image = vec![0; SIZE];
    let mut put = |at: u64, word: u64| {
        image[at as usize..at as usize + 8].copy_from_slice(&word.to_le_bytes());
    };
    for (at, entry) in [(0x1000, 0x2067), (0x2000, 0x3067), (0x3000, 0xe7)] {
        put(at, entry);
    }
    for (selector, descriptor) in DESCRIPTORS {
        put(GDT + u64::from(selector), descriptor);
    }
    for vector in 0..32 {
        let target = GATES + vector * GATE_LEN;
        put(IDT + vector * 16, target | u64::from(KERNEL[0]) << 16 | 0xee00 << 32);
    }
    put(TSS + 4, STACK_0);
    for (index, word) in (0..).zip(case.stack) {
        put(STACK + index * 8, word);
    }
    put(STACK + 0x100, case.rax);
    for vector in 0..32 {
        let at = (GATES + vector * GATE_LEN) as usize;
        image[at..at + HANDLER.len()].copy_from_slice(&HANDLER);
    }
    let at = CODE as usize;
    image[at..at + case.code.len()].copy_from_slice(&case.code);
    // HLT at CPL 0, INT3 at CPL 3: not every host emulates an INT3 at CPL 0.
    image[at + case.code.len()] = if case.user { 0xcc } else { 0xf4 };
    image[USER_CODE as usize] = 0xcc;
    image
}

fn general(case: &Case) -> [u64; 16] {
    let mut registers = [0x1111_2222_3333_4444; 16];
    registers[gpr::RAX] = case.rax;
    registers[gpr::RSP] = STACK;
    registers[gpr::RSI] = STACK + 0x100;
    registers
}

/// On the modelled processor.
fn modelled(case: &Case) -> End {
    let memory = GuestMemory::new(SIZE as u64).expect("memory");
    memory.write(Gpa(0), &image(case));
    let mut vcpu = Vcpu::long_mode(CpuId(0), CpuFeatures::default(), CODE, 0x1000);
    let [cs, ss] = if case.user { USER } else { KERNEL };
    (vcpu.cs, vcpu.ss, vcpu.cpl) = (cs, ss, (cs & 3) as u8);
    let data = DataSegment { selector: 0x20, dpl: 3 };
    (vcpu.ds, vcpu.es, vcpu.fs, vcpu.gs) = (data, data, data, data);
    (vcpu.fs_base, vcpu.gs_base) = (0x1000, 0x2000);
    vcpu.gpr = general(case);
    (vcpu.gdt.base, vcpu.gdt.limit) = (GDT, TSS_SELECTOR + 15);
    let mut tlb = Tlb::new(TlbModel { fill: Fill::OnDemand, structure_caches: true, seed: 0 });
    let instruction = decode(&case.code, CODE);
    let Decoded::Op(op) = classify(&vcpu, &instruction) else { panic!("{instruction:?}") };
    let mut core = Core {
        vcpu: &mut vcpu,
        tlb: &mut tlb,
        errata: Errata::default(),
        census: &mut Census::default(),
        memory: &memory,
        remote: Vec::new(),
        forgets_roots: false,
        watched: &BTreeSet::new(),
        chooser: &mut First,
        log: &mut Log::default(),
    };
    core.load_cr3(0x1000).expect("a legal load");
    let (vector, error) = match core.execute(op, instruction.next_ip()) {
        Ok(()) => (3, 0),
        Err(Fault::Exception(Exception { vector, error, .. })) => (vector, error.unwrap_or(0)),
        Err(Fault::Stop(stop)) => panic!("{stop}"),
    };
    let mut table = vec![0; usize::from(TSS_SELECTOR)];
    memory.read(Gpa(GDT), &mut table);
    let mut gpr = vcpu.gpr;
    gpr[gpr::RSP] = 0;
    let data = [vcpu.ds, vcpu.es, vcpu.fs, vcpu.gs].map(|segment| segment.selector);
    End {
        vector,
        error: error.into(),
        rip: vcpu.rip,
        rsp: vcpu.gpr[gpr::RSP],
        flags: vcpu.rflags & flags::ARITHMETIC,
        gpr,
        selectors: [vcpu.cs, vcpu.ss, data[0], data[1], data[2], data[3]],
        bases: [vcpu.fs_base, vcpu.gs_base],
        table,
    }
}

/// A virtual machine whose one processor runs at CPL 0.
struct Native {
    vcpu: VcpuFd,
    _vm: VmFd,
    memory: GuestMemory,
}

impl Native {
    fn new() -> Self {
        let kvm = Kvm::new().expect("there is KVM");
        let vm = kvm.create_vm().expect("a virtual machine");
        let memory = GuestMemory::new(SIZE as u64).expect("memory");
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: SIZE as u64,
            userspace_addr: memory.host_address(),
        };
        // SAFETY: `memory` is dropped after the virtual machine.
        unsafe { vm.set_user_memory_region(region) }.expect("it has memory");
        let vcpu = vm.create_vcpu(0).expect("a processor");
        let cpuid = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES);
        vcpu.set_cpuid2(&cpuid.expect("it has features")).expect("which are its own");
        Self { vcpu, _vm: vm, memory }
    }

    fn run(&mut self, case: &Case) -> Option<End> {
        self.memory.write(Gpa(0), &image(case));
        let mut sregs = self.vcpu.get_sregs().ok()?;
        prepare(&mut sregs, case.user);
        self.vcpu.set_sregs(&sregs).ok()?;
        let mut regs = self.vcpu.get_regs().ok()?;
        let g = general(case);
        (regs.rax, regs.rcx, regs.rdx, regs.rbx) = (g[0], g[1], g[2], g[3]);
        (regs.rsp, regs.rbp, regs.rsi, regs.rdi) = (g[4], g[5], g[6], g[7]);
        (regs.r8, regs.r9, regs.r10, regs.r11) = (g[8], g[9], g[10], g[11]);
        (regs.r12, regs.r13, regs.r14, regs.r15) = (g[12], g[13], g[14], g[15]);
        (regs.rip, regs.rflags) = (CODE, flags::FIXED);
        self.vcpu.set_regs(&regs).ok()?;
        if !matches!(self.vcpu.run(), Ok(VcpuExit::Hlt)) {
            return None;
        }
        let (regs, sregs) = (self.vcpu.get_regs().ok()?, self.vcpu.get_sregs().ok()?);
        let gpr = [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, 0, regs.rbp, regs.rsi, regs.rdi, regs.r8,
            regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ];
        let bases = [sregs.fs.base, sregs.gs.base];
        let mut table = vec![0; usize::from(TSS_SELECTOR)];
        self.memory.read(Gpa(GDT), &mut table);
        if regs.rip == case.end() + 1 {
            let kvm_sregs { cs, ss, ds, es, fs, gs, .. } = sregs;
            return Some(End {
                vector: 3,
                error: 0,
                rip: case.end(),
                rsp: regs.rsp,
                flags: regs.rflags & flags::ARITHMETIC,
                gpr,
                selectors: [cs, ss, ds, es, fs, gs].map(|segment| segment.selector),
                bases,
                table,
            });
        }
        let vector = (regs.rip - 1).checked_sub(GATES)? / GATE_LEN;
        let has_error = matches!(vector, 8 | 10..=14 | 17);
        let error = if has_error { self.memory.read_word(Gpa(regs.rsp)) } else { 0 };
        let frame = regs.rsp + if has_error { 8 } else { 0 };
        let word = |index: u64| self.memory.read_word(Gpa(frame + index * 8));
        let data = self.memory.read_word(Gpa(STORED));
        let data = [0, 16, 32, 48].map(|bit| (data >> bit) as u16);
        Some(End {
            vector: vector as u8,
            error,
            // INT3's own byte.
            rip: word(0) - u64::from(vector == 3),
            rsp: word(3),
            flags: word(2) & flags::ARITHMETIC,
            gpr,
            selectors: [word(1) as u16, word(4) as u16, data[0], data[1], data[2], data[3]],
            bases,
            table,
        })
    }
}

fn prepare(sregs: &mut kvm_sregs, user: bool) {
    let dpl = if user { 3 } else { 0 };
    let code = kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: if user { USER[0] } else { KERNEL[0] },
        type_: 0xb,
        present: 1,
        dpl,
        db: 0,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: 0x20, type_: 3, dpl: 3, db: 1, l: 0, ..code };
    sregs.cs = code;
    sregs.ss = kvm_segment { selector: if user { USER[1] } else { KERNEL[1] }, dpl, ..data };
    (sregs.ds, sregs.es) = (data, data);
    sregs.fs = kvm_segment { base: 0x1000, ..data };
    sregs.gs = kvm_segment { base: 0x2000, ..data };
    let tss = kvm_segment { base: TSS, limit: 0x67, selector: TSS_SELECTOR, s: 0, l: 0, ..code };
    sregs.tr = kvm_segment { dpl: 0, g: 0, ..tss };
    sregs.gdt = kvm_dtable { base: GDT, limit: TSS_SELECTOR + 15, padding: [0; 3] };
    sregs.idt = kvm_dtable { base: IDT, limit: 32 * 16 - 1, padding: [0; 3] };
    sregs.cr0 = cr0::PE | cr0::ET | cr0::NE | cr0::WP | cr0::PG;
    sregs.cr3 = 0x1000;
    sregs.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    sregs.efer = efer::LME | efer::LMA | efer::NXE;
}

/// Each selector of the table at both levels, null ones, one of the LDT, and one beyond.
fn selectors() -> impl Iterator<Item = u16> {
    let table = DESCRIPTORS.into_iter().flat_map(|(selector, _)| [selector, selector | 3]);
    [0, 1, 3, 0x24, 0x27, 0x80, 0x1f8].into_iter().chain(table)
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for selector in selectors() {
        for user in [false, true] {
            for code in INSTRUCTIONS {
                let rax = 0xdddd_0000 | u64::from(selector);
                cases.push(Case { code: code.to_vec(), user, rax, stack: [0; 4] });
            }
            // RETFQ and RETFQ 8 to each 64-bit code segment and what is none. A conforming one keeps
            // the level that it is called at, which no kernel uses.
            if selector & !3 != 0x60 {
                for code in [&[0x48, 0xcb][..], &[0x48, 0xca, 0x08, 0x00]] {
                    let inner = CODE + code.len() as u64;
                    let rip = if selector & 3 == 0 { inner } else { USER_CODE };
                    let cs = selector.into();
                    let outer: [u64; 2] = [STACK - 64, USER[1].into()];
                    let stack = match code.len() {
                        2 => [rip, cs, outer[0], outer[1]],
                        _ => [rip, cs, 0, outer[0]],
                    };
                    cases.push(Case { code: code.to_vec(), user, rax: outer[1], stack });
                }
            }
        }
    }
    // The debug registers, and an LDT that is none.
    for code in [
        &[0x0f, 0x23, 0xd8][..],
        &[0x0f, 0x21, 0xfa],
        &[0x0f, 0x21, 0xf2],
        &[0x0f, 0x21, 0xe2],
        &[0x0f, 0x00, 0xd0],
    ] {
        for user in [false, true] {
            cases.push(Case { code: code.to_vec(), user, rax: 0, stack: [0; 4] });
        }
    }
    cases
}

/// The loads of segment registers at CPL 0, which every host can run.
const LEAST: usize = 150;

/// Whether user mode has this table: a software-only KVM runs it on its own.
fn user_mode_has_the_table(native: &mut Native) -> bool {
    // lsl edx, eax
    let code = vec![0x0f, 0x03, 0xd0];
    let end = native.run(&Case { code, user: true, rax: 0x28, stack: [0; 4] });
    end.is_some_and(|end| end.gpr[gpr::RDX] == 0x123)
}

#[test]
fn descriptors_are_what_a_processor_makes_of_them() {
    let _kvm = kvm_or_skip!();
    let mut native = Native::new();
    let user_mode = user_mode_has_the_table(&mut native);
    if !user_mode {
        common::say("this host's KVM has a descriptor table of its own in user mode");
    }
    let mut compared = 0;
    for case in cases().into_iter().filter(|case| user_mode || !case.user) {
        let Case { code, user, rax, stack } = &case;
        let what = format!("{code:x?} with RAX {rax:#x}, user {user}, stack {stack:x?}");
        let found = modelled(&case);
        // A software-only KVM does not emulate all of them at CPL 0.
        if let Some(expected) = native.run(&case) {
            assert_eq!(found, expected, "{what}");
            compared += 1;
        }
    }
    eprintln!("{compared} compared");
    assert!(compared >= LEAST, "{compared} compared");
}
