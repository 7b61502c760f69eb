//! What a program does to memory, as its author must know it: which page shows which frame, what
//! is in the frames, and which flushes are owed. It knows no TLB: it is what every correct kernel
//! shows, whatever its processor caches. Where that depends on what is cached, or on when a CPU that
//! is held back goes on, it is one of several.
//!
//! No legal program has a step that
//! * the kernel refuses: it maps what is mapped, edits what is not, or finds no frame;
//! * uses, in an edit that flushes nothing, an address of which something old may be cached and whose
//!   flush was deferred: whoever maps an address anew flushes it first;
//! * gives back a frame that an edit of the program took away somewhere and did not flush, or takes
//!   the contents of one that something stale may write: no kernel frees, copies or migrates a page
//!   in the middle of taking it away;
//! * edits a page that another CPU is in the middle of editing, or takes away, shows or copies a
//!   frame that another CPU is in the middle of freeing or copying: there it holds a lock, or the
//!   last reference;
//! * lets a CPU go on that owes a flush. Other CPUs may go on: it is in the middle of an operation.
//!
//! Nor has it, for want of words in a step line, a store that may fault or not, or a load of more
//! than [`MOST_VALUES`](crate::scenario::MOST_VALUES) values.

mod access;

use super::action::{Action, Frame, Named, Outcome, Verb, line};
use super::held::{Held, Store, is_exclusive, pages_of};
use super::words::{Reading, Words};
use stalemate_shared::layout::{COLOURS, POOL_FRAME_COUNT};
use stalemate_shared::page::Page;
use std::collections::{BTreeMap, BTreeSet};

/// Why a step cannot stand where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Illegal {
    /// It maps what is mapped or pending, edits what is not mapped, or frees what its own edits still
    /// show; its CPU is held back in another step; it meets another CPU in the midst of one; or no
    /// step line says what it may come to.
    Refused,
    /// Its CPU owes a flush, and the step is neither an edit nor a flush.
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

fn is_large(page: Page) -> bool {
    matches!(page, Page::Large(_))
}

/// What is owed for one page.
#[derive(Clone, Debug, Default)]
struct Debt {
    /// The CPUs that do not go on before it is paid.
    cpus: BTreeSet<u8>,
    /// What the page showed before, and may still be cached.
    cached: Vec<Frame>,
    /// The colours among these that it no longer shows.
    colours: BTreeSet<usize>,
    /// The number of the last edit.
    since: usize,
}

/// What is left to a batched flush.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// What the page showed.
    cached: Frame,
    /// The number of the edit.
    since: usize,
}

/// Memory as a program has left it.
#[derive(Clone, Debug, Default)]
pub struct World {
    pages: BTreeMap<Place, Frame>,
    words: Words,
    owed: BTreeMap<Place, Debt>,
    /// Left to a CPU's next batched flush, or to one that comes sooner.
    deferred: BTreeMap<(u8, Place), Pending>,
    /// Colours of the frames that a CPU's next batched flush is of: nobody gives them back before.
    batched: BTreeSet<(u8, usize)>,
    /// Address spaces with a page table for v0..v3.
    tables: BTreeSet<usize>,
    /// Frames of the kernel's pool that are in use.
    taken: u64,
    /// CPUs that are held back in a step.
    held: BTreeMap<u8, Held>,
    /// Steps so far.
    steps: usize,
    /// What loads that were held back may have come to, by the number of the step.
    answers: Vec<(usize, Outcome)>,
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
    pub fn deferred(&self) -> impl Iterator<Item = (u8, Place)> + '_ {
        self.deferred.keys().copied()
    }

    /// Address spaces with a page table for v0..v3.
    #[must_use]
    pub fn tables(&self) -> &BTreeSet<usize> {
        &self.tables
    }

    /// CPUs that are held back in a step.
    pub fn held(&self) -> impl ExactSizeIterator<Item = u8> + '_ {
        self.held.keys().copied()
    }

    /// Whether nothing is owed and nobody held back, so that a program may end.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_paid() && self.held.is_empty()
    }

    /// Whether nothing is owed.
    #[must_use]
    pub fn is_paid(&self) -> bool {
        self.owed.is_empty() && self.deferred.is_empty()
    }

    /// Takes one step.
    ///
    /// # Errors
    /// Where no legal program has this step here; nothing has changed then.
    pub fn take(&mut self, action: &Action) -> Result<Outcome, Illegal> {
        let mut next = self.clone();
        let outcome = next.step(action)?;
        next.steps += 1;
        *self = next;
        Ok(outcome)
    }

    fn step(&mut self, action: &Action) -> Result<Outcome, Illegal> {
        let resumes = action.verb == Verb::Resume;
        if self.held.contains_key(&action.cpu) != resumes || resumes && action.hold.is_some() {
            return Err(Illegal::Refused);
        }
        if resumes {
            self.resume(action.cpu)?;
            return Ok(Outcome::Done);
        }
        if action.is_other() && self.owes(action.cpu) {
            return Err(Illegal::Owing);
        }
        let pages = pages_of(action, self.tables.contains(&action.mm));
        let before: BTreeMap<Place, Option<Frame>> =
            pages.into_iter().map(|place| (place, self.pages.get(&place).copied())).collect();
        let taken = self.taken;
        let mut store = None;
        let outcome = match action.verb {
            Verb::Read(page, user) => {
                let reading = self.reading(action.mm, page, user);
                reading.outcome().ok_or(Illegal::Refused)?
            }
            Verb::Write(page, user, value) => {
                self.write(action, (page, user, value), &before, &mut store)?
            }
            Verb::Switch | Verb::Nop | Verb::Lazy | Verb::LeaveMm => Outcome::Done,
            _ => {
                self.apart(action, &before)?;
                self.change(action)?;
                if action.hold.is_none() {
                    self.flush(action, self.steps);
                }
                Outcome::Done
            }
        };
        self.follow(action, &before)?;
        if action.hold.is_some() {
            let gives_back = taken.saturating_sub(self.taken);
            self.taken += gives_back;
            let reading = match action.verb {
                Verb::Read(page, user) => Some(self.reading(action.mm, page, user)),
                _ => None,
            };
            let colours = self.colours(action, &before);
            let (step, places, action) = (self.steps, before, *action);
            let held = Held { action, step, places, colours, gives_back, reading, store };
            self.held.insert(action.cpu, held);
        }
        Ok(outcome)
    }

    /// The step that a CPU is held back in comes to its end.
    fn resume(&mut self, cpu: u8) -> Result<(), Illegal> {
        let held = self.held.remove(&cpu).ok_or(Illegal::Refused)?;
        self.flush(&held.action, held.step);
        // Its edit may have been made only now: no flush that began before is of it.
        let edited = |place: &Place| held.places.contains_key(place);
        let owed = self.owed.iter_mut().filter(|(place, _)| edited(place));
        owed.for_each(|(_, debt)| debt.since = self.steps);
        let deferred = self.deferred.iter_mut().filter(|((_, place), _)| edited(place));
        deferred.for_each(|(_, pending)| pending.since = self.steps);
        self.taken -= held.gives_back;
        if let Some(Store { word, value, alone: true }) = held.store {
            self.words.set(word, [value].into());
        }
        if let Some(outcome) = held.reading.as_ref().and_then(Reading::outcome) {
            self.answers.push((held.step, outcome));
        }
        self.follow(&held.action, &held.places)
    }

    /// Refuses what meets a step that another CPU is in the midst of.
    fn apart(
        &self,
        action: &Action,
        pages: &BTreeMap<Place, Option<Frame>>,
    ) -> Result<(), Illegal> {
        let colours = self.colours(action, pages);
        let meets = |held: &Held| {
            let exclusive = is_exclusive(action.verb) || is_exclusive(held.action.verb);
            pages.keys().any(|place| held.places.contains_key(place))
                || exclusive && !held.colours.is_disjoint(&colours)
        };
        if self.held.values().any(meets) { Err(Illegal::Refused) } else { Ok(()) }
    }

    /// The colours of the small frames that a step is about.
    fn colours(&self, action: &Action, pages: &BTreeMap<Place, Option<Frame>>) -> BTreeSet<usize> {
        let small = pages.iter().filter(|((_, page), _)| !is_large(*page));
        let mut colours: BTreeSet<usize> =
            small.clone().filter_map(|(_, frame)| frame.map(|frame| frame.colour)).collect();
        let now = small.filter_map(|(place, _)| self.pages.get(place));
        colours.extend(now.map(|frame| frame.colour));
        match action.verb {
            Verb::Map(page, frame) | Verb::Remap(page, frame) if !is_large(page) => {
                colours.insert(frame.colour);
            }
            Verb::Migrate(_, colour) => {
                colours.insert(colour);
            }
            Verb::FlushBatched => {
                let own = self.batched.iter().filter(|(cpu, _)| *cpu == action.cpu);
                colours.extend(own.map(|(_, colour)| *colour));
            }
            _ => {}
        }
        colours
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
                if !is_large(page) {
                    self.batched.insert((action.cpu, old.colour));
                }
                let pending = Pending { cached: old, since: self.steps };
                self.deferred.insert((action.cpu, place(mm, page)), pending);
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
                let own = place(mm, page);
                let written = self.is_written(old.colour, |of, _| of != own);
                if colour == old.colour || self.is_owed(old.colour) || written {
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

    /// What a step pays for that began as number `begun`.
    fn flush(&mut self, action: &Action, begun: usize) {
        let mm = action.mm;
        match action.verb {
            Verb::FlushOne(page)
            | Verb::Split(page)
            | Verb::Merge(page)
            | Verb::WriteProtect(page)
            | Verb::MakeClean(page) => self.paid(begun, |of| of == place(mm, page)),
            Verb::FlushRange(first, last) => {
                self.paid(begun, |(of, page)| of == mm && (first..=last).contains(&page));
            }
            Verb::FlushKernelRange(first, last) => {
                self.paid(begun, |(_, page)| (first..=last).contains(&page));
            }
            Verb::FreeTable(_) => {
                self.paid(begun, |(of, page)| of == mm && matches!(page, Page::Table(_)));
            }
            Verb::FlushMm => self.mm_paid(begun, mm),
            Verb::Fork(child) => {
                self.mm_paid(begun, mm);
                // Who is to find no entry, or to make one, flushes what is pending first.
                self.done(begun, |_, (of, _)| of == child);
            }
            Verb::Move(page, _) => {
                self.paid(begun, |of| of == place(mm, page));
                self.done(begun, |_, (of, _)| of == mm);
            }
            Verb::UnmapRange(..) => self.done(begun, |_, (of, _)| of == mm),
            Verb::FlushAll => self.paid(begun, |_| true),
            Verb::FlushBatched => {
                self.done(begun, |cpu, _| cpu == action.cpu);
                self.batched.retain(|(cpu, _)| *cpu != action.cpu);
            }
            _ => {}
        }
    }

    fn mm_paid(&mut self, begun: usize, mm: usize) {
        self.paid(begun, |(of, page)| of == mm && !matches!(page, Page::Kernel(_)));
    }

    /// These are flushed: nothing is owed for them, and nothing is left for a batch. What was edited
    /// after the flush began is not, nor what another CPU is in the midst of editing.
    fn paid(&mut self, begun: usize, flushed: impl Fn(Place) -> bool) {
        let held = &self.held;
        let edited = |place: &Place| held.values().any(|held| held.places.contains_key(place));
        self.owed.retain(|place, debt| !flushed(*place) || debt.since > begun || edited(place));
        self.done(begun, |_, place| flushed(place));
    }

    /// These batched flushes are no longer to come.
    fn done(&mut self, begun: usize, flushed: impl Fn(u8, Place) -> bool) {
        let held = &self.held;
        let edited = |place: &Place| held.values().any(|held| held.places.contains_key(place));
        self.deferred.retain(|(cpu, place), pending| {
            !flushed(*cpu, *place) || pending.since > begun || edited(place)
        });
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
        let mut small = self.owed.iter().filter(|((_, page), _)| !is_large(*page));
        small.any(|(_, debt)| debt.colours.contains(&colour))
    }

    /// Whether something stale may write to a frame of this colour, at a page that counts: one whose
    /// flush is owed or, if so, deferred.
    fn is_written(&self, colour: usize, counts: impl Fn(Place, bool) -> bool) -> bool {
        let owed = self.owed.iter().flat_map(|(place, debt)| {
            debt.cached.iter().map(move |cached| (*place, false, *cached))
        });
        let pending =
            self.deferred.iter().map(|((_, place), pending)| (*place, true, pending.cached));
        owed.chain(pending).any(|(place, deferred, frame)| {
            let reaches = !is_large(place.1) && frame.writable && frame.colour == colour;
            reaches && counts(place, deferred)
        })
    }

    fn fork(&mut self, cpu: u8, mm: usize, child: usize) -> Result<(), Illegal> {
        let user = |of: usize| (of, Page::User(0))..=(of, Page::User(u64::MAX));
        if mm == child || self.pages.range(user(child)).next().is_some() {
            return Err(Illegal::Refused);
        }
        // Its own pages it flushes first, and what is pending of the child's.
        let counts = |(of, page): Place, deferred: bool| {
            matches!(page, Page::Kernel(_)) || of != mm && !(deferred && of == child)
        };
        let mut copied = self.pages.range(user(mm));
        if copied.any(|(_, frame)| self.is_written(frame.colour, counts)) {
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
        let whole = whole.filter(|_| is_large(page)).ok_or(Illegal::Refused)?;
        self.take_frame()?;
        self.pages.insert(place(mm, page), Frame { split: true, ..whole });
        Ok(())
    }

    /// Gives a frame back that a page has shown, unless another page shows it, or a batch is of it. A
    /// copy goes back to the kernel's pool; a test frame belongs to nobody.
    fn free(&mut self, colour: usize) {
        let small = |place: &Place| !is_large(place.1);
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

    fn edit(&mut self, action: &Action, page: Page) -> Result<&mut Frame, Illegal> {
        let place = place(action.mm, page);
        let since = self.steps;
        // A large page in parts has no entry of its own to edit.
        let frame = self.pages.get_mut(&place).filter(|frame| !frame.split);
        let frame = frame.ok_or(Illegal::Refused)?;
        if action.verb.owes() {
            let debt = self.owed.entry(place).or_default();
            debt.cpus.insert(action.cpu);
            debt.cached.push(*frame);
            debt.since = since;
        }
        Ok(frame)
    }

    /// Whether what is cached of a page that was there before waits for a batched flush: it would be
    /// used for another page in its place.
    fn is_pending(&self, place: Place) -> bool {
        self.deferred.keys().any(|&(_, deferred)| deferred == place)
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
    let outcomes = actions.iter().map(|action| world.take(action));
    let mut outcomes = outcomes.collect::<Result<Vec<Outcome>, _>>()?;
    if !world.is_settled() {
        return Err(Illegal::Owing);
    }
    // What was held back has come to its end by now.
    world.answers.into_iter().for_each(|(step, outcome)| outcomes[step] = outcome);
    let both = actions.iter().zip(outcomes);
    Ok(both.map(|(action, outcome)| line(action, outcome, named)).collect())
}
