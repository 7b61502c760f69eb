//! What CPUID says on the modelled processor.

use super::features::CpuFeatures;

impl CpuFeatures {
    /// EAX, EBX, ECX, EDX for `leaf` and `subleaf` (SDM vol. 2, CPUID). Only what a kernel of
    /// this kind asks for is reported: paging features, and SSE2 as every x86-64 processor has.
    #[must_use]
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let bit = |has: bool, bit: u32| u32::from(has) << bit;
        match (leaf, subleaf) {
            (0, _) => {
                let [ebx, edx, ecx] = [*b"Stal", *b"emat", *b"eCPU"].map(u32::from_le_bytes);
                [7, ebx, ecx, edx]
            }
            (1, _) => {
                // FPU, PSE, MSR, PAE, CX8, CMOV, FXSR, SSE, SSE2.
                let base = 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 15 | 7 << 24;
                [0, 0, bit(self.pcid, 17), base | bit(self.pge, 13)]
            }
            (7, 0) => [0, bit(self.smep, 7) | bit(self.invpcid, 10), 0, 0],
            (0x8000_0000, _) => [0x8000_0008, 0, 0, 0],
            // SYSCALL, NX, 1 GiB pages, long mode.
            (0x8000_0001, _) => [0, 0, 0, 1 << 11 | 1 << 20 | bit(self.gib_pages, 26) | 1 << 29],
            (0x8000_0008, _) => [super::features::MAX_PHYSICAL_BITS | 48 << 8, 0, 0, 0],
            _ => [0; 4],
        }
    }
}
