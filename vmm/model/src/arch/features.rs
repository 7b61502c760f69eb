//! What the modelled processor has, and which of its control bits bear on translation.

use super::vcpu::{cr0, cr4, efer};
use serde::{Deserialize, Serialize};

/// Physical-address width of the modelled processor, in bits.
pub const MAX_PHYSICAL_BITS: u32 = 40;

/// The optional features of the modelled processor.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct CpuFeatures {
    /// CR4.PCIDE can be set.
    pub pcid: bool,
    /// INVPCID exists.
    pub invpcid: bool,
    /// CR4.PGE can be set.
    pub pge: bool,
    /// CR4.SMEP can be set.
    pub smep: bool,
    /// PDPTEs can map 1 GiB pages.
    pub gib_pages: bool,
}

impl CpuFeatures {
    /// The names of those it has, of which processors differ.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let all = [
            (self.pcid, "PCID"),
            (self.invpcid, "INVPCID"),
            (self.pge, "PGE"),
            (self.smep, "SMEP"),
        ];
        all.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect()
    }
}

/// What a processor does wrong.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Errata {
    /// With CR4.PCIDE=1 INVLPG leaves global entries (Intel ADL063, RPL042).
    pub invlpg_keeps_globals: bool,
    /// INVPCID raises #GP although CPUID has it.
    pub invpcid_gp: bool,
}

/// The control bits that translation depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Paging {
    /// CR4.PCIDE.
    pub pcide: bool,
    /// CR4.PGE: the G bit counts.
    pub pge: bool,
    /// CR0.WP: supervisor stores honour R/W.
    pub wp: bool,
    /// CR4.SMEP: no supervisor fetch from user pages.
    pub smep: bool,
    /// EFER.NXE: the XD bit counts.
    pub nxe: bool,
    /// PS in a PDPTE is not reserved.
    pub gib_pages: bool,
}

impl Paging {
    /// Whether walks give the same under `other`; what they let an access do may differ.
    #[must_use]
    pub fn walks_like(&self, other: Self) -> bool {
        (self.pge, self.nxe, self.gib_pages) == (other.pge, other.nxe, other.gib_pages)
    }

    /// Picks the bits from what the processor has, and from its registers.
    #[must_use]
    pub const fn of(features: CpuFeatures, cr0: u64, cr4: u64, efer: u64) -> Self {
        Self {
            pcide: cr4 & cr4::PCIDE != 0,
            pge: cr4 & cr4::PGE != 0,
            wp: cr0 & cr0::WP != 0,
            smep: cr4 & cr4::SMEP != 0,
            nxe: efer & efer::NXE != 0,
            gib_pages: features.gib_pages,
        }
    }
}
