//! The modelled processor that a program is replayed on.

use super::layout;
use super::program::{Action, Program};
use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::census::Census;
use crate::arch::choice::First;
use crate::arch::core::{Core, Log};
use crate::arch::cr3::NOFLUSH;
use crate::arch::fault::Fault;
use crate::arch::features::{CpuFeatures, Errata};
use crate::arch::op::InvpcidDescriptor;
use crate::arch::tlb::{Fill, Tag, Tlb, TlbModel};
use crate::arch::vcpu::{Vcpu, cr4};
use crate::arch::walk::{Access, Start, Translation, WalkFailure, walk};
use crate::memory::GuestMemory;
use std::collections::BTreeSet;
use std::fmt;

/// What an access came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// The first word of this frame.
    Frame(Gpa),
    /// A page fault with this error code.
    Fault(u32),
    /// A word that is in no data frame.
    Word(u64),
}

impl Seen {
    /// What a result of the guest's code says.
    #[must_use]
    pub fn from_result(word: u64) -> Self {
        match (layout::frame_of(word), u32::try_from(word)) {
            (Some(frame), _) => Self::Frame(frame),
            (None, Ok(error)) if error < 32 => Self::Fault(error),
            _ => Self::Word(word),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(frame) => write!(f, "the frame {frame}"),
            Self::Fault(error) => write!(f, "a page fault with error code {error:#x}"),
            Self::Word(word) => write!(f, "{word:#x}, which no data frame holds"),
        }
    }
}

/// A wrong choice of a model: tests see that a replay notices it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Nothing is kept: every access walks.
    FillKeepsNothing,
    /// There are no paging-structure caches.
    NoStructureCaches,
    /// A store to a table drops what was cached through it.
    StoreFlushes,
    /// INVLPG drops all pages of its PCID.
    InvlpgDropsAllPages,
    /// A load of CR3 drops globals.
    Cr3DropsGlobals,
    /// A load of CR3 with NOFLUSH flushes all the same.
    NoflushFlushes,
    /// A load of CR3 drops what is tagged with other PCIDs.
    Cr3DropsOtherPcids,
    /// INVPCID of one PCID drops all.
    InvpcidDropsAll,
}

/// Every one.
pub const MUTATIONS: [Mutation; 8] = [
    Mutation::FillKeepsNothing,
    Mutation::NoStructureCaches,
    Mutation::StoreFlushes,
    Mutation::InvlpgDropsAllPages,
    Mutation::Cr3DropsGlobals,
    Mutation::NoflushFlushes,
    Mutation::Cr3DropsOtherPcids,
    Mutation::InvpcidDropsAll,
];

/// Registers, TLB and memory of the model.
pub(super) struct Processor {
    vcpu: Vcpu,
    tlb: Tlb,
    census: Census,
    memory: GuestMemory,
    log: Log,
    mutation: Option<Mutation>,
}

impl Processor {
    /// As a program begins.
    pub(super) fn new(features: CpuFeatures, mutation: Option<Mutation>) -> Self {
        let memory = GuestMemory::new(layout::SIZE).expect("the host has memory");
        layout::lay_out(&memory);
        let root = layout::ROOTS[0].0;
        let mut vcpu = Vcpu::long_mode(CpuId(0), features, layout::PROGRAM, root);
        vcpu.cr4 = Program::cr4(features);
        let fill = match mutation {
            Some(Mutation::FillKeepsNothing) => Fill::OnDemand,
            _ => Fill::WorstCase,
        };
        let structure_caches = mutation != Some(Mutation::NoStructureCaches);
        let tlb = Tlb::new(TlbModel { fill, structure_caches, seed: 0 });
        let (census, log) = (Census::default(), Log::default());
        let mut processor = Self { vcpu, tlb, census, memory, log, mutation };
        processor.act(Action::LoadCr3(root));
        processor
    }

    /// Lets a core do something.
    fn with<T>(&mut self, does: impl FnOnce(&mut Core<'_>) -> T) -> T {
        let watched = BTreeSet::new();
        let result = does(&mut Core {
            vcpu: &mut self.vcpu,
            tlb: &mut self.tlb,
            errata: Errata::default(),
            census: &mut self.census,
            memory: &self.memory,
            remote: Vec::new(),
            forgets_roots: false,
            watched: &watched,
            chooser: &mut First,
            log: &mut self.log,
        });
        self.log = Log::default();
        result
    }

    /// Carries out an action that is no access.
    pub(super) fn act(&mut self, action: Action) {
        let legal = "programs are legal";
        match action {
            Action::Access { .. } => {}
            Action::Store { slot, entry, .. } => self.store(slot, entry),
            Action::Invlpg(va) => self.with(|core| core.invlpg(va)),
            Action::LoadCr3(value) => self.with(|core| core.load_cr3(value)).expect(legal),
            Action::WriteCr4(value) => self.with(|core| core.write_cr4(value)).expect(legal),
            Action::Invpcid { kind, pcid, va } => {
                self.with(|core| core.invpcid(kind, InvpcidDescriptor { pcid, va }));
            }
        }
        if let Some(mutation) = self.mutation {
            self.mutate(mutation, action);
        }
    }

    /// Stores to a table, or to what is none at the moment. The store's own translation never
    /// changes.
    fn store(&mut self, slot: Gpa, entry: u64) {
        let old = self.memory.read_word(slot);
        match self.census.is_table(slot.page()) {
            true => self.with(|core| core.store_word(slot, old, entry)),
            false => self.memory.write_word(slot, entry),
        }
    }

    /// What a wrong model does after an action.
    fn mutate(&mut self, mutation: Mutation, action: Action) {
        let pcid = self.vcpu.pcid();
        let of = |pcid| InvpcidDescriptor { pcid, va: Gva(0) };
        match (mutation, action) {
            (Mutation::StoreFlushes, Action::Store { .. })
            | (Mutation::InvpcidDropsAll, Action::Invpcid { .. }) => {
                self.with(|core| core.invpcid(2, of(pcid)));
            }
            (Mutation::InvlpgDropsAllPages, Action::Invlpg(_)) => {
                self.with(|core| core.invpcid(1, of(pcid)));
                self.drop_globals();
            }
            (Mutation::Cr3DropsGlobals, Action::LoadCr3(_)) => self.drop_globals(),
            (Mutation::NoflushFlushes, Action::LoadCr3(value)) if value & NOFLUSH != 0 => {
                self.with(|core| core.invpcid(1, of(pcid)));
            }
            (Mutation::Cr3DropsOtherPcids, Action::LoadCr3(_)) => {
                let other = |tag| match tag {
                    Tag::Pcid(other) if other != pcid => Some(other),
                    _ => None,
                };
                for other in self.tlb.tags().filter_map(other).collect::<Vec<_>>() {
                    self.with(|core| core.invpcid(1, of(other)));
                }
            }
            _ => {}
        }
    }

    fn drop_globals(&mut self) {
        let globals = self.tlb.entries(Tag::Global).map(|entry| entry.translation.page);
        for page in globals.collect::<BTreeSet<_>>() {
            self.tlb.evict(Tag::Global, page);
        }
        // What the current root maps comes back at once.
        self.with(|core| core.load_cr3(core.vcpu.cr3 | noflush(core.vcpu.cr4))).expect("legal");
    }

    /// Makes an access as execution does: the oldest entry that grants it, or a walk.
    pub(super) fn access(&mut self, page: Gva, access: Access) -> Seen {
        match self.with(|core| core.translate(page, access)) {
            Ok(at) => Seen::Frame(at.page()),
            Err(Fault::Exception(exception)) => Seen::Fault(exception.error.unwrap_or(0)),
            Err(Fault::Stop(stop)) => unreachable!("{stop}"),
        }
    }

    /// The host's processor took a page fault: nothing of the page is cached any more.
    pub(super) fn page_fault(&mut self, page: Gva) {
        self.with(|core| {
            let paging = core.vcpu.paging();
            let effect = core.tlb.page_fault(core.memory.as_tables(), paging, page);
            core.flushed(effect);
        });
    }

    /// What a walk of the root in CR3 gives today.
    pub(super) fn walk(&self, page: Gva) -> Result<Translation, WalkFailure> {
        let start = Start::root(self.vcpu.root());
        walk(&self.memory, start, page, self.vcpu.paging()).result
    }

    /// What an access comes to that this decides.
    pub(super) fn outcome(
        &self,
        found: Result<Translation, WalkFailure>,
        page: Gva,
        access: Access,
    ) -> Seen {
        let paging = self.vcpu.paging();
        match found {
            Err(failure) => Seen::Fault(failure.error_code(access, paging)),
            Ok(found) => match found.check(access, paging) {
                Ok(()) => Seen::Frame(found.at(page).page()),
                Err(error) => Seen::Fault(error),
            },
        }
    }

    /// What an access may come to by what is cached, with what that is.
    pub(super) fn held(&self, page: Gva, access: Access) -> Vec<(Seen, String)> {
        let pcid = self.vcpu.pcid();
        let mut held = Vec::new();
        for tag in [Tag::Pcid(pcid), Tag::Global] {
            let covering = self.tlb.held_in(&self.memory, tag, page, page).into_iter();
            held.extend(covering.filter(|entry| entry.covers(page)).map(|entry| {
                let seen = self.outcome(Ok(entry.translation), page, access);
                (seen, format!("{tag}: {}", entry.translation))
            }));
        }
        let structures = self.tlb.held_structures(&self.memory, pcid).into_iter();
        for structure in structures.filter(|structure| structure.covers(page)) {
            let found = walk(&self.memory, structure.start(), page, self.vcpu.paging()).result;
            held.push((self.outcome(found, page, access), structure.to_string()));
        }
        held
    }

    /// Its registers.
    pub(super) fn vcpu(&self) -> &Vcpu {
        &self.vcpu
    }
}

/// The bit of a load of CR3 that keeps what is cached, where there is one.
fn noflush(control: u64) -> u64 {
    if control & cr4::PCIDE != 0 { NOFLUSH } else { 0 }
}
