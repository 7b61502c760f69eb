//! Guest-physical memory: one region from address 0, in vm-memory's hands.

use crate::arch::addr::Gpa;
use crate::arch::core::Memory;
use crate::arch::walk::Tables;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vm_memory::{VolatileMemory, VolatileSlice};

type Page = [u8; 4096];
const ZERO: Page = [0; 4096];

/// Guest-physical memory.
#[derive(Debug)]
pub struct GuestMemory {
    mmap: GuestMemoryMmap<()>,
    len: u64,
    /// A bit for each page that the VMM wrote, or let the guest write natively.
    touched: Vec<Cell<u64>>,
    /// By the number of the page; none for one that is zero, as most are.
    base: Vec<Option<Box<Page>>>,
    /// A page to read into.
    scratch: RefCell<Box<[u8; 4096]>>,
    code: Rc<CodePages>,
}

/// The pages that differ from the base of a [`GuestMemory`].
#[derive(Clone, Debug, Default)]
pub struct Delta {
    pages: BTreeMap<u64, Rc<[u8; 4096]>>,
}

/// The pages that an interpreter has decoded code from, and which of them have been written
/// since, by the guest or by the VMM.
#[derive(Debug)]
pub struct CodePages {
    tracked: Vec<Cell<bool>>,
    any_written: Cell<bool>,
    written: RefCell<Vec<Gpa>>,
}

impl CodePages {
    fn new(pages: u64) -> Self {
        Self {
            tracked: vec![Cell::new(false); pages as usize],
            any_written: Cell::new(false),
            written: RefCell::default(),
        }
    }

    /// Code was decoded from `frame`; whether that is news.
    pub fn track(&self, frame: Gpa) -> bool {
        let page = self.tracked.get((frame.0 / 4096) as usize);
        page.is_some_and(|page| !page.replace(true))
    }

    /// Whether code was decoded from `frame`, which has not been written since.
    #[must_use]
    pub fn is_tracked(&self, frame: Gpa) -> bool {
        self.tracked.get((frame.0 / 4096) as usize).is_some_and(Cell::get)
    }

    /// `at` is written. A watched page is watched no more.
    pub fn note_write(&self, at: Gpa) {
        let page = self.tracked.get((at.0 / 4096) as usize);
        if page.is_some_and(|page| page.replace(false)) {
            self.written.borrow_mut().push(at.page());
            self.any_written.set(true);
        }
    }

    /// Has [`CodePages::any_written`] say so until it is looked at, though none may have been.
    pub fn interrupt(&self) {
        self.any_written.set(true);
    }

    /// Whether [`CodePages::any_written`] was said by [`CodePages::interrupt`] alone; it says so no more.
    #[must_use]
    pub fn is_only_interrupted(&self) -> bool {
        let only = self.written.borrow().is_empty();
        self.any_written.set(!only);
        only
    }

    /// Whether a watched page has been written.
    #[must_use]
    #[inline]
    pub fn any_written(&self) -> bool {
        self.any_written.get()
    }

    /// The watched pages that have been written since the last call.
    pub fn take_written(&self) -> Vec<Gpa> {
        self.any_written.set(false);
        self.written.take()
    }
}

impl Delta {
    /// The pages that differ from the base, by number.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &Rc<[u8; 4096]>)> {
        self.pages.iter().map(|(&page, bytes)| (page, bytes))
    }
}

impl GuestMemory {
    /// `len` zeroed bytes, a multiple of the page size.
    ///
    /// # Errors
    /// When the host has no memory to map.
    pub fn new(len: u64) -> Result<Self, vm_memory::mmap::FromRangesError> {
        let mmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len as usize)])?;
        let touched = vec![Cell::new(0); (len / 4096).div_ceil(64) as usize];
        let code = Rc::new(CodePages::new(len / 4096));
        Ok(Self {
            mmap,
            len,
            touched,
            base: Vec::new(),
            scratch: RefCell::new(Box::new([0; 4096])),
            code,
        })
    }

    /// The pages that an interpreter has decoded code from.
    #[must_use]
    pub fn code_pages(&self) -> &Rc<CodePages> {
        &self.code
    }

    /// The memory as vm-memory has it, for the loader.
    #[must_use]
    pub fn mmap(&self) -> &GuestMemoryMmap<()> {
        &self.mmap
    }

    /// Bytes of memory.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The host address of guest-physical address 0.
    #[must_use]
    pub fn host_address(&self) -> u64 {
        self.mmap.get_host_address(GuestAddress(0)).map_or(0, |at| at as u64)
    }

    /// The aligned word at `at`; 0 beyond memory.
    #[must_use]
    pub fn read_word(&self, at: Gpa) -> u64 {
        self.entry(at).unwrap_or(0)
    }

    /// Writes the aligned word at `at`, if it is in memory.
    pub fn write_word(&self, at: Gpa, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    /// Notes that the guest may write the page at `at` without a trap.
    pub fn touch(&self, at: Gpa) {
        let page = at.0 / 4096;
        if let Some(word) = self.touched.get((page / 64) as usize) {
            word.set(word.get() | 1 << (page % 64));
        }
    }

    /// Makes what is in memory now the base that [`Delta`]s are taken from. The second time and later
    /// it costs no more than the pages that were touched since. What the guest may write without a trap
    /// must be touched again.
    pub fn set_base(&mut self) {
        let mut base = std::mem::take(&mut self.base);
        let mut found = ZERO;
        let mut keep = |page: u64, base: &mut Option<Box<Page>>| {
            self.read(Gpa(page * 4096), &mut found);
            match base {
                _ if found == ZERO => *base = None,
                Some(base) => **base = found,
                None => *base = Some(Box::new(found)),
            }
        };
        if base.is_empty() {
            base.resize_with((self.len / 4096) as usize, || None);
            base.iter_mut().zip(0..).for_each(|(base, page)| keep(page, base));
        } else {
            for page in self.touched_pages() {
                if let Some(base) = base.get_mut(page as usize) {
                    keep(page, base);
                }
            }
        }
        self.base = base;
        self.touched.iter().for_each(|word| word.set(0));
    }

    /// The pages that were touched since the base was set.
    fn touched_pages(&self) -> impl Iterator<Item = u64> + '_ {
        let pages = |word: u64| (0..64).filter(move |bit| word >> bit & 1 != 0);
        let words = self.touched.iter().map(Cell::get).enumerate();
        words.flat_map(move |(index, word)| pages(word).map(move |bit| index as u64 * 64 + bit))
    }

    /// A page of the base, by its number.
    #[must_use]
    pub fn base(&self, page: u64) -> Option<&[u8; 4096]> {
        Some(self.base.get(page as usize)?.as_deref().unwrap_or(&ZERO))
    }

    /// Shows each page that differs from the base, with its number.
    pub fn each_changed(&self, mut show: impl FnMut(u64, &[u8; 4096])) {
        let mut found = [0u8; 4096];
        for page in self.touched_pages() {
            let differs = self.read(Gpa(page * 4096), &mut found)
                && self.base(page).is_some_and(|base| *base != found);
            if differs {
                show(page, &found);
            }
        }
    }

    /// What differs from the base.
    #[must_use]
    pub fn delta(&self) -> Delta {
        let mut pages = BTreeMap::new();
        self.each_changed(|page, bytes| {
            pages.insert(page, Rc::new(*bytes));
        });
        Delta { pages }
    }

    /// Makes memory what it was when `delta` was taken; the pages that it wrote.
    pub fn restore(&self, delta: &Delta) -> usize {
        let mut found = [0u8; 4096];
        let mut written = 0;
        for page in self.touched_pages() {
            let at = Gpa(page * 4096);
            let base = || self.base(page).map(|page| &page[..]);
            let Some(wanted) = delta.pages.get(&page).map(|page| &page[..]).or_else(base) else {
                continue;
            };
            if self.read(at, &mut found) && found != wanted {
                self.write(at, wanted);
                written += 1;
            }
        }
        written
    }

    fn slice(&self) -> Option<VolatileSlice<'_>> {
        let region = self.mmap.find_region(GuestAddress(0))?;
        region.as_volatile_slice().ok()
    }
}

impl Tables for GuestMemory {
    fn entry(&self, slot: Gpa) -> Option<u64> {
        let slice = self.slice()?;
        let word = slice.get_ref::<u64>(usize::try_from(slot.0).ok()?).ok()?;
        Some(word.load())
    }

    fn present(&self, table: Gpa) -> Vec<(u64, u64)> {
        let mut bytes = self.scratch.borrow_mut();
        if !self.read(table, &mut bytes[..]) {
            return Vec::new();
        }
        let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let entries = words.enumerate().filter(|(_, bits)| *bits != 0);
        entries.map(|(index, bits)| (index as u64, bits)).collect()
    }
}

impl Memory for GuestMemory {
    fn as_tables(&self) -> &dyn Tables {
        self
    }

    fn read(&self, at: Gpa, bytes: &mut [u8]) -> bool {
        self.mmap.read_slice(bytes, GuestAddress(at.0)).is_ok()
    }

    fn write(&self, at: Gpa, bytes: &[u8]) -> bool {
        for page in at.0 / 4096..(at.0 + bytes.len() as u64).div_ceil(4096) {
            self.touch(Gpa(page * 4096));
            self.code.note_write(Gpa(page * 4096));
        }
        self.mmap.write_slice(bytes, GuestAddress(at.0)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restore_brings_back_the_delta_over_the_base() {
        let mut memory = GuestMemory::new(0x4000).expect("memory");
        memory.write_word(Gpa(0x1000), 1);
        memory.set_base();
        // Across two pages.
        memory.write(Gpa(0x1ffc), &[2; 8]);
        let delta = memory.delta();
        memory.write(Gpa(0x1ffc), &[3; 8]);
        memory.write_word(Gpa(0x1000), 3);
        memory.write_word(Gpa(0x3000), 3);
        assert_eq!(memory.restore(&delta), 3);
        let mut found = [0; 8];
        assert!(memory.read(Gpa(0x1ffc), &mut found));
        assert_eq!(found, [2; 8]);
        assert_eq!([0x1000, 0x3000].map(|at| memory.read_word(Gpa(at))), [1, 0]);
        assert_eq!(memory.restore(&delta), 0, "nothing has changed since");
        assert_eq!(memory.restore(&Delta::default()), 2);
        assert_eq!(memory.read_word(Gpa(0x2000)), 0);
    }

    #[test]
    fn a_base_that_is_set_again_has_what_was_touched_since() {
        let mut memory = GuestMemory::new(0x4000).expect("memory");
        memory.write_word(Gpa(0x1000), 1);
        memory.set_base();
        memory.write_word(Gpa(0x1000), 2);
        memory.write_word(Gpa(0x3000), 3);
        memory.set_base();
        assert_eq!(memory.delta().pages().count(), 0);
        memory.write_word(Gpa(0x3000), 4);
        assert_eq!(memory.restore(&Delta::default()), 1);
        assert_eq!([0x1000, 0x3000].map(|at| memory.read_word(Gpa(at))), [2, 3]);
    }

    #[test]
    fn a_page_that_was_decoded_is_told_once_when_it_is_written() {
        let memory = GuestMemory::new(0x4000).expect("memory");
        let code = memory.code_pages();
        assert!(code.track(Gpa(0x1000)) && code.track(Gpa(0x2000)));
        assert!(!code.track(Gpa(0x1000)), "it is tracked already");
        memory.write_word(Gpa(0x3000), 1);
        assert!(!code.any_written());
        memory.write(Gpa(0x1ffc), &[2; 8]);
        assert!(code.any_written());
        assert_eq!(code.take_written(), [Gpa(0x1000), Gpa(0x2000)]);
        assert!(!code.any_written() && !code.is_tracked(Gpa(0x1000)));
        memory.write_word(Gpa(0x1000), 1);
        assert!(!code.any_written(), "it counts as data");
    }
}
