//! Instructions that escape the VMM: at CPL 3, where kernels run, they do not trap on every processor, and
//! tell of the host's state or change it. The interpreter executes them exactly.

use crate::arch::addr::Gva;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};
use object::{Object, ObjectSegment, ObjectSymbol, SegmentFlags, SymbolKind, elf};
use std::collections::BTreeSet;

/// Such instructions, whatever their operands.
const MNEMONICS: &[Mnemonic] = &[
    // Real RFLAGS are not the virtual ones.
    Mnemonic::Pushf,
    Mnemonic::Pushfd,
    Mnemonic::Pushfq,
    Mnemonic::Popf,
    Mnemonic::Popfd,
    Mnemonic::Popfq,
    // Not the same in every run, or on every host.
    Mnemonic::Rdtsc,
    Mnemonic::Rdtscp,
    Mnemonic::Rdrand,
    Mnemonic::Rdseed,
    Mnemonic::Rdpid,
    Mnemonic::Cpuid,
    Mnemonic::Xgetbv,
    Mnemonic::Rdpkru,
    Mnemonic::Wrpkru,
    Mnemonic::Serialize,
    // Descriptor tables and segments: the host's, not the guest's.
    Mnemonic::Lar,
    Mnemonic::Lsl,
    Mnemonic::Verr,
    Mnemonic::Verw,
    Mnemonic::Sgdt,
    Mnemonic::Sidt,
    Mnemonic::Sldt,
    Mnemonic::Str,
    Mnemonic::Smsw,
    Mnemonic::Lss,
    Mnemonic::Lfs,
    Mnemonic::Lgs,
    Mnemonic::Rdfsbase,
    Mnemonic::Rdgsbase,
    Mnemonic::Wrfsbase,
    Mnemonic::Wrgsbase,
    // Ways out of the guest that do not lead to the VMM.
    Mnemonic::Int,
    Mnemonic::Int1,
    Mnemonic::Retf,
    Mnemonic::Sysenter,
    Mnemonic::Sysexit,
    Mnemonic::Vmcall,
    Mnemonic::Vmmcall,
    Mnemonic::Vmfunc,
];

/// As which instructions are decoded here: with what AMD makes of an operand-size prefix of a branch.
pub const DECODER: u32 = DecoderOptions::AMD;

/// Why an instruction, decoded with [`DECODER`], escapes the VMM.
#[must_use]
pub fn escapes(instruction: &Instruction) -> Option<&'static str> {
    if MNEMONICS.contains(&instruction.mnemonic()) {
        return Some("does not trap where kernels run");
    }
    let operands = || 0..instruction.op_count();
    // MOV from and to segment registers, PUSH and POP of FS and GS.
    if operands().any(|op| instruction.op_register(op).is_segment_register()) {
        return Some("reads or loads a segment register");
    }
    let far = instruction.is_jmp_far() || instruction.is_jmp_far_indirect();
    if far || instruction.is_call_far() || instruction.is_call_far_indirect() {
        return Some("is a far transfer");
    }
    if operands().any(|op| instruction.op_kind(op) == OpKind::NearBranch16) {
        return Some("is a branch of 16 bits to AMD, and to Intel one of 32");
    }
    None
}

/// An instruction that escapes the VMM, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Escape {
    /// Its address.
    pub at: Gva,
    /// It, as text.
    pub instruction: String,
    /// Why.
    pub why: &'static str,
}

/// Those in `image` that its entry, or a function of its symbol table, comes to by branches and calls that
/// name their targets. What is only jumped to through a pointer, and has no symbol, is not found.
#[must_use]
pub fn find(image: &[u8]) -> Vec<Escape> {
    let Ok(file) = object::File::parse(image) else { return Vec::new() };
    let code: Vec<(u64, &[u8])> = file
        .segments()
        .filter(|segment| {
            matches!(segment.flags(), SegmentFlags::Elf { p_flags, .. } if p_flags.0 & elf::PF_X.0 != 0)
        })
        .filter_map(|segment| Some((segment.address(), segment.data().ok()?)))
        .collect();
    // A label in assembly has no type: it may stand at data.
    let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    let mut open: Vec<u64> = functions.map(|symbol| symbol.address()).collect();
    open.push(file.entry());
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(start) = open.pop() {
        let bytes_at = |at: u64| {
            let segment =
                code.iter().find(|(base, data)| at.wrapping_sub(*base) < data.len() as u64);
            segment.map(|(base, data)| &data[(at - base) as usize..])
        };
        let mut at = start;
        while let Some(bytes) = bytes_at(at) {
            if !seen.insert(at) {
                break;
            }
            let instruction = Decoder::with_ip(64, bytes, at, DECODER).decode();
            if instruction.is_invalid() {
                break;
            }
            if let Some(why) = escapes(&instruction) {
                found.push(Escape { at: Gva(at), instruction: instruction.to_string(), why });
            }
            let near = [OpKind::NearBranch16, OpKind::NearBranch32, OpKind::NearBranch64];
            if instruction.op_count() > 0 && near.contains(&instruction.op0_kind()) {
                open.push(instruction.near_branch_target());
            }
            match instruction.flow_control() {
                FlowControl::Next
                | FlowControl::ConditionalBranch
                | FlowControl::Call
                | FlowControl::IndirectCall
                | FlowControl::Interrupt
                | FlowControl::XbeginXabortXend => at = instruction.next_ip(),
                // SYSCALL and its like return here, if at all.
                FlowControl::Exception => break,
                FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Return => break,
            }
        }
    }
    found.sort_by_key(|escape| escape.at);
    found
}
