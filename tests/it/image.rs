//! The guest image, disassembled: what it must not contain, and what it must.
//!
//! The guest runs deprivileged. An instruction that is sensitive and does not trap at CPL 3 would
//! tell it the host's state, or change it, behind the VMM's back; one that a software KVM refuses
//! would end a run. So the image has none of them, and each flush primitive has its real ones.

use crate::common::guest_image;
use iced_x86::{Decoder, EncodingKind, Instruction, Mnemonic, OpKind, Register as R};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SectionKind, SegmentFlags, elf};
use stalemate::kernel::steps::escapes::{DECODER, escapes};
use stalemate::symbols::demangled;
use stalemate_shared::layout::{IMAGE, IMAGE_END, KERNEL_BASE, MAX_CPUS, PAGE_SIZE};
use std::ops::Range;

/// Bytes of a per-CPU block.
const PER_CPU_SIZE: u64 = 56;
/// Bytes that the image may take in guest memory, .bss and stacks included.
const MAX_LOADED: u64 = 128 << 10;

/// Beyond the baseline of x86-64, which is all that a guest CPU is said to have.
const BEYOND: &[Mnemonic] = &[Mnemonic::Popcnt, Mnemonic::Lzcnt, Mnemonic::Tzcnt];

/// An instruction that something must contain.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Is(Mnemonic),
    /// A load of a control register.
    Loads(R),
}

use Wanted::{Is, Loads};

impl Wanted {
    fn matches(self, instruction: &Instruction) -> bool {
        match self {
            Is(mnemonic) => instruction.mnemonic() == mnemonic,
            Loads(register) => {
                instruction.mnemonic() == Mnemonic::Mov && instruction.op0_register() == register
            }
        }
    }
}

/// Functions and what each must contain: no primitive is a stand-in.
const CONTAINS: &[(&str, &[Wanted])] = &[
    (
        "stalemate_guest::policy::split::Split::flush_tlb_one_user",
        &[Is(Mnemonic::Invlpg), Is(Mnemonic::Invpcid), Is(Mnemonic::Bts)],
    ),
    (
        "stalemate_guest::policy::split::Split::flush_tlb_one_kernel",
        &[Is(Mnemonic::Invlpg), Is(Mnemonic::Bts)],
    ),
    ("stalemate_guest::policy::split::Split::flush_tlb_mm", &[Is(Mnemonic::Bts), Loads(R::CR3)]),
    (
        "stalemate_guest::policy::split::Split::flush_tlb_all",
        &[Is(Mnemonic::Invpcid), Loads(R::CR4), Is(Mnemonic::Bts), Loads(R::CR3)],
    ),
    ("stalemate_guest::mm::switch_mm", &[Loads(R::CR3)]),
    ("stalemate_guest::policy::split::Split::switch_mm_flush", &[Is(Mnemonic::Bts), Loads(R::CR3)]),
    (
        "stalemate_guest::policy::eager::Eager::flush_tlb_one_user",
        &[Is(Mnemonic::Invlpg), Is(Mnemonic::Invpcid)],
    ),
    (
        "stalemate_guest::policy::eager::Eager::flush_tlb_mm",
        &[Is(Mnemonic::Invpcid), Loads(R::CR3)],
    ),
    (
        "stalemate_guest::policy::eager::Eager::flush_tlb_all",
        &[Is(Mnemonic::Invpcid), Loads(R::CR4)],
    ),
    (
        "stalemate_guest::policy::eager::Eager::switch_mm_flush",
        &[Is(Mnemonic::Invpcid), Loads(R::CR3)],
    ),
    (
        "stalemate_guest::policy::joined::Joined::flush_tlb_one_kernel",
        &[Is(Mnemonic::Invlpg), Is(Mnemonic::Invpcid)],
    ),
    ("hop_flush_user", &[Loads(R::CR3)]),
    ("hop_flush_pair", &[Loads(R::CR3)]),
    ("enter_user", &[Is(Mnemonic::Bt), Is(Mnemonic::Btr), Loads(R::CR3), Is(Mnemonic::Swapgs)]),
    ("entry_syscall", &[Is(Mnemonic::Swapgs), Loads(R::CR3)]),
    ("entry_fault", &[Is(Mnemonic::Fxsave64), Is(Mnemonic::Swapgs), Is(Mnemonic::Fxrstor64)]),
    (
        "entry_paranoid",
        &[Is(Mnemonic::Fxsave64), Is(Mnemonic::Rdmsr), Is(Mnemonic::Bt), Is(Mnemonic::Fxrstor64)],
    ),
    ("entry_irq", &[Is(Mnemonic::Fxsave64), Is(Mnemonic::Swapgs), Is(Mnemonic::Bt), Loads(R::CR3)]),
    ("hop_invlpg_user", &[Is(Mnemonic::Invlpg)]),
];

/// Labels and the instruction that each stands at: the VMM knows sites by them.
const SITES: &[(&str, Wanted)] = &[
    ("cr3_entry", Loads(R::CR3)),
    ("cr3_fault_entry", Loads(R::CR3)),
    ("cr3_irq_entry", Loads(R::CR3)),
    ("cr3_irq_exit", Loads(R::CR3)),
    ("consume_irq", Is(Mnemonic::Btr)),
    ("iret_irq_exit", Is(Mnemonic::Iretq)),
    ("cr3_paranoid_entry", Loads(R::CR3)),
    ("cr3_return", Loads(R::CR3)),
    ("cr3_paranoid_exit", Loads(R::CR3)),
    ("cr3_paranoid_rewrite", Loads(R::CR3)),
    ("cr3_hop_out", Loads(R::CR3)),
    ("cr3_hop_back", Loads(R::CR3)),
    ("consume_return", Is(Mnemonic::Btr)),
    ("consume_paranoid", Is(Mnemonic::Btr)),
    ("sysret_return", Is(Mnemonic::Sysretq)),
    ("iret_fault_exit", Is(Mnemonic::Iretq)),
    ("iret_paranoid_exit", Is(Mnemonic::Iretq)),
];

/// Code that runs on a user CR3, or may: from one label to the next.
const ON_USER_TABLES: &[(&str, &str)] = &[
    ("entry_syscall", "cr3_entry"),
    ("entry_fault", "cr3_fault_entry"),
    ("entry_irq", "cr3_irq_entry"),
    ("cr3_irq_exit", "iret_irq_exit"),
    ("entry_paranoid", "cr3_paranoid_entry"),
    ("cr3_return", "sysret_return"),
    ("cr3_paranoid_exit", "iret_paranoid_exit"),
];

/// The image as a test wants it.
struct Guest {
    file: object::File<'static>,
    /// Demangled names, addresses and sizes.
    symbols: Vec<(String, Range<u64>)>,
    code: Vec<Instruction>,
}

impl Guest {
    fn new() -> Self {
        let image = guest_image().leak();
        let file = object::File::parse(&image[..]).expect("the guest is an ELF file");
        let symbols = file
            .symbols()
            .filter(|symbol| symbol.address() >= KERNEL_BASE)
            .map(|symbol| {
                let name = demangled(symbol.name().expect("a name"));
                let range = symbol.address()..symbol.address() + symbol.size();
                (name, range)
            })
            .collect();
        let code: Vec<Instruction> = file
            .sections()
            .filter(|section| section.kind() == SectionKind::Text)
            .flat_map(|section| decode(section.data().expect("its bytes"), section.address()))
            .collect();
        assert!(code.len() > 1000, "the image has hardly any code");
        Self { file, symbols, code }
    }

    fn range(&self, name: &str) -> Range<u64> {
        let found = self.symbols.iter().find(|(symbol, _)| symbol == name);
        found.unwrap_or_else(|| panic!("the image has no symbol {name}")).1.clone()
    }

    fn between(&self, range: Range<u64>) -> impl Iterator<Item = &Instruction> {
        self.code.iter().filter(move |instruction| range.contains(&instruction.ip()))
    }

    /// The function around an address; assembly outside any has none.
    fn function(&self, at: u64) -> &str {
        let found = self.symbols.iter().find(|(_, range)| range.contains(&at));
        found.map_or("no function", |(name, _)| name)
    }

    /// Whether the code at `at` came with the toolchain, not from this workspace.
    fn is_prebuilt(&self, at: u64) -> bool {
        let name = self.function(at);
        let foreign = ["core::", "compiler_builtins::"].iter().any(|krate| name.contains(krate));
        foreign && !name.contains("stalemate_guest")
    }
}

fn decode(bytes: &[u8], address: u64) -> Vec<Instruction> {
    Decoder::with_ip(64, bytes, address, DECODER).iter().collect()
}

/// Why an instruction may not be in the image.
fn objection(instruction: &Instruction) -> Option<&'static str> {
    if instruction.is_invalid() {
        return Some("is not an instruction");
    }
    if instruction.code().encoding() != EncodingKind::Legacy {
        return Some("is VEX, EVEX, XOP or 3DNow! encoded");
    }
    if BEYOND.contains(&instruction.mnemonic()) {
        return Some("is not on every CPU");
    }
    escapes(instruction)
}

/// Whether it names memory below RSP, where an exception's frame or a signal may land. With an
/// index register the displacement alone says nothing: an array on the stack is walked so, and a
/// compiler never reaches the red zone that way.
fn is_below_rsp(instruction: &Instruction) -> bool {
    touches_memory(instruction)
        && instruction.memory_base() == R::RSP
        && instruction.memory_index() == iced_x86::Register::None
        && (instruction.memory_displacement64() as i64) < 0
}

fn touches_memory(instruction: &Instruction) -> bool {
    let operand = (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory);
    // LEA computes an address; a NOP has an operand for its length's sake.
    operand && !matches!(instruction.mnemonic(), Mnemonic::Lea | Mnemonic::Nop)
}

/// A finding with its place.
fn shown(guest: &Guest, instruction: &Instruction, why: &str) -> String {
    let at = instruction.ip();
    format!("{instruction} at {at:#x} ({}) {why}", guest.function(at))
}

fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn the_image_holds_no_instruction_that_escapes_the_vmm() {
    let guest = Guest::new();
    let findings: Vec<String> = guest
        .code
        .iter()
        .filter_map(|one| objection(one).map(|why| shown(&guest, one, why)))
        .collect();
    assert_none(&findings);
}

#[test]
fn the_guests_own_code_has_no_red_zone() {
    let guest = Guest::new();
    let findings: Vec<String> = guest
        .code
        .iter()
        .filter(|one| is_below_rsp(one) && !guest.is_prebuilt(one.ip()))
        .map(|one| shown(&guest, one, "is below RSP"))
        .collect();
    assert_none(&findings);
}

#[test]
fn the_checks_can_fail() {
    let first = |bytes: &[u8]| decode(bytes, KERNEL_BASE)[0];
    let flagged: &[(&str, &[u8])] = &[
        ("pushfq", &[0x9c]),
        ("popfq", &[0x9d]),
        ("rdtsc", &[0x0f, 0x31]),
        ("cpuid", &[0x0f, 0xa2]),
        ("mov ax, cs", &[0x66, 0x8c, 0xc8]),
        ("mov gs, eax", &[0x8e, 0xe8]),
        ("push fs", &[0x0f, 0xa0]),
        ("wrgsbase rax", &[0xf3, 0x48, 0x0f, 0xae, 0xd8]),
        ("sidt [rax]", &[0x0f, 0x01, 0x08]),
        ("int 0x80", &[0xcd, 0x80]),
        ("retfq", &[0x48, 0xcb]),
        ("jmp far [rax]", &[0x48, 0xff, 0x28]),
        ("call far [rax]", &[0x48, 0xff, 0x18]),
        ("jmp of 16 bits to AMD", &[0x66, 0xe9, 0, 0, 0, 0]),
        ("call of 16 bits, after another prefix", &[0x2e, 0x66, 0xe8, 0, 0, 0, 0]),
        ("popcnt rax, rcx", &[0xf3, 0x48, 0x0f, 0xb8, 0xc1]),
        ("vzeroupper", &[0xc5, 0xf8, 0x77]),
        ("nothing", &[0x06]),
    ];
    for (name, bytes) in flagged {
        assert!(objection(&first(bytes)).is_some(), "{name} passed as {}", first(bytes));
    }
    let passed: &[(&str, &[u8])] = &[
        ("iretq", &[0x48, 0xcf]),
        ("mov cr3, rax", &[0x0f, 0x22, 0xd8]),
        ("mov rsp, gs:[0]", &[0x65, 0x48, 0x8b, 0x24, 0x25, 0, 0, 0, 0]),
        ("int3", &[0xcc]),
    ];
    for (name, bytes) in passed {
        assert_eq!(objection(&first(bytes)), None, "{name}");
    }
    // mov [rsp - 8], rax; mov [rsp + 8], rax; lea rsp, [rsp - 8].
    assert!(is_below_rsp(&first(&[0x48, 0x89, 0x44, 0x24, 0xf8])));
    assert!(!is_below_rsp(&first(&[0x48, 0x89, 0x44, 0x24, 0x08])));
    assert!(!is_below_rsp(&first(&[0x48, 0x8d, 0x64, 0x24, 0xf8])));
}

#[test]
fn primitives_and_entries_hold_their_real_instructions() {
    let guest = Guest::new();
    for (name, wanted) in CONTAINS {
        let range = guest.range(name);
        for want in *wanted {
            let found = guest.between(range.clone()).any(|one| want.matches(one));
            assert!(found, "{name} holds no {want:?}");
        }
    }
}

#[test]
fn every_site_stands_at_its_instruction() {
    let guest = Guest::new();
    for (label, wanted) in SITES {
        let at = guest.range(label).start;
        let found = guest.between(at..at + 1).next();
        assert!(found.is_some_and(|one| wanted.matches(one)), "{label}: {found:?}");
    }
}

#[test]
fn code_on_user_tables_touches_the_trampoline_alone() {
    let guest = Guest::new();
    let trampoline =
        guest.range("__trampoline_data_start").start..guest.range("__trampoline_data_end").start;
    for (from, to) in ON_USER_TABLES {
        let range = guest.range(from).start..guest.range(to).start;
        assert!(!range.is_empty(), "{from} to {to}");
        for one in guest.between(range).filter(|one| touches_memory(one)) {
            // RSP is an IST stack's there; everything else is named by its address.
            let stack = one.memory_base() == R::RSP;
            let named =
                one.is_ip_rel_memory_operand() && trampoline.contains(&one.ip_rel_memory_address());
            // The per-CPU blocks lie in the trampoline, and GS leads there.
            let per_cpu = one.memory_segment() == R::GS
                && one.memory_displacement64() < PER_CPU_SIZE
                && one.memory_base() == R::None;
            let gs = one.memory_segment() == R::GS;
            let mapped = per_cpu || (stack || named) && !gs;
            assert!(mapped, "{}", shown(&guest, one, "is not mapped"));
        }
    }
    // From the user CR3 to SYSRETQ there is no stack at all.
    let exit = guest.range("cr3_return").start..guest.range("sysret_return").start;
    let touched = guest.between(exit).find(|one| touches_memory(one));
    assert_eq!(touched, None);
}

#[test]
fn the_trampoline_and_tlb_state_have_pages_of_their_own() {
    let guest = Guest::new();
    let mut seen = 0;
    for section in guest.file.sections() {
        let name = section.name().expect("a name");
        if name.starts_with(".trampoline") || name == ".user_code" {
            assert_eq!(section.address() % PAGE_SIZE, 0, "{name}");
            assert_eq!(section.size() % PAGE_SIZE, 0, "{name}");
            seen += 1;
        }
    }
    assert_eq!(seen, 3, "trampoline code, trampoline data, user code");

    let alone = [
        ("stalemate_guest::arch::percpu::TLB_STATES", MAX_CPUS as u64 * PAGE_SIZE),
        ("stalemate_guest::arch::percpu::MM_STATE", PAGE_SIZE),
    ];
    for (name, size) in alone {
        let state = guest.range(name);
        assert_eq!((state.start % PAGE_SIZE, state.end - state.start), (0, size), "{name}");
        let others: Vec<&String> = guest
            .symbols
            .iter()
            .filter(|(_, range)| range.start < state.end && range.end > state.start)
            .filter(|(_, range)| *range != state && !range.is_empty())
            .map(|(name, _)| name)
            .collect();
        assert!(others.is_empty(), "beside {name}: {others:?}");
    }
    let blocks = guest.range("stalemate_guest::arch::percpu::PER_CPU");
    let data = guest.range("__trampoline_data_start").start;
    let end = guest.range("__trampoline_data_end").start;
    assert!(data <= blocks.start && blocks.end <= end, "the entry path needs the per-CPU blocks");
    assert_eq!(blocks.end - blocks.start, MAX_CPUS as u64 * PER_CPU_SIZE);
}

#[test]
fn all_policies_lie_on_one_page_and_nothing_else_does() {
    let guest = Guest::new();
    let page = guest.range("__text_start").start..guest.range("__text_start").start + PAGE_SIZE;
    let mut policies = 0;
    for (name, range) in guest.symbols.iter().filter(|(_, range)| !range.is_empty()) {
        let is_policy = name.starts_with("stalemate_guest::policy::");
        assert_eq!(is_policy, page.contains(&range.start), "{name}");
        assert!(!is_policy || range.end <= page.end, "{name}");
        policies += usize::from(is_policy);
    }
    assert!(policies > 20, "{policies} functions");
}

#[test]
fn the_image_is_small_and_no_segment_is_writable_code() {
    let guest = Guest::new();
    let mut end = KERNEL_BASE + IMAGE;
    for segment in guest.file.segments() {
        let SegmentFlags::Elf { p_flags, .. } = segment.flags() else { continue };
        let both = elf::PF_W.0 | elf::PF_X.0;
        assert_ne!(p_flags.0 & both, both, "{:#x}", segment.address());
        assert_eq!(segment.address() % PAGE_SIZE, 0, "{:#x}", segment.address());
        assert!(segment.address() >= end, "{:#x} overlaps {end:#x}", segment.address());
        end = segment.address() + segment.size();
    }
    assert!(end <= KERNEL_BASE + IMAGE_END, "ends at {end:#x}");
    let bytes = end - KERNEL_BASE - IMAGE;
    assert!(bytes <= MAX_LOADED, "{bytes} bytes loaded, at most {MAX_LOADED}");
}

#[test]
fn the_image_names_no_directory_of_the_machine_that_built_it() {
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let workspace = std::fs::canonicalize(workspace).expect("the workspace is there");
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from);
    for directory in [Some(workspace), home].into_iter().flatten() {
        let name = format!("{}/", directory.display());
        let found = guest_image().windows(name.len()).any(|bytes| bytes == name.as_bytes());
        assert!(name == "/" || name == "//" || !found, "the image says {name}");
    }
}
