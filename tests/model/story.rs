//! Traces that are told event by event, and what the oracle says of them.

use stalemate_model::arch::addr::{CpuId, Gpa, Gva, Pcid};
use stalemate_model::arch::features::CpuFeatures;
use stalemate_model::arch::happened::Happened;
use stalemate_model::arch::tlb::{Fill, TlbModel};
use stalemate_model::arch::vcpu::{cr0, cr4, efer};
use stalemate_model::event::{
    Announcement, CpuHeader, Event, Flush, FlushId, FlushKind, KernelAbout, Kind, Observer,
    SlotPcids, SpaceId, TaskId, TraceHeader,
};
use stalemate_model::oracle::{Oracle, self_check};

/// The root of the one address space, its tables, and the slot that maps [`PAGE`].
pub const ROOT: u64 = 0x1000;
pub const PTE: Gpa = Gpa(0x4000);
pub const PAGE: Gva = Gva(0);
/// What the slot maps at first: a user page.
pub const RED: u64 = 0x8067;
pub const BLUE: u64 = 0x9067;
pub const SPACE: SpaceId = SpaceId(7);

/// A kernel of some CPUs without page-table isolation, all of them in the one address space under
/// PCID 1, with all that is mapped cached.
pub struct Story {
    oracle: Oracle,
    seq: u64,
}

impl Story {
    pub fn new(cpus: usize) -> Self {
        let cpu = CpuHeader {
            cr0: cr0::DEFINED & !(cr0::CD | cr0::NW),
            cr3: ROOT | 1,
            cr4: cr4::PAE | cr4::PCIDE | cr4::PGE,
            efer: efer::LMA | efer::LME | efer::NXE,
        };
        let slots = [1, 2].map(|pcid| SlotPcids { kernel: Pcid::new(pcid), user: Pcid::new(pcid) });
        let header = TraceHeader {
            model: TlbModel { fill: Fill::WorstCase, structure_caches: true, seed: 0 },
            features: CpuFeatures { pcid: true, invpcid: true, pge: true, ..Default::default() },
            cpus: vec![cpu; cpus],
            kernel: KernelAbout {
                slots: slots.to_vec(),
                state: vec![
                    Announcement::Root { space: SPACE, root: Gpa(ROOT) },
                    Announcement::Generation { space: SPACE, generation: 1 },
                ],
                ..KernelAbout::default()
            },
        };
        let mut oracle = Oracle::default();
        oracle.add_rule(self_check());
        oracle.begin(&header);
        let mut story = Self { oracle, seq: 0 };
        for (table, entry) in [(ROOT, 0x2067), (0x2000, 0x3067), (0x3000, 0x4067), (PTE.0, RED)] {
            let entries = vec![(0, entry)];
            story.happens(0, Happened::TableLinked { table: Gpa(table), entries });
        }
        story.happens(0, Happened::RootLinked { root: Gpa(ROOT) });
        story.oracle.ready();
        story
    }

    fn event(&mut self, cpu: u8, kind: Kind) -> &mut Self {
        let seq = self.seq;
        self.seq += 1;
        let rip = Gva(0xffff_ffff_8000_0000 + seq);
        self.oracle.event(&Event { seq, cpu: CpuId(cpu), rip, injected: false, kind });
        self
    }

    pub fn happens(&mut self, cpu: u8, happened: Happened) -> &mut Self {
        self.event(cpu, Kind::Cpu(happened))
    }

    pub fn says(&mut self, cpu: u8, announcement: Announcement) -> &mut Self {
        let announcements = vec![announcement];
        self.event(cpu, Kind::Announced { announcements, word: None })
    }

    /// A store to the slot of [`PAGE`].
    pub fn stores(&mut self, cpu: u8, old: u64, new: u64) -> &mut Self {
        self.happens(cpu, Happened::TableStore { slot: PTE, old, new })
    }

    pub fn invlpg(&mut self, cpu: u8) -> &mut Self {
        self.happens(cpu, Happened::Invlpg { va: PAGE, keeps_globals: false })
    }

    pub fn flush_begins(&mut self, cpu: u8) -> &mut Self {
        let id = FlushId(u64::from(cpu));
        self.says(cpu, Announcement::FlushBegins { id, flush: flush() })
    }

    pub fn flush_returns(&mut self, cpu: u8) -> &mut Self {
        let id = FlushId(u64::from(cpu));
        self.says(cpu, Announcement::FlushReturns { id, flush: flush() })
    }

    pub fn task_begins(&mut self, cpu: u8, task: usize) -> &mut Self {
        self.says(cpu, Announcement::TaskBegins(TaskId(task)))
    }

    pub fn task_ends(&mut self, cpu: u8, task: usize) -> &mut Self {
        self.says(cpu, Announcement::TaskEnds { task: TaskId(task), status: 0, value: 0 })
    }

    pub fn enters_user_mode(&mut self, cpu: u8) -> &mut Self {
        self.happens(cpu, Happened::UserEntry)
    }

    /// The rules that have spoken, in order.
    pub fn rules(&self) -> Vec<String> {
        self.oracle.violations().iter().map(|violation| violation.rule.to_string()).collect()
    }
}

/// A flush of [`PAGE`], in the one address space.
fn flush() -> Flush {
    let root = Some(Gpa(ROOT));
    Flush { kind: FlushKind::OneUser, root, start: PAGE, end: Gva(PAGE.0 + 0x1000) }
}
