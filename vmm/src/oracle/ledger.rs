//! Obligations: what each downgrade made stale, and what became of it.

use super::RuleId;
use super::shadow::{Shadow, ShadowCpu};
use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::census::Reach;
use crate::arch::tlb::{Entry, EntryId, StructureEntry, Tag};
use crate::arch::walk::entry::{DIRTY, PRESENT};
use crate::event::{Event, Kind, Primitive};
use serde::Serialize;
use stalemate_shared::hypercall::primitive::BATCHED;
use stalemate_shared::pcid::NOFLUSH;
use stalemate_shared::tlb_state::{MmState, WAITING};
use std::collections::BTreeSet;
use std::mem::offset_of;

/// What ended an obligation well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Discharger {
    Invlpg,
    Invpcid,
    Consume,
    Cr3Load,
    BigHammer,
    PageFault,
    Eviction,
    /// Memory was changed back.
    Restored,
}

impl Discharger {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invlpg => "invlpg",
            Self::Invpcid => "invpcid",
            Self::Consume => "consume",
            Self::Cr3Load => "cr3-load",
            Self::BigHammer => "big-hammer",
            Self::PageFault => "page-fault",
            Self::Eviction => "eviction",
            Self::Restored => "restored",
        }
    }
}

/// How an obligation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Something stale is still cached.
    Open,
    /// Nothing is, since this event.
    Discharged {
        /// What removed the last of it.
        by: Discharger,
        /// The event.
        seq: u64,
        /// The step that its CPU was in.
        step: Option<usize>,
    },
    /// Its deadline passed.
    Violated {
        /// The rule that said so.
        rule: RuleId,
        /// At this event.
        seq: u64,
    },
}

/// The store that made a downgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downgrade {
    /// The event.
    pub seq: u64,
    /// The CPU that stored.
    pub cpu: CpuId,
    /// The storing instruction.
    pub rip: Gva,
    /// The scenario's step.
    pub step: Option<usize>,
    /// The entry's address.
    pub slot: Gpa,
    /// The entry before.
    pub old: u64,
    /// The entry after.
    pub new: u64,
}

/// A primitive that was to remove something stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cover {
    /// The primitive, with its caller's range.
    pub primitive: Primitive,
    /// The step that called it.
    pub step: Option<usize>,
}

/// What one downgrade owes on one CPU under one tag.
#[derive(Clone, Debug)]
pub struct Obligation {
    /// The downgrade.
    pub downgrade: Downgrade,
    /// The CPU whose entries are stale.
    pub cpu: CpuId,
    /// The tag whose entries are stale.
    pub tag: Tag,
    /// The root that their walks begin at.
    pub root: Gpa,
    /// The first of them.
    pub entry: Option<Entry>,
    /// The first paging-structure entry that is stale, where no entry is.
    pub structure: Option<StructureEntry>,
    /// A page that is affected.
    pub page: Gva,
    /// A primitive whose range covers it has returned, or its CPU has acknowledged that it did
    /// what the primitive asks for.
    pub covered: Option<Cover>,
    /// The CPU that has said that its next batched flush covers it.
    pub deferred: Option<CpuId>,
    /// Its page was mapped anew after that, so that it does not wait.
    mapped_anew: bool,
    /// The generation of its address space that stands for its flush: raised by a primitive that
    /// covers it, or after it was deferred.
    pub tlb_gen: Option<u64>,
    /// How it stands.
    pub state: State,
    entries: Vec<(Gva, EntryId)>,
    structures: Vec<EntryId>,
}

impl Obligation {
    /// Whether something stale is still cached and no rule has spoken.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// How much of it is still cached: entries and paging-structure entries.
    #[must_use]
    pub fn held(&self) -> usize {
        self.entries.len() + self.structures.len()
    }

    /// Whether a primitive called with this range by `cpu`, which began at event `since`, must
    /// discharge it. What was made stale after that may have come too late for it.
    #[must_use]
    pub fn is_asked_of(&self, cpu: CpuId, since: u64, primitive: &Primitive) -> bool {
        let batched = primitive.id == BATCHED;
        let same = primitive.root == Gpa(0) || Shadow::pair(primitive.root).contains(&self.root);
        self.downgrade.seq < since
            && same
            && primitive.covers(self.page)
            && (!batched || self.deferred == Some(cpu))
    }

    /// Whether its CPU may no longer use what is stale, as soon as it comes to it: it made the
    /// downgrade itself, or the flush of it is over.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.covered.is_some() || self.downgrade.cpu == self.cpu && !self.waits()
    }

    /// Whether it may wait for the batched flush that it was left to.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.deferred.is_some() && !self.mapped_anew
    }

    /// Whether user mode, at its CPL, could use what is stale.
    #[must_use]
    pub fn user_may_use(&self) -> bool {
        self.entry.as_ref().is_none_or(|entry| entry.translation.user)
    }
}

/// All obligations of a run.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    obligations: Vec<Obligation>,
    /// The last event removed something that an obligation is about.
    served: bool,
}

impl Ledger {
    /// All of them, in order of their downgrades.
    #[must_use]
    pub fn obligations(&self) -> &[Obligation] {
        &self.obligations
    }

    /// Those under which something stale is cached, with their numbers.
    pub fn open(&self) -> impl Iterator<Item = (usize, &Obligation)> {
        self.obligations.iter().enumerate().filter(|(_, obligation)| obligation.is_open())
    }

    /// Whether the last event removed something that an obligation, open or violated, is about.
    #[must_use]
    pub fn was_served(&self) -> bool {
        self.served
    }

    /// Notes that a rule has spoken.
    pub fn violate(&mut self, number: usize, rule: RuleId, seq: u64) {
        if let Some(obligation) = self.obligations.get_mut(number) {
            obligation.state = State::Violated { rule, seq };
        }
    }

    /// Follows one event that `shadow` has applied. `consuming` says that it loaded a user CR3
    /// without NOFLUSH because of a mark.
    pub fn apply(&mut self, event: &Event, shadow: &Shadow, consuming: bool) {
        self.served = false;
        match &event.kind {
            Kind::TableStore { slot, old, new } => {
                self.settle(event, shadow, Discharger::Restored, true);
                let downgrade = Downgrade {
                    seq: event.seq,
                    cpu: event.cpu,
                    rip: event.rip,
                    step: shadow.step(),
                    slot: *slot,
                    old: *old,
                    new: *new,
                };
                if new & PRESENT != 0 {
                    self.mapped_anew(&shadow.census.reaches(*slot));
                }
                self.downgrade(downgrade, shadow);
            }
            // A D that a processor sets again makes what has it right again.
            Kind::AccessedDirty { old, new, .. } if (old ^ new) & DIRTY != 0 => {
                self.settle(event, shadow, Discharger::Restored, true);
            }
            Kind::StateStore { owner, offset: WAITING, old, new } => {
                let acknowledges = (old & !new) >> event.cpu.0 & 1 != 0;
                if let Some((since, asked)) =
                    shadow.cpu(*owner).primitive().filter(|_| acknowledges)
                {
                    let of_cpu = |obligation: &Obligation| obligation.cpu == event.cpu;
                    let cover = Cover { primitive: asked, step: shadow.cpu(*owner).step };
                    self.cover(*owner, since, cover, of_cpu);
                }
            }
            Kind::MmStore { offset, old, new } => {
                let size = size_of::<MmState>() as u64;
                let is_tlb_gen = offset % size == offset_of!(MmState, tlb_gen) as u64;
                let mm = shadow.mm_states().nth((offset / size) as usize);
                if let Some(mm) = mm.filter(|_| is_tlb_gen && new > old) {
                    let primitive = shadow.cpu(event.cpu).primitive();
                    self.generation(event.cpu, &mm, *new, primitive);
                }
            }
            Kind::Deferred(primitive) => {
                let deferred = |obligation: &&mut Obligation| {
                    obligation.is_open()
                        && Shadow::pair(primitive.root).contains(&obligation.root)
                        && primitive.covers(obligation.page)
                };
                self.obligations
                    .iter_mut()
                    .filter(deferred)
                    .for_each(|obligation| obligation.deferred = Some(event.cpu));
            }
            kind => {
                if let Some(discharger) = discharger(kind, consuming) {
                    self.settle(event, shadow, discharger, false);
                }
            }
        }
    }

    /// A page whose flush is deferred is mapped anew: what is cached of it is no longer of a page that
    /// is gone, and is owed like any other.
    fn mapped_anew(&mut self, reaches: &BTreeSet<Reach>) {
        let deferred = self.obligations.iter_mut().filter(|obligation| {
            let here =
                |reach: &Reach| reach.root == obligation.root && reach.contains(obligation.page);
            obligation.is_open() && obligation.waits() && reaches.iter().any(here)
        });
        deferred.for_each(|obligation| obligation.mapped_anew = true);
    }

    /// An address space's generation is raised, for what the primitive under way covers, or
    /// outside of one for what was deferred.
    fn generation(
        &mut self,
        cpu: CpuId,
        mm: &MmState,
        new: u64,
        primitive: Option<(u64, Primitive)>,
    ) {
        let roots = Shadow::pair(Gpa(mm.kernel_root));
        for obligation in &mut self.obligations {
            let meant = match primitive {
                Some((since, primitive)) => obligation.is_asked_of(cpu, since, &primitive),
                None => obligation.deferred == Some(cpu),
            };
            if meant && obligation.tlb_gen.is_none() && roots.contains(&obligation.root) {
                obligation.tlb_gen = Some(new);
            }
        }
    }

    /// A primitive of `cpu` that began at `since` returns.
    pub fn returned(&mut self, cpu: CpuId, since: u64, cover: Cover) {
        self.cover(cpu, since, cover, |_| true);
    }

    fn cover(
        &mut self,
        cpu: CpuId,
        since: u64,
        cover: Cover,
        select: impl Fn(&Obligation) -> bool,
    ) {
        for obligation in self.obligations.iter_mut().filter(|obligation| select(obligation)) {
            let asked = obligation.is_asked_of(cpu, since, &cover.primitive);
            if obligation.covered.is_none() && asked {
                obligation.covered = Some(cover);
            }
        }
    }

    /// Closes the obligations of which nothing is left.
    fn settle(&mut self, event: &Event, shadow: &Shadow, by: Discharger, look: bool) {
        // An invalidation reaches the CPU that makes it, a store what every CPU holds. What a rule
        // has spoken of is followed all the same.
        let concerned = |obligation: &&mut Obligation| {
            let gone = matches!(obligation.state, State::Discharged { .. });
            !gone && (look || obligation.cpu == event.cpu)
        };
        for obligation in self.obligations.iter_mut().filter(concerned) {
            let held = obligation.held();
            let tag = obligation.tag;
            let cpu = shadow.cpu(obligation.cpu);
            let (tlb, paging) = (&cpu.tlb, cpu.paging());
            obligation.entries.retain(|&(page, id)| {
                tlb.entry(tag, page, id).is_some_and(|entry| {
                    !look || tlb.stale_at(&shadow.tables, paging, tag, entry).is_some()
                })
            });
            if let Tag::Pcid(pcid) = tag {
                obligation.structures.retain(|&id| {
                    tlb.structures(pcid).any(|structure| {
                        structure.id == id
                            && (!look || tlb.structure_is_stale(&shadow.tables, paging, structure))
                    })
                });
            }
            self.served |= obligation.held() != held;
            if obligation.held() == 0 && obligation.is_open() {
                obligation.state = State::Discharged { by, seq: event.seq, step: shadow.step() };
            }
        }
    }

    /// Finds what a store made stale, CPU by CPU and tag by tag.
    fn downgrade(&mut self, downgrade: Downgrade, shadow: &Shadow) {
        let reaches = shadow.census.reaches(downgrade.slot);
        if reaches.is_empty() {
            return;
        }
        let owed: BTreeSet<(CpuId, Tag, EntryId)> = self
            .open()
            .flat_map(|(_, obligation)| {
                let entries = obligation.entries.iter().map(|(_, id)| *id);
                let all = entries.chain(obligation.structures.iter().copied());
                all.map(|id| (obligation.cpu, obligation.tag, id)).collect::<Vec<_>>()
            })
            .collect();
        for (cpu, of_cpu) in shadow.numbered() {
            for tag in of_cpu.tlb.tags() {
                let is_new = |id: EntryId| !owed.contains(&(cpu, tag, id));
                let found = stale(shadow, of_cpu, tag, &reaches, &is_new);
                self.obligations.extend(found.map(|found| Obligation {
                    downgrade,
                    cpu,
                    tag,
                    root: found.root,
                    entry: found.entry,
                    structure: found.structure,
                    page: found.page,
                    covered: None,
                    deferred: None,
                    mapped_anew: false,
                    tlb_gen: None,
                    state: State::Open,
                    entries: found.entries,
                    structures: found.structures,
                }));
            }
        }
    }
}

/// What is stale under one tag of one CPU.
struct Stale {
    root: Gpa,
    entry: Option<Entry>,
    structure: Option<StructureEntry>,
    page: Gva,
    entries: Vec<(Gva, EntryId)>,
    structures: Vec<EntryId>,
}

/// What is stale under `tag` at the places that `reaches` names.
fn stale(
    shadow: &Shadow,
    cpu: &ShadowCpu,
    tag: Tag,
    reaches: &BTreeSet<Reach>,
    is_new: &dyn Fn(EntryId) -> bool,
) -> Option<Stale> {
    let (tlb, paging) = (&cpu.tlb, cpu.paging());
    let root = tlb.root(tag)?;
    let mut entries = Vec::new();
    let mut structures = Vec::new();
    let (mut first, mut page) = (None, None);
    let mut first_structure = None;
    for reach in reaches.iter().filter(|reach| reach.root == root) {
        let end = Gva(reach.base.0 + (reach.span() - 1));
        for entry in tlb.entries_in(tag, reach.base, end).filter(|entry| is_new(entry.id)) {
            if let Some(at) = tlb.stale_at(&shadow.tables, paging, tag, entry) {
                entries.push((entry.translation.page, entry.id));
                page.get_or_insert(at);
                first.get_or_insert_with(|| entry.clone());
            }
        }
        let Tag::Pcid(pcid) = tag else { continue };
        for structure in tlb.structures(pcid).filter(|structure| is_new(structure.id)) {
            let here = reach.contains(structure.base) || structure.covers(reach.base);
            if here && tlb.structure_is_stale(&shadow.tables, paging, structure) {
                structures.push(structure.id);
                first_structure.get_or_insert(*structure);
                page.get_or_insert(reach.base);
            }
        }
    }
    let structure = first_structure.filter(|_| first.is_none());
    page.map(|page| Stale { root, entry: first, structure, page, entries, structures })
}

fn discharger(kind: &Kind, consuming: bool) -> Option<Discharger> {
    Some(match kind {
        Kind::Invlpg { .. } | Kind::InvlpgKeptGlobals { .. } => Discharger::Invlpg,
        Kind::Invpcid { kind: 0, .. } => Discharger::Invpcid,
        Kind::Invpcid { .. } | Kind::WriteCr4 { .. } => Discharger::BigHammer,
        Kind::LoadCr3 { .. } if consuming => Discharger::Consume,
        Kind::LoadCr3 { value, .. } if value & NOFLUSH == 0 => Discharger::Cr3Load,
        Kind::LoadCr3 { .. } => return None,
        Kind::PageFault { .. } => Discharger::PageFault,
        Kind::Evict { .. } => Discharger::Eviction,
        _ => return None,
    })
}
