//! What a program does to memory, as its author must know it: which page shows which frame, what
//! is in the frames, and which flushes are owed. It knows no TLB: it is what every correct kernel
//! shows, whatever its processor caches.

use crate::scenario::Page;
use stalemate_shared::layout::{COLOURS, LARGE_COLOURS, POOL_FRAME_COUNT, colour_word};
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
    /// `flush_tlb_kernel_range` from the first page to the last.
    FlushKernelRange(Page, Page),
    /// A mapped page is mapped no more; the flush is left to the CPU's next batched one.
    UnmapBatched(Page),
    /// `flush_tlb_batched`
    FlushBatched,
    /// Another address space gets the small user pages, to be copied at the first store; flushed.
    Fork(usize),
    /// A 2 MiB page becomes small ones; flushed.
    Split(Page),
    /// And back; flushed.
    Merge(Page),
    /// The page table of v0..v3 goes, with what it maps; flushed.
    FreeTable(Page),
    /// The CPU runs a kernel thread, lazily.
    Lazy,
    /// The CPU loads the address space without a user half.
    LeaveMm,
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
    /// Index of its colour; above those, a copy.
    pub colour: usize,
    /// The page may be written.
    pub writable: bool,
    /// A and D are set from the beginning.
    pub dirty: bool,
    /// It is copied at the first store of user mode.
    pub shared: bool,
    /// It is a large page in parts.
    pub split: bool,
}

impl Frame {
    /// A frame that is mapped afresh.
    #[must_use]
    pub fn new(colour: usize, writable: bool, dirty: bool) -> Self {
        Self { colour, writable, dirty, shared: false, split: false }
    }
}

/// One step of a program, without what it must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// The CPU's number.
    pub cpu: u8,
    /// The address space's number.
    pub mm: usize,
    /// What is done.
    pub verb: Verb,
}

impl Action {
    /// Whether the step is neither an edit nor a flush: by then, what is owed must be paid.
    #[must_use]
    pub fn is_other(&self) -> bool {
        matches!(
            self.verb,
            Verb::Switch
                | Verb::Nop
                | Verb::Lazy
                | Verb::LeaveMm
                | Verb::Read(..)
                | Verb::Write(..)
        )
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
            Verb::FlushAll
            | Verb::FlushKernelRange(..)
            | Verb::FlushBatched
            | Verb::Lazy
            | Verb::LeaveMm => true,
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
            | Verb::UnmapBatched(page)
            | Verb::Split(page)
            | Verb::Merge(page)
            | Verb::FreeTable(page)
            | Verb::Read(page, _)
            | Verb::Write(page, ..) => [Some(page), None],
            Verb::FlushRange(first, last) | Verb::FlushKernelRange(first, last) => {
                [Some(first), Some(last)]
            }
            Verb::FlushMm
            | Verb::FlushAll
            | Verb::FlushBatched
            | Verb::Fork(_)
            | Verb::Lazy
            | Verb::LeaveMm
            | Verb::Switch
            | Verb::Nop => [None, None],
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
    /// A flush is owed, and the step is neither an edit nor a flush; or it uses a page whose flush
    /// was deferred.
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
    /// The first word of each frame, by colour, and of copies.
    small: Vec<u64>,
    large: [u64; LARGE_COLOURS],
    owed: BTreeSet<Place>,
    /// Left to a CPU's next batched flush.
    deferred: BTreeSet<(u8, Place)>,
    /// Address spaces with a page table for v0..v3.
    tables: BTreeSet<usize>,
    /// Frames of the kernel's pool that are in use.
    taken: u64,
}

impl Default for World {
    fn default() -> Self {
        Self {
            pages: BTreeMap::new(),
            small: (0..COLOURS.len()).map(colour_word).collect(),
            large: std::array::from_fn(colour_word),
            owed: BTreeSet::new(),
            deferred: BTreeSet::new(),
            tables: BTreeSet::new(),
            taken: 0,
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

    /// The batched flushes that are still to come, by CPU.
    #[must_use]
    pub fn deferred(&self) -> &BTreeSet<(u8, Place)> {
        &self.deferred
    }

    /// Whether nothing is owed, so that a program may end.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.owed.is_empty() && self.deferred.is_empty()
    }

    /// Takes one step.
    ///
    /// # Errors
    /// Where no legal program has this step here; nothing has changed then.
    pub fn take(&mut self, action: &Action) -> Result<Outcome, Illegal> {
        if action.is_other() && !self.owed.is_empty() {
            return Err(Illegal::Owing);
        }
        match action.verb {
            Verb::Read(page, user) => self.read(action.mm, page, user),
            Verb::Write(page, user, value) => self.write(action.mm, page, user, value),
            Verb::Switch | Verb::Nop | Verb::Lazy | Verb::LeaveMm => Ok(Outcome::Done),
            _ => {
                self.change(action)?;
                self.flush(action);
                Ok(Outcome::Done)
            }
        }
    }

    /// What an edit makes of the pages.
    fn change(&mut self, action: &Action) -> Result<(), Illegal> {
        let mm = action.mm;
        match action.verb {
            Verb::Map(page, frame) => {
                if self.frame(mm, page).is_some() {
                    return Err(Illegal::Refused);
                }
                if matches!(page, Page::Table(_)) && !self.tables.contains(&mm) {
                    self.take_frame()?;
                    self.tables.insert(mm);
                }
                self.pages.insert(place(mm, page), frame);
            }
            Verb::Remap(page, frame) => *self.edit(action, page)? = frame,
            Verb::Unmap(page) => {
                self.edit(action, page)?;
                self.pages.remove(&place(mm, page));
            }
            Verb::UnmapBatched(page) => {
                if matches!(page, Page::Kernel(_)) {
                    return Err(Illegal::Refused);
                }
                self.edit(action, page)?;
                self.pages.remove(&place(mm, page));
                self.deferred.insert((action.cpu, place(mm, page)));
            }
            Verb::Protect(page, writable) => self.edit(action, page)?.writable = writable,
            Verb::Clean(page) | Verb::Age(page) => self.edit(action, page).map(|_| ())?,
            Verb::Fork(child) => self.fork(mm, child)?,
            Verb::Split(page) => self.split(mm, page)?,
            Verb::Merge(page) => {
                let frame = self.pages.get_mut(&place(mm, page));
                frame.filter(|frame| frame.split).ok_or(Illegal::Refused)?.split = false;
                self.taken -= 1;
            }
            Verb::FreeTable(_) => {
                if !self.tables.remove(&mm) {
                    return Err(Illegal::Refused);
                }
                self.taken -= 1;
                self.pages.retain(|(of, page), _| *of != mm || !matches!(page, Page::Table(_)));
            }
            _ => {}
        }
        Ok(())
    }

    /// What a step pays for.
    fn flush(&mut self, action: &Action) {
        let mm = action.mm;
        let kernel = |page: Page| matches!(page, Page::Kernel(_));
        match action.verb {
            Verb::FlushOne(page) | Verb::Split(page) | Verb::Merge(page) => {
                self.owed.remove(&place(mm, page));
            }
            Verb::FlushRange(first, last) => {
                self.owed.retain(|&(of, page)| of != mm || !(first..=last).contains(&page));
            }
            Verb::FlushKernelRange(first, last) => {
                self.owed.retain(|(_, page)| !(first..=last).contains(page));
            }
            Verb::FreeTable(_) => {
                self.owed.retain(|&(of, page)| of != mm || !matches!(page, Page::Table(_)));
            }
            Verb::FlushMm | Verb::Fork(_) => {
                self.owed.retain(|&(of, page)| of != mm || kernel(page))
            }
            Verb::FlushAll => {
                self.owed.clear();
                self.deferred.clear();
            }
            Verb::FlushBatched => self.deferred.retain(|(cpu, _)| *cpu != action.cpu),
            _ => {}
        }
    }

    fn fork(&mut self, mm: usize, child: usize) -> Result<(), Illegal> {
        let user = |of: usize| (of, Page::User(0))..=(of, Page::User(u64::MAX));
        if mm == child || self.pages.range(user(child)).next().is_some() {
            return Err(Illegal::Refused);
        }
        let mut inherited = Vec::new();
        for ((_, page), frame) in self.pages.range_mut(user(mm)) {
            frame.shared |= frame.writable;
            frame.writable = false;
            inherited.push(((child, *page), *frame));
        }
        self.pages.extend(inherited);
        Ok(())
    }

    fn split(&mut self, mm: usize, page: Page) -> Result<(), Illegal> {
        let whole = self.frame(mm, page).filter(|frame| !frame.split);
        let whole = whole.filter(|_| matches!(page, Page::Large(_))).ok_or(Illegal::Refused)?;
        self.take_frame()?;
        self.pages.insert(place(mm, page), Frame { split: true, ..whole });
        Ok(())
    }

    fn take_frame(&mut self) -> Result<(), Illegal> {
        if self.taken == POOL_FRAME_COUNT {
            return Err(Illegal::Refused);
        }
        self.taken += 1;
        Ok(())
    }

    fn read(&mut self, mm: usize, page: Page, user: bool) -> Result<Outcome, Illegal> {
        let frame = self.reachable(mm, page, user)?;
        let word = frame.map(|frame| *self.word(page, frame.colour));
        Ok(word.map_or(Outcome::Fault, Outcome::Value))
    }

    fn write(&mut self, mm: usize, page: Page, user: bool, new: u64) -> Result<Outcome, Illegal> {
        let Some(mut frame) = self.reachable(mm, page, user)? else { return Ok(Outcome::Fault) };
        if !frame.writable {
            if !user || !frame.shared {
                return Ok(Outcome::Fault);
            }
            self.take_frame()?;
            let colour = self.small.len();
            self.small.push(new);
            frame = Frame { colour, writable: true, shared: false, ..frame };
            self.pages.insert(place(mm, page), frame);
        }
        *self.word(page, frame.colour) = new;
        Ok(Outcome::Done)
    }

    fn edit(&mut self, action: &Action, page: Page) -> Result<&mut Frame, Illegal> {
        let place = place(action.mm, page);
        // A large page in parts has no entry of its own to edit.
        let frame = self.pages.get_mut(&place).filter(|frame| !frame.split);
        let frame = frame.ok_or(Illegal::Refused)?;
        if action.verb.owes() {
            self.owed.insert(place);
        }
        Ok(frame)
    }

    /// What an access meets; user mode meets no kernel page.
    fn reachable(&self, mm: usize, page: Page, user: bool) -> Result<Option<Frame>, Illegal> {
        let place = place(mm, page);
        if self.deferred.iter().any(|&(_, deferred)| deferred == place) {
            return Err(Illegal::Owing);
        }
        let barred = user && matches!(page, Page::Kernel(_));
        Ok(self.frame(mm, page).filter(|_| !barred))
    }

    fn word(&mut self, page: Page, colour: usize) -> &mut u64 {
        match page {
            Page::Large(_) => &mut self.large[colour],
            Page::User(_) | Page::Table(_) | Page::Kernel(_) => &mut self.small[colour],
        }
    }
}

/// The step lines of a legal program.
///
/// # Errors
/// The first step that cannot stand where it does, or the end, where a flush is still owed.
pub fn lines(actions: &[Action]) -> Result<Vec<String>, Illegal> {
    // A program about one address space, or one CPU, alone need not name it.
    let named = Named {
        mm: actions.iter().any(|action| action.mm != 0 || matches!(action.verb, Verb::Fork(_))),
        cpu: actions.iter().any(|action| action.cpu != 0),
    };
    let mut world = World::default();
    let lines = actions
        .iter()
        .map(|action| world.take(action).map(|outcome| line(action, outcome, named)))
        .collect::<Result<_, _>>()?;
    if world.is_settled() { Ok(lines) } else { Err(Illegal::Owing) }
}

/// What step lines name.
#[derive(Clone, Copy)]
struct Named {
    mm: bool,
    cpu: bool,
}

fn letter(mm: usize) -> char {
    (b'A' + mm as u8) as char
}

/// One step as a scenario file has it.
fn line(action: &Action, outcome: Outcome, named: Named) -> String {
    let mut text = String::with_capacity(40);
    // Writing to a String cannot fail.
    if named.cpu {
        let _ = write!(text, "cpu{} ", action.cpu);
    }
    if named.mm && !action.is_of_all() {
        let _ = write!(text, "{} ", letter(action.mm));
    }
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
            Verb::FlushKernelRange(first, last) => {
                write!(f, "flush_tlb_kernel_range {first}..{last}")
            }
            Verb::UnmapBatched(page) => write!(f, "unmap_batched {page}"),
            Verb::FlushBatched => f.write_str("flush_tlb_batched"),
            Verb::Fork(child) => write!(f, "fork {}", letter(child)),
            Verb::Split(page) => write!(f, "split {page}"),
            Verb::Merge(page) => write!(f, "merge {page}"),
            Verb::FreeTable(page) => write!(f, "free_table {page}"),
            Verb::Lazy => f.write_str("lazy"),
            Verb::LeaveMm => f.write_str("leave_mm"),
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
