//! What CPUID says on the modelled processor.

use super::features::MAX_PHYSICAL_BITS;
use super::vcpu::Vcpu;

/// How a processor describes itself, beside its features for paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The vendor's twelve letters.
    pub vendor: [u8; 12],
    /// Family, model and stepping, as leaf 1 has them in EAX.
    pub signature: u32,
    /// RDTSC exists.
    pub tsc: bool,
    /// IA32_PAT exists.
    pub pat: bool,
    /// CMPXCHG16B exists.
    pub cmpxchg16b: bool,
    /// LAHF and SAHF exist in 64-bit mode.
    pub lahf: bool,
    /// A local APIC exists, whose timer goes by TSC deadlines and never stops.
    pub apic: bool,
}

impl Identity {
    /// What the project's own guest finds: paging features, and SSE2 as every x86-64 processor has.
    pub const PLAIN: Self = Self {
        vendor: *b"StalemateCPU",
        signature: 0,
        tsc: false,
        pat: false,
        cmpxchg16b: false,
        lahf: false,
        apic: false,
    };
    /// What a kernel expects that is distributed: of no vendor whose registers it would then use.
    pub const COMPLETE: Self = Self {
        signature: 0x611,
        tsc: true,
        pat: true,
        cmpxchg16b: true,
        lahf: true,
        ..Self::PLAIN
    };
}

impl Vcpu {
    /// EAX, EBX, ECX, EDX for `leaf` and `subleaf` (SDM vol. 2, CPUID).
    #[must_use]
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let Self { identity, features, .. } = self;
        let bit = |has: bool, bit: u32| u32::from(has) << bit;
        match (leaf, subleaf) {
            (0, _) => {
                let [a, b, c] = [0, 4, 8].map(|at| {
                    let mut word = [0; 4];
                    word.copy_from_slice(&identity.vendor[at..at + 4]);
                    u32::from_le_bytes(word)
                });
                [7, a, c, b]
            }
            (1, _) => {
                // FPU, PSE, MSR, PAE, CX8, CMOV, FXSR, SSE, SSE2.
                let base = 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 15 | 7 << 24;
                let edx = bit(identity.tsc, 4) | bit(features.pge, 13) | bit(identity.pat, 16);
                let ecx = bit(identity.cmpxchg16b, 13) | bit(features.pcid, 17);
                let (apic, deadline) = (bit(identity.apic, 9), bit(identity.apic, 24));
                let id = if identity.apic { u32::from(self.id.0) << 24 } else { 0 };
                [identity.signature, id, ecx | deadline, base | edx | apic]
            }
            // ARAT.
            (6, _) => [bit(identity.apic, 2), 0, 0, 0],
            (7, 0) => [0, bit(features.smep, 7) | bit(features.invpcid, 10), 0, 0],
            (0x8000_0000, _) => [0x8000_0008, 0, 0, 0],
            (0x8000_0001, _) => {
                // SYSCALL, NX, 1 GiB pages, long mode.
                let edx = 1 << 11 | 1 << 20 | bit(features.gib_pages, 26) | 1 << 29;
                [0, 0, bit(identity.lahf, 0), edx]
            }
            (0x8000_0008, _) => [MAX_PHYSICAL_BITS | 48 << 8, 0, 0, 0],
            _ => [0; 4],
        }
    }
}
