//! The virtual processor's registers as the interpreter keeps them, and how an instruction ends in
//! a trap.

use super::flags::Flags;
use super::memory::DataMemory;
use super::uop::{ADDRESS_32, Uop, reg};
use super::xmm::Fpu;
use crate::arch::fault::vector;
use crate::arch::vcpu::{Vcpu, flags, gpr};
use crate::executor::Trap;

/// The instruction did not complete: [`Engine::trap`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trapped;

/// #SS's vector.
const STACK_FAULT: u8 = 12;
/// A page-fault error code's bit: the access was user mode's.
pub const ERROR_USER: u32 = 1 << 2;

/// The registers, and what is in front of memory.
#[derive(Debug)]
pub struct Engine {
    /// General-purpose registers, then those of [`reg`].
    pub regs: [u64; reg::COUNT],
    pub flags: Flags,
    /// DF.
    pub backwards: bool,
    pub fpu: Fpu,
    pub memory: DataMemory,
    /// Why the last instruction did not complete.
    pub trap: Trap,
    /// The trap leaves RIP behind the instruction.
    pub trap_after: bool,
    /// The breakpoint that was reported last, where nothing has completed since.
    pub reported: Option<u64>,
    /// Instructions completed since the trap before.
    pub retired: u64,
    /// So many may complete. A block's are counted as it ends, and REP has a block of its own.
    pub limit: u64,
}

impl Engine {
    pub fn new(memory: DataMemory) -> Self {
        Self {
            regs: [0; reg::COUNT],
            flags: Flags::new(0),
            backwards: false,
            fpu: Fpu::new(),
            memory,
            trap: Trap::Syscall { landed: None },
            trap_after: false,
            retired: 0,
            limit: 0,
            reported: None,
        }
    }

    /// Takes over `vcpu`'s state.
    pub fn load(&mut self, vcpu: &Vcpu) {
        self.regs[..16].copy_from_slice(&vcpu.gpr);
        self.regs[usize::from(reg::RIP)] = vcpu.rip;
        self.regs[usize::from(reg::FS)] = vcpu.fs_base;
        self.regs[usize::from(reg::GS)] = vcpu.gs_base;
        self.flags.set(vcpu.rflags);
        self.backwards = vcpu.rflags & flags::DF != 0;
        self.retired = 0;
    }

    /// Leaves the state in `vcpu`.
    pub fn store(&self, vcpu: &mut Vcpu) {
        vcpu.gpr.copy_from_slice(&self.regs[..16]);
        vcpu.rip = self.rip();
        let kept = vcpu.rflags & !(flags::ARITHMETIC | flags::DF);
        let direction = if self.backwards { flags::DF } else { 0 };
        vcpu.rflags = kept | direction | self.flags.get();
    }

    #[inline(always)]
    pub fn rip(&self) -> u64 {
        self.regs[usize::from(reg::RIP)]
    }

    #[inline(always)]
    pub fn set_rip(&mut self, rip: u64) {
        self.regs[usize::from(reg::RIP)] = rip;
    }

    /// Ends the instruction with an exception, RIP at it.
    #[cold]
    pub fn raise<T>(&mut self, vector: u8, error: u32) -> Result<T, Trapped> {
        self.trap = Trap::Exception { vector, error, address: 0 };
        Err(Trapped)
    }

    /// #GP(0).
    #[cold]
    pub fn general_protection<T>(&mut self) -> Result<T, Trapped> {
        self.raise(vector::GENERAL_PROTECTION, 0)
    }

    /// #PF for data at `address`.
    #[cold]
    pub fn page_fault<T>(
        &mut self,
        address: u64,
        write: bool,
        present: bool,
    ) -> Result<T, Trapped> {
        self.trap = Trap::Exception {
            vector: vector::PAGE_FAULT,
            error: ERROR_USER | u32::from(write) << 1 | u32::from(present),
            address,
        };
        Err(Trapped)
    }

    /// #GP(0) or #SS(0): an address that is not canonical.
    #[cold]
    pub fn not_canonical<T>(&mut self, stack: bool) -> Result<T, Trapped> {
        self.raise(if stack { STACK_FAULT } else { vector::GENERAL_PROTECTION }, 0)
    }

    /// The linear address of the memory operand.
    #[inline(always)]
    pub fn address(&self, uop: &Uop) -> u64 {
        self.address_beside(uop, 0)
    }

    /// The linear address `distance` bytes from the memory operand. A 32-bit offset wraps around
    /// before the segment's base is added.
    #[inline(always)]
    pub fn address_beside(&self, uop: &Uop, distance: u64) -> u64 {
        let mut offset = self.regs[usize::from(uop.base)]
            .wrapping_add(self.regs[usize::from(uop.index)] << uop.scale)
            .wrapping_add(uop.disp as u64)
            .wrapping_add(distance);
        if uop.bits & ADDRESS_32 != 0 {
            offset &= 0xffff_ffff;
        }
        offset.wrapping_add(self.regs[usize::from(uop.segment)])
    }

    /// A register's low `BITS` bits.
    #[inline(always)]
    pub fn read<const BITS: u32>(&self, number: u8) -> u64 {
        match BITS {
            8 if number >= reg::HIGH => self.regs[usize::from(number - reg::HIGH)] >> 8 & 0xff,
            64 => self.regs[usize::from(number)],
            _ => self.regs[usize::from(number)] & mask::<BITS>(),
        }
    }

    /// Writes a register's low `BITS` bits; 32 clear the upper half, fewer leave the rest.
    #[inline(always)]
    pub fn write<const BITS: u32>(&mut self, number: u8, value: u64) {
        match BITS {
            8 if number >= reg::HIGH => {
                let register = &mut self.regs[usize::from(number - reg::HIGH)];
                *register = *register & !0xff00 | (value & 0xff) << 8;
            }
            8 | 16 => {
                let register = &mut self.regs[usize::from(number)];
                *register = *register & !mask::<BITS>() | value & mask::<BITS>();
            }
            _ => self.regs[usize::from(number)] = value & mask::<BITS>(),
        }
    }

    /// RSP.
    #[inline(always)]
    pub fn rsp(&self) -> u64 {
        self.regs[gpr::RSP]
    }
}

/// The low `BITS` bits.
#[inline(always)]
pub const fn mask<const BITS: u32>() -> u64 {
    u64::MAX >> (64 - BITS)
}

/// `value`'s low `BITS` bits, sign-extended.
#[inline(always)]
pub const fn extend<const BITS: u32>(value: u64) -> u64 {
    ((value << (64 - BITS)) as i64 >> (64 - BITS)) as u64
}
