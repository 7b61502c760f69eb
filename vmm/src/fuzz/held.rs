//! A step in whose midst its CPU is held back: what it may have done by now, and what nobody else
//! does until it goes on.

use super::action::{Action, Frame, Verb};
use super::model::Place;
use super::words::{Reading, Word};
use stalemate_shared::layout::{USER_PAGE_COUNT, USER_TABLE_PAGE_COUNT};
use stalemate_shared::page::Page;
use std::collections::{BTreeMap, BTreeSet};

/// The step that a CPU is held back in.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub action: Action,
    /// The number of the step.
    pub step: usize,
    /// The pages that it is about, and what they showed when it began.
    pub places: BTreeMap<Place, Option<Frame>>,
    /// The colours that these pages showed or show.
    pub colours: BTreeSet<usize>,
    /// Frames of the kernel's pool that it gives back.
    pub gives_back: u64,
    /// What a load may come to.
    pub reading: Option<Reading>,
    /// Where a store is to.
    pub store: Option<Store>,
}

/// A store that is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Store {
    pub word: Word,
    pub value: u64,
    /// No other CPU has stored there meanwhile.
    pub alone: bool,
}

/// Whether for a while the pages of a step map nothing, whatever they map before and after. Those of
/// a store that copies do as well.
pub(super) fn is_between(verb: Verb) -> bool {
    matches!(verb, Verb::Migrate(..) | Verb::Split(_) | Verb::Merge(_) | Verb::Move(..))
}

/// Whether a step frees a frame, has a batch hold it, or takes its contents: until it is over nobody
/// takes the frame away somewhere, or shows it.
pub(super) fn is_exclusive(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::UnmapRange(..)
            | Verb::Migrate(..)
            | Verb::Fork(_)
            | Verb::UnmapBatched(_)
            | Verb::FlushBatched
            | Verb::Write(..)
    )
}

/// The pages that an edit, or a store, is about. `has_table`: the address space has a page table for
/// v0..v3.
pub(super) fn pages_of(action: &Action, has_table: bool) -> BTreeSet<Place> {
    let mm = action.mm;
    let of = |page| if matches!(page, Page::Kernel(_)) { (0, page) } else { (mm, page) };
    let tables = || (0..USER_TABLE_PAGE_COUNT).map(|number| (mm, Page::Table(number)));
    match action.verb {
        Verb::FreeTable(_) => tables().collect(),
        Verb::Map(Page::Table(_), _) if !has_table => tables().collect(),
        Verb::Map(page, _)
        | Verb::Remap(page, _)
        | Verb::Unmap(page)
        | Verb::Protect(page, _)
        | Verb::Clean(page)
        | Verb::Age(page)
        | Verb::UnmapBatched(page)
        | Verb::Split(page)
        | Verb::Merge(page)
        | Verb::Migrate(page, _)
        | Verb::WriteProtect(page)
        | Verb::MakeClean(page)
        | Verb::Write(page, ..) => [of(page)].into(),
        Verb::Move(from, to) => [of(from), of(to)].into(),
        Verb::UnmapRange(first, last) => {
            let all = (0..USER_PAGE_COUNT).map(Page::User);
            let all = all.chain((0..USER_TABLE_PAGE_COUNT).map(Page::Table));
            all.filter(|page| (first..=last).contains(page)).map(of).collect()
        }
        Verb::Fork(child) => {
            let pages = |mm| (0..USER_PAGE_COUNT).map(move |number| (mm, Page::User(number)));
            pages(mm).chain(pages(child)).collect()
        }
        _ => BTreeSet::new(),
    }
}
