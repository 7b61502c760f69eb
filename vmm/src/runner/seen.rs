//! What a kernel was seen to be in a run, whatever it was asked to be.

use crate::arch::happened::Happened;
use crate::arch::vcpu::cr4;
use crate::arch::walk::entry;
use crate::event::{Announcement, Event, Kind, Observer, TraceHeader};
use std::fmt;

/// Rules that judge what a kernel says, and what it must say for that.
const SAID: [(&[&str], &str); 8] = [
    (&["stale-kernel-entry", "stale-remote-entry", "needless-flush"], "BEGIN and END"),
    (&["reuse-before-flush"], "FRAME_FREED"),
    (&["copied-while-writable"], "CONTENTS_TAKEN"),
    (&["lost-dirty"], "ENTRY_READ"),
    (&["lost-mark", "stray-mark"], "marks"),
    (&["generation"], "generations"),
    (&["loaded-mm"], "loaded_mm"),
    (&["lazy-in-user-mode"], "is_lazy"),
];

/// Which of [`SAID`] an announcement is.
fn kind(said: &Announcement) -> Option<usize> {
    Some(match said {
        Announcement::FlushBegins { .. } | Announcement::FlushReturns { .. } => 0,
        Announcement::FrameFreed(_) => 1,
        Announcement::ContentsTaken(_) => 2,
        Announcement::EntryRead { .. } => 3,
        Announcement::Marked { .. } | Announcement::Unmarked { .. } => 4,
        // What nothing was ever flushed up to is no claim.
        Announcement::Generation { generation: 1.., .. } | Announcement::SlotFlushed { .. } => 5,
        Announcement::Loaded { .. } | Announcement::Switching { .. } => 6,
        Announcement::Lazy { .. } => 7,
        _ => return None,
    })
}

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
    /// Which of [`SAID`] it said.
    said: [bool; SAID.len()],
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

    /// What neither of two runs said neither said.
    pub fn add(&mut self, other: &Self) {
        for (one, other) in self.said.iter_mut().zip(other.said) {
            *one |= other;
        }
    }

    /// The rules that had nothing to judge, since the kernel never says what they are about; and that.
    pub fn unjudged(&self) -> impl Iterator<Item = (&'static [&'static str], &'static str)> {
        SAID.into_iter().zip(self.said).filter(|(_, said)| !said).map(|(row, _)| row)
    }

    fn says(&mut self, announcements: &[Announcement]) {
        for number in announcements.iter().filter_map(kind) {
            self.said[number] = true;
        }
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
        self.says(&kernel.state);
    }

    fn event(&mut self, event: &Event) {
        self.says(event.announcements());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::rules;

    #[test]
    fn each_rule_that_is_named_is_one() {
        for name in SAID.iter().flat_map(|(names, _)| *names) {
            assert!(rules::names().contains(name), "{name}");
        }
    }
}
