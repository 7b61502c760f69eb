//! Instructions one after the other, as bytes, and which flags are undefined before each.

use iced_x86::{Code, Encoder, Instruction, Mnemonic, OpKind, Register, RflagsBits};
use stalemate::executor::interp::is_supported;

/// CF, PF, AF, ZF, SF, OF as iced-x86 numbers them, and as RFLAGS does.
const FLAGS: [(u32, u64); 6] = [
    (RflagsBits::CF, 1),
    (RflagsBits::PF, 1 << 2),
    (RflagsBits::AF, 1 << 4),
    (RflagsBits::ZF, 1 << 6),
    (RflagsBits::SF, 1 << 7),
    (RflagsBits::OF, 1 << 11),
];

fn rflags(bits: u32) -> u64 {
    FLAGS.iter().filter(|(iced, _)| bits & iced != 0).map(|(_, flag)| flag).sum()
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Step {
    pub at: u64,
    pub instruction: Instruction,
    /// Flags of which no one can tell the value before it.
    pub undefined: u64,
}

impl Step {
    /// The address after it.
    pub fn end(&self) -> u64 {
        self.at + self.instruction.len() as u64
    }

    /// Flags of which no one can tell the value when it faults.
    pub fn undefined_at_fault(&self) -> u64 {
        self.undefined | undefined_by(&self.instruction)
    }
}

/// An instruction that is the subject of a test, with those that prepare it and that tidy up
/// after it.
#[derive(Clone, Debug)]
pub struct Item {
    pub at: u64,
    pub subject: Code,
    /// A jump may leave it out.
    pub skipped: bool,
}

/// What a run executes; an INT3 follows.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    pub begin: u64,
    pub bytes: Vec<u8>,
    pub steps: Vec<Step>,
    pub items: Vec<Item>,
    /// Flags that are undefined at the end.
    pub undefined: u64,
}

impl Sequence {
    /// The address of the INT3.
    pub fn end(&self) -> u64 {
        self.begin + self.bytes.len() as u64
    }

    /// The instruction at `at`.
    pub fn step(&self, at: u64) -> Option<&Step> {
        self.steps.binary_search_by_key(&at, |step| step.at).ok().map(|index| &self.steps[index])
    }

    /// The code up to item `count`, and INT3 instead of the others.
    pub fn prefix(&self, count: usize) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for item in &self.items[count..] {
            bytes[(item.at - self.begin) as usize] = 0xcc;
        }
        bytes.push(0xcc);
        bytes
    }
}

/// The instruction cannot be encoded: another one is tried.
#[derive(Clone, Copy, Debug)]
pub struct Refused;

/// Where an item began, to go back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    bytes: usize,
    steps: usize,
    items: usize,
    undefined: u64,
}

/// Builds a [`Sequence`].
pub struct Assembler {
    encoder: Encoder,
    sequence: Sequence,
}

impl Assembler {
    pub fn new(begin: u64) -> Self {
        let sequence = Sequence { begin, ..Sequence::default() };
        Self { encoder: Encoder::new(64), sequence }
    }

    /// The address of what comes next.
    pub fn here(&self) -> u64 {
        self.sequence.end()
    }

    pub fn finish(self) -> Sequence {
        self.sequence
    }

    pub fn mark(&self) -> Mark {
        let Sequence { bytes, steps, items, undefined, .. } = &self.sequence;
        let (bytes, steps, items) = (bytes.len(), steps.len(), items.len());
        Mark { bytes, steps, items, undefined: *undefined }
    }

    pub fn go_back(&mut self, to: Mark) {
        self.sequence.bytes.truncate(to.bytes);
        self.sequence.steps.truncate(to.steps);
        self.sequence.items.truncate(to.items);
        self.sequence.undefined = to.undefined;
    }

    /// What follows is about `subject`.
    pub fn begin_item(&mut self, subject: Code, skipped: bool) {
        let at = self.here();
        self.sequence.items.push(Item { at, subject, skipped });
    }

    /// Flags that are undefined here.
    pub fn undefined(&self) -> u64 {
        self.sequence.undefined
    }

    /// A jump from where `flags` were undefined comes here.
    pub fn join(&mut self, flags: u64) {
        self.sequence.undefined |= flags;
    }

    fn encode(&mut self, instruction: &Instruction, at: u64) -> Result<Vec<u8>, Refused> {
        let encoded = self.encoder.encode(instruction, at);
        let bytes = self.encoder.take_buffer();
        encoded.map(|_| bytes).map_err(|_| Refused)
    }

    /// Appends `instruction`, with another one before it that defines the flags it reads; gives
    /// its number.
    pub fn emit(&mut self, mut instruction: Instruction) -> Result<usize, Refused> {
        if rflags(instruction.rflags_read()) & self.sequence.undefined != 0 {
            let define = Instruction::with2(Code::Cmp_rm64_r64, Register::RDX, Register::RSI)
                .expect("valid");
            self.emit(define)?;
        }
        let at = self.here();
        let bytes = self.encode(&instruction, at)?;
        instruction.set_len(bytes.len());
        instruction.set_ip(at);
        instruction.set_next_ip(at + bytes.len() as u64);
        let sequence = &mut self.sequence;
        sequence.bytes.extend(bytes);
        sequence.steps.push(Step { at, instruction, undefined: sequence.undefined });
        let lost = undefined_by(&instruction);
        if !may_write_no_flags(&instruction) {
            let modified = rflags(instruction.rflags_modified());
            sequence.undefined &= !modified;
        }
        sequence.undefined |= lost;
        Ok(sequence.steps.len() - 1)
    }

    /// Puts another instruction of the same length in the place of number `step`.
    pub fn replace(&mut self, step: usize, mut instruction: Instruction) -> Result<(), Refused> {
        let (at, end) = (self.sequence.steps[step].at, self.sequence.steps[step].end());
        let bytes = self.encode(&instruction, at)?;
        if at + bytes.len() as u64 != end {
            return Err(Refused);
        }
        let offset = (at - self.sequence.begin) as usize;
        self.sequence.bytes[offset..offset + bytes.len()].copy_from_slice(&bytes);
        instruction.set_len(bytes.len());
        instruction.set_next_ip(end);
        self.sequence.steps[step].instruction = instruction;
        Ok(())
    }
}

fn is_shift(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shl | M::Sal | M::Shr | M::Sar | M::Shld | M::Shrd
    )
}

fn by_cl(instruction: &Instruction) -> bool {
    let last = instruction.op_count() - 1;
    instruction.op_kind(last) == OpKind::Register && instruction.op_register(last) == Register::CL
}

/// A count of zero leaves flags as they are.
fn may_write_no_flags(instruction: &Instruction) -> bool {
    is_shift(instruction.mnemonic()) && by_cl(instruction)
        || instruction.has_rep_prefix()
        || instruction.has_repne_prefix()
}

/// Flags that are undefined after `instruction`.
fn undefined_by(instruction: &Instruction) -> u64 {
    let undefined = rflags(instruction.rflags_undefined());
    let narrow = instruction.op_count() == 2
        && match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register().size() <= 2,
            _ => instruction.memory_size().size() <= 2,
        };
    let shift = matches!(instruction.mnemonic(), Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr);
    if shift && narrow {
        let most = match by_cl(instruction) {
            true => 31,
            false => instruction.immediate(1) & 0x1f,
        };
        let bits = match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register().size(),
            _ => instruction.memory_size().size(),
        } as u64
            * 8;
        // "undefined for SHL and SHR instructions where the count is greater than or equal to
        // the size (in bits) of the destination operand" (SDM vol. 2, SAL/SAR/SHL/SHR).
        return undefined | u64::from(most >= bits);
    }
    undefined
}

/// Whether a random sequence can show what `code` does.
pub fn is_covered(code: Code) -> bool {
    is_supported(code) && left_out(code).is_none()
}

/// Why a code that the interpreter executes is in no random sequence.
pub fn left_out(code: Code) -> Option<&'static str> {
    match code {
        Code::Movsxd_r16_rm16 => Some("Intel's processors read 16 bits of memory, AMD's 32"),
        _ => None,
    }
}
