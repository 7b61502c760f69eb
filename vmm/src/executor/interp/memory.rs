//! The guest's data as the interpreter reaches it: the leaves of the shadow pages, and in front of them
//! a small direct-mapped cache, so that a hit costs a few instructions.

use crate::arch::addr::{Gpa, Gva};
use crate::executor::{ExecutorError, Leaf, Sharing, Space};
use crate::memory::{CodePages, GuestMemory};
use std::collections::BTreeMap;
use std::rc::Rc;
use vm_memory::GuestMemoryMmap;

/// Lines of each cache; a power of two.
const LINES: usize = 256;
/// Spaces at most: a line's tag holds the space in the page offset's bits.
const MAX_SPACES: usize = 4095;
const PAGE: u64 = 4096;

/// One page of one space, and where it is in memory.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// The page's address, and the number of its space; all ones when empty.
    tag: u64,
    frame: u64,
}

const EMPTY: Line = Line { tag: u64::MAX, frame: 0 };

/// Why no instruction could be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchFault {
    NotCanonical,
    Page { address: u64, present: bool },
}

/// What may be done with each page, and guest memory.
#[derive(Debug)]
pub struct DataMemory {
    host: *mut u8,
    len: u64,
    read: Box<[Line; LINES]>,
    write: Box<[Line; LINES]>,
    /// The number of the current space.
    current: u64,
    spaces: Vec<(Space, BTreeMap<Gva, Leaf>)>,
    code: Rc<CodePages>,
    /// Rises whenever less can be fetched than before.
    epoch: u64,
    /// What is known of accesses, where somebody asks: then no page comes into the caches.
    sharing: Option<Box<Sharing>>,
    /// The CPU of the current space.
    cpu: u8,
    /// The instruction under way has made a visible access.
    visible: bool,
    /// Keeps `host` mapped.
    _memory: GuestMemoryMmap<()>,
}

impl DataMemory {
    pub fn new(memory: &GuestMemory) -> Self {
        Self {
            host: memory.host_address() as *mut u8,
            len: memory.len(),
            read: Box::new([EMPTY; LINES]),
            write: Box::new([EMPTY; LINES]),
            current: 0,
            spaces: Vec::new(),
            code: Rc::clone(memory.code_pages()),
            epoch: 0,
            sharing: None,
            cpu: 0,
            visible: false,
            _memory: memory.mmap().clone(),
        }
    }

    /// Makes `space` the one that accesses go through.
    pub fn enter(&mut self, space: Space) {
        self.current = self.number(space) as u64;
        self.cpu = space.cpu.0;
        self.visible = false;
    }

    /// Tells visible accesses from others from now on, or no more.
    pub fn share(&mut self, sharing: Option<Box<Sharing>>) -> Option<Box<Sharing>> {
        self.read.fill(EMPTY);
        self.write.fill(EMPTY);
        self.epoch += 1;
        std::mem::replace(&mut self.sharing, sharing)
    }

    pub fn sharing(&mut self) -> Option<&mut Sharing> {
        self.sharing.as_deref_mut()
    }

    /// Whether the instruction under way, or the last, has made a visible access.
    #[inline(always)]
    pub fn is_visible(&self) -> bool {
        self.visible
    }

    /// What a block of decoded code is valid for: this space, until less can be fetched.
    #[inline(always)]
    pub fn fetch_stamp(&self) -> u64 {
        self.epoch << 12 | self.current
    }

    /// Whether a page that code was decoded from has been written.
    #[inline(always)]
    pub fn code_written(&self) -> bool {
        self.code.any_written()
    }

    /// The pages that code was decoded from and that have been written; they count as data again.
    pub fn take_written_code(&mut self) -> Vec<Gpa> {
        self.epoch += 1;
        self.code.take_written()
    }

    /// Whether nothing was written where [`DataMemory::code_written`] says that something may have been.
    pub fn is_only_interrupted(&self) -> bool {
        self.code.is_only_interrupted()
    }

    /// Code was decoded from `frame`: from now on its stores are noticed.
    pub fn watch_code(&mut self, frame: Gpa) {
        if self.code.track(frame) {
            for line in self.write.iter_mut().filter(|line| line.frame == frame.0) {
                *line = EMPTY;
            }
        }
    }

    /// The number of `space`. When all are used up, every space is dropped: what the guest still
    /// uses faults and is mapped again.
    fn number(&mut self, space: Space) -> usize {
        if let Some(number) = self.spaces.iter().position(|(known, _)| *known == space) {
            return number;
        }
        if self.spaces.len() >= MAX_SPACES {
            self.spaces.clear();
            self.read.fill(EMPTY);
            self.write.fill(EMPTY);
            self.epoch += 1;
        }
        self.spaces.push((space, BTreeMap::new()));
        self.spaces.len() - 1
    }

    pub fn map(&mut self, space: Space, page: Gva, leaf: Leaf) -> Result<(), ExecutorError> {
        if leaf.frame.0.checked_add(PAGE).is_none_or(|end| end > self.len) {
            return Err(ExecutorError::BeyondMemory { frame: leaf.frame });
        }
        let number = self.number(space);
        self.spaces[number].1.insert(page.page(), leaf);
        Ok(())
    }

    pub fn leaf(&self, space: Space, page: Gva) -> Option<Leaf> {
        let (_, leaves) = self.spaces.iter().find(|(known, _)| *known == space)?;
        leaves.get(&page.page()).copied()
    }

    /// Revokes or narrows, in the selected spaces, each leaf for which `keep` grants less.
    /// With `only`, just the leaf of that page.
    pub fn revalidate(
        &mut self,
        select: &dyn Fn(Space) -> bool,
        only: Option<Gva>,
        keep: &mut dyn FnMut(Space, Gva, Leaf) -> Option<Leaf>,
    ) {
        let Self { spaces, read, write, epoch, .. } = self;
        for (number, (space, leaves)) in spaces.iter_mut().enumerate() {
            if !select(*space) {
                continue;
            }
            let mut narrow = |page: Gva, leaf: &mut Leaf| -> bool {
                let kept = keep(*space, page, *leaf).filter(|kept| kept.frame == leaf.frame);
                let kept = kept.map(|kept| Leaf {
                    writable: leaf.writable && kept.writable,
                    executable: leaf.executable && kept.executable,
                    ..*leaf
                });
                if kept != Some(*leaf) {
                    let tag = page.0 | number as u64;
                    for lines in [&mut **read, &mut **write] {
                        let line = &mut lines[line_of(page.0, number as u64)];
                        if line.tag == tag {
                            *line = EMPTY;
                        }
                    }
                    let fetched = kept.is_some_and(|kept| kept.executable);
                    *epoch += u64::from(leaf.executable && !fetched);
                }
                if let Some(kept) = kept {
                    *leaf = kept;
                }
                kept.is_some()
            };
            match only {
                Some(page) => {
                    let page = page.page();
                    let gone = leaves.get_mut(&page).is_some_and(|leaf| !narrow(page, leaf));
                    if gone {
                        leaves.remove(&page);
                    }
                }
                None => leaves.retain(|&page, leaf| narrow(page, leaf)),
            }
        }
    }

    fn current_leaf(&self, page: u64) -> Option<Leaf> {
        let (_, leaves) = self.spaces.get(self.current as usize)?;
        leaves.get(&Gva(page)).copied()
    }

    /// Where instructions of the page of `address` are fetched from.
    pub fn fetch(&mut self, address: u64) -> Result<Gpa, FetchFault> {
        if !is_canonical(address) {
            return Err(FetchFault::NotCanonical);
        }
        match self.current_leaf(address & !(PAGE - 1)) {
            Some(leaf) if leaf.executable => {
                if let Some(sharing) = &mut self.sharing {
                    sharing.fetch(address);
                }
                Ok(leaf.frame)
            }
            found => Err(FetchFault::Page { address, present: found.is_some() }),
        }
    }

    /// Copies `bytes.len()` bytes of one frame.
    pub fn read_frame(&self, frame: Gpa, offset: usize, bytes: &mut [u8]) {
        debug_assert!(offset + bytes.len() <= PAGE as usize);
        // SAFETY: a leaf's frame lies in memory (`map`), and the range lies in the frame; no
        // reference into guest memory exists.
        unsafe {
            let from = self.host.add(frame.0 as usize + offset);
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
        }
    }

    #[inline(always)]
    fn hit(&self, lines: &[Line; LINES], address: u64, size: u64) -> Option<*mut u8> {
        let line = &lines[line_of(address, self.current)];
        // An access that leaves its page has the next one's tag, and misses.
        let tag = address.wrapping_add(size - 1) & !(PAGE - 1) | self.current;
        if line.tag != tag {
            return None;
        }
        // SAFETY: a line's frame is that of a leaf, which lies in memory (`map`).
        Some(unsafe { self.host.add((line.frame + (address & (PAGE - 1))) as usize) })
    }

    /// `size` bytes at `address` to read, all in one page.
    #[inline(always)]
    pub fn readable(&self, address: u64, size: u64) -> Option<*mut u8> {
        self.hit(&self.read, address, size)
    }

    /// `size` bytes at `address` to write, all in one page without decoded code.
    #[inline(always)]
    pub fn writable(&self, address: u64, size: u64) -> Option<*mut u8> {
        self.hit(&self.write, address, size)
    }

    /// The parts of memory that `size` bytes at `address` are, one or two.
    pub fn parts(&mut self, address: u64, size: usize, write: bool) -> Result<Parts, Missing> {
        let last = address.wrapping_add(size as u64 - 1);
        if !is_canonical(address) || !is_canonical(last) {
            return Err(Missing::NotCanonical);
        }
        let first_size = size.min((PAGE - (address & (PAGE - 1))) as usize);
        let first = self.part(address, write)?;
        let second = match first_size < size {
            true => self.part(last & !(PAGE - 1), write)?,
            false => first,
        };
        if let Some(sharing) = &mut self.sharing {
            let (cpu, here) = (self.cpu, first_size as u64);
            let mut visible = sharing.access(cpu, address, first, here, write);
            if first_size < size {
                let beyond = size as u64 - here;
                visible |= sharing.access(cpu, last & !(PAGE - 1), second, beyond, write);
            }
            if visible {
                self.visible = true;
                self.code.interrupt();
            }
        }
        Ok(Parts { first, first_size, second })
    }

    /// The place of `address`; its page comes into the cache.
    fn part(&mut self, address: u64, write: bool) -> Result<Gpa, Missing> {
        let page = address & !(PAGE - 1);
        let missing = |present| Missing::Page { address, present };
        let leaf = self.current_leaf(page).ok_or(missing(false))?;
        let line = Line { tag: page | self.current, frame: leaf.frame.0 };
        let slot = line_of(page, self.current);
        if write {
            if !leaf.writable {
                return Err(missing(true));
            }
            if !self.code.is_tracked(leaf.frame) && self.sharing.is_none() {
                self.write[slot] = line;
            }
        } else if self.sharing.is_none() {
            self.read[slot] = line;
        }
        Ok(Gpa(leaf.frame.0 + (address & (PAGE - 1))))
    }

    pub fn copy_out(&self, parts: &Parts, bytes: &mut [u8]) {
        let (first, second) = bytes.split_at_mut(parts.first_size);
        for (at, bytes) in [(parts.first, first), (parts.second, second)] {
            let (frame, offset) = (at.page(), (at.0 & (PAGE - 1)) as usize);
            if !bytes.is_empty() {
                self.read_frame(frame, offset, bytes);
            }
        }
    }

    pub fn copy_in(&mut self, parts: &Parts, bytes: &[u8]) {
        let (first, second) = bytes.split_at(parts.first_size);
        for (at, bytes) in [(parts.first, first), (parts.second, second)] {
            if bytes.is_empty() {
                continue;
            }
            self.code.note_write(at);
            // SAFETY: `part` found the leaf that this is in, which lies in memory; each part
            // lies in one page.
            unsafe {
                let to = self.host.add(at.0 as usize);
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            }
        }
    }
}

/// Where an access goes that may cross from one page into the next.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    first: Gpa,
    first_size: usize,
    second: Gpa,
}

/// Why an access cannot be made.
#[derive(Clone, Copy, Debug)]
pub enum Missing {
    NotCanonical,
    Page { address: u64, present: bool },
}

#[inline(always)]
fn line_of(address: u64, space: u64) -> usize {
    ((address >> 12) ^ space << 3) as usize % LINES
}

/// Bits 63 to 47 are alike.
pub fn is_canonical(address: u64) -> bool {
    ((address << 16) as i64 >> 16) as u64 == address
}
