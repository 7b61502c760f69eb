//! A decoded instruction, ready to run.

use super::engine::{Engine, Trapped};

/// Runs one instruction. RIP is at the next one already.
pub type Handler = fn(&mut Engine, &Uop) -> Result<(), Trapped>;

/// Numbers in [`Engine::regs`] beyond the general-purpose registers.
pub mod reg {
    /// Always 0: an absent base, index or segment.
    pub const ZERO: u8 = 16;
    /// The next instruction's address.
    pub const RIP: u8 = 17;
    /// The GS base.
    pub const GS: u8 = 18;
    /// The FS base.
    pub const FS: u8 = 19;
    /// How many there are.
    pub const COUNT: usize = 20;
    /// Added to the numbers of RAX to RBX: AH, CH, DH, BH.
    pub const HIGH: u8 = 0x20;
}

/// What an instruction's operands are.
pub mod form {
    /// Register, register.
    pub const RR: u8 = 0;
    /// Register, memory.
    pub const RM: u8 = 1;
    /// Memory, register.
    pub const MR: u8 = 2;
    /// Register, immediate.
    pub const RI: u8 = 3;
    /// Memory, immediate.
    pub const MI: u8 = 4;
}

/// One instruction, without its place: the same bytes may run at several addresses.
#[derive(Clone, Copy, Debug)]
pub struct Uop {
    pub run: Handler,
    /// Immediate, or a branch's distance from the next instruction.
    pub imm: i64,
    pub disp: i32,
    /// Length of the instruction in bytes.
    pub len: u8,
    /// First register operand.
    pub dst: u8,
    /// Second register operand.
    pub src: u8,
    pub base: u8,
    pub index: u8,
    /// The index is shifted by this.
    pub scale: u8,
    /// Base of the operand's segment.
    pub segment: u8,
    /// Bits below.
    pub bits: u8,
}

impl Uop {
    /// Whether it has a REP prefix that means something.
    pub fn repeats(&self) -> bool {
        self.bits & (REP | REPNE) != 0
    }
}

/// The address size is 32 bits.
pub const ADDRESS_32: u8 = 1;
/// The operand's segment is SS: its faults are #SS.
pub const STACK: u8 = 2;
/// REP or REPE prefix.
pub const REP: u8 = 4;
/// REPNE prefix.
pub const REPNE: u8 = 8;
