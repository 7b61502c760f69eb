//! What a program does to memory, as its author must know it: which page shows which frame, what
//! is in the frames, and which flushes are owed. It knows no TLB: it is what every correct kernel
//! shows, whatever its processor caches.

use crate::scenario::Page;
use stalemate_shared::layout::{COLOURS, LARGE_COLOURS, colour_word};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

/// What one step does; its address space is beside it, in [`Action`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A page that is not mapped shows a frame.
    Map(Page, Frame),
    /// A mapped page shows another frame, or the same one afresh.
    Remap(Page, Frame),
    /// A mapped page is mapped no more.
    Unmap(Page),
    /// A mapped page may be written, or may not.
    Protect(Page, bool),
    /// D is cleared.
    Clean(Page),
    /// A is cleared.
    Age(Page),
    /// `flush_tlb_one_user` or `flush_tlb_one_kernel`, as the page wants it.
    FlushOne(Page),
    /// `flush_tlb_range` from the first page to the last, of one kind.
    FlushRange(Page, Page),
    /// `flush_tlb_mm`
    FlushMm,
    /// `flush_tlb_all`
    FlushAll,
    /// `switch_mm`
    Switch,
    /// To user mode and back.
    Nop,
    /// A load, in user mode if so.
    Read(Page, bool),
    /// A store of a value, in user mode if so.
    Write(Page, bool, u64),
}

impl Verb {
    /// Whether a flush is owed after it. More permission makes nothing stale; but until the old
    /// entry is flushed a store may fault once, and a program could not say what it comes to.
    #[must_use]
    pub fn owes(self) -> bool {
        matches!(self, Self::Remap(..) | Self::Unmap(_) | Self::Protect(..) | Self::Clean(_))
    }
}

/// What a page is mapped to, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Index of its colour.
    pub colour: usize,
    /// The page may be written.
    pub writable: bool,
    /// A and D are set from the beginning.
    pub dirty: bool,
}

/// One step of a program, without what it must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// The address space's number.
    pub mm: usize,
    /// What is done.
    pub verb: Verb,
}

impl Action {
    /// Whether the step is neither an edit nor a flush: by then, what is owed must be paid.
    #[must_use]
    pub fn is_other(&self) -> bool {
        matches!(self.verb, Verb::Switch | Verb::Nop | Verb::Read(..) | Verb::Write(..))
    }

    /// Whether the step is about no address space in particular.
    #[must_use]
    pub fn is_of_all(&self) -> bool {
        let kernel = |page| matches!(page, Page::Kernel(_));
        match self.verb {
            Verb::Map(page, _)
            | Verb::Remap(page, _)
            | Verb::Unmap(page)
            | Verb::Protect(page, _)
            | Verb::Clean(page)
            | Verb::Age(page)
            | Verb::FlushOne(page) => kernel(page),
            Verb::FlushAll => true,
            _ => false,
        }
    }

    /// The pages that it names, for renaming them.
    pub fn pages_mut(&mut self) -> impl Iterator<Item = &mut Page> {
        let [first, last] = match &mut self.verb {
            Verb::Map(page, _)
            | Verb::Remap(page, _)
            | Verb::Unmap(page)
            | Verb::Protect(page, _)
            | Verb::Clean(page)
            | Verb::Age(page)
            | Verb::FlushOne(page)
            | Verb::Read(page, _)
            | Verb::Write(page, ..) => [Some(page), None],
            Verb::FlushRange(first, last) => [Some(first), Some(last)],
            Verb::FlushMm | Verb::FlushAll | Verb::Switch | Verb::Nop => [None, None],
        };
        first.into_iter().chain(last)
    }
}

/// What a step must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, and no value matters.
    Done,
    /// This value is read.
    Value(u64),
    /// A page fault.
    Fault,
}

/// Why a step cannot stand where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Illegal {
    /// It maps what is mapped, or edits what is not: the kernel would refuse it.
    Refused,
    /// A flush is owed, and the step is neither an edit nor a flush.
    Owing,
}

/// A page of an address space; a kernel page is in all of them.
pub type Place = (usize, Page);

fn place(mm: usize, page: Page) -> Place {
    if matches!(page, Page::Kernel(_)) { (0, page) } else { (mm, page) }
}

/// Memory as a program has left it.
#[derive(Clone, Debug)]
pub struct World {
    pages: BTreeMap<Place, Frame>,
    /// The first word of each frame, by colour.
    small: [u64; COLOURS.len()],
    large: [u64; LARGE_COLOURS],
    owed: BTreeSet<Place>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            pages: BTreeMap::new(),
            small: std::array::from_fn(colour_word),
            large: std::array::from_fn(colour_word),
            owed: BTreeSet::new(),
        }
    }
}

impl World {
    /// What a page shows.
    #[must_use]
    pub fn frame(&self, mm: usize, page: Page) -> Option<Frame> {
        self.pages.get(&place(mm, page)).copied()
    }

    /// The pages that are mapped; kernel pages are told of address space 0.
    pub fn mapped(&self) -> impl Iterator<Item = Place> + '_ {
        self.pages.keys().copied()
    }

    /// The pages whose flush is owed.
    #[must_use]
    pub fn owed(&self) -> &BTreeSet<Place> {
        &self.owed
    }

    /// Takes one step.
    ///
    /// # Errors
    /// Where no legal program has this step here; nothing has changed then.
    pub fn take(&mut self, action: &Action) -> Result<Outcome, Illegal> {
        if action.is_other() && !self.owed.is_empty() {
            return Err(Illegal::Owing);
        }
        let mm = action.mm;
        match action.verb {
            Verb::Map(page, frame) => {
                let slot = self.pages.entry(place(mm, page));
                let std::collections::btree_map::Entry::Vacant(slot) = slot else {
                    return Err(Illegal::Refused);
                };
                slot.insert(frame);
            }
            Verb::Remap(page, frame) => *self.edit(action, page)? = frame,
            Verb::Unmap(page) => {
                self.edit(action, page)?;
                self.pages.remove(&place(mm, page));
            }
            Verb::Protect(page, writable) => self.edit(action, page)?.writable = writable,
            Verb::Clean(page) | Verb::Age(page) => self.edit(action, page).map(|_| ())?,
            Verb::FlushOne(page) => {
                self.owed.remove(&place(mm, page));
            }
            Verb::FlushRange(first, last) => {
                self.owed.retain(|&(of, page)| of != mm || !(first..=last).contains(&page));
            }
            Verb::FlushMm => {
                self.owed.retain(|&(of, page)| of != mm || matches!(page, Page::Kernel(_)));
            }
            Verb::FlushAll => self.owed.clear(),
            Verb::Switch | Verb::Nop => {}
            Verb::Read(page, user) => {
                let frame = self.reachable(mm, page, user);
                return Ok(frame.map_or(Outcome::Fault, |frame| {
                    Outcome::Value(*self.word(page, frame.colour))
                }));
            }
            Verb::Write(page, user, value) => {
                let Some(frame) = self.reachable(mm, page, user).filter(|frame| frame.writable)
                else {
                    return Ok(Outcome::Fault);
                };
                *self.word(page, frame.colour) = value;
            }
        }
        Ok(Outcome::Done)
    }

    fn edit(&mut self, action: &Action, page: Page) -> Result<&mut Frame, Illegal> {
        let place = place(action.mm, page);
        let frame = self.pages.get_mut(&place).ok_or(Illegal::Refused)?;
        if action.verb.owes() {
            self.owed.insert(place);
        }
        Ok(frame)
    }

    /// What an access meets; user mode meets no kernel page.
    fn reachable(&self, mm: usize, page: Page, user: bool) -> Option<Frame> {
        let barred = user && matches!(page, Page::Kernel(_));
        self.frame(mm, page).filter(|_| !barred)
    }

    fn word(&mut self, page: Page, colour: usize) -> &mut u64 {
        match page {
            Page::Large(_) => &mut self.large[colour],
            Page::User(_) | Page::Kernel(_) => &mut self.small[colour],
        }
    }
}

/// The step lines of a legal program.
///
/// # Errors
/// The first step that cannot stand where it does, or the end, where a flush is still owed.
pub fn lines(actions: &[Action]) -> Result<Vec<String>, Illegal> {
    // A program about one address space alone need not name it.
    let named = actions.iter().any(|action| action.mm != 0);
    let mut world = World::default();
    let lines = actions
        .iter()
        .map(|action| world.take(action).map(|outcome| line(action, outcome, named)))
        .collect::<Result<_, _>>()?;
    if world.owed().is_empty() { Ok(lines) } else { Err(Illegal::Owing) }
}

/// One step as a scenario file has it.
fn line(action: &Action, outcome: Outcome, named: bool) -> String {
    let mut text = String::with_capacity(40);
    if named && !action.is_of_all() {
        text.push((b'A' + action.mm as u8) as char);
        text.push(' ');
    }
    // Writing to a String cannot fail.
    let _ = write!(text, "{}", Shown(action.verb));
    let _ = match outcome {
        Outcome::Done => Ok(()),
        Outcome::Fault => write!(text, " -> fault"),
        Outcome::Value(value) => match (0..COLOURS.len()).find(|&at| colour_word(at) == value) {
            Some(colour) => write!(text, " -> {}", COLOURS[colour]),
            None => write!(text, " -> {value:#x}"),
        },
    };
    text
}

/// A verb as a step line has it.
struct Shown(Verb);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = |user| if user { "user" } else { "kernel" };
        match self.0 {
            Verb::Map(page, frame) => write!(f, "map {page} {frame}"),
            Verb::Remap(page, frame) => write!(f, "remap {page} {frame}"),
            Verb::Unmap(page) => write!(f, "unmap {page}"),
            Verb::Protect(page, true) => write!(f, "protect {page} rw"),
            Verb::Protect(page, false) => write!(f, "protect {page} ro"),
            Verb::Clean(page) => write!(f, "clean {page}"),
            Verb::Age(page) => write!(f, "age {page}"),
            Verb::FlushOne(page @ Page::Kernel(_)) => write!(f, "flush_tlb_one_kernel {page}"),
            Verb::FlushOne(page) => write!(f, "flush_tlb_one_user {page}"),
            Verb::FlushRange(first, last) => write!(f, "flush_tlb_range {first}..{last}"),
            Verb::FlushMm => f.write_str("flush_tlb_mm"),
            Verb::FlushAll => f.write_str("flush_tlb_all"),
            Verb::Switch => f.write_str("switch_mm"),
            Verb::Nop => f.write_str("user nop"),
            Verb::Read(page, user) => write!(f, "{} read {page}", mode(user)),
            Verb::Write(page, user, value) => write!(f, "{} write {page} {value:#x}", mode(user)),
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(COLOURS[self.colour])?;
        f.write_str(if self.writable { "" } else { " ro" })?;
        f.write_str(if self.dirty { " dirty" } else { "" })
    }
}
