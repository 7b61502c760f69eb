//! Shadow page tables: page tables that map what the modelled TLB holds, and no more.
//!
//! Leaves are 4 KiB. A non-leaf entry is written once and never changed, and a page once used as
//! a table is used again only after KVM's memory slot was taken away: a software KVM sees upgrades
//! at once, but of downgrades only those of leaves whose frame is [`revoke`]d (both measured; right
//! on VMX and SVM too). All are dropped when the pool is used up, or when a page is mapped where the
//! monitor is: what the guest still uses faults and is mapped again.

use super::monitor::{self, Place};
use super::pages::{HostPages, revoke};
use crate::arch::addr::{Gpa, Gva};
use crate::executor::{ExecutorError, Leaf, Space};
use std::collections::BTreeMap;

/// Pages in the pool for shadow page tables.
const POOL_PAGES: usize = 4096;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;

#[derive(Debug)]
struct Tables {
    root: u64,
    leaves: BTreeMap<Gva, Leaf>,
}

/// The shadow pages of one virtual machine, with the monitor.
#[derive(Debug)]
pub struct ShadowPages {
    pages: HostPages,
    used: usize,
    place: Place,
    /// PML4 slots in which the guest has had pages.
    taken: [bool; 512],
    monitor_pdpt: u64,
    spaces: BTreeMap<Space, Tables>,
    guest_memory: u64,
    guest_len: u64,
}

impl ShadowPages {
    /// The monitor, and no shadow pages yet. `guest_memory` is the host address of guest-physical
    /// address 0, `guest_len` the bytes of guest memory.
    ///
    /// # Safety
    /// Those bytes are whole pages of one readable and writable mapping that outlives the result,
    /// and no reference into them is in use while a method of the result runs.
    pub unsafe fn new(guest_memory: u64, guest_len: u64) -> Result<Self, ExecutorError> {
        let pages = HostPages::new((monitor::PAGES as usize + POOL_PAGES) * 4096)?;
        let taken = [false; 512];
        let mut shadow = Self {
            pages,
            used: 0,
            place: free_place(&taken)?,
            taken,
            monitor_pdpt: 0,
            spaces: BTreeMap::new(),
            guest_memory,
            guest_len,
        };
        shadow.set_up()?;
        Ok(shadow)
    }

    /// Writes the monitor and its own tables.
    fn set_up(&mut self) -> Result<(), ExecutorError> {
        for (index, word) in monitor::image(self.place).chunks_exact(8).enumerate() {
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            self.pages.write(index as u64 * 8, word);
        }
        self.used = monitor::PAGES as usize;
        // They carry no USER bit: code at CPL 3 cannot touch it.
        let supervisor = PRESENT | WRITABLE | ACCESSED;
        let (pdpt, pd, pt) = (self.page()?, self.page()?, self.page()?);
        self.set(pdpt, 0, pd | supervisor);
        self.set(pd, 0, pt | supervisor);
        for page in 0..monitor::PAGES {
            let frame = monitor::PHYS + page * 4096;
            self.set(pt, page as usize, frame | supervisor | DIRTY);
        }
        self.monitor_pdpt = pdpt;
        Ok(())
    }

    /// Where the monitor is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether `page` can be mapped, in whichever space, without [`ShadowPages::reset`].
    pub fn has_room(&self, page: Gva) -> bool {
        index(page, 3) != self.place.slot() && self.has_tables()
    }

    /// Whether there are pages for a root and three tables.
    pub fn has_tables(&self) -> bool {
        (self.used + 4) * 4096 <= self.pages.len()
    }

    /// Drops all spaces, and puts the monitor where `page` is not. The monitor avoids each slot that
    /// the guest has used, until there is no other: a guest that uses them in turn makes it move
    /// once for each. KVM shows none of [`ShadowPages::memory`] meanwhile.
    pub fn reset(&mut self, page: Option<Gva>) -> Result<(), ExecutorError> {
        if let Some(page) = page {
            self.taken[index(page, 3)] = true;
            self.place = match free_place(&self.taken) {
                Ok(place) => place,
                Err(_) => {
                    self.taken = [false; 512];
                    self.taken[index(page, 3)] = true;
                    free_place(&self.taken)?
                }
            };
        }
        self.spaces.clear();
        for word in 0..self.used as u64 * 512 {
            self.pages.write(word * 8, 0);
        }
        self.set_up()
    }

    /// The memory that KVM must show at [`monitor::PHYS`].
    pub fn memory(&self) -> &HostPages {
        &self.pages
    }

    /// The root of the shadow pages of `space`, made empty where there is none yet.
    pub fn root(&mut self, space: Space) -> Result<u64, ExecutorError> {
        if let Some(tables) = self.spaces.get(&space) {
            return Ok(tables.root);
        }
        let root = self.page()?;
        let monitor = self.monitor_pdpt | PRESENT | WRITABLE | ACCESSED;
        self.set(root, self.place.slot(), monitor);
        self.spaces.insert(space, Tables { root, leaves: BTreeMap::new() });
        Ok(root)
    }

    /// The leaf of `page` in `space`.
    pub fn leaf(&self, space: Space, page: Gva) -> Option<Leaf> {
        self.spaces.get(&space)?.leaves.get(&page.page()).copied()
    }

    /// Maps `page` in `space`, where it [has room](ShadowPages::has_room); what was there grants less, or was revoked. A frame beyond guest
    /// memory is refused: the monitor and these tables lie there.
    pub fn map(&mut self, space: Space, page: Gva, leaf: Leaf) -> Result<(), ExecutorError> {
        if leaf.frame.0.checked_add(4096).is_none_or(|end| end > self.guest_len) {
            return Err(ExecutorError::BeyondMemory { frame: leaf.frame });
        }
        self.taken[index(page, 3)] = true;
        let mut table = self.root(space)?;
        for level in [3u32, 2, 1] {
            let index = index(page, level);
            let entry = self.get(table, index);
            table = if entry & PRESENT == 0 {
                let next = self.page()?;
                self.set(table, index, next | TABLE);
                next
            } else {
                entry & FRAME
            };
        }
        self.set(table, index(page, 0), encode(leaf));
        if let Some(tables) = self.spaces.get_mut(&space) {
            tables.leaves.insert(page.page(), leaf);
        }
        Ok(())
    }

    /// Revokes or narrows, in the selected spaces, each leaf for which `keep` grants less.
    /// With `only`, just the leaf of that page.
    pub fn revalidate(
        &mut self,
        select: &dyn Fn(Space) -> bool,
        only: Option<Gva>,
        keep: &mut dyn FnMut(Space, Gva, Leaf) -> Option<Leaf>,
    ) -> Result<(), ExecutorError> {
        let mut frames = Vec::new();
        let mut changes = Vec::new();
        for (&space, tables) in self.spaces.iter().filter(|(space, _)| select(**space)) {
            let mut check = |page: Gva, leaf: Leaf| {
                let kept = keep(space, page, leaf).filter(|kept| kept.frame == leaf.frame);
                if kept.is_none_or(|kept| !leaf.within(&kept)) {
                    frames.push(leaf.frame.0);
                    changes.push((
                        space,
                        tables.root,
                        page,
                        kept.map(|kept| Leaf {
                            writable: leaf.writable && kept.writable,
                            executable: leaf.executable && kept.executable,
                            ..leaf
                        }),
                    ));
                }
            };
            match only {
                Some(page) => {
                    if let Some(&leaf) = tables.leaves.get(&page.page()) {
                        check(page.page(), leaf);
                    }
                }
                None => tables.leaves.iter().for_each(|(&page, &leaf)| check(page, leaf)),
            }
        }
        for (space, root, page, leaf) in changes {
            let mut table = root;
            for level in [3u32, 2, 1] {
                table = self.get(table, index(page, level)) & FRAME;
            }
            self.set(table, index(page, 0), leaf.map_or(0, encode));
            if let Some(tables) = self.spaces.get_mut(&space) {
                match leaf {
                    Some(leaf) => tables.leaves.insert(page, leaf),
                    None => tables.leaves.remove(&page),
                };
            }
        }
        self.revoke_frames(frames)
    }

    /// Revokes frames, neighbours by one call.
    fn revoke_frames(&self, mut frames: Vec<u64>) -> Result<(), ExecutorError> {
        frames.sort_unstable();
        frames.dedup();
        for run in frames.chunk_by(|a, b| a + 4096 == *b) {
            // SAFETY: `map` lets in frames of guest memory only, which `new`'s caller keeps mapped;
            // the virtual CPU runs on this thread, hence not now.
            unsafe { revoke(self.guest_memory + run[0], run.len() * 4096) }?;
        }
        Ok(())
    }

    /// Takes a zeroed page from the pool; its guest-physical address.
    fn page(&mut self) -> Result<u64, ExecutorError> {
        if (self.used + 1) * 4096 > self.pages.len() {
            return Err(ExecutorError::OutOfTables { pages: POOL_PAGES });
        }
        self.used += 1;
        Ok(monitor::PHYS + (self.used as u64 - 1) * 4096)
    }

    fn get(&self, table: u64, index: usize) -> u64 {
        self.pages.read(table - monitor::PHYS + index as u64 * 8)
    }

    fn set(&self, table: u64, index: usize, entry: u64) {
        self.pages.write(table - monitor::PHYS + index as u64 * 8, entry);
    }
}

fn free_place(taken: &[bool; 512]) -> Result<Place, ExecutorError> {
    Place::outside(taken).ok_or(ExecutorError::OutOfTables { pages: POOL_PAGES })
}

fn index(page: Gva, level: u32) -> usize {
    (page.0 >> (12 + 9 * level) & 0x1ff) as usize
}

/// A and D are set from the start, so that KVM never has to write to them.
fn encode(leaf: Leaf) -> u64 {
    let Gpa(frame) = leaf.frame;
    let mut entry = frame | PRESENT | USER | ACCESSED;
    if leaf.writable {
        entry |= WRITABLE | DIRTY;
    }
    if !leaf.executable {
        entry |= NO_EXECUTE;
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::addr::{CpuId, Pcid};

    #[test]
    fn frames_beyond_guest_memory_are_refused() {
        let memory = HostPages::new(4 * 4096).expect("pages");
        // SAFETY: `memory` is four whole pages, dropped after `shadow`; nothing refers into it.
        let mut shadow =
            unsafe { ShadowPages::new(memory.host_address(), 4 * 4096) }.expect("pool");
        let space = Space { cpu: CpuId(0), pcid: Pcid::new(0), user: false };
        let mut map = |frame| {
            let leaf = Leaf { frame: Gpa(frame), writable: true, executable: true };
            shadow.map(space, Gva(0x1000), leaf)
        };
        assert!(map(3 * 4096).is_ok());
        for frame in [4 * 4096, monitor::PHYS, u64::MAX - 4095] {
            assert!(matches!(map(frame), Err(ExecutorError::BeyondMemory { .. })), "{frame:#x}");
        }
    }
}
