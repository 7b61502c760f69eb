//! Who called whom: a kernel's stack at one moment, by its ORC tables where the image has them, else by frame
//! pointers.

mod orc;

use super::KernelImage;
use crate::arch::addr::Gva;
use crate::arch::core::Memory;
use crate::arch::vcpu::{Vcpu, gpr};
use crate::arch::walk::{Start, walk};
use crate::memory::GuestMemory;
use orc::{Base, Entry, Frame, Orc};

/// The most frames.
const DEEPEST: usize = 48;
/// Bytes of a kernel's saved registers that lie before what an exception pushes, in Linux's `pt_regs`.
const BEFORE_IRET: u64 = 15 * 8 + 8;
/// Where RBP is among them.
const SAVED_RBP: u64 = 4 * 8;

/// How a stack was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Unwound {
    /// By the kernel's ORC tables.
    Orc,
    /// By frame pointers: a function that keeps none hides its caller.
    FramePointers,
}

/// A stack: the instruction, then where each caller goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// How it was read.
    pub by: Unwound,
    /// Addresses, innermost first, and whether each is one to return to: the call is before it.
    pub frames: Vec<(Gva, bool)>,
}

/// What unwinds a kernel's stacks.
#[derive(Clone, Debug)]
pub struct Unwinder {
    orc: Option<Orc>,
}

/// A kernel's registers, as far as they are known of a frame.
#[derive(Clone, Copy, Debug)]
struct State {
    ip: Gva,
    sp: u64,
    bp: u64,
    /// `ip` is where a call returns to.
    returns: bool,
}

impl Unwinder {
    /// What the image has for it.
    #[must_use]
    pub fn new(kernel: &KernelImage) -> Self {
        Self { orc: Orc::read(&kernel.elf) }
    }

    /// The stack of a CPU that is at an instruction of the kernel's; in user mode there is none.
    #[must_use]
    pub fn stack(&self, vcpu: &Vcpu, memory: &GuestMemory) -> Stack {
        let by = if self.orc.is_some() { Unwound::Orc } else { Unwound::FramePointers };
        let mut frames = vec![(vcpu.rip(), false)];
        let mut state = State {
            ip: vcpu.rip(),
            sp: vcpu.gpr[gpr::RSP],
            bp: vcpu.gpr[gpr::RBP],
            returns: false,
        };
        let reader = Reader { vcpu, memory };
        while vcpu.cpl == 0 && frames.len() < DEEPEST {
            let first = frames.len() == 1;
            let next = match &self.orc {
                Some(orc) => {
                    // The call may be a function's last instruction.
                    let at = Gva(state.ip.0 - u64::from(state.returns));
                    orc.find(at).and_then(|entry| reader.by_orc(entry, state, first))
                }
                None => reader.by_frame_pointer(state),
            };
            // A stack is left towards its end; another may lie anywhere.
            match next.filter(|next| next.ip.is_kernel() && reader.is_call_before(*next)) {
                Some(next) => state = next,
                None => break,
            }
            frames.push((state.ip, state.returns));
        }
        Stack { by, frames }
    }
}

/// A guest at one moment.
struct Reader<'a> {
    vcpu: &'a Vcpu,
    memory: &'a GuestMemory,
}

impl Reader<'_> {
    fn bytes(&self, va: u64, bytes: &mut [u8]) -> Option<()> {
        let start = Start::root(self.vcpu.root());
        for (offset, byte) in (0..).zip(bytes) {
            let va = Gva(va.wrapping_add(offset));
            let at = walk(self.memory, start, va, self.vcpu.paging()).result.ok()?.at(va);
            self.memory.read(at, std::slice::from_mut(byte)).then_some(())?;
        }
        Some(())
    }

    fn word(&self, va: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.bytes(va, &mut bytes).map(|()| u64::from_le_bytes(bytes))
    }

    /// Whether what a frame returns to is behind a call: what is not was misread.
    fn is_call_before(&self, state: State) -> bool {
        let mut bytes = [0; 7];
        let begin = state.ip.0.wrapping_sub(bytes.len() as u64);
        if !state.returns || self.bytes(begin, &mut bytes).is_none() {
            return !state.returns;
        }
        // CALL rel32, and CALL of a register or of memory, of two to seven bytes.
        let indirect = (0..=5).any(|at| bytes[at] == 0xff && bytes[at + 1] >> 3 & 7 == 2);
        bytes[2] == 0xe8 || indirect
    }

    fn by_frame_pointer(&self, state: State) -> Option<State> {
        (state.bp > state.sp).then_some(())?;
        let ip = Gva(self.word(state.bp + 8)?);
        Some(State { ip, sp: state.bp + 16, bp: self.word(state.bp)?, returns: true })
    }

    fn by_orc(&self, entry: Entry, state: State, first: bool) -> Option<State> {
        let of = |register: usize| first.then(|| self.vcpu.gpr[register]);
        let offset = |base: u64, offset: i16| base.wrapping_add(offset as u64);
        let base = match entry.sp {
            Base::Sp => offset(state.sp, entry.sp_offset),
            Base::Bp => offset(state.bp, entry.sp_offset),
            Base::SpIndirect => offset(self.word(state.sp)?, entry.sp_offset),
            Base::BpIndirect => self.word(offset(state.bp, entry.sp_offset))?,
            Base::Register(register) => offset(of(register)?, entry.sp_offset),
            Base::Undefined | Base::Previous => return None,
        };
        let (ip, sp, mut bp) = match entry.frame {
            Frame::Call => (self.word(base.wrapping_sub(8))?, base, state.bp),
            Frame::Registers => {
                let iret = base.wrapping_add(BEFORE_IRET);
                (self.word(iret)?, self.word(iret + 24)?, self.word(base + SAVED_RBP)?)
            }
            Frame::Iret => (self.word(base)?, self.word(base.wrapping_add(24))?, state.bp),
            Frame::End => return None,
        };
        match entry.bp {
            Base::Previous => bp = self.word(offset(base, entry.bp_offset))?,
            Base::Bp => bp = self.word(offset(state.bp, entry.bp_offset))?,
            _ => {}
        }
        Some(State { ip: Gva(ip), sp, bp, returns: entry.frame == Frame::Call })
    }
}
