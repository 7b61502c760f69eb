//! The TLB under test.

use super::space::{A, Bit, D, PAGING, ROOTS, Ram, initial};
use stalemate_model::arch::addr::{Gpa, Gva, Pcid};
use stalemate_model::arch::census::Census;
use stalemate_model::arch::features::Paging;
use stalemate_model::arch::tlb::{Lookup, Store, Tlb, TlbModel};
use stalemate_model::arch::vcpu::cr4;
use stalemate_model::arch::walk::{Access, AccessKind, Tables, Translation, walk};

/// What is asked of the TLB.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Store { slot: u64, bits: u64 },
    Load { pcid: u16, root: usize, flush: bool },
    Access { va: u64, write: bool },
    Invlpg { va: u64 },
    Invpcid { kind: u64, pcid: u16, va: u64 },
    Toggle(Bit),
}

/// What came of it: an access is a fill, a fault or nothing, and sets A and D.
#[derive(Clone, Copy, Debug)]
pub enum Did {
    Store { slot: u64, bits: u64 },
    Load { pcid: u16, root: u64, flush: bool },
    Filled { va: u64 },
    Faulted { va: u64 },
    Invlpg { va: u64 },
    Invpcid { kind: u64, pcid: u16, va: u64 },
    Toggled(Bit),
}

/// The TLB at work, as a core drives it.
pub struct Driver {
    pub tlb: Tlb,
    census: Census,
    paging: Paging,
    pub ram: Ram,
    pub did: Vec<Did>,
}

impl Driver {
    pub fn run(history: &[Op], model: TlbModel) -> Self {
        let (tlb, ram) = (Tlb::new(model), Ram(initial()));
        let (census, paging, did) = (Census::default(), PAGING, Vec::new());
        let mut driver = Self { tlb, census, paging, ram, did };
        history.iter().for_each(|&op| driver.operate(op));
        driver
    }

    fn operate(&mut self, op: Op) {
        let (tlb, ram, paging) = (&mut self.tlb, &self.ram, self.paging);
        match op {
            Op::Store { slot, bits } => {
                let old = ram.entry(Gpa(slot)).unwrap_or(0);
                self.did.push(Did::Store { slot, bits });
                self.ram.0.insert(slot, bits);
                let store = Store { slot: Gpa(slot), old, new: bits };
                self.tlb.table_store(&self.ram, &self.census, store);
                self.census.pin(&self.ram, &self.tlb.reached_tables());
                self.census.store(&self.ram, Gpa(slot), old, bits);
                self.speculate();
            }
            Op::Load { pcid, root, flush } => {
                let root = ROOTS[root];
                // Without PCIDs the current one is 0, and each load flushes.
                let (pcid, flush) = if paging.pcide { (pcid, flush) } else { (0, true) };
                self.census.add_root(ram, Gpa(root));
                tlb.load_cr3(ram, paging, Pcid::new(pcid), Gpa(root), flush);
                self.flushed(Did::Load { pcid, root, flush });
            }
            Op::Access { va, write } => self.access(va, write),
            Op::Invlpg { va } => {
                tlb.invlpg(ram, paging, Gva(va), false);
                self.flushed(Did::Invlpg { va });
            }
            Op::Invpcid { kind, pcid, va } => {
                let pcid = if paging.pcide { pcid } else { 0 };
                tlb.invpcid(ram, paging, kind, Pcid::new(pcid), Gva(va));
                self.flushed(Did::Invpcid { kind, pcid, va });
            }
            Op::Toggle(bit) => self.toggle(bit),
        }
    }

    /// As a core does: the bit first, then what its change removes, and then speculation.
    fn toggle(&mut self, bit: Bit) {
        let paging = &mut self.paging;
        let (flag, of_cr4) = match bit {
            Bit::Pge => (&mut paging.pge, cr4::PGE),
            Bit::Pcide => (&mut paging.pcide, cr4::PCIDE),
            Bit::Smep => (&mut paging.smep, cr4::SMEP),
            Bit::Wp => (&mut paging.wp, 0),
            Bit::Nxe => (&mut paging.nxe, 0),
        };
        *flag = !*flag;
        let new = if *flag { of_cr4 } else { 0 };
        if of_cr4 != 0 {
            self.tlb.write_cr4(&self.ram, self.paging, new ^ of_cr4, new);
        }
        self.flushed(Did::Toggled(bit));
    }

    fn access(&mut self, va: u64, write: bool) {
        let kind = if write { AccessKind::Write } else { AccessKind::Read };
        let access = Access { kind, user: false };
        let Some(start) = self.tlb.walk_start(&self.ram, Gva(va)) else { return };
        let found = self.tlb.lookup(&self.ram, self.paging, Gva(va), access);
        if found != Lookup::Miss {
            return;
        }
        let walked = walk(&self.ram, start, Gva(va), self.paging);
        let allowed = |found: &Translation| found.check(access, self.paging).is_ok();
        let Some(found) = walked.result.ok().filter(allowed) else {
            self.tlb.page_fault(&self.ram, self.paging, Gva(va));
            return self.flushed(Did::Faulted { va });
        };
        let leaf = walked.path.len() - 1;
        for (index, step) in walked.path.iter().enumerate() {
            let new = step.entry | A | if write && index == leaf { D } else { 0 };
            if new != step.entry {
                self.did.push(Did::Store { slot: step.slot.0, bits: new });
                self.set(step.slot, step.entry, new);
            }
        }
        let found = Translation { dirty: found.dirty || write, ..found };
        self.tlb.fill(&self.ram, self.paging, &walked, &found);
        self.did.push(Did::Filled { va });
        self.speculate();
    }

    fn flushed(&mut self, did: Did) {
        self.did.push(did);
        self.census.pin(&self.ram, &self.tlb.reached_tables());
        self.speculate();
    }

    fn set(&mut self, slot: Gpa, old: u64, new: u64) {
        self.ram.0.insert(slot.0, new);
        self.tlb.accessed_dirty(&self.ram, &self.census, Store { slot, old, new });
    }

    fn speculate(&mut self) {
        for (slot, old, new) in self.tlb.speculate(&self.ram, self.paging) {
            self.set(slot, old, new);
        }
    }
}
