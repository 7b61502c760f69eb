//! The table by which a kernel describes its own words: where it keeps what of its flush protocol.
//!
//! Each row says what a word means and where it is: one for each CPU, for each slot of each CPU, or for
//! each address space. What no row describes is not known of that kernel, and not judged. A kernel whose
//! words lie as [`TlbState`](crate::tlb_state::TlbState) and [`MmState`](crate::tlb_state::MmState) say
//! needs no table.

/// Bytes of a row's name.
pub const NAME_SIZE: usize = 24;
/// Rows of a table at most.
pub const MAX_ROWS: usize = 64;
/// Words that all rows describe together, at most.
pub const MAX_WORDS: usize = 16384;

numbered! {
    /// What a word means. Words are 8 bytes, aligned.
    pub enum Meaning {
        /// Nothing by itself: a store to it is shown by its name.
        Nothing = 0,
        /// Of a CPU: the number of the address space in CR3; 0 for none, all ones while this and CR3 may
        /// disagree.
        Loaded = 1,
        /// Of a CPU: not 0 while a kernel thread runs on an address space that is not its own.
        Lazy = 2,
        /// Of a CPU: not 0 where kernel pages are stale under the PCIDs that are not loaded.
        OthersStale = 3,
        /// Of a CPU: bit `n` says that the user PCID [`WordRow::pcid`] + `n` must be flushed when its user
        /// tables are next loaded (Linux's `user_pcid_flush_mask`).
        Marks = 4,
        /// Of a CPU: anything but [`WordRow::idle`] says so of the user PCID that [`Meaning::MarkPcid`]
        /// names (FreeBSD's `pc_ucr3_load_mask`).
        Mark = 5,
        /// Of a CPU: its low twelve bits are the user PCID that [`Meaning::Mark`] is about (FreeBSD's
        /// `pc_ucr3`).
        MarkPcid = 6,
        /// Of a CPU: bit `n` says that CPU `n` asks it to flush.
        Pending = 7,
        /// Of a CPU: bit `n` says that CPU `n` has not flushed yet what this one asked for.
        Waiting = 8,
        /// Of a slot of a CPU: the number of the address space that owns it; 0 for none. Slot `n` has the
        /// kernel PCID [`WordRow::pcid`] + `n`, and the user PCID that has bit 11 set besides.
        SlotOwner = 9,
        /// Of a slot of a CPU: the generation of its owner up to which it is flushed.
        SlotGeneration = 10,
        /// Of an address space: its number, never used again; 0 for none.
        SpaceNumber = 11,
        /// Of an address space: its generation, which rises with every change that needs a flush.
        SpaceGeneration = 12,
        /// Of an address space: guest-physical address of its kernel root.
        SpaceRoot = 13,
        /// Of an address space: bit `n` says that CPU `n` may have it loaded.
        SpaceCpus = 14,
    }
}

/// One row. A word is at `at` + CPU × `cpu_stride` + index × `stride`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordRow {
    /// A [`Meaning`] as its number. All but [`Meaning::Nothing`] stand in a table once at most.
    pub meaning: u64,
    /// Guest-physical address of the first word, a multiple of 8.
    pub at: u64,
    /// Bytes from one CPU's to the next one's; nothing where the word is an address space's.
    pub cpu_stride: u64,
    /// Bytes from one slot's, or address space's, to the next one's.
    pub stride: u64,
    /// How many slots, or address spaces; 0 stands for one.
    pub count: u64,
    /// A PCID: see [`Meaning::Marks`] and [`Meaning::SlotOwner`].
    pub pcid: u64,
    /// See [`Meaning::Mark`].
    pub idle: u64,
    /// What reports call it, in the kernel's own words; zeroes fill it up.
    pub name: [u8; NAME_SIZE],
}

impl WordRow {
    /// A row for a word of the CPUs, or of the address spaces, to be given a place.
    ///
    /// # Panics
    /// If the name is longer than [`NAME_SIZE`].
    #[must_use]
    pub const fn new(meaning: Meaning, name: &str) -> Self {
        let (bytes, mut padded) = (name.as_bytes(), [0; NAME_SIZE]);
        assert!(bytes.len() <= NAME_SIZE, "a name has 24 bytes at most");
        let mut at = 0;
        // A constant function knows no iterators.
        while at < bytes.len() {
            padded[at] = bytes[at];
            at += 1;
        }
        let meaning = meaning as u64;
        Self { meaning, at: 0, cpu_stride: 0, stride: 0, count: 1, pcid: 0, idle: 0, name: padded }
    }
}
