//! What a trace says before its first event, for the rules to judge it.

use super::Announcement;
use crate::arch::addr::{Gpa, Gva, Pcid};
use crate::arch::cr3;
use crate::arch::features::CpuFeatures;
use crate::arch::tlb::TlbModel;
use serde::{Deserialize, Serialize};

/// The state that the first event meets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceHeader {
    /// Fill choice and structure caches of the modelled TLB.
    pub model: TlbModel,
    /// What the processors have.
    pub features: CpuFeatures,
    /// The processors, by number.
    pub cpus: Vec<CpuHeader>,
    /// What is known of the kernel.
    pub kernel: KernelAbout,
}

/// One processor as the first event meets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuHeader {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

/// What is known of a kernel: what it has said of itself, never what it was asked to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelAbout {
    /// Nobody hands it steps and it announces nothing: what is due when, its tasks say.
    #[serde(default)]
    pub runs_freely: bool,
    /// Page-table isolation: user mode runs on roots of its own.
    pub isolated: bool,
    /// How it tells user roots and user PCIDs from the kernel's.
    pub pairing: Option<Pairing>,
    /// The PCIDs of each ASID slot.
    pub slots: Vec<SlotPcids>,
    /// What user roots map of the kernel half: ranges, end exclusive.
    pub trampoline: Vec<(Gva, Gva)>,
    /// Where it has all memory mapped for itself, end exclusive: that a frame is mapped there means
    /// nothing.
    pub direct_map: (Gva, Gva),
    /// Kernel addresses whose flush waits until they are mapped anew, end exclusive; their frames may be
    /// given back before.
    #[serde(default)]
    pub wait_for_reuse: Vec<(Gva, Gva)>,
    /// What it had announced before the first event.
    pub state: Vec<Announcement>,
}

/// The bits of CR3 that tell what is user mode's from what is the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairing {
    /// Set in the address of a user root; its kernel root's is the same but for that.
    pub root_bit: u64,
    /// Set in a user PCID; its kernel PCID's is the same but for that.
    pub pcid_bit: u64,
}

impl Pairing {
    /// Whether a value of CR3 has a user PCID.
    #[must_use]
    pub fn is_user_pcid(self, cr3: u64) -> bool {
        cr3 & self.pcid_bit != 0
    }

    /// Whether a value of CR3 has a user root.
    #[must_use]
    pub fn is_user_root(self, cr3: u64) -> bool {
        cr3 & self.root_bit != 0
    }
}

/// The PCIDs of one ASID slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotPcids {
    /// Of the kernel root.
    pub kernel: Pcid,
    /// Of the user root.
    pub user: Pcid,
}

impl KernelAbout {
    /// Whether a kernel that runs freely, and has not been seen to isolate page tables yet, may be
    /// doing so: it loads `value` after `old`, and goes from a root to the one that would be the
    /// other of its pair. Two roots that are neighbours by chance look the same.
    #[must_use]
    pub fn may_isolate(&self, old: u64, value: u64) -> bool {
        let Some(pairing) = self.pairing.filter(|_| self.runs_freely && !self.isolated) else {
            return false;
        };
        let both = pairing.root_bit | pairing.pcid_bit;
        let kept = cr3::ROOT_MASK | cr3::PCID_MASK;
        (old ^ value) & kept == both || (old ^ value) & kept == pairing.root_bit
    }

    /// Whether a value of CR3 has a user PCID.
    #[must_use]
    pub fn is_user_pcid(&self, cr3: u64) -> bool {
        self.pairing.is_some_and(|pairing| pairing.is_user_pcid(cr3))
    }

    /// Whether a value of CR3 has a user root.
    #[must_use]
    pub fn is_user_root(&self, cr3: u64) -> bool {
        self.isolated && self.pairing.is_some_and(|pairing| pairing.is_user_root(cr3))
    }

    /// The kernel root of the address space that `root`, of either kind, belongs to.
    #[must_use]
    pub fn kernel_root(&self, root: Gpa) -> Gpa {
        match self.pairing {
            Some(pairing) if self.isolated => Gpa(root.0 & !pairing.root_bit),
            _ => root,
        }
    }
}
