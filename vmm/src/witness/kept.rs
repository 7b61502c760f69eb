//! What a TLB was seen to keep, by kind.

use super::processor::Seen;
use super::program::Action;
use crate::arch::addr::{Gva, Pcid};
use crate::arch::cr3::{NOFLUSH, PCID_MASK};
use crate::arch::features::CpuFeatures;
use crate::arch::walk::{PageSize, Translation, WalkFailure};

/// A kind of what may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// A translation whose PTE was stored to.
    AfterStore,
    /// A translation under an entry of an upper level that was stored to.
    UnderStructure,
    /// A large page's translation.
    Large,
    /// A translation to a frame that is no longer mapped there, while another is.
    OtherFrame,
    /// A translation of a page that is no longer mapped.
    Unmapped,
    /// A right that was taken away.
    Right,
    /// A translation that grants less than a walk does.
    Less,
    /// A translation over an INVLPG of another page.
    OverInvlpg,
    /// A global translation over a load of CR3.
    Global,
    /// A translation over a load of CR3 with NOFLUSH.
    OverNoflush,
    /// A translation over a load of CR3 that flushes another PCID.
    OverFlush,
    /// A translation over an INVPCID.
    OverInvpcid,
    /// A paging-structure entry: what no whole walk has ever given.
    Structure,
}

/// Whether a processor with these features can show something.
pub type Offered = fn(CpuFeatures) -> bool;

/// Each kind in words that follow "this machine's TLB was seen to keep", and whether a processor
/// with these features can show it.
pub const KINDS: [(Kept, &str, Offered); 13] = [
    (Kept::AfterStore, "a translation after a store to its page-table entry", always),
    (Kept::UnderStructure, "a translation after a store to an entry above its own", always),
    (Kept::Large, "a 2 MiB page's translation, or parts of it", always),
    (Kept::OtherFrame, "the old frame of a page that now has another", always),
    (Kept::Unmapped, "a page that is no longer mapped", always),
    (Kept::Right, "a right to a page that was taken away", always),
    (Kept::Less, "a translation that forbids what is now allowed: a needless fault", always),
    (Kept::OverInvlpg, "a translation over INVLPG of another page", always),
    (Kept::Global, "a global translation over a CR3 load", |features| features.pge),
    (Kept::OverNoflush, "a translation over CR3 loads with NOFLUSH", |features| features.pcid),
    (Kept::OverFlush, "a translation over a CR3 load that flushes another PCID", |features| {
        features.pcid
    }),
    (Kept::OverInvpcid, "a translation over an INVPCID that spares it", |features| {
        features.invpcid
    }),
    (Kept::Structure, "a paging-structure entry, and a walk from there", always),
];

fn always(_: CpuFeatures) -> bool {
    true
}

/// What walks of one page gave, from an action on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch {
    /// The action that began it.
    pub(super) since: usize,
    /// The PCID that was current.
    pub(super) pcid: Pcid,
    /// What a walk gave.
    pub(super) found: Result<Translation, WalkFailure>,
}

/// The past of each page.
#[derive(Debug, Default)]
pub(super) struct History {
    epochs: Vec<(Gva, Vec<Epoch>)>,
}

impl History {
    /// Notes what a walk gives from an action on.
    pub(super) fn note(&mut self, page: Gva, epoch: Epoch) {
        let Some((_, epochs)) = self.epochs.iter_mut().find(|(known, _)| *known == page) else {
            self.epochs.push((page, vec![epoch]));
            return;
        };
        let last = epochs.last();
        if last.is_none_or(|last| (last.pcid, last.found) != (epoch.pcid, epoch.found)) {
            epochs.push(epoch);
        }
    }

    /// The latest time, before the present, at which a translation could be cached under `pcid`
    /// which `gives` what was seen; with the action that ended it.
    pub(super) fn last(
        &self,
        page: Gva,
        pcid: Pcid,
        gives: impl Fn(Result<Translation, WalkFailure>) -> bool,
    ) -> Option<(Epoch, usize)> {
        let (_, epochs) = self.epochs.iter().find(|(known, _)| *known == page)?;
        let pairs = epochs.windows(2).rev().map(|pair| (pair[0], pair[1].since));
        let usable = |epoch: &Epoch| {
            epoch.pcid == pcid || epoch.found.is_ok_and(|translation| translation.global)
        };
        pairs.into_iter().find(|(epoch, _)| usable(epoch) && gives(epoch.found))
    }
}

/// The kinds that one stale access shows. `past` is what it came from, and the action that took it
/// back; `since` are the actions from that one on; `today` is what a walk gives now.
pub(super) fn kinds(
    past: Option<Epoch>,
    since: &[Action],
    page: Gva,
    pcid: Pcid,
    seen: Seen,
    today: Seen,
) -> Vec<Kept> {
    let Some(past) = past else { return vec![Kept::Structure] };
    let mut kinds = Vec::new();
    match since.first() {
        Some(Action::Store { level: 1, .. }) => kinds.push(Kept::AfterStore),
        Some(Action::Store { .. }) => kinds.push(Kept::UnderStructure),
        _ => {}
    }
    kinds.push(match (seen, today) {
        (Seen::Frame(_), Seen::Fault(error)) if error & 1 == 0 => Kept::Unmapped,
        (Seen::Frame(_), Seen::Fault(_)) => Kept::Right,
        (Seen::Frame(_), _) => Kept::OtherFrame,
        _ => Kept::Less,
    });
    let global = past.found.is_ok_and(|translation| translation.global);
    if past.found.is_ok_and(|translation| translation.size == PageSize::Large) {
        kinds.push(Kept::Large);
    }
    let loads = since.iter().filter_map(|action| match action {
        Action::LoadCr3(value) => Some(*value),
        _ => None,
    });
    let loads: Vec<u64> = loads.collect();
    if global && !loads.is_empty() {
        kinds.push(Kept::Global);
    }
    let flushes = |value: &&u64| **value & NOFLUSH == 0;
    if !global && loads.iter().any(|value| value & NOFLUSH != 0) {
        kinds.push(Kept::OverNoflush);
    }
    let other = |value: &u64| value & PCID_MASK != u64::from(pcid.value());
    if !global && loads.iter().filter(flushes).any(other) {
        kinds.push(Kept::OverFlush);
    }
    if since.iter().any(|action| matches!(action, Action::Invlpg(va) if va.page() != page)) {
        kinds.push(Kept::OverInvlpg);
    }
    if since.iter().any(|action| matches!(action, Action::Invpcid { .. })) {
        kinds.push(Kept::OverInvpcid);
    }
    kinds
}
