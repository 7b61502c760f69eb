//! What a kernel was seen to be in a run, whatever it was asked to be.

use crate::arch::happened::Happened;
use crate::arch::vcpu::cr4;
use crate::arch::walk::entry;
use crate::event::{Event, Kind, Observer, TraceHeader};
use std::fmt;

/// What a kernel was seen to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// It says that user mode has roots of its own.
    says_isolated: bool,
    /// The bit of CR3 that tells such a root, where it says so.
    root_bit: u64,
    /// CR3, by CPU.
    cr3: Vec<u64>,
    /// Entries to user mode: on the kernel's roots, and on others.
    entries: [u64; 2],
    /// CR4.PCIDE was set.
    pub pcid: bool,
    /// CR4.PGE was set.
    pge: bool,
    /// A page-table entry had G.
    global_entry: bool,
    /// INVPCID was executed after boot.
    pub invpcid: bool,
}

impl Seen {
    /// User mode runs on roots of its own: it was seen there, or never, and the kernel says so.
    #[must_use]
    pub fn isolated(&self) -> bool {
        match self.entries {
            [0, 0] => self.says_isolated,
            [_, others] => others > 0,
        }
    }

    /// Kernel pages are global.
    #[must_use]
    pub fn global(&self) -> bool {
        self.pge && self.global_entry
    }

    fn control(&mut self, value: u64) {
        self.pcid |= value & cr4::PCIDE != 0;
        self.pge |= value & cr4::PGE != 0;
    }

    fn entries(&mut self, mut bits: impl Iterator<Item = u64>) {
        let global = entry::PRESENT | entry::GLOBAL;
        self.global_entry = self.global_entry || bits.any(|bits| bits & global == global);
    }
}

impl Observer for Seen {
    fn begin(&mut self, header: &TraceHeader) {
        let kernel = &header.kernel;
        let root_bit = kernel.pairing.filter(|_| kernel.isolated).map_or(0, |pair| pair.root_bit);
        *self = Self { says_isolated: kernel.isolated, root_bit, ..Self::default() };
        self.cr3 = header.cpus.iter().map(|cpu| cpu.cr3).collect();
        header.cpus.iter().for_each(|cpu| self.control(cpu.cr4));
    }

    fn event(&mut self, event: &Event) {
        let Kind::Cpu(happened) = &event.kind else { return };
        let cpu = usize::from(event.cpu.0);
        match happened {
            Happened::LoadCr3 { value, .. } => {
                if let Some(cr3) = self.cr3.get_mut(cpu) {
                    *cr3 = *value;
                }
            }
            Happened::WriteCr4 { new, .. } => self.control(*new),
            Happened::Invpcid { .. } => self.invpcid = true,
            Happened::UserEntry => {
                let cr3 = self.cr3.get(cpu).copied().unwrap_or(0);
                self.entries[usize::from(cr3 & self.root_bit != 0)] += 1;
            }
            Happened::TableLinked { entries, .. } => self.entries(entries.iter().map(|one| one.1)),
            Happened::TableStore { new, .. } => self.entries(std::iter::once(*new)),
            _ => {}
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pcid = if self.pcid { "PCIDs on" } else { "PCIDs off" };
        let roots = match self.isolated() {
            true => "user roots of its own",
            false => "one root for both modes",
        };
        let global = if self.global() { "global pages" } else { "no global pages" };
        let invpcid = if self.invpcid { "INVPCID used" } else { "no INVPCID" };
        write!(f, "{pcid}, {roots}, {global}, {invpcid}")
    }
}
