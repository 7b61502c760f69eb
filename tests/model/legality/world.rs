//! A processor alone, without an executor: its registers, its TLB, and memory.

use crate::memory::TestMemory;
use stalemate_model::arch::addr::{CpuId, Gpa, Gva};
use stalemate_model::arch::census::Census;
use stalemate_model::arch::choice::First;
use stalemate_model::arch::core::{Core, Log, Memory};
use stalemate_model::arch::fault::{Exception, Fault};
use stalemate_model::arch::features::{CpuFeatures, Errata};
use stalemate_model::arch::op::{ControlRegister, Op};
use stalemate_model::arch::tlb::{Fill, Tlb, TlbModel};
use stalemate_model::arch::vcpu::Vcpu;
use std::collections::BTreeSet;

const SIZE: u64 = 0x2_0000;
pub const GDT: u64 = 0x8000;
pub const IDT: u64 = 0x9000;
pub const TSS: u64 = 0xa000;
const DESCRIPTOR: u64 = 0xb000;

/// 128 KiB, identity-mapped by a PML4 at 0x1000, and a processor in its kernel.
pub struct World {
    pub memory: TestMemory,
    pub vcpu: Vcpu,
    pub tlb: Tlb,
    census: Census,
    pub errata: Errata,
    pub log: Log,
}

impl World {
    pub fn new(pcid: bool, invpcid: bool) -> Self {
        let others = CpuFeatures { pge: true, smep: true, ..CpuFeatures::default() };
        Self::with_features(CpuFeatures { pcid, invpcid, ..others })
    }

    pub fn with_features(features: CpuFeatures) -> Self {
        let memory = TestMemory::new(SIZE);
        let put = |at: u64, value: u64| memory.write_word(Gpa(at), value);
        put(0x1000, 0x2063);
        put(0x2000, 0x3063);
        put(0x3000, 0x4063);
        for page in 0..SIZE / 4096 {
            put(0x4000 + page * 8, page << 12 | 0x63);
        }
        put(GDT + 0x80, 0x00af_9b00_0000_ffff);
        let mut vcpu = Vcpu::long_mode(CpuId(0), features, 0x5000, 0x1000);
        vcpu.gdt.base = GDT;
        vcpu.gdt.limit = 0xff;
        vcpu.idt.base = IDT;
        vcpu.idt.limit = 0xfff;
        vcpu.tss_base = TSS;
        vcpu.tss_limit = 0x67;
        let tlb = Tlb::new(TlbModel { fill: Fill::OnDemand, structure_caches: true, seed: 0 });
        let (census, errata, log) = (Census::default(), Errata::default(), Log::default());
        let mut world = Self { memory, vcpu, tlb, census, errata, log };
        world.stack(1, 0x1_0000);
        world.with(|core| core.load_cr3(0x1000)).expect("a legal load");
        world
    }

    pub fn with<T>(&mut self, work: impl FnOnce(&mut Core<'_>) -> T) -> T {
        work(&mut Core {
            vcpu: &mut self.vcpu,
            tlb: &mut self.tlb,
            census: &mut self.census,
            memory: &self.memory,
            remote: Vec::new(),
            errata: self.errata,
            watched: &BTreeSet::new(),
            forgets_roots: false,
            chooser: &mut First,
            log: &mut self.log,
        })
    }

    pub fn execute(&mut self, op: Op) -> Result<(), Fault> {
        self.with(|core| core.execute(op, 0x5003))
    }

    pub fn write(&mut self, register: ControlRegister, value: u64) -> Result<(), Fault> {
        self.execute(Op::WriteCr { register, value })
    }

    /// How many translations are cached.
    pub fn held(&self) -> usize {
        self.tlb.tags().map(|tag| self.tlb.entries(tag).count()).sum()
    }

    /// INVPCID with this descriptor.
    pub fn invpcid(&mut self, kind: u64, first: u64, va: u64) -> Result<(), Fault> {
        self.memory.write_word(Gpa(DESCRIPTOR), first);
        self.memory.write_word(Gpa(DESCRIPTOR + 8), va);
        self.execute(Op::Invpcid { kind, descriptor: Gva(DESCRIPTOR) })
    }

    /// The top of IST stack `number`; its slot is not aligned.
    pub fn stack(&self, number: u64, top: u64) {
        self.memory.write(Gpa(TSS + 0x1c + number * 8), &top.to_le_bytes());
    }

    /// Makes the page at 0xc000 a user page.
    pub fn make_user_page(&self) {
        for slot in [0x1000, 0x2000, 0x3000, 0x4000 + 0xc * 8] {
            self.memory.write_word(Gpa(slot), self.memory.read_word(Gpa(slot)) | 4);
        }
    }

    /// A gate for `vector` to 0x5500, on IST 1.
    pub fn gate(&self, vector: u64) {
        self.memory.write_word(Gpa(IDT + vector * 16), 0x5500 | 0x80 << 16 | 0x8e01 << 32);
    }
}

pub fn gp() -> Result<(), Fault> {
    Err(Exception::general_protection(0).into())
}

pub fn ud() -> Result<(), Fault> {
    Err(Exception::INVALID_OPCODE.into())
}
