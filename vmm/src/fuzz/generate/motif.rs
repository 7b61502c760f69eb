//! Steps that belong together, of which chance alone makes too few.

use super::Author;
use crate::fuzz::action::{Frame, Verb};
use stalemate_shared::layout::{COLOURS, MM_COUNT, USER_PAGE_COUNT};
use stalemate_shared::page::Page;
use stalemate_shared::pcid::ASID_SLOTS;

/// Takes some steps, at most so many.
pub(super) type Motif = fn(&mut Author, usize);

pub(super) const MOTIFS: [Motif; 5] = [
    Author::cleaned_when_old,
    Author::shared_by_spaces,
    Author::batch_of_spaces,
    Author::full_slots,
    Author::little_by_little,
];

impl Author {
    /// A page that is old, and cleaned: what is cached of it has D, and the entry has neither.
    fn cleaned_when_old(&mut self, left: usize) {
        let Some(page) = self.small() else { return };
        let (cpu, mm) = (self.cpu, self.mm);
        let other = self.draw.below(u64::from(self.cpus)) as u8;
        let value = self.value();
        let steps = [
            (other, Verb::Write(page, true, value)),
            (cpu, Verb::Age(page)),
            (cpu, Verb::MakeClean(page)),
            (other, Verb::Write(page, true, value + 1)),
        ];
        for (cpu, verb) in steps.into_iter().take(left) {
            (self.cpu, self.mm) = (cpu, mm);
            self.take(verb);
        }
    }

    /// A frame that several address spaces show, one of which takes it away for good.
    fn shared_by_spaces(&mut self, left: usize) {
        let Some(page) = self.small() else { return };
        let (mm, other) = (self.mm, self.draw.below(MM_COUNT as u64) as usize);
        let Some(frame) = self.world.frame(mm, page) else { return };
        if frame.colour >= COLOURS.len() || left < 5 {
            return;
        }
        let (cpu, there) = (self.cpu, self.draw.below(u64::from(self.cpus)) as u8);
        let frame = Frame::new(frame.colour, frame.writable, frame.dirty);
        let to = Page::User(self.draw.below(USER_PAGE_COUNT));
        let away = match self.draw.one_in(2) {
            true => Verb::UnmapRange(page, page),
            false => Verb::Migrate(page, self.draw.below(COLOURS.len() as u64) as usize),
        };
        let steps = [
            (cpu, other, Verb::Map(to, frame)),
            (there, other, Verb::Read(to, true)),
            (cpu, mm, away),
            (there, other, Verb::Read(to, true)),
        ];
        for (cpu, mm, verb) in steps {
            (self.cpu, self.mm) = (cpu, mm);
            self.take(verb);
        }
    }

    /// A batch of pages of several address spaces, each in use on some CPU.
    fn batch_of_spaces(&mut self, left: usize) {
        let cpu = self.cpu;
        let mut left = left.saturating_sub(1);
        for _ in 0..3 {
            let Some(page) = self.mapped().filter(|page| !matches!(page, Page::Kernel(_))) else {
                continue;
            };
            if left < 2 {
                break;
            }
            let mm = self.mm;
            self.cpu = self.draw.below(u64::from(self.cpus)) as u8;
            self.take(Verb::Read(page, true));
            (self.cpu, self.mm) = (cpu, mm);
            self.take(Verb::UnmapBatched(page));
            left -= 2;
        }
        self.cpu = cpu;
        self.take(Verb::FlushBatched);
    }

    /// All slots of a CPU are taken before a kernel page changes, and it goes back to each.
    fn full_slots(&mut self, left: usize) {
        let cpu = self.cpu;
        let kernel = |page: &Page| matches!(page, Page::Kernel(_));
        let Some(page) = self.pages.iter().copied().find(kernel) else { return };
        let there = self.draw.below(u64::from(self.cpus)) as u8;
        let room = left.saturating_sub(4) / 2;
        let first = self.draw.below(MM_COUNT as u64) as usize;
        let spaces = (first..first + room.min(ASID_SLOTS)).map(|mm| mm % MM_COUNT);
        if room < 2 {
            return;
        }
        if self.world.frame(0, page).is_none() {
            let frame = self.frame(page);
            self.take(Verb::Map(page, frame));
        }
        for mm in spaces.clone() {
            (self.cpu, self.mm) = (there, mm);
            self.take(Verb::Read(page, false));
        }
        self.cpu = cpu;
        let frame = self.frame(page);
        self.take(Verb::Remap(page, frame));
        self.take(Verb::FlushOne(page));
        for mm in spaces {
            (self.cpu, self.mm) = (there, mm);
            self.take(Verb::Read(page, false));
        }
    }

    /// Pages of one address space change one by one, each flushed for itself, on CPUs that use it.
    fn little_by_little(&mut self, left: usize) {
        let Some(page) = self.mapped() else { return };
        let mm = self.mm;
        for _ in 0..left.min(9) / 3 {
            let cpu = self.draw.below(u64::from(self.cpus)) as u8;
            let other = self.draw.below(u64::from(self.cpus)) as u8;
            let frame = self.frame(page);
            let steps = [
                (cpu, Verb::Remap(page, frame)),
                (cpu, Verb::FlushOne(page)),
                (other, Verb::Read(page, !matches!(page, Page::Kernel(_)))),
            ];
            for (cpu, verb) in steps {
                (self.cpu, self.mm) = (cpu, mm);
                self.take(verb);
            }
        }
    }
}
