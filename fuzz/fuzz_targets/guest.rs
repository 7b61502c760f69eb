//! Bytes as a kernel: what it does after it has booted, as code or as hypercalls, on the interpreter and,
//! of one input in sixteen, on KVM where there is one. Whatever it does is an outcome.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stalemate::prelude::*;
use std::sync::LazyLock;
use std::time::Duration;

/// Where the image is: `layout::KERNEL_BASE` and the guest-physical address behind it.
const BASE: (u64, u64) = (0xffff_ffff_8010_0000, 0x10_0000);
/// Bytes of the image, the stack at their end.
const IMAGE: usize = 0x4000;
/// Where the stack ends, from the first instruction on.
const STACK: u32 = 0x3000;

/// What has the VMM take the kernel for booted: the boot block is at RDI.
fn prologue() -> Vec<u8> {
    let mut code = vec![0x48, 0x8d, 0x25]; // lea rsp, [rip + stack]
    code.extend((STACK - 7).to_le_bytes());
    for (field, value) in [(56, 0x12_0000_u32), (64, 0x13_0000), (80, 0), (88, 0)] {
        code.extend([0x48, 0xc7, 0x47, field]); // mov qword ptr [rdi + field], value
        code.extend(value.to_le_bytes());
    }
    code.extend([0x48, 0xb8]); // mov rax, BASE
    code.extend(BASE.0.to_le_bytes());
    code.extend([0x48, 0x89, 0x47, 72]); // mov [rdi + 72], rax
    code.extend([0xb8, 1, 0, 0, 0, 0xe6, 0x5a]); // mov eax, 1; out 0x5a, al
    code
}

/// Hypercalls: a byte says which, and two each what RDI, RSI and RDX are.
fn hypercalls(bytes: &[u8]) -> Vec<u8> {
    let mut code = Vec::new();
    for call in bytes.chunks_exact(7).take(64) {
        code.extend([0xb8, call[0] & 0x3f, 0, 0, 0]); // mov eax, number
        for (opcode, word) in [0xbf, 0xbe, 0xba].into_iter().zip(call[1..].chunks_exact(2)) {
            // Small numbers, and addresses of the kernel, of its tables and of the user's.
            let value = match word[1] % 5 {
                0 => u64::from(word[0]),
                1 => BASE.0 + u64::from(word[0]) * 8,
                2 => 0xffff_ffff_8000_2000 + u64::from(word[0]) * 8,
                3 => 0x41_0000 + u64::from(word[0]) * 0x1000,
                _ => u64::MAX << (word[0] & 63),
            };
            code.extend([0x48, opcode]); // mov rdi, rsi or rdx, value
            code.extend(value.to_le_bytes());
        }
        code.extend([0xe6, 0x5a]); // out 0x5a, al
    }
    code
}

/// An ELF file of one segment.
fn elf(code: &[u8]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // an executable, for x86-64
    for word in [BASE.0, 64, 0] {
        file.extend(word.to_le_bytes()); // entry, program headers, no sections
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 7, 0, 0, 0]); // to be loaded, RWX
    for word in [0x1000, BASE.0, BASE.1, code.len() as u64, IMAGE as u64, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.resize(0x1000, 0);
    file.extend(code);
    file
}

/// Both executors with little patience.
static EXECUTORS: LazyLock<Vec<Backend>> = LazyLock::new(|| {
    let mut all = vec![Backend::Interp { limit: 100_000, flaw: None }];
    if let Ok(Backend::Kvm { host, .. }) = Backend::kvm("/dev/kvm".as_ref()) {
        all.push(Backend::Kvm { host, limit: Duration::from_millis(200) });
    }
    all
});

static RUN: LazyLock<Run> = LazyLock::new(|| {
    let text = "summary = \"s\"\nsteps = \"\"\"\nmap u0 red\nuser read u0 -> red\nremap u0 blue\nflush_tlb_one_user u0\nuser read u0 -> blue\n\"\"\"\n";
    let scenario = parse("fuzz", "fuzz.toml", text).expect("a scenario");
    scenario.runs(&Selection::of(&["pcid-invpcid".parse().expect("a CPU")])).remove(0)
});

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let mut code = prologue();
    match kind % 2 {
        0 => code.extend(&rest[..rest.len().min(1024)]),
        _ => code.extend(hypercalls(rest)),
    }
    let guest = Guest::from_elf(elf(&code)).expect("a kernel");
    let both = if kind / 2 % 16 == 0 { EXECUTORS.len() } else { 1 };
    for backend in &EXECUTORS[..both] {
        // What the host refuses is an error, and no panic.
        let _ = Runner::new(&guest, backend).run(&RUN, None);
    }
});
