//! Sensitive instructions that need no privilege: a processor runs them at CPL 3 and shows its
//! own state, so they are the model's to carry out wherever an executor traps them.

use super::addr::Gva;
use super::core::Core;
use super::fault::{Fault, Stop};
use super::vcpu::{DescriptorTable, cr0, flags, gpr};
use super::walk::AccessKind;

/// What SLDT, STR, SMSW and MOV from a segment register read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// LDTR: null.
    Ldtr,
    /// The task register.
    Tr,
    /// CR0, or its low 16 bits.
    Msw,
    /// CS.
    Cs,
    /// SS.
    Ss,
    /// DS.
    Ds,
    /// ES.
    Es,
    /// FS.
    Fs,
    /// GS.
    Gs,
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
        self.check_alignment()
    }

    /// No executor checks alignment: user mode that asks for it goes no further.
    pub(super) fn check_alignment(&self) -> Result<(), Fault> {
        let vcpu = &self.vcpu;
        if vcpu.cpl == 3 && vcpu.cr0 & cr0::AM != 0 && vcpu.rflags & flags::AC != 0 {
            let what = "alignment checks in user mode (CR0.AM and RFLAGS.AC)".to_owned();
            return Err(Stop::NotModelled(what).into());
        }
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

    /// The low `size` bytes of a register; 4 clear the upper half.
    pub(super) fn write_register(&mut self, number: usize, size: usize, value: u64) {
        let register = &mut self.vcpu.gpr[number];
        *register = match size {
            1 => *register & !0xff | value & 0xff,
            2 => *register & !0xffff | value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        };
    }

    /// SLDT, STR, SMSW, MOV from a segment register.
    pub(super) fn store_system_word(
        &mut self,
        word: Word,
        destination: Destination,
    ) -> Result<(), Fault> {
        let value = match word {
            Word::Ldtr => 0,
            Word::Tr => u64::from(self.vcpu.tr),
            Word::Msw => self.vcpu.cr0 | cr0::ET,
            Word::Cs => u64::from(self.vcpu.cs),
            Word::Ss => u64::from(self.vcpu.ss),
            Word::Ds => u64::from(self.vcpu.ds.selector),
            Word::Es => u64::from(self.vcpu.es.selector),
            Word::Fs => u64::from(self.vcpu.fs.selector),
            Word::Gs => u64::from(self.vcpu.gs.selector),
        };
        match destination {
            Destination::Register { number, size } => {
                self.write_register(number, size, value);
                Ok(())
            }
            Destination::Memory(at) => {
                let access = self.access(AccessKind::Write);
                self.write(at, &(value as u16).to_le_bytes(), access)
            }
        }
    }
}
