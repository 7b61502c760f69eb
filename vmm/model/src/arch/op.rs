//! Decoded privileged operations: what a trapped instruction asks for, with its operands read.

use super::addr::{Gva, Pcid};
use super::sensitive::{Destination, Word};
use super::vcpu::{Vcpu, gpr};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use std::fmt;

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
const UNKNOWN: [Mnemonic; 26] = [
    Mnemonic::Sysret,
    Mnemonic::Iret,
    Mnemonic::Iretd,
    Mnemonic::Retf,
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
    Mnemonic::Lldt,
    Mnemonic::Ltr,
    Mnemonic::Stac,
    Mnemonic::Clac,
];

/// Decodes one instruction at `rip`.
#[must_use]
pub fn decode(bytes: &[u8], rip: u64) -> Instruction {
    Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode()
}

/// The number in [`Vcpu::gpr`] of the full register that holds `register`, if it is a
/// general-purpose one.
#[must_use]
pub fn gpr_number(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register() as usize - Register::RAX as usize)
}

/// The value of a register for effective addresses; segments have base 0 but for GS.
#[must_use]
pub fn register_value(vcpu: &Vcpu, register: Register) -> Option<u64> {
    match register {
        Register::GS => Some(vcpu.gs_base),
        Register::ES | Register::CS | Register::SS | Register::DS | Register::FS => Some(0),
        Register::RIP => Some(vcpu.rip),
        _ => {
            let value = vcpu.gpr[gpr_number(register)?];
            Some(if register.is_gpr32() { value & 0xffff_ffff } else { value })
        }
    }
}

/// The linear address of memory operand `operand`.
#[must_use]
pub fn effective_address(vcpu: &Vcpu, instruction: &Instruction, operand: u32) -> Option<Gva> {
    instruction
        .virtual_address(operand, 0, |register, _, _| register_value(vcpu, register))
        .map(Gva)
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

/// The port that operand `operand` of IN or OUT names, and the bytes of the other operand.
fn port(vcpu: &Vcpu, instruction: &Instruction, operand: u32) -> Option<(u16, u8)> {
    let port = match instruction.op_kind(operand) {
        OpKind::Register => vcpu.gpr[gpr::RDX] as u16,
        _ => u16::from(instruction.immediate8()),
    };
    Some((port, instruction.op_register(1 - operand).size().try_into().ok()?))
}

fn store_word(vcpu: &Vcpu, instruction: &Instruction, word: Word) -> Option<Op> {
    let to = match instruction.op0_kind() {
        OpKind::Register => {
            let register = instruction.op0_register();
            Destination::Register { number: gpr_number(register)?, size: register.size() }
        }
        _ => Destination::Memory(effective_address(vcpu, instruction, 0)?),
    };
    Some(Op::StoreWord { word, to })
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
                _ => Word::Null,
            };
            store_word(vcpu, instruction, word)
        }
        Code::Mov_r64_dr | Code::Mov_dr_r64 => None,
        _ => return Decoded::Ordinary,
    };
    op.map_or(Decoded::Unknown, Decoded::Op)
}
