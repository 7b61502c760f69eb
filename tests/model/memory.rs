//! Guest memory of a test: bytes.

use stalemate_model::arch::addr::Gpa;
use stalemate_model::arch::core::Memory;
use stalemate_model::arch::walk::Tables;
use std::cell::RefCell;
use std::ops::Range;

pub struct TestMemory(RefCell<Vec<u8>>);

impl TestMemory {
    /// `size` bytes of zeros.
    pub fn new(size: u64) -> Self {
        Self(RefCell::new(vec![0; size as usize]))
    }

    fn range(&self, at: Gpa, len: usize) -> Option<Range<usize>> {
        let start = usize::try_from(at.0).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.0.borrow().len()).then_some(start..end)
    }

    pub fn read_word(&self, at: Gpa) -> u64 {
        self.entry(at).expect("within memory")
    }

    pub fn write_word(&self, at: Gpa, word: u64) {
        assert!(self.write(at, &word.to_le_bytes()), "within memory");
    }
}

impl Tables for TestMemory {
    fn entry(&self, slot: Gpa) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(slot, &mut bytes).then_some(u64::from_le_bytes(bytes))
    }
}

impl Memory for TestMemory {
    fn as_tables(&self) -> &dyn Tables {
        self
    }

    fn read(&self, at: Gpa, bytes: &mut [u8]) -> bool {
        let range = self.range(at, bytes.len());
        range.is_some_and(|range| {
            bytes.copy_from_slice(&self.0.borrow()[range]);
            true
        })
    }

    fn write(&self, at: Gpa, bytes: &[u8]) -> bool {
        let range = self.range(at, bytes.len());
        range.is_some_and(|range| {
            self.0.borrow_mut()[range].copy_from_slice(bytes);
            true
        })
    }
}
