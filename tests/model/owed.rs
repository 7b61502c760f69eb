//! Random events on two CPUs, of a kernel that announces its flushes and of one that runs freely: what
//! is stale is owed, and what is owed is cached.

use crate::story::{A, B, BLUE, NOFLUSH, RED, Story, USER, free};
use stalemate_model::arch::addr::{Gpa, Gva, Pcid};
use stalemate_model::arch::happened::Happened;
use stalemate_model::arch::tlb::{Fill, Tag, split_mix};
use std::collections::BTreeMap;

/// How many programs, and how many events each has.
const PROGRAMS: u64 = 500;
const EVENTS: usize = 25;

const LARGE: u64 = 0x60_00e7;
const GLOBAL: u64 = 0x100;
const PGE: u64 = 0x80;
const SMEP: u64 = 0x10_0000;

/// What each slot may get; first what it has at first.
fn slots() -> BTreeMap<u64, Vec<u64>> {
    let unmapped = |entry: u64| vec![entry, 0, entry & !2];
    let page = |first: u64| vec![first, 0, RED, BLUE, RED & !2, RED & !0x40];
    let kernel = |first: u64| vec![first, 0, 0x10_8063, 0x10_8063 | GLOBAL, 0x10_c063, 0x10_8061];
    let tables = vec![0, A.1.0 | 0x67, B.1.0 | 0x67, LARGE];
    let mut slots = BTreeMap::from([
        (0x3000, unmapped(0x4063)),
        (0x4000, unmapped(0x5063)),
        (0x4008, vec![0, 0x40_00e3, 0x5063, 0x40_00e3 | GLOBAL]),
        (0x5000, kernel(0x10_8063)),
        (0x5008, kernel(0x10_9063)),
        (0x5010, kernel(0)),
    ]);
    for (root, pte) in [A, B] {
        slots.extend([
            (root, unmapped((root + 0x2000) | 0x67)),
            (root | USER, unmapped((root + 0x2000) | 0x67)),
            (root + 0x2000, unmapped((root + 0x3000) | 0x67)),
            (root + 0x3000, unmapped(pte.0 | 0x67)),
            (root + 0x3008, tables.clone()),
            (pte.0, page(RED)),
            (pte.0 + 8, page(0xa067)),
        ]);
    }
    slots
}

struct Program {
    seed: u64,
    memory: BTreeMap<u64, u64>,
    cr4: [u64; 2],
}

impl Program {
    fn any<T: Copy>(&mut self, of: &[T]) -> T {
        of[split_mix(&mut self.seed) as usize % of.len()]
    }

    fn store(&mut self) -> Happened {
        let slots: Vec<u64> = self.memory.keys().copied().collect();
        let slot = self.any(&slots);
        let new = self.any(&self::slots()[&slot]);
        let old = self.memory.insert(slot, new).expect("it has an entry");
        Happened::TableStore { slot: Gpa(slot), old, new }
    }

    fn next(&mut self, story: &mut Story) -> String {
        let cpu = self.any(&[0u8, 1]);
        let (kernel, large) = (0xffff_8000_0000_0000, 0x20_0000);
        let pages = [0, 0x1000, large, large + 0x1000, kernel, kernel + 0x1000, kernel + large];
        let va = Gva(self.any(&pages));
        let value = self.any(&[1, 2, 0x801, 0x802]);
        let pcid = Pcid::new(value);
        let happened = match self.any(&[0, 0, 0, 0, 0, 1, 2, 3, 4, 4, 5, 6, 7]) {
            0 => self.store(),
            1 => Happened::Invlpg { va, keeps_globals: false },
            2 => Happened::PageFault { va, error: 0 },
            3 => Happened::Invpcid { kind: self.any(&[0, 1, 2, 3]), pcid, va },
            4 => {
                let root = self.any(&[A.0, B.0, A.0 | USER, B.0 | USER]);
                let value = self.any(&[0, NOFLUSH, NOFLUSH]) | root | u64::from(value);
                story.loads(cpu, value);
                return format!("{cpu}: CR3 {value:#x}");
            }
            5 => {
                let old = self.cr4[usize::from(cpu)];
                let new = old ^ self.any(&[PGE, SMEP]);
                self.cr4[usize::from(cpu)] = new;
                Happened::WriteCr4 { old, new }
            }
            6 => Happened::Evict { tag: self.any(&[Tag::Global, Tag::Pcid(pcid)]), page: va },
            _ => Happened::UserEntry,
        };
        let text = format!("{cpu}: {happened:x?}");
        story.happens(cpu, happened);
        text
    }
}

#[test]
fn what_is_stale_is_owed_and_what_is_owed_is_cached() {
    let first = slots().into_iter().map(|(slot, entries)| (slot, entries[0]));
    let memory: BTreeMap<u64, u64> = first.collect();
    let mut owed = 0;
    for seed in 0..PROGRAMS {
        let mut story = Story::isolated_but(2, |header| {
            if seed % 2 == 0 {
                header.kernel = free();
            }
            if seed % 3 == 0 {
                header.model.fill = Fill::OnDemand;
            }
        });
        let cr4 = [0x2_00a0; 2];
        let mut program = Program { seed, memory: memory.clone(), cr4 };
        let mut done = Vec::new();
        for _ in 0..EVENTS {
            done.push(program.next(&mut story));
            let found = story.oracle.violations().iter();
            let wrong = found.filter(|found| found.rule.to_string() == "unowed-entry");
            let wrong: Vec<&str> = wrong.map(|found| found.message.as_str()).collect();
            assert!(wrong.is_empty(), "program {seed}: {wrong:?} after\n{}", done.join("\n"));
        }
        owed += story.owed().len();
    }
    assert!(owed > 1000, "{owed}: the programs make too little stale");
}
