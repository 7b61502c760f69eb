//! Programs: what a guest does, drawn from a seed.

use super::layout::{self, Slot};
use crate::arch::addr::{Gpa, Gva, Pcid};
use crate::arch::cr3::NOFLUSH;
use crate::arch::features::CpuFeatures;
use crate::arch::tlb::split_mix;
use crate::arch::vcpu::cr4;
use crate::arch::walk::{Access, AccessKind, entry};
use std::fmt;

/// Actions of a program.
pub const ACTIONS: usize = 1000;
/// PCIDs that programs use.
const PCIDS: u64 = 3;

/// One thing that the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A store to a paging-structure entry.
    Store {
        /// Where.
        slot: Gpa,
        /// Its level: 1 for a PTE.
        level: u8,
        /// The new entry.
        entry: u64,
        /// At CPL 3.
        user: bool,
    },
    /// An access to the first word of a page, which leaves the word as it is.
    Access {
        /// The page.
        page: Gva,
        /// A load, or an XADD of 0, which needs what a store needs.
        access: Access,
    },
    /// INVLPG.
    Invlpg(Gva),
    /// MOV to CR3.
    LoadCr3(u64),
    /// MOV to CR4.
    WriteCr4(u64),
    /// INVPCID.
    Invpcid {
        /// 0 an address, 1 a PCID, 2 everything, 3 everything but globals.
        kind: u64,
        /// The PCID, for 0 and 1.
        pcid: Pcid,
        /// The address, for 0.
        va: Gva,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpl = |user: bool| if user { 3 } else { 0 };
        match *self {
            Self::Store { slot, level, entry, user } => {
                let name = ["?", "PTE", "PDE", "PDPTE", "PML4E"][usize::from(level.min(4))];
                write!(f, "CPL {} stores {entry:#x} to the {name} at {slot}", cpl(user))
            }
            Self::Access { page, access } => {
                let does =
                    if access.kind == AccessKind::Write { "stores to" } else { "loads from" };
                write!(f, "CPL {} {does} {page}", cpl(access.user))
            }
            Self::Invlpg(va) => write!(f, "INVLPG {va}"),
            Self::LoadCr3(value) => write!(f, "MOV CR3, {value:#x}"),
            Self::WriteCr4(value) => write!(f, "MOV CR4, {value:#x}"),
            Self::Invpcid { kind, pcid, va } => write!(f, "INVPCID {kind}, PCID {pcid}, {va}"),
        }
    }
}

/// What a guest does, one action after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// What it was drawn from.
    pub seed: u64,
    /// What the processor offers: nothing else is used.
    pub features: CpuFeatures,
    /// The actions. The guest begins with the first root in CR3, and [`Program::cr4`] in CR4.
    pub actions: Vec<Action>,
}

impl Program {
    /// The program of a seed, for a processor that offers `features`.
    #[must_use]
    pub fn draw(seed: u64, features: CpuFeatures) -> Self {
        let mut draw = Draw::new(seed, features);
        let mut actions = Vec::with_capacity(ACTIONS);
        while actions.len() < ACTIONS {
            draw.next(&mut actions);
        }
        Self { seed, features, actions }
    }

    /// CR4 at the beginning, for a processor with these features.
    #[must_use]
    pub fn cr4(features: CpuFeatures) -> u64 {
        let optional = [(features.pge, cr4::PGE), (features.pcid, cr4::PCIDE)];
        let optional = optional.into_iter().filter(|(has, _)| *has).map(|(_, bit)| bit);
        optional.fold(cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT, |value, bit| value | bit)
    }

    /// How many accesses it makes: each has a result.
    #[must_use]
    pub fn accesses(&self) -> usize {
        self.actions.iter().filter(|action| matches!(action, Action::Access { .. })).count()
    }
}

/// How often a program does what, drawn for each: some flush all the time, some hardly ever, some
/// leave the upper levels alone.
#[derive(Clone, Copy, Debug)]
struct Temper {
    /// Regions that are used, of [`layout::REGIONS`].
    regions: u64,
    /// Pages of each that are used.
    pages: u64,
    /// Of a hundred actions: stores.
    stores: u64,
    /// INVLPG.
    invlpg: u64,
    /// Loads of CR3.
    cr3: u64,
    /// Of CR4, where PGE is offered.
    cr4: u64,
    /// INVPCID, where it is offered.
    invpcid: u64,
    /// One store in so many is to an upper level; 0 is none.
    upper: u64,
    /// One store or access in so many is at CPL 0; 0 is none.
    supervisor: u64,
}

/// A stream of actions.
struct Draw {
    state: u64,
    features: CpuFeatures,
    temper: Temper,
    leaves: Vec<Slot>,
    structures: Vec<Slot>,
}

impl Draw {
    fn new(seed: u64, features: CpuFeatures) -> Self {
        let mut state = seed;
        let mut below = |bound| split_mix(&mut state) % bound;
        let temper = Temper {
            regions: 1 + below(3),
            pages: 1 + below(layout::PAGES),
            stores: 5 + below(30),
            invlpg: below(10),
            cr3: below(6),
            cr4: if features.pge { below(3) } else { 0 },
            invpcid: if features.invpcid { below(6) } else { 0 },
            upper: [0, 16, 4][below(3) as usize],
            supervisor: [0, 8, 3][below(3) as usize],
        };
        let in_use = |slot: &Slot| slot.at.0 % 4096 / 8 < temper.pages;
        let leaves = layout::leaf_slots().into_iter().filter(in_use).collect();
        Self { state, features, temper, leaves, structures: layout::structure_slots() }
    }

    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        split_mix(&mut self.state) % bound
    }

    /// True once in `times`; never in 0.
    fn once_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    fn page(&mut self) -> Gva {
        let region = layout::REGIONS[self.below(self.temper.regions) as usize];
        Gva(region + self.below(self.temper.pages) * 4096)
    }

    /// Appends an action, or those that belong together.
    fn next(&mut self, actions: &mut Vec<Action>) {
        let Temper { stores, invlpg, cr3, cr4, invpcid, .. } = self.temper;
        let mut number = self.below(100);
        let mut is = |share: u64| {
            let hit = number < share;
            number = number.wrapping_sub(share);
            hit
        };
        if is(stores) {
            actions.push(self.store());
        } else if is(invlpg) {
            let page = self.page();
            // Any address of the page will do.
            actions.push(Action::Invlpg(Gva(page.0 + self.below(4096))));
        } else if is(cr3) {
            actions.push(self.load_cr3());
        } else if is(cr4) {
            let on = Program::cr4(self.features);
            actions.extend([Action::WriteCr4(on ^ cr4::PGE), self.access()]);
            actions.push(Action::WriteCr4(on));
        } else if is(invpcid) {
            actions.push(self.invpcid());
        } else {
            actions.push(self.access());
        }
    }

    fn access(&mut self) -> Action {
        let page = self.page();
        let kind = if self.once_in(4) { AccessKind::Write } else { AccessKind::Read };
        Action::Access {
            page,
            access: Access { kind, user: !self.once_in(self.temper.supervisor) },
        }
    }

    fn store(&mut self) -> Action {
        let upper = self.once_in(self.temper.upper);
        let among = if upper { self.structures.len() } else { self.leaves.len() };
        let index = self.below(among as u64) as usize;
        let slot = if upper { &self.structures[index] } else { &self.leaves[index] }.clone();
        let mut bits = entry::PRESENT | entry::WRITABLE | entry::USER | entry::ACCESSED;
        let large = slot.may_be_large && self.once_in(4);
        if large || slot.level == 1 {
            bits |= entry::DIRTY;
            bits |= if self.features.pge && self.once_in(4) { entry::GLOBAL } else { 0 };
        }
        for right in [entry::WRITABLE, entry::USER] {
            bits &= if self.once_in(5) { !right } else { !0 };
        }
        let target = match large {
            true => layout::FRAMES | entry::PAGE_SIZE,
            false => slot.targets[self.below(slot.targets.len() as u64) as usize].0,
        };
        let entry = if self.once_in(6) { 0 } else { target | bits };
        let user = !self.once_in(self.temper.supervisor);
        Action::Store { slot: slot.at, level: slot.level, entry, user }
    }

    fn load_cr3(&mut self) -> Action {
        let root = layout::ROOTS[self.below(2) as usize].0;
        if !self.features.pcid {
            return Action::LoadCr3(root);
        }
        let noflush = if self.once_in(3) { 0 } else { NOFLUSH };
        Action::LoadCr3(root | self.below(PCIDS) | noflush)
    }

    fn invpcid(&mut self) -> Action {
        let kind = self.below(4);
        // Without PCIDs only PCID 0 is legal (SDM vol. 2, INVPCID).
        let pcids = if self.features.pcid { PCIDS } else { 1 };
        let pcid = if kind < 2 { self.below(pcids) } else { 0 };
        let va = if kind == 0 { self.page() } else { Gva(0) };
        Action::Invpcid { kind, pcid: Pcid::new(pcid as u16), va }
    }
}
