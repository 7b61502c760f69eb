//! The model-specific registers: those of SYSCALL and SYSENTER, of FS and GS, EFER, PAT, and the x2APIC, by which CPUs
//! interrupt each other.

use super::addr::{CpuId, Gva};
use super::apic::{Command, msr as x2apic};
use super::core::Core;
use super::fault::{Exception, Fault, Stop};
use super::happened::Happened;
use super::tlb::Scope;
use super::vcpu::{Vcpu, efer, gpr};

// The registers that the guest may use, besides the x2APIC's.
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_EIP: u32 = 0x176;
const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const FMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;

const GP: Exception = Exception::general_protection(0);

/// Bits of IA32_APIC_BASE.
const APIC_BASE_BSP: u64 = 1 << 8;
const APIC_BASE_EXTD: u64 = 1 << 10;
const APIC_BASE_ENABLE: u64 = 1 << 11;
const APIC_BASE_ADDRESS: u64 = 0xfee0_0000;

/// Whether each of the eight memory types exists (SDM vol. 3, 12.12.2).
fn is_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

impl Vcpu {
    /// Whether RDMSR and WRMSR of `register` are this model's to answer, be it by a fault.
    #[must_use]
    pub fn has_msr(&self, register: u32) -> bool {
        match register {
            PAT => self.identity.pat,
            EFER | STAR | LSTAR | CSTAR | FMASK | FS_BASE | GS_BASE | KERNEL_GS_BASE => true,
            SYSENTER_CS..=SYSENTER_EIP | x2apic::APIC_BASE => true,
            x2apic::FIRST..=x2apic::LAST => self.apic.x2apic,
            _ => false,
        }
    }
}

impl Core<'_> {
    /// RDMSR of a register that the board answers with `value`.
    pub fn read_msr(&mut self, value: u64, next: u64) {
        self.vcpu.gpr[gpr::RAX] = value & 0xffff_ffff;
        self.vcpu.gpr[gpr::RDX] = value >> 32;
        self.vcpu.rip = next;
        self.other("RDMSR");
    }

    /// WRMSR of a register that the board has taken.
    pub fn written_msr(&mut self, next: u64) {
        self.vcpu.rip = next;
        self.other("WRMSR");
    }

    pub(super) fn rdmsr(&mut self, register: u32) -> Result<(), Fault> {
        let vcpu = &mut self.vcpu;
        let value = match register {
            EFER => vcpu.efer,
            STAR => vcpu.star,
            LSTAR => vcpu.lstar,
            CSTAR => vcpu.cstar,
            PAT if vcpu.identity.pat => vcpu.pat,
            SYSENTER_CS..=SYSENTER_EIP => vcpu.sysenter[(register - SYSENTER_CS) as usize],
            FMASK => vcpu.sfmask,
            FS_BASE => vcpu.fs_base,
            GS_BASE => vcpu.gs_base,
            KERNEL_GS_BASE => vcpu.kernel_gs_base,
            x2apic::APIC_BASE => {
                let first = if vcpu.id.0 == 0 { APIC_BASE_BSP } else { 0 };
                let mode = if vcpu.apic.x2apic { APIC_BASE_EXTD } else { 0 };
                APIC_BASE_ADDRESS | APIC_BASE_ENABLE | first | mode
            }
            x2apic::ID if vcpu.apic.x2apic => u64::from(vcpu.id.0),
            x2apic::TPR if vcpu.apic.x2apic => u64::from(vcpu.apic.tpr),
            x2apic::SPURIOUS if vcpu.apic.x2apic => u64::from(vcpu.apic.spurious),
            _ => return Err(GP.into()),
        };
        vcpu.gpr[gpr::RAX] = value & 0xffff_ffff;
        vcpu.gpr[gpr::RDX] = value >> 32;
        self.other("RDMSR");
        Ok(())
    }

    pub(super) fn wrmsr(&mut self, register: u32, value: u64) -> Result<(), Fault> {
        let canonical = Gva(value).is_canonical();
        let vcpu = &mut self.vcpu;
        match register {
            EFER => return self.write_efer(value),
            STAR => vcpu.star = value,
            LSTAR if canonical => vcpu.lstar = value,
            CSTAR if canonical => vcpu.cstar = value,
            PAT if vcpu.identity.pat && is_pat(value) => vcpu.pat = value,
            SYSENTER_CS => vcpu.sysenter[0] = value & 0xffff_ffff,
            SYSENTER_CS..=SYSENTER_EIP if canonical => {
                vcpu.sysenter[(register - SYSENTER_CS) as usize] = value;
            }
            FMASK if value >> 32 == 0 => vcpu.sfmask = value,
            FS_BASE if canonical => vcpu.fs_base = value,
            GS_BASE if canonical => vcpu.gs_base = value,
            KERNEL_GS_BASE if canonical => vcpu.kernel_gs_base = value,
            x2apic::APIC_BASE if value & APIC_BASE_ENABLE != 0 => {
                vcpu.apic.x2apic = value & APIC_BASE_EXTD != 0;
            }
            _ if vcpu.apic.x2apic => return self.write_apic(register, value),
            _ => return Err(GP.into()),
        }
        self.other("WRMSR");
        Ok(())
    }

    /// A register of the x2APIC.
    fn write_apic(&mut self, register: u32, value: u64) -> Result<(), Fault> {
        let apic = &mut self.vcpu.apic;
        match register {
            x2apic::TPR if value >> 8 == 0 => apic.tpr = value as u8,
            x2apic::SPURIOUS if value >> 32 == 0 => apic.spurious = value as u32,
            // Only 0 may be written (SDM vol. 3, 11.12.1.2).
            x2apic::EOI if value == 0 => {
                apic.end_of_interrupt();
                self.other("EOI");
                return Ok(());
            }
            x2apic::SELF_IPI if value >> 8 == 0 => {
                self.send(Command::to_itself(value as u8));
                return Ok(());
            }
            x2apic::ICR => {
                let Some(command) = Command::read(value) else {
                    let what = format!("ICR set to {value:#x}: only fixed interrupts and NMIs");
                    return Err(Stop::NotModelled(what).into());
                };
                self.send(command);
                return Ok(());
            }
            _ => return Err(GP.into()),
        }
        self.other("WRMSR");
        Ok(())
    }

    /// Sends an interrupt: to the APICs that it reaches, in the order of their numbers.
    fn send(&mut self, command: Command) {
        if !command.is_legal() {
            self.other("WRMSR");
            return;
        }
        let from = self.vcpu.id;
        let mut cpus: Vec<_> = self.remote.iter().map(|remote| remote.vcpu.id).collect();
        cpus.push(from);
        cpus.sort_unstable();
        for to in cpus.into_iter().filter(|&to| command.reaches(from, to)) {
            self.emit(Happened::Ipi { to, vector: command.vector, nmi: command.nmi });
            self.interrupt(to, command);
        }
    }

    fn interrupt(&mut self, to: CpuId, command: Command) {
        let remote = self.remote.iter_mut().find(|remote| remote.vcpu.id == to);
        let vcpu = remote.map_or(&mut *self.vcpu, |remote| &mut *remote.vcpu);
        if command.nmi {
            vcpu.nmi_pending = true;
        } else {
            vcpu.apic.request(command.vector);
        }
    }

    fn write_efer(&mut self, value: u64) -> Result<(), Fault> {
        let allowed = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        let old = self.vcpu.efer;
        // LME cannot change while paging is on (SDM vol. 3, 9.8.5); LMA is read-only.
        if value & !allowed != 0 || (value ^ old) & efer::LME != 0 {
            return Err(GP.into());
        }
        let new = value & !efer::LMA | old & efer::LMA;
        self.vcpu.efer = new;
        self.emit(Happened::WriteEfer { old, new });
        if (old ^ new) & efer::NXE != 0 {
            self.revalidate(Scope::Everything);
            self.speculate();
        }
        Ok(())
    }
}
