//! Variables of which each CPU has its own, so far from its GS base.

use crate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use crate::arch::core::Memory;
use crate::arch::vcpu::Vcpu;
use crate::arch::walk::{Start, walk};
use crate::event::Announcement;
use crate::memory::GuestMemory;

/// CPUs at most.
const MOST_CPUS: usize = 8;

/// Where eight bytes of each CPU are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerCpu {
    offset: u64,
    /// Each CPU's last GS base, and where the bytes were: its variables stay where they are.
    last: [Option<(u64, Gpa)>; MOST_CPUS],
}

impl PerCpu {
    /// Those that are so far from the GS base.
    #[must_use]
    pub fn at(offset: u64) -> Self {
        Self { offset, last: [None; MOST_CPUS] }
    }

    /// The bytes of this CPU; none in user mode, and before the kernel has a GS base.
    pub(super) fn read(&mut self, vcpu: &Vcpu, memory: &GuestMemory) -> Option<u64> {
        // User mode's own base is there until the entry has swapped it.
        let base = vcpu.gs_base;
        if vcpu.cpl != 0 || !Gva(base).is_kernel() {
            return None;
        }
        let last = self.last.get_mut(usize::from(vcpu.id.0))?;
        let at = match *last {
            Some((known, at)) if known == base => at,
            _ => {
                let va = Gva(base.wrapping_add(self.offset));
                let walked = walk(memory, Start::root(vcpu.root()), va, vcpu.paging());
                let at = walked.result.ok()?.at(va);
                *last = Some((base, at));
                at
            }
        };
        Self::word(at, memory)
    }

    /// The bytes of a CPU, where they were found before.
    fn of(&self, cpu: CpuId, memory: &GuestMemory) -> Option<u64> {
        let (_, at) = (*self.last.get(usize::from(cpu.0))?)?;
        Self::word(at, memory)
    }

    fn word(at: Gpa, memory: &GuestMemory) -> Option<u64> {
        let mut bytes = [0; 8];
        memory.read(at, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }
}

/// The CPUs that run a kernel thread on the tables of the task before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LazyCpus {
    /// A byte, 1 while it does.
    word: PerCpu,
    seen: [bool; MOST_CPUS],
}

impl LazyCpus {
    /// None yet, in these words.
    #[must_use]
    pub fn new(word: PerCpu) -> Self {
        Self { word, seen: [false; MOST_CPUS] }
    }

    /// What has changed since it was last looked at, of any CPU: what the others have stored, no trap of
    /// theirs has shown.
    pub(super) fn changed(&mut self, vcpu: &Vcpu, memory: &GuestMemory) -> Vec<Announcement> {
        self.word.read(vcpu, memory);
        let mut says = Vec::new();
        for (cpu, seen) in (0..).map(CpuId).zip(&mut self.seen) {
            let lazy = self.word.of(cpu, memory).is_some_and(|word| word & 0xff != 0);
            if std::mem::replace(seen, lazy) != lazy {
                says.push(Announcement::Lazy { cpu, lazy });
            }
        }
        says
    }
}

/// The user PCIDs that each CPU has marked: whoever next loads one of them flushes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// A mask: the bit of a kernel PCID stands for the user PCID of its slot.
    pub mask: PerCpu,
    /// How many slots there are: their kernel PCIDs begin at 1.
    pub slots: u16,
    seen: [u64; MOST_CPUS],
}

impl Marks {
    /// None yet, in this mask.
    #[must_use]
    pub fn new(mask: PerCpu, slots: u16) -> Self {
        Self { mask, slots, seen: [0; MOST_CPUS] }
    }

    /// What has changed since the mask was last looked at.
    pub(super) fn changed(
        &mut self,
        vcpu: &Vcpu,
        memory: &GuestMemory,
        user_pcid_bit: u64,
    ) -> Vec<Announcement> {
        let Some(word) = self.mask.read(vcpu, memory) else { return Vec::new() };
        let mask = word & ((1 << (self.slots + 1)) - 1);
        let Some(seen) = self.seen.get_mut(usize::from(vcpu.id.0)) else { return Vec::new() };
        let changed = std::mem::replace(seen, mask) ^ mask;
        let says = |bit: u16| {
            let (cpu, pcid) = (vcpu.id, Pcid::new(bit | user_pcid_bit as u16));
            match mask & 1 << bit {
                0 => Announcement::Unmarked { cpu, pcid },
                _ => Announcement::Marked { cpu, pcid },
            }
        };
        (0..=self.slots).filter(|bit| changed & 1 << bit != 0).map(says).collect()
    }
}
