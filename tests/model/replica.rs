//! The replica holds, after each event, what the processor's own TLB holds: under every fill choice.

use crate::memory::TestMemory;
use proptest::prelude::*;
use stalemate_model::arch::addr::{CpuId, Gpa, Gva, Pcid};
use stalemate_model::arch::census::Census;
use stalemate_model::arch::choice::{Chooser, Point};
use stalemate_model::arch::core::{Core, Done, Log, table_entries};
use stalemate_model::arch::features::{CpuFeatures, Errata, Paging};
use stalemate_model::arch::happened::Happened;
use stalemate_model::arch::op::{ControlRegister, InvpcidDescriptor, Op};
use stalemate_model::arch::tlb::{Entry, FILLS, Fill, Tag, Tlb, TlbModel, split_mix};
use stalemate_model::arch::vcpu::{Vcpu, cr0, cr4, efer};
use stalemate_model::arch::walk::{Access, AccessKind};
use stalemate_model::event::{CpuHeader, Event, KernelAbout, Kind, Observer, TraceHeader};
use stalemate_model::oracle::{Oracle, Replica, self_check};
use std::collections::BTreeSet;

/// Two roots, the second with a PDPT of its own; PD 0x4000, PTs 0x5000 and 0x6000; all of it, and
/// data from 0x8000 on, is mapped at [`WINDOW`] by the PT 0x7000.
const SIZE: u64 = 0x1_0000;
const WINDOW: u64 = 0x20_0000;
const TABLES: [u64; 3] = [0x4000, 0x5000, 0x6000];
const ROOTS: [u64; 2] = [0x1000, 0x2000];

#[derive(Clone, Copy, Debug)]
enum Do {
    Access { va: u64, write: bool },
    Store { slot: u64, bits: u64 },
    Load { pcid: u64, root: usize, noflush: bool },
    Invlpg { va: u64 },
    Invpcid { kind: u64, pcid: u16, va: u64 },
    Pge,
    Smep,
    Wp,
    Nxe,
}

struct World {
    memory: TestMemory,
    vcpu: Vcpu,
    tlb: Tlb,
    census: Census,
    chance: Chance,
    /// Its kernel does not say when it gives a root back.
    runs_freely: bool,
}

/// Fills one in eight, evicts one in sixteen.
struct Chance(u64);

impl Chooser for Chance {
    fn choose(&mut self, point: Point<'_>) -> usize {
        let one_in = if let Point::Fill(..) = point { 8 } else { 16 };
        usize::from(split_mix(&mut self.0).is_multiple_of(one_in))
    }
}

impl World {
    fn new(model: TlbModel, runs_freely: bool) -> Self {
        let memory = TestMemory::new(SIZE);
        let put = |at: u64, value: u64| memory.write_word(Gpa(at), value);
        put(ROOTS[0], 0x3007);
        put(ROOTS[1], 0x8007);
        put(0x3000, 0x4007);
        put(0x8000, 0x4007);
        put(0x4000, 0x5007);
        put(0x4008, 0x7007);
        for page in 0..SIZE / 4096 {
            put(0x7000 + page * 8, page << 12 | 7);
        }
        let features =
            CpuFeatures { pcid: true, invpcid: true, pge: true, smep: true, ..Default::default() };
        let mut vcpu = Vcpu::long_mode(CpuId(0), features, 0, ROOTS[0]);
        vcpu.cr0 = cr0::DEFINED & !(cr0::CD | cr0::NW);
        vcpu.cr4 = cr4::PAE | cr4::PCIDE | cr4::PGE;
        vcpu.efer = efer::LMA | efer::LME | efer::NXE;
        let (mut tlb, mut census) = (Tlb::new(model), Census::default());
        census.add_root(&memory, Gpa(ROOTS[0]));
        tlb.load_cr3(&memory, vcpu.paging(), vcpu.pcid(), Gpa(ROOTS[0]), true);
        for (slot, _, new) in tlb.speculate(&memory, vcpu.paging()) {
            memory.write_word(slot, new);
        }
        Self { memory, vcpu, tlb, census, chance: Chance(model.seed), runs_freely }
    }

    fn header(&self) -> TraceHeader {
        TraceHeader {
            model: self.tlb.model(),
            features: self.vcpu.features,
            cpus: vec![CpuHeader {
                cr0: self.vcpu.cr0,
                cr3: self.vcpu.cr3,
                cr4: self.vcpu.cr4,
                efer: self.vcpu.efer,
            }],
            kernel: KernelAbout { runs_freely: self.runs_freely, ..KernelAbout::default() },
        }
    }

    fn tables(&self) -> Vec<Happened> {
        let linked =
            |table| Happened::TableLinked { table, entries: table_entries(&self.memory, table) };
        let roots = self.census.roots().map(|root| Happened::RootLinked { root });
        self.census.tables().map(linked).chain(roots).collect()
    }

    /// Does it, and says what happened.
    fn operate(&mut self, what: Do) -> Vec<Happened> {
        let mut log = Log::default();
        let mut core = Core {
            vcpu: &mut self.vcpu,
            tlb: &mut self.tlb,
            census: &mut self.census,
            memory: &self.memory,
            remote: Vec::new(),
            errata: Errata::default(),
            watched: &BTreeSet::new(),
            forgets_roots: self.runs_freely,
            chooser: &mut self.chance,
            log: &mut log,
        };
        let write = |register, value| Op::WriteCr { register, value };
        // What faults has logged that.
        let _ = match what {
            Do::Access { va, write } => {
                let kind = if write { AccessKind::Write } else { AccessKind::Read };
                core.translate(Gva(va), Access { kind, user: false }).map(|_| ())
            }
            Do::Store { slot, bits } => {
                let access = Access { kind: AccessKind::Write, user: false };
                core.write(Gva(WINDOW + slot), &bits.to_le_bytes(), access)
            }
            Do::Load { pcid, root, noflush } => {
                let value = ROOTS[root] | pcid | u64::from(noflush) << 63;
                core.execute(write(ControlRegister::Cr3, value), 0)
            }
            Do::Invlpg { va } => core.execute(Op::Invlpg(Gva(va)), 0),
            Do::Invpcid { kind, pcid, va } => {
                let pcid = Pcid::new(pcid);
                let va = Gva(va);
                core.invpcid(kind, InvpcidDescriptor { pcid, va });
                Ok(())
            }
            Do::Pge => {
                let value = core.vcpu.cr4 ^ cr4::PGE;
                core.execute(write(ControlRegister::Cr4, value), 0)
            }
            Do::Smep => {
                let value = core.vcpu.cr4 ^ cr4::SMEP;
                core.execute(write(ControlRegister::Cr4, value), 0)
            }
            Do::Wp => {
                let value = core.vcpu.cr0 ^ cr0::WP;
                core.execute(write(ControlRegister::Cr0, value), 0)
            }
            Do::Nxe => {
                let value = core.vcpu.efer ^ efer::NXE;
                core.execute(Op::Wrmsr { msr: 0xc000_0080, value }, 0)
            }
        };
        let happened = |what| match what {
            Done::Happened(happened) => Some(happened),
            Done::Stored(_) => None,
        };
        log.entries.into_iter().filter_map(|entry| happened(entry.what)).collect()
    }
}

/// Whether `other` grants all that `entry` does. Which of two cached paging-structure entries a
/// walk begins at decides on the D of what grants less; that never matters.
fn is_covered(entry: &Entry, other: &Entry) -> bool {
    let (one, two) = (entry.translation, other.translation);
    entry.id != other.id
        && (one.page, one.size, one.frame) == (two.page, two.size, two.frame)
        && !one.rights().exceed(&two.rights(), Paging::default())
        && two.rights().exceed(&one.rights(), Paging::default())
        && (two.dirty || !one.dirty)
        && entry.root == other.root
        && other.missing.is_empty()
}

/// What a TLB holds, in an order of its own.
fn contents(tlb: &Tlb) -> Vec<String> {
    let tags: Vec<Tag> = tlb.tags().collect();
    let entries = tags.iter().flat_map(|&tag| {
        let show = move |entry: &Entry| {
            format!("{tag} {} of {} but {:?}", entry.translation, entry.root, entry.missing)
        };
        let alone = move |entry: &&Entry| {
            let page = entry.translation.page;
            !tlb.entries_in(tag, page, page).any(|other| is_covered(entry, other))
        };
        tlb.entries(tag).filter(alone).map(show)
    });
    let structures = tags.iter().flat_map(|&tag| {
        let pcid = if let Tag::Pcid(pcid) = tag { Some(pcid) } else { None };
        pcid.into_iter().flat_map(|pcid| tlb.structures(pcid)).map(|cached| {
            let (level, base, table, rights) =
                (cached.level, cached.base, cached.table, cached.rights);
            format!("PCID {} level {level} {base} -> {table} {rights:?}", cached.pcid)
        })
    });
    let mut all: Vec<String> = entries.chain(structures).collect();
    all.sort();
    all
}

fn check(all: &[Do], fill: Fill, seed: u64, free: bool) -> Result<(), TestCaseError> {
    let mut world = World::new(TlbModel { fill, structure_caches: true, seed }, free);
    let mut replica = Replica::new(&world.header());
    let mut seq = 0;
    let mut show = |replica: &mut Replica, all: Vec<Happened>| {
        for kind in all.into_iter().map(Kind::Cpu) {
            replica.apply(&Event { seq, cpu: CpuId(0), rip: Gva(0), injected: false, kind });
            seq += 1;
        }
    };
    show(&mut replica, world.tables());
    for &what in all {
        let happened = world.operate(what);
        if !happened.is_empty() {
            show(&mut replica, happened);
            prop_assert_eq!(
                contents(&world.tlb),
                contents(&replica.cpu(CpuId(0)).tlb),
                "after {:x?}",
                what
            );
        }
    }
    Ok(())
}

/// After each event every stale entry belongs to an obligation: `unowed-entry` never speaks.
fn owed(all: &[Do], fill: Fill, seed: u64, free: bool) -> Result<(), TestCaseError> {
    let mut world = World::new(TlbModel { fill, structure_caches: true, seed }, free);
    let mut oracle = Oracle::default();
    oracle.add_rule(self_check());
    oracle.begin(&world.header());
    let mut seq = 0;
    let mut show = |oracle: &mut Oracle, all: Vec<Happened>| {
        for kind in all.into_iter().map(Kind::Cpu) {
            oracle.event(&Event { seq, cpu: CpuId(0), rip: Gva(0), injected: false, kind });
            seq += 1;
        }
    };
    show(&mut oracle, world.tables());
    oracle.ready();
    for &what in all {
        show(&mut oracle, world.operate(what));
        let unowed =
            oracle.violations().iter().find(|found| found.rule.to_string() == "unowed-entry");
        let message = unowed.map(|found| &found.message);
        prop_assert!(message.is_none(), "after {:x?}: {}", what, message.unwrap());
    }
    Ok(())
}

fn steps() -> impl Strategy<Value = Vec<Do>> {
    let va = || {
        let page = prop_oneof![0u64..4, 0x208u64..0x20c];
        page.prop_map(|page| page << 12)
    };
    const XD: u64 = 1 << 63;
    let flags = [0u64, 1, 3, 7, 0x21, 0x27, 0x67, 0x103, XD | 7, XD | 0x63];
    let bits = (0u64..16, prop::sample::select(flags.to_vec()))
        .prop_map(|(frame, flags)| if flags == 0 { 0 } else { frame << 12 | flags });
    let pte = (prop::sample::select(&TABLES[1..]), 0u64..4, bits)
        .prop_map(|(table, index, bits)| Do::Store { slot: table + index * 8, bits });
    let pde = prop::sample::select(&[0u64, 0x5007, 0x5003, 0x5027, 0x6007, 0x6027][..])
        .prop_map(|bits| Do::Store { slot: TABLES[0], bits });
    let pcid = 1u16..4;
    let one = prop_oneof![
        4 => (va(), any::<bool>()).prop_map(|(va, write)| Do::Access { va, write }),
        5 => pte,
        2 => pde,
        3 => (pcid.clone(), 0usize..2, any::<bool>()).prop_map(|(pcid, root, noflush)| Do::Load {
            pcid: u64::from(pcid),
            root,
            noflush
        }),
        2 => va().prop_map(|va| Do::Invlpg { va }),
        2 => (0u64..4, pcid, va()).prop_map(|(kind, pcid, va)| Do::Invpcid { kind, pcid, va }),
        1 => Just(Do::Pge),
        1 => prop::sample::select(&[Do::Smep, Do::Wp, Do::Nxe][..]),
    ];
    prop::collection::vec(one, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_replica_follows_on_demand_fills(steps in steps(), free in any::<bool>()) {
        check(&steps, Fill::OnDemand, 0, free)?;
    }

    #[test]
    fn the_replica_follows_the_worst_case(steps in steps(), free in any::<bool>()) {
        check(&steps, Fill::WorstCase, 0, free)?;
    }

    #[test]
    fn the_replica_follows_lazy_a(steps in steps(), free in any::<bool>()) {
        check(&steps, Fill::LazyA, 0, free)?;
    }

    #[test]
    fn the_replica_follows_seeded_fills_and_evictions(
        steps in steps(), seed in any::<u64>(), free in any::<bool>()
    ) {
        check(&steps, Fill::Seeded, seed, free)?;
    }

    #[test]
    fn every_stale_entry_is_owed(
        steps in steps(), fill in prop::sample::select(&FILLS[..]), seed in any::<u64>(),
        free in any::<bool>()
    ) {
        owed(&steps, fill.0, seed, free)?;
    }
}
