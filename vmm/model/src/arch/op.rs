//! Decoded privileged operations: what a trapped instruction asks for, with its operands read.

use super::addr::{Gva, Pcid};
use super::operand::{debug_register, destination, port, segment_register, selector};
use super::segment::{Query, SegmentRegister, Source};
use super::sensitive::{Destination, Word};
use super::vcpu::{Vcpu, gpr};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use std::fmt;

pub use super::operand::{effective_address, gpr_number};

/// The control registers that MOV reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRegister {
    /// Protection and paging.
    Cr0,
    /// Page-fault address.
    Cr2,
    /// Root and PCID.
    Cr3,
    /// Extensions.
    Cr4,
}

/// The INVPCID descriptor's operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvpcidDescriptor {
    /// Bits 11:0 of the first word.
    pub pcid: Pcid,
    /// The second word.
    pub va: Gva,
}

/// One operation that traps. Addresses are operands, not yet translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// MOV r64, CRn.
    ReadCr {
        /// Which.
        register: ControlRegister,
        /// Destination, a [`Vcpu::gpr`] number.
        to: usize,
    },
    /// MOV CRn, r64.
    WriteCr {
        /// Which.
        register: ControlRegister,
        /// The source operand.
        value: u64,
    },
    /// INVLPG m.
    Invlpg(Gva),
    /// INVPCID r64, m128.
    Invpcid {
        /// The type operand.
        kind: u64,
        /// Address of the descriptor.
        descriptor: Gva,
    },
    /// INVPCID whose descriptor has been read and found legal.
    InvpcidOf {
        /// The type operand.
        kind: u64,
        /// What the descriptor says.
        descriptor: InvpcidDescriptor,
    },
    /// SWAPGS.
    Swapgs,
    /// SYSCALL.
    Syscall,
    /// SYSRETQ.
    Sysret,
    /// IRETQ.
    Iret,
    /// LGDT m16&64.
    Lgdt(Gva),
    /// LIDT m16&64.
    Lidt(Gva),
    /// LTR r/m16, register form.
    Ltr(u16),
    /// RDMSR of this register.
    Rdmsr(u32),
    /// WRMSR.
    Wrmsr {
        /// The register.
        msr: u32,
        /// EDX:EAX.
        value: u64,
    },
    /// CPUID.
    Cpuid {
        /// EAX.
        leaf: u32,
        /// ECX.
        subleaf: u32,
    },
    /// IN from a port to AL, AX or EAX.
    In {
        /// The port.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
    },
    /// OUT to a port from AL, AX or EAX.
    Out {
        /// The port.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
        /// What is written, in its low bytes.
        value: u32,
    },
    /// RDTSC.
    Rdtsc,
    /// MOV to a segment register other than CS.
    LoadSegment {
        /// Which.
        register: SegmentRegister,
        /// The selector.
        source: Source,
    },
    /// LLDT.
    Lldt(Source),
    /// RETFQ.
    Retf {
        /// Bytes of parameters that it releases.
        released: u16,
    },
    /// VERR, VERW, LAR, LSL.
    Query {
        /// Which.
        query: Query,
        /// The selector.
        source: Source,
        /// Where LAR and LSL put what they find.
        to: Option<Destination>,
    },
    /// MOV r64, DRn.
    ReadDr {
        /// Which, 0 to 7.
        number: usize,
        /// Destination, a [`Vcpu::gpr`] number.
        to: usize,
    },
    /// MOV DRn, r64.
    WriteDr {
        /// Which, 0 to 7.
        number: usize,
        /// The source operand.
        value: u64,
    },
    /// CLI.
    Cli,
    /// STI.
    Sti,
    /// HLT.
    Hlt,
    /// PUSHFQ.
    PushFlags,
    /// POPFQ.
    PopFlags,
    /// SGDT m16&64.
    Sgdt(Gva),
    /// SIDT m16&64.
    Sidt(Gva),
    /// SLDT, STR, SMSW, MOV from a segment register.
    StoreWord {
        /// What is read.
        word: Word,
        /// Where it goes.
        to: Destination,
    },
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cr = |register: &ControlRegister| format!("{register:?}").to_uppercase();
        match self {
            Self::ReadCr { register, .. } => write!(f, "MOV from {}", cr(register)),
            Self::WriteCr { register, value } => write!(f, "MOV {} of {value:#x}", cr(register)),
            Self::Invlpg(va) => write!(f, "INVLPG {va}"),
            Self::Invpcid { kind, .. } | Self::InvpcidOf { kind, .. } => {
                write!(f, "INVPCID type {kind}")
            }
            Self::In { port, .. } => write!(f, "IN from port {port:#x}"),
            Self::Out { port, value, .. } => write!(f, "OUT to port {port:#x} of {value:#x}"),
            Self::Wrmsr { msr, value } => write!(f, "WRMSR {msr:#x} of {value:#x}"),
            other => write!(f, "{other:x?}"),
        }
    }
}

impl Op {
    /// Whether the operation needs virtual CPL 0.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        !matches!(
            self,
            Self::Syscall
                | Self::Cpuid { .. }
                | Self::Iret
                | Self::PushFlags
                | Self::PopFlags
                | Self::Rdtsc
                | Self::LoadSegment { .. }
                | Self::Retf { .. }
                | Self::Query { .. }
                | Self::Sgdt(_)
                | Self::Sidt(_)
                | Self::StoreWord { .. }
        )
    }
}

/// What stands at RIP.
#[derive(Clone, Copy, Debug)]
pub enum Decoded {
    /// An operation that the model carries out.
    Op(Op),
    /// Sensitive, but not among those the model knows: its form is the guest's to avoid.
    Unknown,
    /// Anything that runs without the model's help.
    Ordinary,
}

/// Sensitive, but nothing that the model carries out.
const UNKNOWN: [Mnemonic; 23] = [
    Mnemonic::Sysret,
    Mnemonic::Iret,
    Mnemonic::Iretd,
    Mnemonic::Sysexit,
    Mnemonic::Sysexitq,
    Mnemonic::Sysenter,
    Mnemonic::Insb,
    Mnemonic::Insd,
    Mnemonic::Insw,
    Mnemonic::Outsb,
    Mnemonic::Outsd,
    Mnemonic::Outsw,
    Mnemonic::Lmsw,
    Mnemonic::Clts,
    Mnemonic::Wbinvd,
    Mnemonic::Invd,
    Mnemonic::Rdpmc,
    Mnemonic::Rdtscp,
    Mnemonic::Xsetbv,
    Mnemonic::Monitor,
    Mnemonic::Mwait,
    Mnemonic::Stac,
    Mnemonic::Clac,
];

/// Decodes one instruction at `rip`.
#[must_use]
pub fn decode(bytes: &[u8], rip: u64) -> Instruction {
    Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode()
}

/// Whether `instruction` is the model's to carry out, or to refuse: what a virtual processor
/// must not let run, even where hardware does not trap it.
#[must_use]
pub fn is_sensitive(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Cpuid
            | Mnemonic::Pushf
            | Mnemonic::Pushfq
            | Mnemonic::Popf
            | Mnemonic::Popfq
            | Mnemonic::Sgdt
            | Mnemonic::Sidt
            | Mnemonic::Sldt
            | Mnemonic::Str
            | Mnemonic::Smsw
            | Mnemonic::Invlpg
            | Mnemonic::Invpcid
            | Mnemonic::Swapgs
            | Mnemonic::Sysretq
            | Mnemonic::Iretq
            | Mnemonic::Lgdt
            | Mnemonic::Lidt
            | Mnemonic::Ltr
            | Mnemonic::Rdmsr
            | Mnemonic::Wrmsr
            | Mnemonic::Cli
            | Mnemonic::Sti
            | Mnemonic::Hlt
            | Mnemonic::In
            | Mnemonic::Out
            | Mnemonic::Rdtsc
            | Mnemonic::Retf
            | Mnemonic::Lldt
            | Mnemonic::Verr
            | Mnemonic::Verw
            | Mnemonic::Lar
            | Mnemonic::Lsl
    ) || UNKNOWN.contains(&instruction.mnemonic())
        || matches!(
            instruction.code(),
            Code::Mov_r64_cr
                | Code::Mov_cr_r64
                | Code::Mov_r64_dr
                | Code::Mov_dr_r64
                | Code::Mov_r32m16_Sreg
                | Code::Mov_r64m16_Sreg
                | Code::Mov_rm16_Sreg
                | Code::Mov_Sreg_rm16
                | Code::Mov_Sreg_r32m16
                | Code::Mov_Sreg_r64m16
        )
}

/// What `instruction`, about to execute on `vcpu`, asks of the model.
#[must_use]
pub fn classify(vcpu: &Vcpu, instruction: &Instruction) -> Decoded {
    let memory = || effective_address(vcpu, instruction, 0);
    let register = |operand: u32| {
        gpr_number(instruction.op_register(operand)).map(|number| (number, vcpu.gpr[number]))
    };
    let low = |number: usize| vcpu.gpr[number] as u32;
    let op = match instruction.mnemonic() {
        Mnemonic::Mov => return classify_mov(vcpu, instruction),
        Mnemonic::Invlpg => memory().map(Op::Invlpg),
        Mnemonic::Invpcid => register(0).and_then(|(_, kind)| {
            effective_address(vcpu, instruction, 1)
                .map(|descriptor| Op::Invpcid { kind, descriptor })
        }),
        Mnemonic::Swapgs => Some(Op::Swapgs),
        Mnemonic::Syscall => Some(Op::Syscall),
        Mnemonic::Sysretq => Some(Op::Sysret),
        Mnemonic::Iretq => Some(Op::Iret),
        Mnemonic::Lgdt => memory().map(Op::Lgdt),
        Mnemonic::Lidt => memory().map(Op::Lidt),
        Mnemonic::Ltr if instruction.op0_kind() == OpKind::Register => {
            register(0).map(|(_, value)| Op::Ltr(value as u16))
        }
        Mnemonic::Rdmsr => Some(Op::Rdmsr(low(gpr::RCX))),
        Mnemonic::Wrmsr => Some(Op::Wrmsr {
            msr: low(gpr::RCX),
            value: u64::from(low(gpr::RDX)) << 32 | u64::from(low(gpr::RAX)),
        }),
        Mnemonic::Cpuid => Some(Op::Cpuid { leaf: low(gpr::RAX), subleaf: low(gpr::RCX) }),
        Mnemonic::In => port(vcpu, instruction, 1).map(|(port, size)| Op::In { port, size }),
        Mnemonic::Out => port(vcpu, instruction, 0).map(|(port, size)| {
            let value = low(gpr::RAX) & (u32::MAX >> (32 - 8 * u32::from(size)));
            Op::Out { port, size, value }
        }),
        Mnemonic::Rdtsc => Some(Op::Rdtsc),
        Mnemonic::Lldt => selector(vcpu, instruction, 0).map(Op::Lldt),
        Mnemonic::Retf => match instruction.code() {
            Code::Retfq => Some(Op::Retf { released: 0 }),
            Code::Retfq_imm16 => Some(Op::Retf { released: instruction.immediate16() }),
            _ => None,
        },
        Mnemonic::Verr => query(vcpu, instruction, Query::Readable),
        Mnemonic::Verw => query(vcpu, instruction, Query::Writable),
        Mnemonic::Lar => query(vcpu, instruction, Query::Rights),
        Mnemonic::Lsl => query(vcpu, instruction, Query::Limit),
        Mnemonic::Cli => Some(Op::Cli),
        Mnemonic::Sti => Some(Op::Sti),
        Mnemonic::Hlt => Some(Op::Hlt),
        Mnemonic::Pushfq => Some(Op::PushFlags),
        Mnemonic::Popfq => Some(Op::PopFlags),
        Mnemonic::Sgdt => memory().map(Op::Sgdt),
        Mnemonic::Sidt => memory().map(Op::Sidt),
        Mnemonic::Sldt => store_word(vcpu, instruction, Word::Ldtr),
        Mnemonic::Str => store_word(vcpu, instruction, Word::Tr),
        Mnemonic::Smsw => store_word(vcpu, instruction, Word::Msw),
        Mnemonic::Pushf | Mnemonic::Popf => None,
        unknown if UNKNOWN.contains(&unknown) || unknown == Mnemonic::Int => None,
        _ => return Decoded::Ordinary,
    };
    op.map_or(Decoded::Unknown, Decoded::Op)
}

fn query(vcpu: &Vcpu, instruction: &Instruction, query: Query) -> Option<Op> {
    let last = instruction.op_count() - 1;
    let to = if last == 0 { None } else { Some(destination(vcpu, instruction)?) };
    Some(Op::Query { query, source: selector(vcpu, instruction, last)?, to })
}

fn store_word(vcpu: &Vcpu, instruction: &Instruction, word: Word) -> Option<Op> {
    Some(Op::StoreWord { word, to: destination(vcpu, instruction)? })
}

fn classify_mov(vcpu: &Vcpu, instruction: &Instruction) -> Decoded {
    let control = |register| match register {
        Register::CR0 => Some(ControlRegister::Cr0),
        Register::CR2 => Some(ControlRegister::Cr2),
        Register::CR3 => Some(ControlRegister::Cr3),
        Register::CR4 => Some(ControlRegister::Cr4),
        _ => None,
    };
    let op = match instruction.code() {
        Code::Mov_r64_cr => control(instruction.op1_register()).and_then(|register| {
            gpr_number(instruction.op0_register()).map(|to| Op::ReadCr { register, to })
        }),
        Code::Mov_cr_r64 => control(instruction.op0_register()).and_then(|register| {
            gpr_number(instruction.op1_register())
                .map(|from| Op::WriteCr { register, value: vcpu.gpr[from] })
        }),
        Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg => {
            let word = match instruction.op1_register() {
                Register::CS => Word::Cs,
                Register::SS => Word::Ss,
                Register::DS => Word::Ds,
                Register::ES => Word::Es,
                Register::FS => Word::Fs,
                _ => Word::Gs,
            };
            store_word(vcpu, instruction, word)
        }
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => {
            segment_register(instruction.op0_register()).and_then(|register| {
                let source = selector(vcpu, instruction, 1)?;
                Some(Op::LoadSegment { register, source })
            })
        }
        Code::Mov_r64_dr => debug_register(instruction.op1_register()).and_then(|number| {
            let to = gpr_number(instruction.op0_register())?;
            Some(Op::ReadDr { number, to })
        }),
        Code::Mov_dr_r64 => debug_register(instruction.op0_register()).and_then(|number| {
            let from = gpr_number(instruction.op1_register())?;
            Some(Op::WriteDr { number, value: vcpu.gpr[from] })
        }),
        _ => return Decoded::Ordinary,
    };
    op.map_or(Decoded::Unknown, Decoded::Op)
}
