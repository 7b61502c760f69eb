//! Traces that are told event by event, and what the oracle says of them.

use stalemate_model::arch::addr::{CpuId, Gpa, Gva, Pcid};
use stalemate_model::arch::features::CpuFeatures;
use stalemate_model::arch::happened::Happened;
use stalemate_model::arch::tlb::{Fill, TlbModel};
use stalemate_model::arch::vcpu::{cr0, cr4, efer};
use stalemate_model::event::{
    Announcement, CpuHeader, Event, Flush, FlushId, FlushKind, KernelAbout, Kind, Observer,
    Pairing, SlotPcids, SpaceId, TaskId, TraceHeader,
};
use stalemate_model::oracle::{Obligation, Oracle, Replica, State, self_check};
use std::collections::BTreeMap;

/// The root of the one address space, its tables, and the slot that maps [`PAGE`].
pub const ROOT: u64 = 0x1000;
pub const PTE: Gpa = Gpa(0x4000);
pub const PAGE: Gva = Gva(0);
/// What the slot maps at first: a user page.
pub const RED: u64 = 0x8067;
pub const BLUE: u64 = 0x9067;
pub const SPACE: SpaceId = SpaceId(7);

/// A kernel under page-table isolation has two address spaces: for each its kernel root, its user root
/// is [`USER`] above, and the slot of its user page at 0; the next slot is of the page after it.
pub const A: (u64, Gpa) = (0x1_0000, Gpa(0x1_4000));
pub const B: (u64, Gpa) = (0x2_0000, Gpa(0x2_4000));
pub const USER: u64 = 0x1000;
/// Their kernel half: the slot of [`KERNEL_PAGE`].
pub const KERNEL_PTE: Gpa = Gpa(0x5000);
pub const KERNEL_PAGE: Gva = Gva(0xffff_8000_0000_0000);
/// What that maps at first: a supervisor page, not global.
pub const KERNEL_RED: u64 = 0x10_8063;
/// What user roots map of the kernel half.
pub const TRAMPOLINE: Gva = Gva(0xffff_ff80_0000_0000);
pub const TRAMPOLINE_PTE: Gpa = Gpa(0x3_8000);
/// Bit 63 of a load of CR3.
pub const NOFLUSH: u64 = 1 << 63;

/// A kernel of some CPUs, all of them in one address space under PCID 1, with all that is mapped cached.
pub struct Story {
    pub oracle: Oracle,
    /// The entries that were stored to, or set by a processor.
    entries: BTreeMap<Gpa, u64>,
    seq: u64,
    cr3: Vec<u64>,
    open: Vec<(u8, FlushId, Flush)>,
}

fn header(cpus: usize, cr3: u64, kernel: KernelAbout) -> TraceHeader {
    let cpu = CpuHeader {
        cr0: cr0::DEFINED & !(cr0::CD | cr0::NW),
        cr3,
        cr4: cr4::PAE | cr4::PCIDE | cr4::PGE,
        efer: efer::LMA | efer::LME | efer::NXE,
    };
    TraceHeader {
        model: TlbModel { fill: Fill::WorstCase, structure_caches: true, seed: 0 },
        features: CpuFeatures {
            pcid: true,
            invpcid: true,
            pge: true,
            smep: true,
            ..Default::default()
        },
        cpus: vec![cpu; cpus],
        kernel,
    }
}

impl Story {
    /// Without page-table isolation, in the address space of [`ROOT`].
    pub fn new(cpus: usize) -> Self {
        let slots = [1, 2].map(|pcid| SlotPcids { kernel: Pcid::new(pcid), user: Pcid::new(pcid) });
        let kernel = KernelAbout {
            runs_freely: false,
            slots: slots.to_vec(),
            state: vec![
                Announcement::Root { space: SPACE, root: Gpa(ROOT) },
                Announcement::Generation { space: SPACE, generation: 1 },
            ],
            ..KernelAbout::default()
        };
        Self::with(&header(cpus, ROOT | 1, kernel), &TABLES, &[ROOT])
    }

    /// Under page-table isolation, in the address space [`A`].
    pub fn isolated(cpus: usize) -> Self {
        Self::with(&header(cpus, A.0 | 1, isolated()), &isolated_tables(), &isolated_roots())
    }

    /// The same, after something about the kernel was changed.
    pub fn isolated_but(cpus: usize, change: impl Fn(&mut TraceHeader)) -> Self {
        let mut header = header(cpus, A.0 | 1, isolated());
        change(&mut header);
        Self::with(&header, &isolated_tables(), &isolated_roots())
    }

    /// The same tables, of a kernel that runs freely, in [`A`] under PCID 1.
    pub fn free(cpus: usize) -> Self {
        Self::isolated_but(cpus, |header| header.kernel = free())
    }

    /// [`Story::new`], of a trace that does not say when its tables have been shown.
    pub fn unready(cpus: usize) -> Self {
        Self::shown(&header(cpus, ROOT | 1, KernelAbout::default()), &TABLES, &[ROOT])
    }

    /// One that begins with entries of tables: table, index and entry.
    fn with(header: &TraceHeader, entries: &[(u64, u16, u64)], roots: &[u64]) -> Self {
        let mut story = Self::shown(header, entries, roots);
        story.oracle.ready();
        story
    }

    fn shown(header: &TraceHeader, entries: &[(u64, u16, u64)], roots: &[u64]) -> Self {
        let mut oracle = Oracle::default();
        oracle.add_rule(self_check());
        oracle.begin(header);
        let cr3 = header.cpus.iter().map(|cpu| cpu.cr3).collect();
        let mut story = Self { oracle, entries: BTreeMap::new(), seq: 0, cr3, open: Vec::new() };
        for happened in linked(entries, roots) {
            story.happens(0, happened);
        }
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
        if let Happened::TableStore { slot, new, .. } | Happened::AccessedDirty { slot, new, .. } =
            happened
        {
            self.entries.insert(slot, new);
        }
        self.event(cpu, Kind::Cpu(happened))
    }

    pub fn says(&mut self, cpu: u8, announcement: Announcement) -> &mut Self {
        let announcements = vec![announcement];
        self.event(cpu, Kind::Announced { announcements, word: None })
    }

    /// A fault kept something from happening.
    pub fn suppressed(&mut self, cpu: u8, what: &str) -> &mut Self {
        self.event(cpu, Kind::Suppressed { what: what.to_owned() })
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

    /// A load of CR3.
    pub fn loads(&mut self, cpu: u8, value: u64) -> &mut Self {
        let old = std::mem::replace(&mut self.cr3[usize::from(cpu)], value & !NOFLUSH);
        self.happens(cpu, Happened::LoadCr3 { old, value })
    }

    /// A page of [`A`] is cached as its tables had it at first, with a kernel that fills on demand.
    pub fn fills(&mut self, cpu: u8, page: Gva) -> &mut Self {
        let mut replica = Replica::new(&header_of_isolated(1));
        for (seq, happened) in (0..).zip(tables_of_isolated()) {
            let kind = Kind::Cpu(happened);
            replica.apply(&Event { seq, cpu: CpuId(0), rip: Gva(0), injected: false, kind });
        }
        let walked = replica.walk_today(CpuId(0), Gpa(A.0), page);
        let translation = walked.result.expect("it is mapped");
        self.happens(cpu, Happened::Fill { page, translation })
    }

    /// User code runs: the user CR3 of an address space in a slot is loaded, and kept what is tagged so.
    pub fn runs_user(&mut self, cpu: u8, (root, _): (u64, Gpa), slot: u64) -> &mut Self {
        self.loads(cpu, NOFLUSH | root | USER | (0x801 + slot)).enters_user_mode(cpu)
    }

    /// The kernel CR3 of an address space in a slot is loaded, and kept what is tagged so.
    pub fn runs_kernel(&mut self, cpu: u8, (root, _): (u64, Gpa), slot: u64) -> &mut Self {
        self.loads(cpu, NOFLUSH | root | (1 + slot))
    }

    /// What is in a slot that was stored to, or that a processor has set A or D in.
    pub fn entry(&self, slot: Gpa) -> u64 {
        self.entries[&slot]
    }

    /// A store to any slot.
    pub fn stores_to(&mut self, cpu: u8, slot: Gpa, old: u64, new: u64) -> &mut Self {
        self.happens(cpu, Happened::TableStore { slot, old, new })
    }

    pub fn invlpg_of(&mut self, cpu: u8, va: Gva) -> &mut Self {
        self.happens(cpu, Happened::Invlpg { va, keeps_globals: false })
    }

    pub fn invpcid(&mut self, cpu: u8, kind: u64, pcid: u16, va: Gva) -> &mut Self {
        self.happens(cpu, Happened::Invpcid { kind, pcid: Pcid::new(pcid), va })
    }

    /// A flush begins, of one page or of more.
    pub fn begins(&mut self, cpu: u8, kind: FlushKind, root: Option<u64>, page: Gva) -> &mut Self {
        let id = FlushId(1000 + self.seq);
        let flush = Flush { kind, root: root.map(Gpa), start: page, end: Gva(page.0 + 0x1000) };
        self.open.push((cpu, id, flush));
        self.says(cpu, Announcement::FlushBegins { id, flush })
    }

    /// The flush that began last on that CPU returns.
    pub fn returns(&mut self, cpu: u8) -> &mut Self {
        let last = self.open.iter().rposition(|open| open.0 == cpu).expect("it began one");
        let (_, id, flush) = self.open.remove(last);
        self.says(cpu, Announcement::FlushReturns { id, flush })
    }

    /// The run is over.
    pub fn ends(&mut self) -> &mut Self {
        self.event(0, Kind::End)
    }

    /// The obligations, and how each stands: CPU, tag, page, and `open`, what discharged it, or the rule
    /// that spoke.
    pub fn owed(&self) -> Vec<String> {
        let state = |owed: &Obligation| match owed.state {
            State::Open => "open".to_owned(),
            State::Discharged { by, .. } => by.name().to_owned(),
            State::Violated { rule, .. } => rule.to_string(),
        };
        let show = |owed: &&Obligation| {
            format!("{} {} {:#x} {}", owed.cpu.0, owed.tag, owed.page.0, state(owed))
        };
        self.oracle.obligations().iter().map(show).collect()
    }

    /// Whether nothing is wrong.
    #[track_caller]
    pub fn is_clean(&mut self) -> &mut Self {
        self.has_broken(&[])
    }

    /// Exactly these rules have spoken.
    #[track_caller]
    pub fn has_broken(&mut self, rules: &[&str]) -> &mut Self {
        assert_eq!(self.rules(), rules, "{:#?}", self.owed());
        self
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

/// The tables of [`ROOT`].
const TABLES: [(u64, u16, u64); 4] =
    [(ROOT, 0, 0x2067), (0x2000, 0, 0x3067), (0x3000, 0, 0x4067), (PTE.0, 0, RED)];

/// The events that show tables and roots.
fn linked(entries: &[(u64, u16, u64)], roots: &[u64]) -> Vec<Happened> {
    let tables = entries.chunk_by(|one, two| one.0 == two.0).map(|of_table| {
        let entries = of_table.iter().map(|&(_, index, entry)| (index, entry)).collect();
        Happened::TableLinked { table: Gpa(of_table[0].0), entries }
    });
    let roots = roots.iter().map(|&root| Happened::RootLinked { root: Gpa(root) });
    tables.chain(roots).collect()
}

/// What [`Story::isolated`] begins with.
pub fn header_of_isolated(cpus: usize) -> TraceHeader {
    header(cpus, A.0 | 1, isolated())
}

/// The events that show its tables.
pub fn tables_of_isolated() -> Vec<Happened> {
    linked(&isolated_tables(), &isolated_roots())
}

const PAIRING: Pairing = Pairing { root_bit: USER, pcid_bit: 0x800 };

/// A kernel that runs freely, of which nothing more is known.
pub fn free() -> KernelAbout {
    KernelAbout { runs_freely: true, pairing: Some(PAIRING), ..KernelAbout::default() }
}

fn isolated() -> KernelAbout {
    let slots =
        [1, 2, 3].map(|pcid| SlotPcids { kernel: Pcid::new(pcid), user: Pcid::new(pcid | 0x800) });
    KernelAbout {
        runs_freely: false,
        isolated: true,
        pairing: Some(PAIRING),
        slots: slots.to_vec(),
        trampoline: vec![(TRAMPOLINE, Gva(TRAMPOLINE.0 + 0x1000))],
        wait_for_reuse: Vec::new(),
        direct_map: (Gva(0xffff_c000_0000_0000), Gva(0xffff_c000_0020_0000)),
        state: vec![
            Announcement::Root { space: SpaceId(1), root: Gpa(A.0) },
            Announcement::Root { space: SpaceId(2), root: Gpa(B.0) },
            Announcement::Generation { space: SpaceId(1), generation: 1 },
            Announcement::Generation { space: SpaceId(2), generation: 1 },
        ],
    }
}

fn isolated_roots() -> [u64; 4] {
    [A.0, A.0 | USER, B.0, B.0 | USER]
}

/// Kernel half: [`KERNEL_PAGE`] and the page after it, the trampoline, and a direct map of 2 MiB.
fn isolated_tables() -> Vec<(u64, u16, u64)> {
    let mut entries = vec![
        (0x3000, 0, 0x4063),
        (0x4000, 0, KERNEL_PTE.0 | 0x63),
        (KERNEL_PTE.0, 0, KERNEL_RED),
        (KERNEL_PTE.0, 1, 0x10_9063),
        (0x3_6000, 0, 0x3_7063),
        (0x3_7000, 0, 0x3_8063),
        (TRAMPOLINE_PTE.0, 0, 0x10_a061),
        (0x3_9000, 0, 0x3_a063),
        (0x3_a000, 0, 0xe3),
    ];
    for (root, pte) in [A, B] {
        let (pdpt, pd) = (root + 0x2000, root + 0x3000);
        entries.extend([
            (root, 0, pdpt | 0x67),
            (root, 256, 0x3063),
            (root, 384, 0x3_9063),
            (root, 511, 0x3_6063),
            (root | USER, 0, pdpt | 0x67),
            (root | USER, 511, 0x3_6063),
            (pdpt, 0, pd | 0x67),
            (pd, 0, pte.0 | 0x67),
            (pte.0, 0, RED),
            (pte.0, 1, 0xa067),
        ]);
    }
    entries
}
