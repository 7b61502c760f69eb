//! Random programs: legal by construction, each a function of its seed and its number alone.

mod motif;
mod points;

use super::action::{Action, Frame, Verb};
use super::model::World;
use crate::arch::tlb::{Fill, split_mix};
use crate::inject::Fault;
use crate::kernel::steps::Abilities;
use crate::schedule::{HOLD_POINTS, Hold, HoldPoint, Schedule};
use motif::MOTIFS;
use points::points;
use stalemate_shared::layout::{
    COLOURS, KERNEL_PAGE_COUNT, LARGE_COLOURS, MAX_CPUS, MM_COUNT, USER_LARGE_PAGE_COUNT,
    USER_PAGE_COUNT, USER_TABLE_PAGE_COUNT,
};
use stalemate_shared::note::kernel;
use stalemate_shared::page::Page;
use stalemate_shared::step::Op;

/// Steps of a program, at least and at most.
pub const LENGTH: std::ops::RangeInclusive<usize> = 4..=40;

/// A stream of choices.
#[derive(Clone, Debug)]
struct Draw(u64);

impl Draw {
    fn bits(&mut self) -> u64 {
        split_mix(&mut self.0)
    }

    fn below(&mut self, count: u64) -> u64 {
        self.bits() % count
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// One of `rows`, each as likely as its weight says.
    fn weighted<T: Copy>(&mut self, rows: &[(u64, T)]) -> T {
        let mut at = self.below(rows.iter().map(|(weight, _)| weight).sum());
        for &(weight, value) in rows {
            if at < weight {
                return value;
            }
            at -= weight;
        }
        rows[0].1
    }
}

/// Where a program runs, but for the policy, which is the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// A number to choose a processor by.
    pub cpu: u64,
    /// Page-table isolation.
    pub pti: bool,
    /// How many CPUs there are.
    pub cpus: u8,
    /// The fill choice.
    pub fill: Fill,
    /// How CPUs preempt each other.
    pub schedule: Schedule,
    /// Where a seeded fill begins.
    pub seed: u64,
}

/// One program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its steps.
    pub actions: Vec<Action>,
    /// Interrupts that a correct kernel tolerates.
    pub faults: Vec<Fault>,
}

/// CPUs and fill, with their weights: the verdict is the worst case's. Few of them, since each is a
/// guest to boot, on every processor and for every policy.
const MODELS: [(u64, (u8, Fill)); 10] = [
    (24, (1, Fill::WorstCase)),
    (3, (1, Fill::LazyA)),
    (2, (1, Fill::OnDemand)),
    (3, (1, Fill::Seeded)),
    (20, (2, Fill::WorstCase)),
    (2, (2, Fill::LazyA)),
    (2, (2, Fill::OnDemand)),
    (2, (2, Fill::Seeded)),
    (7, (4, Fill::WorstCase)),
    (1, (MAX_CPUS as u8, Fill::WorstCase)),
];

/// How several CPUs preempt each other, with weights, from a drawn seed.
const SCHEDULES: [(u64, Schedule); 3] =
    [(12, Schedule::InOrder), (2, Schedule::Events(0)), (1, Schedule::Instructions(0))];
/// Seeds of fills and schedules.
const SEEDS: u64 = 1 << 16;

/// One program in so many is interrupted at a named point.
const INTERRUPTED: u64 = 8;
/// One in so many at every instruction of one step, which is hundreds of runs.
const SWEPT: u64 = 20_000;
/// Points at which an NMI may come; a kernel must tolerate it at each.
const POINTS: [&str; 3] = ["nmi@after-mark", "nmi@before-user-cr3", "nmi@after-user-cr3"];
const SWEEPS: [&str; 2] = ["nmi@each", "irq@each"];

/// Of the steps that may be, one in so many is held back, where there is another CPU.
const HELD: u64 = 3;
/// Of those, one in so many wherever it may be, and not where it is known to come by.
const ANYWHERE: u64 = 16;

/// Instructions that a CPU runs at most before it is held back at one.
const INSTRUCTIONS: u64 = 400;

/// How many address spaces a program has; past six slots they take each other's.
const SPACES: [(u64, u64); 6] = [(6, 1), (8, 2), (3, 3), (1, 6), (2, 8), (1, MM_COUNT as u64)];
/// How many user pages it has: past eight, a range is flushed as a whole address space.
const USER_PAGES: [(u64, u64); 5] = [(4, 1), (4, 2), (3, 4), (1, 10), (1, USER_PAGE_COUNT)];
const KERNEL_PAGES: [(u64, u64); 4] = [(4, 0), (4, 1), (2, 2), (1, KERNEL_PAGE_COUNT)];
const LARGE_PAGES: [(u64, u64); 3] = [(6, 0), (2, 1), (1, USER_LARGE_PAGE_COUNT)];
const TABLE_PAGES: [(u64, u64); 3] = [(6, 0), (2, 1), (1, USER_TABLE_PAGE_COUNT)];

/// A kind of step: what it would be, if it can be here.
type Kind = fn(&mut Author) -> Option<Verb>;

/// The kinds of steps that are neither owed nor at the beginning, with their weights. One that
/// cannot be where it is drawn is drawn again.
const KINDS: [(u64, Kind); 25] = [
    (4, |author| author.unmapped().map(|(page, frame)| Verb::Map(page, frame))),
    (10, |author| {
        let page = author.mapped()?;
        Some(Verb::Remap(page, author.frame(page)))
    }),
    (7, |author| author.mapped().map(Verb::Unmap)),
    (5, |author| {
        let page = author.mapped()?;
        Some(Verb::Protect(page, author.draw.one_in(2)))
    }),
    (3, |author| author.mapped().map(Verb::Clean)),
    (2, |author| author.mapped().map(Verb::Age)),
    (8, |author| Some(Verb::Read(author.page(), true))),
    (5, |author| Some(Verb::Write(author.page(), true, author.value()))),
    (5, |author| Some(Verb::Read(author.page(), false))),
    (3, |author| Some(Verb::Write(author.page(), false, author.value()))),
    (5, |_| Some(Verb::Switch)),
    (3, |_| Some(Verb::Nop)),
    (1, |author| Some(author.needless_flush())),
    (3, |author| author.mapped().map(Verb::UnmapBatched)),
    (2, |author| {
        author.mapped()?;
        Some(Verb::Fork(author.draw.below(author.spaces) as usize))
    }),
    (4, |author| author.large().map(Verb::Split)),
    (3, |author| author.large().map(Verb::Merge)),
    (3, |author| {
        // With pages in it or without.
        let tables: Vec<usize> = author.world.tables().iter().copied().collect();
        author.mm = *tables.get(author.draw.below(tables.len().max(1) as u64) as usize)?;
        Some(Verb::FreeTable(Page::Table(0)))
    }),
    (3, |author| {
        let from = author.small()?;
        let mm = author.mm;
        let to = author.pending().filter(|_| author.mm == mm);
        author.mm = mm;
        let to = to.unwrap_or_else(|| author.any());
        (author.world.frame(author.mm, to).is_none()).then_some(Verb::Move(from, to))
    }),
    (3, |author| {
        let page = author.small()?;
        Some(Verb::Migrate(page, author.draw.below(author.colours) as usize))
    }),
    (2, |author| author.small().map(Verb::WriteProtect)),
    (2, |author| author.small().map(Verb::MakeClean)),
    (4, |author| {
        // Of what is pending alone it finds no entry.
        if let Some(page) = author.pending() {
            return Some(Verb::UnmapRange(page, page));
        }
        let page = author.mapped()?;
        match author.range(page) {
            Verb::FlushRange(first, last) => Some(Verb::UnmapRange(first, last)),
            _ => None,
        }
    }),
    (2, |_| Some(Verb::Lazy)),
    (1, |_| Some(Verb::LeaveMm)),
];

/// Attempts at a step, for a whole program.
const TRIES: usize = 1000;

/// One program in so many has a motif after its beginning.
const MOTIF: u64 = 4;
/// Ways to pay for a page, with their weights.
#[derive(Clone, Copy)]
enum Payment {
    One,
    Range,
    Mm,
    All,
}

const PAYMENTS: [(u64, Payment); 4] =
    [(12, Payment::One), (3, Payment::Range), (2, Payment::Mm), (1, Payment::All)];

/// Where program `number` of `seed` runs.
#[must_use]
pub fn setup(seed: u64, number: u64) -> Setup {
    let mut draw = stream(seed, number, 0);
    let (cpus, fill) = draw.weighted(&MODELS);
    let (cpu, pti) = (draw.bits() >> 1, draw.one_in(2));
    let (schedule, drawn) = (draw.weighted(&SCHEDULES), draw.below(SEEDS));
    // A file has one seed for both.
    let schedule = if cpus > 1 { schedule.from_seed(drawn) } else { Schedule::InOrder };
    Setup { cpu, pti, cpus, fill, schedule, seed: if fill == Fill::Seeded { drawn } else { 0 } }
}

/// The same, where a kernel with these abilities can.
#[must_use]
pub fn setup_for(seed: u64, number: u64, abilities: &Abilities) -> Setup {
    let setup = setup(seed, number);
    let pti = match setup.pti {
        true => abilities.has(kernel::PTI),
        false => !abilities.has(kernel::NO_PTI),
    };
    Setup { pti, cpus: setup.cpus.min(abilities.cpus), ..setup }
}

/// Program `number` of `seed`.
#[must_use]
pub fn program(seed: u64, number: u64) -> Program {
    program_for(seed, number, &Abilities::ALL)
}

/// Program `number` of `seed` for a kernel with these abilities.
#[must_use]
pub fn program_for(seed: u64, number: u64, abilities: &Abilities) -> Program {
    let cpus = setup_for(seed, number, abilities).cpus;
    let mut author = Author::new(stream(seed, number, 1), cpus, *abilities);
    author.write();
    let faults = author.interrupts();
    Program { actions: author.actions, faults }
}

fn stream(seed: u64, number: u64, purpose: u64) -> Draw {
    let mixed = Draw(seed).bits().wrapping_add(number.wrapping_mul(2).wrapping_add(purpose));
    Draw(Draw(mixed).bits())
}

/// Writes one program.
struct Author {
    draw: Draw,
    world: World,
    actions: Vec<Action>,
    cpus: u8,
    /// The CPU and the address space of the step under way.
    cpu: u8,
    mm: usize,
    spaces: u64,
    pages: Vec<Page>,
    colours: u64,
    abilities: Abilities,
}

impl Author {
    fn new(mut draw: Draw, cpus: u8, abilities: Abilities) -> Self {
        let spaces = draw.weighted(&SPACES).min(abilities.spaces as u64);
        let (user, kernel) = (draw.weighted(&USER_PAGES), draw.weighted(&KERNEL_PAGES));
        let (large, table) = (draw.weighted(&LARGE_PAGES), draw.weighted(&TABLE_PAGES));
        let all = (0..user).map(Page::User).chain((0..kernel).map(Page::Kernel));
        let all = all.chain((0..large).map(Page::Large)).chain((0..table).map(Page::Table));
        let mut pages: Vec<Page> = all.filter(|&page| abilities.maps(page)).collect();
        if pages.is_empty() {
            let any = [Page::User(0), Page::Kernel(0), Page::Large(0), Page::Table(0)];
            pages.extend(any.into_iter().find(|&page| abilities.maps(page)));
        }
        // Few frames: two pages often share one.
        let colours = draw.pick(&[2, 3, COLOURS.len() as u64]);
        let (world, actions) = (World::default(), Vec::new());
        Self { draw, world, actions, cpus, cpu: 0, mm: 0, spaces, pages, colours, abilities }
    }

    fn write(&mut self) {
        let span = (LENGTH.end() - LENGTH.start()) as u64 + 1;
        // The shortest of three: most failures need few steps, and short programs run faster.
        let more = (0..3).map(|_| self.draw.below(span)).min().unwrap_or_default();
        let wanted = LENGTH.start() + more as usize;
        let beginning = 1 + self.draw.below(wanted as u64 / 3 + 1) as usize;
        let motif = self.draw.one_in(MOTIF).then(|| self.draw.pick(&MOTIFS));
        // Whoever is held back goes on before the end, in a step of its own, and what is owed then is
        // flushed in one more. A program that cannot be as long as was wanted is shorter.
        for _ in 0..TRIES {
            let left = wanted.saturating_sub(self.actions.len() + self.ending());
            if left == 0 {
                break;
            }
            self.mm = self.draw.below(self.spaces) as usize;
            // The first step is the last CPU's, so that a program uses all that there are.
            let any = self.draw.below(u64::from(self.cpus)) as u8;
            self.cpu = if self.actions.is_empty() { self.cpus - 1 } else { any };
            let begins = self.actions.len() < beginning;
            if let Some(motif) = motif.filter(|_| self.actions.len() == beginning) {
                motif(self, left);
                // Where it can take no step the program goes on without.
                if self.actions.len() > beginning {
                    continue;
                }
            }
            let owing = self.world.owed().next().is_some();
            if self.world.held().len() > 0 && self.draw.one_in(3) {
                self.resume();
                continue;
            }
            if owing && self.draw.one_in(2) {
                self.pay();
                continue;
            }
            if self.world.deferred().next().is_some() && self.draw.one_in(3) {
                self.pay_deferred();
                continue;
            }
            let kind = if begins { KINDS[0].1 } else { self.kind() };
            let Some(verb) = kind(self).or_else(|| self.kind()(self)) else { continue };
            let owes = verb.owes() || matches!(verb, Verb::UnmapBatched(_));
            if left > 1 || !owes {
                let hold = if left > 3 { self.hold(verb) } else { None };
                self.take_until(verb, hold);
            }
        }
        while self.world.held().len() > 0 {
            self.resume();
        }
        self.settle();
    }

    /// Flushes all that is still owed: at once, or page by page.
    fn settle(&mut self) {
        if self.abilities.does(Op::FlushAll) && !self.world.is_paid() {
            return self.take(Verb::FlushAll);
        }
        let owed: Vec<_> = self.world.owed().collect();
        for (mm, page) in owed {
            self.mm = mm;
            self.take(Verb::FlushOne(page));
        }
    }

    /// The steps that a program still needs, as it is, to come to its end.
    fn ending(&self) -> usize {
        let unpaid = match self.abilities.does(Op::FlushAll) {
            true => usize::from(!self.world.is_paid()),
            false => self.world.owed().count(),
        };
        self.world.held().len() + unpaid
    }

    /// Where the step's CPU is held back, if it is: never the last that goes on.
    fn hold(&mut self, verb: Verb) -> Option<Hold> {
        let held = self.world.held().len() + 1;
        if held >= usize::from(self.cpus) || !self.draw.one_in(HELD) {
            return None;
        }
        let point = match self.draw.one_in(ANYWHERE) {
            true => self.draw.pick(&HOLD_POINTS).1,
            false => self.draw.pick(points(verb)),
        };
        let nth = match point {
            HoldPoint::Instruction => 1 + self.draw.below(INSTRUCTIONS) as u32,
            _ if self.draw.one_in(5) => 2,
            _ => 1,
        };
        Some(Hold { point, nth })
    }

    /// One of those who are held back goes on.
    fn resume(&mut self) {
        let held: Vec<u8> = self.world.held().collect();
        self.cpu = self.draw.pick(&held);
        self.take(Verb::Resume);
    }

    fn kind(&mut self) -> Kind {
        self.draw.weighted(&KINDS)
    }

    fn take(&mut self, verb: Verb) {
        self.take_until(verb, None);
    }

    fn take_until(&mut self, verb: Verb, hold: Option<Hold>) {
        let action = Action { cpu: self.cpu, mm: self.mm, verb, hold };
        if action.fits(&self.abilities) && self.world.take(&action).is_ok() {
            self.actions.push(action);
        }
    }

    /// Flushes something that is owed.
    fn pay(&mut self) {
        let owed: Vec<_> = self.world.owed().collect();
        let (mm, page) = self.draw.pick(&owed);
        let payment = match self.draw.weighted(&PAYMENTS) {
            Payment::Mm if matches!(page, Page::Kernel(_)) => Payment::One,
            payment => payment,
        };
        self.mm = mm;
        self.flush(payment, page);
    }

    /// Does what a CPU has deferred.
    fn pay_deferred(&mut self) {
        let cpus: Vec<u8> = self.world.deferred().map(|(cpu, _)| cpu).collect();
        self.cpu = self.draw.pick(&cpus);
        let held = self.world.held().any(|cpu| cpu == self.cpu);
        if held {
            self.take(Verb::Resume);
        } else {
            let hold = self.hold(Verb::FlushBatched);
            self.take_until(Verb::FlushBatched, hold);
        }
    }

    fn flush(&mut self, payment: Payment, page: Page) {
        let verb = match payment {
            Payment::One => Verb::FlushOne(page),
            Payment::Range => self.range(page),
            Payment::Mm => Verb::FlushMm,
            Payment::All => Verb::FlushAll,
        };
        let hold = self.hold(verb);
        self.take_until(verb, hold);
    }

    /// A range around a page, in the address space of the step.
    fn range(&mut self, page: Page) -> Verb {
        let (number, count, make): (u64, u64, fn(u64) -> Page) = match page {
            Page::User(number) => (number, USER_PAGE_COUNT, Page::User),
            Page::Large(number) => (number, USER_LARGE_PAGE_COUNT, Page::Large),
            Page::Table(number) => (number, USER_TABLE_PAGE_COUNT, Page::Table),
            Page::Kernel(number) => (number, KERNEL_PAGE_COUNT, Page::Kernel),
        };
        let first = make(self.draw.below(number + 1));
        let last = make(number + self.draw.below(count - number));
        match page {
            Page::Kernel(_) => Verb::FlushKernelRange(first, last),
            _ => Verb::FlushRange(first, last),
        }
    }

    fn needless_flush(&mut self) -> Verb {
        let page = self.page();
        match self.draw.weighted(&PAYMENTS) {
            Payment::One => Verb::FlushOne(page),
            Payment::Range => self.range(page),
            Payment::Mm => Verb::FlushMm,
            Payment::All => Verb::FlushAll,
        }
    }

    /// A page for an access: mostly one that is mapped somewhere.
    fn page(&mut self) -> Page {
        let mapped = if self.draw.one_in(4) { None } else { self.mapped() };
        mapped.unwrap_or_else(|| self.any())
    }

    fn any(&mut self) -> Page {
        self.draw.pick(&self.pages)
    }

    /// A page that is mapped; the step is about its address space then.
    fn mapped(&mut self) -> Option<Page> {
        let count = self.world.mapped().count() as u64;
        let at = if count == 0 { 0 } else { self.draw.below(count) as usize };
        let (mm, page) = self.world.mapped().nth(at)?;
        if !matches!(page, Page::Kernel(_)) {
            self.mm = mm;
        }
        Some(page)
    }

    /// A page whose flush was deferred, at times; the step is about its address space then.
    fn pending(&mut self) -> Option<Page> {
        let pending: Vec<_> = self.world.deferred().map(|(_, place)| place).collect();
        if pending.is_empty() || self.draw.one_in(2) {
            return None;
        }
        let (mm, page) = self.draw.pick(&pending);
        self.mm = mm;
        Some(page)
    }

    /// A mapped page that the edits under the page-table lock take.
    fn small(&mut self) -> Option<Page> {
        (0..3).find_map(|_| self.mapped().filter(|page| matches!(page, Page::User(_))))
    }

    fn large(&mut self) -> Option<Page> {
        (0..3).find_map(|_| self.mapped().filter(|page| matches!(page, Page::Large(_))))
    }

    fn unmapped(&mut self) -> Option<(Page, Frame)> {
        let page = self.any();
        let frame = self.frame(page);
        self.world.frame(self.mm, page).is_none().then_some((page, frame))
    }

    fn frame(&mut self, page: Page) -> Frame {
        let large = matches!(page, Page::Large(_));
        let colours = if large { self.colours.min(LARGE_COLOURS as u64) } else { self.colours };
        let colour = self.draw.below(colours) as usize;
        Frame::new(colour, !self.draw.one_in(4), self.draw.one_in(8))
    }

    fn value(&mut self) -> u64 {
        0x10 + self.draw.below(0xf0)
    }

    /// Interrupts for the finished program.
    fn interrupts(&mut self) -> Vec<Fault> {
        if !self.abilities.has(kernel::INTERRUPTS) {
            return Vec::new();
        }
        let text = if self.draw.one_in(SWEPT) {
            let step = 1 + self.draw.below(self.actions.len() as u64);
            format!("{}#{step}", self.draw.pick(&SWEEPS))
        } else if self.draw.one_in(INTERRUPTED) {
            let point = self.draw.pick(&POINTS);
            let count = self.draw.below(4);
            if count == 0 { point.to_owned() } else { format!("{point}#{count}") }
        } else {
            return Vec::new();
        };
        // Only forms that a test reads are written.
        text.parse().into_iter().collect()
    }
}
