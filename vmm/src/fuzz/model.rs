//! What a program does to memory, as its author must know it: which page shows which frame, what
//! is in the frames, and which flushes are owed. It knows no TLB: it is what every correct kernel
//! shows, whatever its processor caches.
//!
//! No legal program has a step that
//! * the kernel refuses: it maps what is mapped, edits what is not, or finds no frame;
//! * uses, in an edit that flushes nothing, an address of which something old may be cached and whose
//!   flush was deferred: whoever maps an address anew flushes it first;
//! * gives back a frame that an edit of its own took away somewhere and did not flush: no kernel frees
//!   a page in the middle of taking it away;
//! * lets a CPU go on that owes a flush. Other CPUs may go on: it is in the middle of an operation;
//! * shows a value that depends on what is cached, or on when a CPU is held back: that is right in a
//!   kernel, but its author could not say what it comes to.

use super::action::{Action, Frame, Named, Outcome, Verb, line};
use stalemate_shared::layout::{COLOURS, LARGE_COLOURS, POOL_FRAME_COUNT, colour_word};
use stalemate_shared::page::Page;
use std::collections::{BTreeMap, BTreeSet};

/// Why a step cannot stand where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Illegal {
    /// It maps what is mapped or pending, edits what is not mapped, or frees what its own edits still
    /// show; or its CPU is held back in another step.
    Refused,
    /// Its CPU owes a flush, and the step is neither an edit nor a flush; or it uses a page whose flush
    /// is owed or deferred.
    Owing,
}

/// A page of an address space; a kernel page is in all of them.
pub type Place = (usize, Page);

fn place(mm: usize, page: Page) -> Place {
    if matches!(page, Page::Kernel(_)) { (0, page) } else { (mm, page) }
}

fn is_small_user(page: Page) -> bool {
    matches!(page, Page::User(_))
}

/// What is owed for one page.
#[derive(Clone, Debug, Default)]
struct Debt {
    /// The CPUs that do not go on before it is paid.
    cpus: BTreeSet<u8>,
    /// The frames, by colour, that the page no longer shows and that may be cached.
    colours: BTreeSet<usize>,
}

/// Memory as a program has left it.
#[derive(Clone, Debug)]
pub struct World {
    pages: BTreeMap<Place, Frame>,
    /// The first word of each frame, by colour, and of copies.
    small: Vec<u64>,
    large: [u64; LARGE_COLOURS],
    owed: BTreeMap<Place, Debt>,
    /// Left to a CPU's next batched flush, or to one that comes sooner.
    deferred: BTreeSet<(u8, Place)>,
    /// Colours of the frames that a CPU's next batched flush is of: nobody gives them back before.
    batched: BTreeSet<(u8, usize)>,
    /// Address spaces with a page table for v0..v3.
    tables: BTreeSet<usize>,
    /// Frames of the kernel's pool that are in use.
    taken: u64,
    /// CPUs that are held back in a step.
    held: BTreeSet<u8>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            pages: BTreeMap::new(),
            small: (0..COLOURS.len()).map(colour_word).collect(),
            large: std::array::from_fn(colour_word),
            owed: BTreeMap::new(),
            deferred: BTreeSet::new(),
            batched: BTreeSet::new(),
            tables: BTreeSet::new(),
            taken: 0,
            held: BTreeSet::new(),
        }
    }
}

impl World {
    /// What a page shows.
    #[must_use]
    pub fn frame(&self, mm: usize, page: Page) -> Option<Frame> {
        self.pages.get(&place(mm, page)).copied()
    }

    /// The pages that are mapped; kernel pages are reported of address space 0.
    pub fn mapped(&self) -> impl Iterator<Item = Place> + '_ {
        self.pages.keys().copied()
    }

    /// The pages whose flush is owed.
    pub fn owed(&self) -> impl Iterator<Item = Place> + '_ {
        self.owed.keys().copied()
    }

    /// Whether a CPU owes a flush.
    #[must_use]
    pub fn owes(&self, cpu: u8) -> bool {
        self.owed.values().any(|debt| debt.cpus.contains(&cpu))
    }

    /// The batched flushes that are still to come, by CPU.
    #[must_use]
    pub fn deferred(&self) -> &BTreeSet<(u8, Place)> {
        &self.deferred
    }

    /// Address spaces with a page table for v0..v3.
    #[must_use]
    pub fn tables(&self) -> &BTreeSet<usize> {
        &self.tables
    }

    /// CPUs that are held back in a step.
    #[must_use]
    pub fn held(&self) -> &BTreeSet<u8> {
        &self.held
    }

    /// Whether nothing is owed and nobody held back, so that a program may end.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.owed.is_empty() && self.deferred.is_empty() && self.held.is_empty()
    }

    /// Takes one step.
    ///
    /// # Errors
    /// Where no legal program has this step here; nothing has changed then.
    pub fn take(&mut self, action: &Action) -> Result<Outcome, Illegal> {
        if action.is_other() && self.owes(action.cpu) {
            return Err(Illegal::Owing);
        }
        let resumes = action.verb == Verb::Resume;
        // Only steps of which no value is seen are held back: what one sees would depend on when.
        let may_hold = matches!(action.verb, Verb::Switch | Verb::Nop);
        if self.held.contains(&action.cpu) != resumes || action.hold.is_some() && !may_hold {
            return Err(Illegal::Refused);
        }
        if action.hold.is_some() {
            self.held.insert(action.cpu);
        }
        match action.verb {
            Verb::Resume => {
                self.held.remove(&action.cpu);
                Ok(Outcome::Done)
            }
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
                if self.frame(mm, page).is_some() || self.is_pending(place(mm, page)) {
                    return Err(Illegal::Refused);
                }
                if matches!(page, Page::Table(_)) && !self.tables.contains(&mm) {
                    self.take_frame()?;
                    self.tables.insert(mm);
                }
                self.show(action.cpu, place(mm, page), frame);
            }
            Verb::Remap(page, frame) => {
                let old = std::mem::replace(self.edit(action, page)?, frame);
                self.debt(place(mm, page)).colours.insert(old.colour);
            }
            Verb::Unmap(page) => {
                let old = *self.edit(action, page)?;
                self.pages.remove(&place(mm, page));
                self.debt(place(mm, page)).colours.insert(old.colour);
            }
            Verb::UnmapBatched(page) => {
                if matches!(page, Page::Kernel(_)) {
                    return Err(Illegal::Refused);
                }
                let old = *self.edit(action, page)?;
                self.pages.remove(&place(mm, page));
                self.batched.insert((action.cpu, old.colour));
                self.deferred.insert((action.cpu, place(mm, page)));
            }
            Verb::Protect(page, writable) => self.edit(action, page)?.writable = writable,
            Verb::Clean(page) | Verb::Age(page) => self.edit(action, page).map(|_| ())?,
            Verb::WriteProtect(page) => self.edit_locked(action, page)?.writable = false,
            Verb::MakeClean(page) => self.edit_locked(action, page).map(|_| ())?,
            Verb::Move(from, to) => {
                if self.frame(mm, to).is_some() || !is_small_user(to) {
                    return Err(Illegal::Refused);
                }
                let frame = *self.edit_locked(action, from)?;
                self.pages.remove(&place(mm, from));
                self.show(action.cpu, place(mm, to), frame);
            }
            Verb::Migrate(page, colour) => {
                let old = *self.edit_locked(action, page)?;
                if colour == old.colour || self.is_owed(old.colour) {
                    return Err(Illegal::Refused);
                }
                self.pages.insert(place(mm, page), Frame { colour, ..old });
                self.free(old.colour);
            }
            Verb::UnmapRange(first, last) => {
                if !is_small_user(first) && !matches!(first, Page::Table(_)) {
                    return Err(Illegal::Refused);
                }
                let inside = |&(of, page): &Place| of == mm && (first..=last).contains(&page);
                let shown = self.pages.iter().filter(|(place, _)| inside(place));
                let colours: BTreeSet<usize> = shown.map(|(_, frame)| frame.colour).collect();
                if colours.iter().any(|&colour| self.is_owed(colour)) {
                    return Err(Illegal::Refused);
                }
                self.pages.retain(|place, _| !inside(place));
                colours.into_iter().for_each(|colour| self.free(colour));
            }
            Verb::Fork(child) => self.fork(action.cpu, mm, child)?,
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
        match action.verb {
            Verb::FlushOne(page)
            | Verb::Split(page)
            | Verb::Merge(page)
            | Verb::WriteProtect(page)
            | Verb::MakeClean(page) => self.paid(|of| of == place(mm, page)),
            Verb::FlushRange(first, last) => {
                self.paid(|(of, page)| of == mm && (first..=last).contains(&page));
            }
            Verb::FlushKernelRange(first, last) => {
                self.paid(|(_, page)| (first..=last).contains(&page));
            }
            Verb::FreeTable(_) => {
                self.paid(|(of, page)| of == mm && matches!(page, Page::Table(_)));
            }
            Verb::FlushMm => self.paid(|(of, page)| of == mm && !matches!(page, Page::Kernel(_))),
            Verb::Fork(child) => {
                self.paid(|(of, page)| of == mm && !matches!(page, Page::Kernel(_)));
                // Who is to find no entry, or to make one, flushes what is pending first.
                self.deferred.retain(|(_, (of, _))| *of != child);
            }
            Verb::Move(page, _) => {
                self.paid(|of| of == place(mm, page));
                self.deferred.retain(|(_, (of, _))| *of != mm);
            }
            Verb::UnmapRange(..) => self.deferred.retain(|(_, (of, _))| *of != mm),
            Verb::FlushAll => self.paid(|_| true),
            Verb::FlushBatched => {
                self.deferred.retain(|(cpu, _)| *cpu != action.cpu);
                self.batched.retain(|(cpu, _)| *cpu != action.cpu);
            }
            _ => {}
        }
    }

    /// These are flushed: nothing is owed for them, and nothing is left for a batch.
    fn paid(&mut self, flushed: impl Fn(Place) -> bool) {
        self.owed.retain(|place, _| !flushed(*place));
        self.deferred.retain(|(_, place)| !flushed(*place));
    }

    /// A page shows a frame. Who maps it takes over what is owed for the address.
    fn show(&mut self, cpu: u8, place: Place, frame: Frame) {
        self.pages.insert(place, frame);
        if let Some(debt) = self.owed.get_mut(&place) {
            debt.cpus.insert(cpu);
        }
    }

    fn debt(&mut self, place: Place) -> &mut Debt {
        self.owed.entry(place).or_default()
    }

    /// Whether a frame of this colour is one that a page no longer shows, and whose flush is owed.
    fn is_owed(&self, colour: usize) -> bool {
        self.owed.values().any(|debt| debt.colours.contains(&colour))
    }

    fn fork(&mut self, cpu: u8, mm: usize, child: usize) -> Result<(), Illegal> {
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
        inherited.into_iter().for_each(|(place, frame)| self.show(cpu, place, frame));
        Ok(())
    }

    fn split(&mut self, mm: usize, page: Page) -> Result<(), Illegal> {
        let whole = self.frame(mm, page).filter(|frame| !frame.split);
        let whole = whole.filter(|_| matches!(page, Page::Large(_))).ok_or(Illegal::Refused)?;
        self.take_frame()?;
        self.pages.insert(place(mm, page), Frame { split: true, ..whole });
        Ok(())
    }

    /// Gives a frame back that a page has shown, unless another page shows it, or a batch is of it. A
    /// copy goes back to the kernel's pool; a test frame belongs to nobody.
    fn free(&mut self, colour: usize) {
        let small = |place: &Place| !matches!(place.1, Page::Large(_));
        let shown = self.pages.iter().any(|(at, frame)| small(at) && frame.colour == colour);
        let held = self.batched.iter().any(|&(_, held)| held == colour);
        self.taken -= u64::from(colour >= COLOURS.len() && !shown && !held);
    }

    /// As [`World::edit`], for edits under the page-table lock, which flush.
    fn edit_locked(&mut self, action: &Action, page: Page) -> Result<&mut Frame, Illegal> {
        if !is_small_user(page) {
            return Err(Illegal::Refused);
        }
        self.edit(action, page)
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
            self.owed.entry(place).or_default().cpus.insert(action.cpu);
        }
        Ok(frame)
    }

    /// Whether what is cached of a page that was there before waits for a batched flush: it would be
    /// used for another page in its place.
    fn is_pending(&self, place: Place) -> bool {
        self.deferred.iter().any(|&(_, deferred)| deferred == place)
    }

    /// What an access meets; user mode meets no kernel page.
    fn reachable(&self, mm: usize, page: Page, user: bool) -> Result<Option<Frame>, Illegal> {
        let place = place(mm, page);
        if self.is_pending(place) || self.owed.contains_key(&place) {
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
