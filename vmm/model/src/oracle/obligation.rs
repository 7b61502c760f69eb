//! Obligations: what a downgrade made stale on one CPU under one tag, and how that ended.

use super::RuleId;
use super::replica::{OpenFlush, Replica};
use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::tlb::{Entry, EntryId, StructureEntry, Tag};
use crate::event::{Flush, FlushKind, TaskId};
use serde::Serialize;

/// What ended an obligation well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Discharger {
    /// INVLPG.
    Invlpg,
    /// INVPCID of one address.
    Invpcid,
    /// The load of CR3 that consumed a mark.
    Consume,
    /// Another load of CR3.
    Cr3Load,
    /// Something that empties more than one PCID's page.
    BigHammer,
    /// An architectural page fault.
    PageFault,
    /// Chance.
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
        /// The task that its CPU was in.
        task: Option<TaskId>,
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
    /// The task that it was made in.
    pub task: Option<TaskId>,
    /// The entry's address.
    pub slot: Gpa,
    /// The entry before.
    pub old: u64,
    /// The entry after.
    pub new: u64,
}

/// A flush that was to remove something stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cover {
    /// What it is of: its caller's range.
    pub flush: Flush,
    /// The task that called it.
    pub task: Option<TaskId>,
}

/// An obligation's number: higher for a later downgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObligationId(pub u64);

/// What one downgrade owes on one CPU under one tag.
#[derive(Clone, Debug)]
pub struct Obligation {
    /// Its number.
    pub id: ObligationId,
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
    /// A flush whose range covers it has returned, or its CPU has acknowledged that it did what
    /// the flush requests.
    pub covered: Option<Cover>,
    /// The CPU that has said that its next batched flush covers it.
    pub deferred: Option<CpuId>,
    /// The page was mapped again while its flush was deferred: the deferral no longer excuses it.
    pub(super) remapped: bool,
    /// The generation of its address space that stands for its flush: raised by a flush that covers
    /// it, or after it was deferred.
    pub generation: Option<u64>,
    /// How it stands.
    pub state: State,
    /// The stale entries that are still cached, with their pages.
    pub(super) entries: Vec<(Gva, EntryId)>,
    /// The stale paging-structure entries that are still cached.
    pub(super) structures: Vec<EntryId>,
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

    /// Whether `open` must discharge it before it returns. What was made stale after it began may
    /// have come too late for it.
    #[must_use]
    pub fn is_requested_of(&self, open: &OpenFlush, replica: &Replica) -> bool {
        let flush = &open.flush;
        let batched = flush.kind == FlushKind::Batched;
        self.downgrade.seq < open.since
            && flush.root.is_none_or(|root| replica.is_pair(root, self.root))
            && flush.covers(self.page)
            && (!batched || self.deferred == Some(open.cpu))
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
        self.deferred.is_some() && !self.remapped
    }

    /// Whether user mode, at its CPL, could use what is stale.
    #[must_use]
    pub fn user_may_use(&self) -> bool {
        self.entry.as_ref().is_none_or(|entry| entry.translation.user)
    }
}
