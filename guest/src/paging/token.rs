//! What an edit leaves to be done.

/// A cached translation may now grant what a walk does not: owed a flush of `page`.
#[must_use = "a downgrade is owed a flush"]
#[derive(Debug, PartialEq, Eq)]
pub struct Downgrade {
    /// The page's address; of a page table, one in its reach.
    pub page: u64,
    /// The address space; none for a kernel page, which is in all.
    pub mm: Option<usize>,
}

impl Downgrade {
    /// Consumes the token: a flush of `[start, end)` of `mm` (none: of everything) covers it.
    ///
    /// # Errors
    /// Gives the token back where the flush does not cover it.
    pub fn discharge(self, mm: Option<usize>, start: u64, end: u64) -> Result<(), Self> {
        let same = mm.is_none() || self.mm.is_none() || mm == self.mm;
        if same && start <= self.page && self.page < end { Ok(()) } else { Err(self) }
    }
}

/// A step asked for what cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;
