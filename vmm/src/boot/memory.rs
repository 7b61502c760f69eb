//! Guest-physical memory: one region from address 0, in vm-memory's hands.

use crate::arch::addr::Gpa;
use crate::arch::core::Memory;
use crate::arch::walk::Tables;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vm_memory::{VolatileMemory, VolatileSlice};

/// Guest-physical memory.
#[derive(Debug)]
pub struct GuestMemory {
    mmap: GuestMemoryMmap<()>,
    len: u64,
    /// A bit for each page that the VMM wrote, or let the guest write natively.
    touched: Vec<Cell<u64>>,
    code: Rc<CodePages>,
}

/// The pages that an interpreter has decoded code from, and which of them have been written
/// since, by the guest or by the VMM.
#[derive(Debug)]
pub struct CodePages {
    watched: Vec<Cell<bool>>,
    any_written: Cell<bool>,
    written: RefCell<Vec<Gpa>>,
}

impl CodePages {
    fn new(pages: u64) -> Self {
        Self {
            watched: vec![Cell::new(false); pages as usize],
            any_written: Cell::new(false),
            written: RefCell::default(),
        }
    }

    /// Code was decoded from `frame`; whether that is news.
    pub fn watch(&self, frame: Gpa) -> bool {
        let page = self.watched.get((frame.0 / 4096) as usize);
        page.is_some_and(|page| !page.replace(true))
    }

    /// Whether code was decoded from `frame`, which has not been written since.
    #[must_use]
    pub fn is_watched(&self, frame: Gpa) -> bool {
        self.watched.get((frame.0 / 4096) as usize).is_some_and(Cell::get)
    }

    /// `at` is written. A watched page is watched no more.
    pub fn note_write(&self, at: Gpa) {
        let page = self.watched.get((at.0 / 4096) as usize);
        if page.is_some_and(|page| page.replace(false)) {
            self.written.borrow_mut().push(at.page());
            self.any_written.set(true);
        }
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

impl GuestMemory {
    /// `len` zeroed bytes, a multiple of the page size.
    ///
    /// # Errors
    /// When the host has no memory to map.
    pub fn new(len: u64) -> Result<Self, vm_memory::mmap::FromRangesError> {
        let mmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len as usize)])?;
        let touched = vec![Cell::new(0); (len / 4096).div_ceil(64) as usize];
        let code = Rc::new(CodePages::new(len / 4096));
        Ok(Self { mmap, len, touched, code })
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

    /// A copy of all of it.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        let mut image = vec![0; self.len as usize];
        self.read(Gpa(0), &mut image);
        image
    }

    /// Notes that the guest may write the page at `at` without a trap.
    pub fn touch(&self, at: Gpa) {
        let page = at.0 / 4096;
        if let Some(word) = self.touched.get((page / 64) as usize) {
            word.set(word.get() | 1 << (page % 64));
        }
    }

    /// Forgets what was touched: a snapshot is taken.
    pub fn forget_touched(&self) {
        self.touched.iter().for_each(|word| word.set(0));
    }

    /// Writes back those pages of `image` that were touched since the snapshot and differ from
    /// what is in memory.
    pub fn restore(&self, image: &[u8]) {
        let mut page = [0u8; 4096];
        for (index, saved) in image.chunks_exact(4096).enumerate() {
            let touched = self
                .touched
                .get(index / 64)
                .is_some_and(|word| word.get() >> (index % 64) & 1 != 0);
            let at = Gpa(index as u64 * 4096);
            if touched && self.read(at, &mut page) && page != saved {
                self.write(at, saved);
            }
        }
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
