//! What a program does to memory, as its author must know it: which page shows which frame, what
//! is in the frames, and which flushes are owed. It knows no TLB: it is what every correct kernel
//! shows, whatever its processor caches.

use super::action::{Action, Frame, Named, Outcome, Verb, line};
use stalemate_shared::layout::{COLOURS, LARGE_COLOURS, POOL_FRAME_COUNT, colour_word};
use stalemate_shared::page::Page;
use std::collections::{BTreeMap, BTreeSet};

/// Why a step cannot stand where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Illegal {
    /// It maps what is mapped, edits what is not, or frees what is still mapped elsewhere; or its CPU
    /// is held back in another step.
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

fn is_small_user(page: Page) -> bool {
    matches!(page, Page::User(_))
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
    /// CPUs that are held back in a step.
    held: BTreeSet<u8>,
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
    #[must_use]
    pub fn owed(&self) -> &BTreeSet<Place> {
        &self.owed
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
        if action.is_other() && !self.owed.is_empty() {
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
            Verb::WriteProtect(page) => self.edit_locked(action, page)?.writable = false,
            Verb::MakeClean(page) => self.edit_locked(action, page).map(|_| ())?,
            Verb::Move(from, to) => {
                let taken = self.frame(mm, to).is_some() || self.is_pending(place(mm, to));
                if taken || !is_small_user(to) {
                    return Err(Illegal::Refused);
                }
                let frame = *self.edit_locked(action, from)?;
                self.pages.remove(&place(mm, from));
                self.pages.insert(place(mm, to), frame);
            }
            Verb::Migrate(page, colour) => {
                let old = *self.edit_locked(action, page)?;
                self.may_free(&[place(mm, page)])?;
                if old.shared || colour == old.colour || !self.deferred.is_empty() {
                    return Err(Illegal::Refused);
                }
                self.free(old);
                self.pages.insert(place(mm, page), Frame { colour, ..old });
            }
            Verb::UnmapRange(first, last) => {
                let places: Vec<Place> = self
                    .mapped()
                    .filter(|&(of, page)| of == mm && (first..=last).contains(&page))
                    .collect();
                if !is_small_user(first) && !matches!(first, Page::Table(_)) {
                    return Err(Illegal::Refused);
                }
                self.may_free(&places)?;
                // It does the batch of its own CPU first.
                if self.deferred.iter().any(|(cpu, _)| *cpu != action.cpu) {
                    return Err(Illegal::Refused);
                }
                for place in places {
                    if let Some(frame) = self.pages.remove(&place) {
                        self.free(frame);
                    }
                }
            }
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
            Verb::FlushOne(page)
            | Verb::Split(page)
            | Verb::Merge(page)
            | Verb::WriteProtect(page)
            | Verb::MakeClean(page)
            | Verb::Move(page, _) => {
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
            Verb::FlushBatched | Verb::UnmapRange(..) => {
                self.deferred.retain(|(cpu, _)| *cpu != action.cpu)
            }
            _ => {}
        }
    }

    fn fork(&mut self, mm: usize, child: usize) -> Result<(), Illegal> {
        let user = |of: usize| (of, Page::User(0))..=(of, Page::User(u64::MAX));
        let pending = self.deferred.iter().any(|(_, (of, _))| *of == child);
        if mm == child || pending || self.pages.range(user(child)).next().is_some() {
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

    /// Whether the frames that these places show may be given back: nothing else shows them, and
    /// nothing stale, whose flush is owed or deferred, could.
    fn may_free(&self, places: &[Place]) -> Result<(), Illegal> {
        let colours: BTreeSet<usize> =
            places.iter().filter_map(|place| Some(self.pages.get(place)?.colour)).collect();
        let elsewhere = self.pages.iter().any(|(place, frame)| {
            let small = !matches!(place.1, Page::Large(_));
            small && !places.contains(place) && colours.contains(&frame.colour)
        });
        let twice = colours.len() < places.len();
        if elsewhere || twice || !self.owed.is_empty() {
            return Err(Illegal::Refused);
        }
        Ok(())
    }

    /// A copy goes back to the kernel's pool; a test frame belongs to nobody.
    fn free(&mut self, frame: Frame) {
        self.taken -= u64::from(frame.colour >= COLOURS.len());
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
            self.owed.insert(place);
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
        if self.is_pending(place) {
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
