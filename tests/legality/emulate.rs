//! A store that the model carries out does what the same instruction does where it runs: on the
//! interpreter, which is held against processors itself.

use crate::world::World;
use iced_x86::{Code, Decoder, DecoderOptions, Encoder, Instruction, MemoryOperand, Register};
use stalemate::arch::addr::{Gpa, Gva};
use stalemate::arch::core::Memory;
use stalemate::arch::emulate::emulate_store;
use stalemate::arch::vcpu::{Vcpu, flags, gpr};
use stalemate::boot::GuestMemory;
use stalemate::executor::interp::InterpExecutor;
use stalemate::executor::{Executor, Leaf, Space};

const CODE: u64 = 0x5000;
const PAGE: u64 = 0xc000;
/// Where instructions store: so far from both ends of the page that bit offsets stay in it.
const MIDDLE: u64 = PAGE + 0x800;
const EDGES: [u64; 11] = [
    0,
    1,
    0x0f,
    0x7f,
    0x80,
    0x8000,
    0x7fff_ffff,
    0x8000_0000,
    0x1234_5678_9abc_def1,
    i64::MAX as u64,
    u64::MAX,
];
/// Bit offsets before, in and after the operand.
const OFFSETS: [u64; 8] = [0, 7, 31, 63, 1000, -1i64 as u64, -64i64 as u64, -1001i64 as u64];

/// The model and the interpreter, each with memory of its own.
struct Both {
    model: World,
    memory: GuestMemory,
    interp: InterpExecutor,
}

impl Both {
    fn new() -> Self {
        let model = World::new(true, true);
        let memory = GuestMemory::new(0x1_0000).expect("memory");
        let mut interp = InterpExecutor::new(&memory, 1);
        let space = Space { cpu: model.vcpu.id, pcid: model.vcpu.pcid(), user: false };
        for (page, writable) in [(CODE, false), (PAGE, true)] {
            let leaf = Leaf { frame: Gpa(page), writable, executable: !writable };
            interp.map(space, Gva(page), leaf).expect("a leaf");
        }
        Self { model, memory, interp }
    }

    /// Does `instruction` on both from these registers, and compares what they leave.
    fn compare(&mut self, instruction: &Instruction, vcpu: &Vcpu, stored: u64) {
        let mut encoder = Encoder::new(64);
        encoder.encode(instruction, CODE).expect("it can be encoded");
        let bytes = encoder.take_buffer();
        let mut decoder = Decoder::with_ip(64, &bytes, CODE, DecoderOptions::NONE);
        let decoded = decoder.decode();
        for memory in [&self.model.memory, &self.memory] {
            let words: Vec<u8> =
                (0..512u64).flat_map(|word| (word * 0x0101).to_le_bytes()).collect();
            memory.write(Gpa(PAGE), &words);
            memory.write_word(Gpa(MIDDLE), stored);
        }
        self.memory.write(Gpa(CODE), &bytes);
        let mut native = vcpu.clone();
        self.model.vcpu = vcpu.clone();
        let mut rounds = 0;
        while native.rip == CODE && rounds < 8 {
            let trap = self.interp.step(&mut native).expect("the host works");
            assert_eq!(trap, None, "{decoded}");
            let done = self.model.with(|core| emulate_store(core, &decoded));
            assert_eq!(done, Ok(()), "{decoded}");
            rounds += 1;
            let arithmetic = |vcpu: &Vcpu| vcpu.rflags & flags::ARITHMETIC;
            let of = |vcpu: &Vcpu| (vcpu.gpr, vcpu.rip, arithmetic(vcpu));
            assert_eq!(of(&self.model.vcpu), of(&native), "{decoded} over {stored:x}: {vcpu:x?}");
            let (mut one, mut two) = ([0; 4096], [0; 4096]);
            assert!(self.model.memory.read(Gpa(PAGE), &mut one));
            assert!(self.memory.read(Gpa(PAGE), &mut two));
            assert!(one == two, "{decoded} over {stored:x} stored something else: {vcpu:x?}");
        }
        assert_ne!(native.rip, CODE, "{decoded} ends");
    }

    fn registers(&self, rax: u64, rcx: u64) -> Vcpu {
        let mut vcpu = self.model.vcpu.clone();
        vcpu.rip = CODE;
        vcpu.rflags = flags::FIXED | flags::ARITHMETIC & !flags::ZF;
        (vcpu.gpr[gpr::RAX], vcpu.gpr[gpr::RCX], vcpu.gpr[gpr::RBX]) = (rax, rcx, MIDDLE);
        vcpu
    }
}

fn operand() -> MemoryOperand {
    MemoryOperand::with_base(Register::RBX)
}

#[test]
fn stores_of_registers_do_what_they_do_where_they_run() {
    use Code::*;
    let codes = [
        [Mov_rm8_r8, Mov_rm16_r16, Mov_rm32_r32, Mov_rm64_r64],
        [Xchg_rm8_r8, Xchg_rm16_r16, Xchg_rm32_r32, Xchg_rm64_r64],
        [And_rm8_r8, And_rm16_r16, And_rm32_r32, And_rm64_r64],
        [Or_rm8_r8, Or_rm16_r16, Or_rm32_r32, Or_rm64_r64],
        [Xadd_rm8_r8, Xadd_rm16_r16, Xadd_rm32_r32, Xadd_rm64_r64],
        [Cmpxchg_rm8_r8, Cmpxchg_rm16_r16, Cmpxchg_rm32_r32, Cmpxchg_rm64_r64],
    ];
    let mut both = Both::new();
    let registers = [Register::CL, Register::CX, Register::ECX, Register::RCX];
    for of_widths in codes {
        for (code, register) in
            of_widths.into_iter().zip(registers).chain([(of_widths[0], Register::CH)])
        {
            let instruction = Instruction::with2(code, operand(), register).expect("operands");
            for rcx in EDGES {
                for stored in EDGES {
                    for rax in [stored, rcx, !stored] {
                        let vcpu = both.registers(rax, rcx);
                        both.compare(&instruction, &vcpu, stored);
                    }
                }
            }
        }
    }
}

#[test]
fn stores_of_bits_do_what_they_do_where_they_run() {
    use Code::*;
    let mut both = Both::new();
    let by_register = [
        (Bts_rm16_r16, Register::CX),
        (Bts_rm32_r32, Register::ECX),
        (Bts_rm64_r64, Register::RCX),
        (Btr_rm16_r16, Register::CX),
        (Btr_rm32_r32, Register::ECX),
        (Btr_rm64_r64, Register::RCX),
    ];
    for (code, register) in by_register {
        let instruction = Instruction::with2(code, operand(), register).expect("operands");
        for rcx in OFFSETS {
            for stored in EDGES {
                let vcpu = both.registers(0, rcx);
                both.compare(&instruction, &vcpu, stored);
            }
        }
    }
    for code in [Bts_rm16_imm8, Bts_rm32_imm8, Bts_rm64_imm8, Btr_rm32_imm8, Btr_rm64_imm8] {
        for bit in [0u32, 7, 15, 31, 63] {
            let instruction = Instruction::with2(code, operand(), bit).expect("operands");
            let vcpu = both.registers(0, 0);
            EDGES.iter().for_each(|&stored| both.compare(&instruction, &vcpu, stored));
        }
    }
}

#[test]
fn stores_of_immediates_do_what_they_do_where_they_run() {
    use Code::*;
    let mut both = Both::new();
    for code in [
        Mov_rm8_imm8,
        Mov_rm16_imm16,
        Mov_rm32_imm32,
        Mov_rm64_imm32,
        And_rm8_imm8,
        And_rm16_imm8,
        And_rm32_imm32,
        And_rm64_imm8,
        And_rm64_imm32,
        Or_rm8_imm8,
        Or_rm32_imm8,
        Or_rm64_imm32,
    ] {
        for immediate in [0, 1, 0x7f, -1, -128] {
            let Ok(instruction) = Instruction::with2(code, operand(), immediate) else { continue };
            let vcpu = both.registers(0, 0);
            EDGES.iter().for_each(|&stored| both.compare(&instruction, &vcpu, stored));
        }
    }
}

#[test]
fn strings_do_what_they_do_where_they_run() {
    let mut both = Both::new();
    // STOS and MOVS of 1, 2, 4 and 8 bytes.
    let bytes: [&[u8]; 8] = [
        &[0xaa],
        &[0x66, 0xab],
        &[0xab],
        &[0x48, 0xab],
        &[0xa4],
        &[0x66, 0xa5],
        &[0xa5],
        &[0x48, 0xa5],
    ];
    for bytes in bytes {
        let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
        for (rep, direction, count) in
            [(false, 0), (false, flags::DF), (true, 0), (true, flags::DF)]
                .into_iter()
                .flat_map(|(rep, direction)| [0, 1, 3].map(|count| (rep, direction, count)))
        {
            let mut instruction = instruction;
            instruction.set_has_rep_prefix(rep);
            let mut vcpu = both.registers(0x1234_5678_9abc_def1, count);
            vcpu.rflags |= direction;
            (vcpu.gpr[gpr::RDI], vcpu.gpr[gpr::RSI]) = (MIDDLE, MIDDLE - 0x400);
            both.compare(&instruction, &vcpu, 0);
        }
    }
}
