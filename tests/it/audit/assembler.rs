//! The least of an assembler: instructions by iced-x86, one after another, and labels.

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, Register};
use std::collections::BTreeMap;

/// Code that grows. It is assembled twice: what a label stands for is known the second time.
pub struct Assembler<'a> {
    encoder: Encoder,
    next: u64,
    known: &'a BTreeMap<String, u64>,
    labels: BTreeMap<String, u64>,
}

/// The code that `write` writes, for address `base`, and its labels.
pub fn assemble(base: u64, write: impl Fn(&mut Assembler<'_>)) -> (Vec<u8>, BTreeMap<String, u64>) {
    let once = |known: &BTreeMap<String, u64>| {
        let encoder = Encoder::new(64);
        let mut code = Assembler { encoder, next: base, known, labels: BTreeMap::new() };
        write(&mut code);
        (code.encoder.take_buffer(), code.labels)
    };
    let (_, labels) = once(&BTreeMap::new());
    let (bytes, again) = once(&labels);
    assert_eq!(labels, again, "no instruction's length depends on a label");
    (bytes, again)
}

impl Assembler<'_> {
    pub fn label(&mut self, name: &str) {
        let twice = self.labels.insert(name.to_owned(), self.next);
        assert_eq!(twice, None, "{name} twice");
    }

    /// What a label stands for: it may come later.
    pub fn of(&self, name: &str) -> u64 {
        self.known.get(name).copied().unwrap_or(self.next)
    }

    pub fn put(&mut self, instruction: Instruction) {
        let len = self.encoder.encode(&instruction, self.next).expect("it can be encoded");
        self.next += len as u64;
    }

    /// An instruction without operands.
    pub fn plain(&mut self, code: Code) {
        self.put(Instruction::with(code));
    }

    /// A branch to a label.
    pub fn branch(&mut self, code: Code, label: &str) {
        let to = self.of(label);
        self.put(Instruction::with_branch(code, to).expect("a branch"));
    }

    /// An instruction with one register.
    pub fn one(&mut self, code: Code, register: Register) {
        self.put(Instruction::with1(code, register).expect("one register"));
    }

    /// An instruction with two registers.
    pub fn two(&mut self, code: Code, to: Register, from: Register) {
        self.put(Instruction::with2(code, to, from).expect("two registers"));
    }

    /// An instruction with a register and a number.
    pub fn number(&mut self, code: Code, register: Register, number: i64) {
        self.put(Instruction::with2(code, register, number).expect("a register and a number"));
    }

    /// MOV of 64 bits into a register.
    pub fn set(&mut self, register: Register, value: u64) {
        let code = Code::Mov_r64_imm64;
        self.put(Instruction::with2(code, register, value).expect("64 bits"));
    }

    /// An instruction on memory at an address that is near to the code.
    pub fn near(&mut self, code: Code, address: u64) {
        self.put(Instruction::with1(code, rip(address)).expect("memory"));
    }

    /// MOV from memory that is near to the code.
    pub fn load(&mut self, register: Register, address: u64) {
        let code = Code::Mov_r64_rm64;
        self.put(Instruction::with2(code, register, rip(address)).expect("a load"));
    }

    /// MOV to memory that is near to the code.
    pub fn store(&mut self, address: u64, register: Register) {
        let code = Code::Mov_rm64_r64;
        self.put(Instruction::with2(code, rip(address), register).expect("a store"));
    }
}

/// Memory at this address, by its distance.
fn rip(address: u64) -> MemoryOperand {
    MemoryOperand::with_base_displ(Register::RIP, address as i64)
}

/// Memory that a register points to.
pub fn at(register: Register) -> MemoryOperand {
    MemoryOperand::with_base(register)
}
