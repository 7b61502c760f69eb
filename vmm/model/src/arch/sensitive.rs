//! Sensitive instructions that need no privilege: a processor runs them at CPL 3 and shows its
//! own state, so they are the model's to carry out wherever an executor traps them.

use super::addr::Gva;
use super::core::Core;
use super::fault::Fault;
use super::vcpu::{DescriptorTable, cr0, flags, gpr};
use super::walk::AccessKind;

/// What SLDT, STR, SMSW and MOV from a segment register read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// LDTR: never loaded.
    Ldtr,
    /// The task register.
    Tr,
    /// CR0, or its low 16 bits.
    Msw,
    /// CS.
    Cs,
    /// SS.
    Ss,
    /// DS, ES, FS and GS: never loaded.
    Null,
}

/// Where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The low bytes of a [`super::vcpu::Vcpu::gpr`]; 4 clear the upper half.
    Register {
        /// Which.
        number: usize,
        /// How many bytes.
        size: usize,
    },
    /// Two bytes in memory.
    Memory(Gva),
}

impl Core<'_> {
    /// PUSHFQ. RF and VM are pushed as 0 (SDM vol. 2, PUSHF).
    pub(super) fn push_flags(&mut self) -> Result<(), Fault> {
        let rsp = self.vcpu.gpr[gpr::RSP].wrapping_sub(8);
        let image = self.vcpu.rflags & !(flags::RF | flags::VM);
        let access = self.access(AccessKind::Write);
        self.write(Gva(rsp), &image.to_le_bytes(), access)?;
        self.vcpu.gpr[gpr::RSP] = rsp;
        Ok(())
    }

    /// POPFQ. IOPL is CPL 0's to change, and IF that of code at IOPL or below (SDM vol. 2, POPF).
    pub(super) fn pop_flags(&mut self) -> Result<(), Fault> {
        let rsp = self.vcpu.gpr[gpr::RSP];
        let access = self.access(AccessKind::Read);
        let image = self.read_u64(Gva(rsp), access)?;
        self.vcpu.gpr[gpr::RSP] = rsp.wrapping_add(8);
        let iopl = (self.vcpu.rflags & flags::IOPL) >> 12;
        let mut loaded = flags::LOADABLE & !flags::RF;
        if self.vcpu.cpl != 0 {
            loaded &= !flags::IOPL;
        }
        if u64::from(self.vcpu.cpl) > iopl {
            loaded &= !flags::IF;
        }
        self.vcpu.rflags = self.vcpu.rflags & !(loaded | flags::RF) | image & loaded | flags::FIXED;
        Ok(())
    }

    /// SGDT and SIDT: limit, then base.
    pub(super) fn store_table(&mut self, table: DescriptorTable, at: Gva) -> Result<(), Fault> {
        let mut image = [0; 10];
        image[..2].copy_from_slice(&table.limit.to_le_bytes());
        image[2..].copy_from_slice(&table.base.to_le_bytes());
        let access = self.access(AccessKind::Write);
        self.write(at, &image, access)
    }

    /// SLDT, STR, SMSW, MOV from a segment register.
    pub(super) fn store_system_word(
        &mut self,
        word: Word,
        destination: Destination,
    ) -> Result<(), Fault> {
        let value = match word {
            Word::Ldtr | Word::Null => 0,
            Word::Tr => u64::from(self.vcpu.tr),
            Word::Msw => self.vcpu.cr0 | cr0::ET,
            Word::Cs => u64::from(self.vcpu.cs),
            Word::Ss => u64::from(self.vcpu.ss),
        };
        match destination {
            Destination::Register { number, size } => {
                let old = self.vcpu.gpr[number];
                self.vcpu.gpr[number] = match size {
                    2 => old & !0xffff | value & 0xffff,
                    4 => value & 0xffff_ffff,
                    _ => value,
                };
                Ok(())
            }
            Destination::Memory(at) => {
                let access = self.access(AccessKind::Write);
                self.write(at, &(value as u16).to_le_bytes(), access)
            }
        }
    }
}
