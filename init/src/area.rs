//! What lies in the pages of an area: a tag of its own in each, in its first word.

use crate::sys::Area;
use core::ops::Range;

const MAGIC: u64 = 0x57a1;

/// Where pages are tagged.
const WORD: u64 = 0;

fn tag(page: u64, generation: u16) -> u64 {
    MAGIC << 48 | page << 16 | u64::from(generation)
}

/// Whether it is a tag of that page, of whichever generation, or of a page that is still zero.
pub fn belongs(value: u64, page: u64) -> bool {
    value == 0 || value >> 16 == tag(page, 0) >> 16
}

impl Area {
    /// Tags these pages.
    pub fn fill(self, pages: Range<u64>, generation: u16) {
        for page in pages {
            self.store(page, WORD, tag(page, generation));
        }
    }

    /// Whether these pages have the tags of that generation.
    pub fn has(self, mut pages: Range<u64>, generation: u16) -> bool {
        pages.all(|page| self.load(page, WORD) == tag(page, generation))
    }

    /// Whether these pages are zero.
    pub fn is_empty(self, mut pages: Range<u64>) -> bool {
        pages.all(|page| self.load(page, WORD) == 0)
    }

    /// How many of these pages are zero, and whether all others have the tags of that generation.
    pub fn lost(self, pages: Range<u64>, generation: u16) -> (u64, bool) {
        let mut lost = 0;
        let mut is_right = true;
        for page in pages {
            let value = self.load(page, WORD);
            lost += u64::from(value == 0);
            is_right &= value == 0 || value == tag(page, generation);
        }
        (lost, is_right)
    }
}
