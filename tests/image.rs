//! The guest's image, disassembled: what it must not contain, and what it must.
#![allow(missing_docs)]

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind};
use stalemate::boot::{Image, guest_image};
use std::collections::BTreeMap;

/// Instructions of the image by the function that contains them.
fn functions() -> BTreeMap<String, Vec<Instruction>> {
    let file = object::File::parse(guest_image()).expect("an ELF file");
    let mut starts: BTreeMap<u64, String> = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == object::SymbolKind::Text) {
        let name = symbol.name().expect("a name");
        // Labels inside a function have no size; those that stand alone begin one.
        if symbol.size() > 0 {
            starts.insert(symbol.address(), format!("{:#}", rustc_demangle::demangle(name)));
        }
    }
    let mut functions: BTreeMap<String, Vec<Instruction>> = BTreeMap::new();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let data = section.data().expect("contents");
        let mut decoder = Decoder::with_ip(64, data, section.address(), DecoderOptions::NONE);
        while decoder.can_decode() {
            let instruction = decoder.decode();
            let owner = starts.range(..=instruction.ip()).next_back();
            let name = owner.map_or("(none)", |(_, name)| name.as_str());
            functions.entry(name.to_owned()).or_default().push(instruction);
        }
    }
    functions
}

/// Why an instruction may not be in the image: it is sensitive or varies, and does not trap at
/// CPL 3 on every host.
fn forbidden(instruction: &Instruction) -> Option<&'static str> {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::Pushf | M::Pushfd | M::Pushfq | M::Popf | M::Popfd | M::Popfq => {
            return Some("reads or writes the real flags");
        }
        M::Rdtsc | M::Rdtscp | M::Rdrand | M::Rdseed | M::Rdpid | M::Xgetbv | M::Cpuid => {
            return Some("varies from host to host");
        }
        M::Lar | M::Lsl | M::Verr | M::Verw | M::Lss | M::Lfs | M::Lgs | M::Lds | M::Les => {
            return Some("reads the real descriptor tables");
        }
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => return Some("shows the real tables"),
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => return Some("touches real bases"),
        M::Vmcall | M::Vmmcall | M::Serialize | M::Sysenter | M::Int | M::Retf => {
            return Some("does not trap everywhere");
        }
        M::Popcnt | M::Lzcnt | M::Tzcnt => return Some("beyond baseline x86-64"),
        _ => {}
    }
    if instruction.is_call_far() || instruction.is_jmp_far() || instruction.is_call_far_indirect() {
        return Some("a far transfer");
    }
    if matches!(
        instruction.code(),
        Code::Mov_Sreg_rm16
            | Code::Mov_Sreg_r32m16
            | Code::Mov_Sreg_r64m16
            | Code::Mov_rm16_Sreg
            | Code::Mov_r32m16_Sreg
            | Code::Mov_r64m16_Sreg
    ) {
        return Some("moves a real selector");
    }
    let segment = |operand| {
        instruction.op_kind(operand) == OpKind::Register
            && instruction.op_register(operand).is_segment_register()
    };
    if matches!(instruction.mnemonic(), M::Push | M::Pop) && segment(0) {
        return Some("moves a real selector");
    }
    let encoding = instruction.encoding();
    if !matches!(encoding, iced_x86::EncodingKind::Legacy) {
        return Some("VEX or EVEX encoded");
    }
    None
}

/// An access below RSP: an NMI on the same stack would overwrite it.
fn below_rsp(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| {
        instruction.op_kind(operand) == OpKind::Memory
            && instruction.memory_base() == Register::RSP
            && (instruction.memory_displacement64() as i64) < 0
            && instruction.mnemonic() != Mnemonic::Lea
    })
}

#[test]
fn the_image_contains_no_form_that_would_not_trap() {
    for (name, instructions) in functions() {
        for instruction in &instructions {
            assert!(!instruction.is_invalid(), "{name}: undecodable at {:#x}", instruction.ip());
            assert_eq!(
                forbidden(instruction),
                None,
                "{name}: {:?} at {:#x}",
                instruction.code(),
                instruction.ip()
            );
        }
    }
}

#[test]
fn the_guests_own_code_never_accesses_memory_below_rsp() {
    for (name, instructions) in functions() {
        if name.starts_with("core::") || name.starts_with("compiler_builtins::") {
            continue;
        }
        for instruction in &instructions {
            assert!(!below_rsp(instruction), "{name} at {:#x}", instruction.ip());
        }
    }
}

#[test]
fn the_checks_can_fail() {
    let decode = |bytes: &[u8]| Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode();
    for bytes in [
        &[0x9c][..],                     // pushfq
        &[0x0f, 0xa2],                   // cpuid
        &[0x0f, 0x31],                   // rdtsc
        &[0x8c, 0xd8],                   // mov eax, ds
        &[0x8e, 0xd8],                   // mov ds, eax
        &[0x0f, 0xa0],                   // push fs
        &[0xcd, 0x80],                   // int 0x80
        &[0x48, 0xcb],                   // retfq
        &[0xc5, 0xf8, 0x77],             // vzeroupper
        &[0xf3, 0x48, 0x0f, 0xb8, 0xc0], // popcnt
    ] {
        assert!(forbidden(&decode(bytes)).is_some(), "{bytes:02x?}");
    }
    // mov [rsp - 8], rax is; lea rax, [rsp - 8] and mov [rsp + 8], rax are not.
    assert!(below_rsp(&decode(&[0x48, 0x89, 0x44, 0x24, 0xf8])));
    assert!(!below_rsp(&decode(&[0x48, 0x8d, 0x44, 0x24, 0xf8])));
    assert!(!below_rsp(&decode(&[0x48, 0x89, 0x44, 0x24, 0x08])));
}

fn is_mov_to(instruction: &Instruction, register: Register) -> bool {
    instruction.code() == Code::Mov_cr_r64 && instruction.op0_register() == register
}

#[test]
fn primitives_entries_and_returns_contain_their_real_instructions() {
    let functions = functions();
    let cr3 = |i: &Instruction| is_mov_to(i, Register::CR3);
    let cr4 = |i: &Instruction| is_mov_to(i, Register::CR4);
    let invlpg = |i: &Instruction| i.mnemonic() == Mnemonic::Invlpg;
    let invpcid = |i: &Instruction| i.mnemonic() == Mnemonic::Invpcid;
    let swapgs = |i: &Instruction| i.mnemonic() == Mnemonic::Swapgs;
    let sysret = |i: &Instruction| i.mnemonic() == Mnemonic::Sysretq;
    let iret = |i: &Instruction| i.mnemonic() == Mnemonic::Iretq;
    let fxsave = |i: &Instruction| i.mnemonic() == Mnemonic::Fxsave64;
    type Is<'a> = &'a dyn Fn(&Instruction) -> bool;
    let split = "stalemate_guest::flush::split";
    let table: [(String, &str, Is<'_>); 19] = [
        (format!("{split}::flush_tlb_one_user"), "invlpg", &invlpg),
        (format!("{split}::flush_tlb_one_user"), "invpcid", &invpcid),
        (format!("{split}::flush_tlb_one_kernel"), "invlpg", &invlpg),
        (format!("{split}::flush_tlb_mm"), "mov cr3", &cr3),
        (format!("{split}::flush_tlb_all"), "invpcid", &invpcid),
        (format!("{split}::flush_tlb_all"), "mov cr4", &cr4),
        (format!("{split}::flush_tlb_all"), "mov cr3", &cr3),
        ("stalemate_guest::mm::switch_mm".into(), "mov cr3", &cr3),
        ("enter_user".into(), "mov cr3", &cr3),
        ("enter_user".into(), "swapgs", &swapgs),
        ("enter_user".into(), "sysretq", &sysret),
        ("entry_syscall".into(), "swapgs", &swapgs),
        ("entry_syscall".into(), "mov cr3", &cr3),
        ("entry_fault".into(), "iretq", &iret),
        ("entry_fault".into(), "fxsave", &fxsave),
        ("entry_paranoid".into(), "mov cr3", &cr3),
        ("entry_paranoid".into(), "iretq", &iret),
        ("hop_invlpg_user".into(), "invlpg", &invlpg),
        ("hop_invlpg_user".into(), "mov cr3", &cr3),
    ];
    for (name, what, is) in table {
        let found = functions.get(&name).unwrap_or_else(|| panic!("no function {name}"));
        assert!(found.iter().any(is), "{name} contains no {what}");
    }
}

#[test]
fn the_trampoline_is_page_aligned_and_the_image_small() {
    let file = object::File::parse(guest_image()).expect("an ELF file");
    for name in [".trampoline.text", ".trampoline.data", ".user_code"] {
        let section = file.section_by_name(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!((section.address() % 4096, section.size() % 4096), (0, 0), "{name}");
        assert!(section.size() > 0, "{name}");
    }
    let size = Image::parse(guest_image()).expect("a kernel").loaded_size();
    assert!(size <= 128 << 10, "{size} bytes loaded");
}
