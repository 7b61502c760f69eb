//! The state of one virtual CPU, as software at virtual CPL 0 sees it.

use super::addr::{CpuId, Gpa, Gva, Pcid};
use super::apic::Apic;
use super::cpuid::Identity;
use super::cr3;
use super::debug::DebugRegisters;
use super::features::{CpuFeatures, Paging};
use super::segment::DataSegment;

/// Numbers of the general-purpose registers in [`Vcpu::gpr`], as instructions encode them.
#[allow(missing_docs)]
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R11: usize = 11;
}

/// Bits of RFLAGS.
pub mod flags {
    /// CF, PF, AF, ZF, SF, OF.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
    /// Carry.
    pub const CF: u64 = 1;
    /// Always 1.
    pub const FIXED: u64 = 2;
    /// Parity.
    pub const PF: u64 = 1 << 2;
    /// Auxiliary carry.
    pub const AF: u64 = 1 << 4;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Trap (single step).
    pub const TF: u64 = 1 << 8;
    /// Interrupts enabled.
    pub const IF: u64 = 1 << 9;
    /// Direction.
    pub const DF: u64 = 1 << 10;
    /// Overflow.
    pub const OF: u64 = 1 << 11;
    /// I/O privilege level.
    pub const IOPL: u64 = 3 << 12;
    /// Nested task.
    pub const NT: u64 = 1 << 14;
    /// Resume.
    pub const RF: u64 = 1 << 16;
    /// Virtual-8086 mode.
    pub const VM: u64 = 1 << 17;
    /// Alignment check.
    pub const AC: u64 = 1 << 18;
    /// What IRET, SYSRET and SYSCALL can load: everything defined but VM and VIF/VIP.
    pub const LOADABLE: u64 = 0x0024_7fd5;
}

/// Bits of CR0.
#[allow(missing_docs)]
pub mod cr0 {
    pub const PE: u64 = 1;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
    /// What a load keeps of its operand; other bits below 32 stay 0.
    pub const DEFINED: u64 = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;
}

/// Bits of CR4.
#[allow(missing_docs)]
pub mod cr4 {
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const PGE: u64 = 1 << 7;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const PCIDE: u64 = 1 << 17;
    pub const SMEP: u64 = 1 << 20;
}

/// IA32_PAT after a reset (SDM vol. 3, 12.12.4).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// Bits of EFER.
#[allow(missing_docs)]
pub mod efer {
    pub const SCE: u64 = 1;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

/// Base and limit of a descriptor table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DescriptorTable {
    /// Linear address of the first descriptor.
    pub base: u64,
    /// Offset of the last valid byte.
    pub limit: u16,
}

/// One virtual CPU.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vcpu {
    /// Its number.
    pub id: CpuId,
    /// What it has.
    pub features: CpuFeatures,
    /// How it describes itself.
    pub identity: Identity,
    /// General-purpose registers in encoding order.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Virtual RFLAGS: all of them, not only those that the executor holds.
    pub rflags: u64,
    /// Virtual current privilege level, 0 or 3.
    pub cpl: u8,
    /// Code selector.
    pub cs: u16,
    /// Stack selector.
    pub ss: u16,
    /// DS.
    pub ds: DataSegment,
    /// ES.
    pub es: DataSegment,
    /// FS.
    pub fs: DataSegment,
    /// GS.
    pub gs: DataSegment,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3; bit 63 is never stored.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR, which no 64-bit code uses.
    pub cstar: u64,
    /// IA32_FMASK.
    pub sfmask: u64,
    /// IA32_PAT. No memory type is modelled.
    pub pat: u64,
    /// IA32_SYSENTER_CS, ESP and EIP, which are kept and not used.
    pub sysenter: [u64; 3],
    /// FS base.
    pub fs_base: u64,
    /// GS base in use.
    pub gs_base: u64,
    /// IA32_KERNEL_GS_BASE: what SWAPGS exchanges it with.
    pub kernel_gs_base: u64,
    /// GDTR.
    pub gdt: DescriptorTable,
    /// IDTR.
    pub idt: DescriptorTable,
    /// Base of the task-state segment.
    pub tss_base: u64,
    /// Limit of the task-state segment; 0 before LTR.
    pub tss_limit: u32,
    /// Task register.
    pub tr: u16,
    /// DR0 to DR7.
    pub debug: DebugRegisters,
    /// NMIs are blocked until IRET (SDM vol. 3, 6.7.1).
    pub nmi_blocked: bool,
    /// An NMI waits for the next instruction boundary.
    pub nmi_pending: bool,
    /// Its local APIC.
    pub apic: Apic,
    /// HLT was executed: nothing is, until an interrupt that can be delivered comes.
    pub halted: bool,
    /// STI has just set IF: interrupts wait for one more instruction (SDM vol. 2, STI).
    pub sti_shadow: bool,
}

impl Vcpu {
    /// A virtual CPU in long mode with paging on, about to execute `entry` at virtual CPL 0. Its
    /// selectors are null and its identity is plain: who needs others sets them.
    #[must_use]
    pub fn long_mode(id: CpuId, features: CpuFeatures, entry: u64, cr3: u64) -> Self {
        Self {
            id,
            features,
            identity: Identity::PLAIN,
            gpr: [0; 16],
            rip: entry,
            rflags: flags::FIXED,
            cpl: 0,
            cs: 0,
            ss: 0,
            ds: DataSegment::default(),
            es: DataSegment::default(),
            fs: DataSegment::default(),
            gs: DataSegment::default(),
            cr0: cr0::PE | cr0::ET | cr0::NE | cr0::WP | cr0::PG,
            cr2: 0,
            cr3,
            cr4: cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT,
            efer: efer::LME | efer::LMA | efer::NXE,
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            pat: PAT_RESET,
            sysenter: [0; 3],
            fs_base: 0,
            gs_base: 0,
            kernel_gs_base: 0,
            gdt: DescriptorTable::default(),
            idt: DescriptorTable::default(),
            tss_base: 0,
            tss_limit: 0,
            tr: 0,
            debug: DebugRegisters::default(),
            nmi_blocked: false,
            nmi_pending: false,
            apic: Apic::default(),
            halted: false,
            sti_shadow: false,
        }
    }

    /// The control bits that translation depends on.
    #[must_use]
    pub fn paging(&self) -> Paging {
        Paging::of(self.features, self.cr0, self.cr4, self.efer)
    }

    /// The PCID that tags new entries (0 with CR4.PCIDE clear).
    #[must_use]
    pub fn pcid(&self) -> Pcid {
        cr3::pcid(self.cr3, self.cr4 & cr4::PCIDE != 0)
    }

    /// The root table in CR3.
    #[must_use]
    pub fn root(&self) -> Gpa {
        cr3::root(self.cr3)
    }

    /// Whether an NMI or interrupt that waits can be delivered.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.nmi_pending && !self.nmi_blocked
            || self.rflags & flags::IF != 0 && self.apic.deliverable().is_some()
    }

    /// RIP as an address.
    #[must_use]
    pub fn rip(&self) -> Gva {
        Gva(self.rip)
    }
}
