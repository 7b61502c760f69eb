//! Decoded code, kept by the guest-physical page that it was decoded from, and dropped when that
//! page is written.

use super::decode::{self, Decoded, MAX_INSTRUCTION};
use super::memory::{DataMemory, FetchFault};
use super::uop::Uop;
use crate::arch::addr::Gpa;
use std::collections::{HashMap, HashSet};

/// Entries of the look-up table by address; a power of two.
const SLOTS: usize = 4096;
/// Instructions of one block at most.
const MAX_BLOCK: usize = 32;
const PAGE: usize = 4096;

/// Instructions that follow each other, up to the first that may jump.
#[derive(Debug)]
pub struct Block {
    pub uops: Vec<Uop>,
    /// Where it was decoded to run.
    rip: u64,
    /// It begins at a breakpoint.
    pub breakpoint: bool,
}

impl Block {
    /// Whether an address is in it, and not its first.
    fn has_inside(&self, at: u64) -> bool {
        let length: u64 = self.uops.iter().map(|uop| u64::from(uop.len)).sum();
        (1..length).contains(&at.wrapping_sub(self.rip))
    }
}

/// Where a block was found last.
#[derive(Clone, Copy, Debug)]
struct Slot {
    rip: u64,
    stamp: u64,
    block: u32,
}

const EMPTY: Slot = Slot { rip: 0, stamp: u64::MAX, block: 0 };

/// All decoded code.
#[derive(Debug)]
pub struct CodeCache {
    slots: Box<[Slot; SLOTS]>,
    blocks: Vec<Block>,
    free: Vec<u32>,
    /// Blocks by page and offset.
    pages: HashMap<Gpa, HashMap<u16, u32>>,
    /// The block of an instruction that crosses into another page: good for once.
    crossing: Block,
    /// What to get wrong, for the tests that must notice.
    pub flaw: Option<super::Flaw>,
    /// Instructions of one block at most.
    pub longest_block: usize,
    breakpoints: HashSet<u64>,
}

impl CodeCache {
    pub fn new() -> Self {
        Self {
            slots: Box::new([EMPTY; SLOTS]),
            blocks: Vec::new(),
            free: Vec::new(),
            pages: HashMap::new(),
            crossing: Block { uops: Vec::new(), rip: 0, breakpoint: false },
            flaw: None,
            longest_block: MAX_BLOCK,
            breakpoints: HashSet::new(),
        }
    }

    /// Lets a block begin at `rip`, which is a breakpoint from now on. Code that has it in the middle of
    /// a block is decoded anew.
    pub fn set_breakpoint(&mut self, memory: &mut DataMemory, rip: u64) {
        if !self.breakpoints.insert(rip) {
            return;
        }
        if self.blocks.iter().any(|block| block.has_inside(rip)) {
            self.drop_all(memory);
            self.slots.fill(EMPTY);
        }
        let here = self.blocks.iter_mut().filter(|block| block.rip == rip);
        here.for_each(|block| block.breakpoint = true);
    }

    /// The block at `rip` in the current space.
    #[inline(always)]
    pub fn block(&mut self, memory: &mut DataMemory, rip: u64) -> Result<&Block, FetchFault> {
        let stamp = memory.fetch_stamp();
        let slot = &self.slots[slot_of(rip, stamp)];
        if slot.rip == rip && slot.stamp == stamp {
            return Ok(&self.blocks[slot.block as usize]);
        }
        self.find(memory, rip)
    }

    #[cold]
    fn find(&mut self, memory: &mut DataMemory, rip: u64) -> Result<&Block, FetchFault> {
        let frame = memory.fetch(rip)?;
        let offset = (rip & (PAGE as u64 - 1)) as usize;
        let known = self.pages.get(&frame).and_then(|page| page.get(&(offset as u16))).copied();
        if let Some(block) = known {
            let stamp = memory.fetch_stamp();
            self.slots[slot_of(rip, stamp)] = Slot { rip, stamp, block };
            return Ok(&self.blocks[block as usize]);
        }
        let mut bytes = [0; PAGE];
        let bytes = &mut bytes[offset..];
        memory.read_frame(frame, offset, bytes);
        let uops = self.decode(bytes, rip);
        if !uops.is_empty() {
            let breakpoint = self.breakpoints.contains(&rip);
            let block = Block { uops, rip, breakpoint };
            let number = match self.free.pop() {
                Some(number) => {
                    self.blocks[number as usize] = block;
                    number
                }
                None => {
                    self.blocks.push(block);
                    self.blocks.len() as u32 - 1
                }
            };
            memory.watch_code(frame);
            self.pages.entry(frame).or_default().insert(offset as u16, number);
            let stamp = memory.fetch_stamp();
            self.slots[slot_of(rip, stamp)] = Slot { rip, stamp, block: number };
            return Ok(&self.blocks[number as usize]);
        }
        // The first instruction goes on in the next page.
        let next = rip.wrapping_add(bytes.len() as u64);
        let next_frame = memory.fetch(next)?;
        let mut both = [0; MAX_INSTRUCTION];
        let (first, second) = both.split_at_mut(bytes.len());
        first.copy_from_slice(bytes);
        memory.read_frame(next_frame, 0, second);
        let uop = match decode::decode(&both, rip, self.flaw) {
            Decoded::Next(uop) | Decoded::Last(uop) => uop,
            // Fifteen bytes are no beginning of an instruction: it is too long.
            Decoded::Incomplete => decode::too_long(),
        };
        self.crossing.uops.clear();
        self.crossing.uops.push(uop);
        self.crossing.breakpoint = self.breakpoints.contains(&rip);
        Ok(&self.crossing)
    }

    fn decode(&self, bytes: &[u8], rip: u64) -> Vec<Uop> {
        let mut uops = Vec::new();
        let mut at = 0;
        while uops.len() < self.longest_block && at < bytes.len() {
            let here = rip.wrapping_add(at as u64);
            if at > 0 && self.breakpoints.contains(&here) {
                break;
            }
            let rest = &bytes[at..bytes.len().min(at + MAX_INSTRUCTION)];
            match decode::decode(rest, here, self.flaw) {
                // It looks at how many instructions are left, and they are counted as a block ends.
                Decoded::Last(uop) if uop.repeats() && !uops.is_empty() => break,
                Decoded::Next(uop) => {
                    at += usize::from(uop.len);
                    uops.push(uop);
                }
                Decoded::Last(uop) => {
                    uops.push(uop);
                    break;
                }
                Decoded::Incomplete if rest.len() == MAX_INSTRUCTION => {
                    uops.push(decode::too_long());
                    break;
                }
                Decoded::Incomplete => break,
            }
        }
        uops
    }

    /// Drops everything that was decoded.
    pub fn drop_all(&mut self, memory: &mut DataMemory) {
        memory.take_written_code();
        let pages = std::mem::take(&mut self.pages);
        self.free.extend(pages.into_values().flat_map(HashMap::into_values));
    }

    /// Drops what was decoded from pages that have been written since.
    #[cold]
    pub fn drop_written(&mut self, memory: &mut DataMemory) {
        if memory.is_only_interrupted() {
            return;
        }
        for frame in memory.take_written_code() {
            let blocks = self.pages.remove(&frame).unwrap_or_default();
            self.free.extend(blocks.into_values());
        }
    }
}

#[inline(always)]
fn slot_of(rip: u64, stamp: u64) -> usize {
    // The same code runs in several spaces, one after the other.
    (rip ^ rip >> 10 ^ stamp << 5) as usize % SLOTS
}
