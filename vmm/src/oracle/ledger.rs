//! Obligations: what each downgrade made stale, and what became of it.

use super::RuleId;
use super::shadow::Shadow;
use crate::arch::addr::{Gpa, Gva};
use crate::arch::tlb::{Entry, EntryId, Tag};
use crate::event::{Event, Kind, Primitive};
use serde::Serialize;
use stalemate_shared::pcid::NOFLUSH;
use std::collections::BTreeSet;

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

/// What one downgrade owes under one tag.
#[derive(Clone, Debug)]
pub struct Obligation {
    /// The downgrade.
    pub downgrade: Downgrade,
    /// The tag whose entries are stale.
    pub tag: Tag,
    /// The root that their walks begin at.
    pub root: Gpa,
    /// The first of them.
    pub entry: Option<Entry>,
    /// A page that is affected.
    pub page: Gva,
    /// A primitive whose range covers it has returned.
    pub covered: Option<(u64, Primitive)>,
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

    /// Whether a primitive called with this range must discharge it.
    #[must_use]
    pub fn is_asked_of(&self, primitive: &Primitive) -> bool {
        let same = primitive.root == Gpa(0) || Shadow::pair(primitive.root).contains(&self.root);
        same && primitive.covers(self.page)
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
                    rip: event.rip,
                    step: shadow.step,
                    slot: *slot,
                    old: *old,
                    new: *new,
                };
                self.downgrade(downgrade, shadow);
            }
            Kind::PrimitiveEnd(primitive) => {
                for obligation in &mut self.obligations {
                    if obligation.covered.is_none() && obligation.is_asked_of(primitive) {
                        obligation.covered = Some((event.seq, *primitive));
                    }
                }
            }
            kind => {
                if let Some(discharger) = discharger(kind, consuming) {
                    self.settle(event, shadow, discharger, false);
                }
            }
        }
    }

    /// Closes the obligations of which nothing is left.
    fn settle(&mut self, event: &Event, shadow: &Shadow, by: Discharger, look: bool) {
        let paging = shadow.paging();
        for obligation in &mut self.obligations {
            if matches!(obligation.state, State::Discharged { .. }) {
                continue;
            }
            let held = obligation.held();
            let tag = obligation.tag;
            obligation.entries.retain(|&(page, id)| {
                shadow.tlb.entry(tag, page, id).is_some_and(|entry| {
                    !look || shadow.tlb.stale_at(&shadow.tables, paging, tag, entry).is_some()
                })
            });
            if let Tag::Pcid(pcid) = tag {
                obligation.structures.retain(|&id| {
                    shadow.tlb.structures(pcid).any(|structure| {
                        structure.id == id
                            && (!look
                                || shadow.tlb.structure_is_stale(&shadow.tables, paging, structure))
                    })
                });
            }
            self.served |= obligation.held() != held;
            if obligation.held() == 0 && obligation.is_open() {
                obligation.state = State::Discharged { by, seq: event.seq };
            }
        }
    }

    /// Finds what a store made stale, tag by tag.
    fn downgrade(&mut self, downgrade: Downgrade, shadow: &Shadow) {
        let owed: BTreeSet<(Tag, EntryId)> = self
            .open()
            .flat_map(|(_, obligation)| {
                let entries = obligation.entries.iter().map(|(_, id)| *id);
                let all = entries.chain(obligation.structures.iter().copied());
                all.map(|id| (obligation.tag, id)).collect::<Vec<_>>()
            })
            .collect();
        let paging = shadow.paging();
        for tag in shadow.tlb.tags() {
            let Some(root) = shadow.tlb.root(tag) else { continue };
            let mut entries = Vec::new();
            let mut structures = Vec::new();
            let mut first = None;
            let mut page = None;
            for reach in shadow.census.reaches(downgrade.slot) {
                if reach.root != root {
                    continue;
                }
                let end = Gva(reach.base.0 + (reach.span() - 1));
                for entry in shadow.tlb.entries_in(tag, reach.base, end) {
                    if owed.contains(&(tag, entry.id)) {
                        continue;
                    }
                    let stale = shadow.tlb.stale_at(&shadow.tables, paging, tag, entry);
                    if let Some(at) = stale {
                        entries.push((entry.translation.page, entry.id));
                        page.get_or_insert(at);
                        first.get_or_insert_with(|| entry.clone());
                    }
                }
                let Tag::Pcid(pcid) = tag else { continue };
                for structure in shadow.tlb.structures(pcid) {
                    let new = !owed.contains(&(tag, structure.id));
                    let here = reach.contains(structure.base) || structure.covers(reach.base);
                    if new
                        && here
                        && shadow.tlb.structure_is_stale(&shadow.tables, paging, structure)
                    {
                        structures.push(structure.id);
                        page.get_or_insert(reach.base);
                    }
                }
            }
            if let Some(page) = page {
                self.obligations.push(Obligation {
                    downgrade,
                    tag,
                    root,
                    entry: first,
                    page,
                    covered: None,
                    state: State::Open,
                    entries,
                    structures,
                });
            }
        }
    }
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
