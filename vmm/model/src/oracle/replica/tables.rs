//! Contents of the page tables.

use crate::arch::addr::Gpa;
use crate::arch::walk::Tables;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The page tables by frame, as events have shown them.
#[derive(Clone, Debug, Default)]
pub struct ReplicaTables {
    frames: BTreeMap<Gpa, Rc<[u64; 512]>>,
}

impl Tables for ReplicaTables {
    fn entry(&self, slot: Gpa) -> Option<u64> {
        let frame = self.frames.get(&slot.page())?;
        frame.get((slot.0 >> 3 & 0x1ff) as usize).copied()
    }

    fn present(&self, table: Gpa) -> Vec<(u64, u64)> {
        let entries = self.frame(table).iter().enumerate().filter(|(_, bits)| **bits != 0);
        entries.map(|(index, &bits)| (index as u64, bits)).collect()
    }
}

impl ReplicaTables {
    fn frame(&self, table: Gpa) -> &[u64] {
        self.frames.get(&table.page()).map_or(&[], |frame| &frame[..])
    }

    /// A frame became a table with these entries.
    pub(super) fn link(&mut self, table: Gpa, entries: &[(u16, u64)]) {
        let mut frame = [0; 512];
        for &(index, entry) in entries {
            frame[usize::from(index) % 512] = entry;
        }
        self.frames.insert(table, Rc::new(frame));
    }

    /// A frame is a table no longer.
    pub(super) fn unlink(&mut self, table: Gpa) {
        self.frames.remove(&table);
    }

    /// An entry is this from now on.
    pub(super) fn set(&mut self, slot: Gpa, entry: u64) {
        if let Some(frame) = self.frames.get_mut(&slot.page()) {
            Rc::make_mut(frame)[(slot.0 >> 3 & 0x1ff) as usize] = entry;
        }
    }
}
