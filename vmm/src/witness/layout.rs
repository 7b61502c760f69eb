//! The witness's memory: where its tables, its code and its data frames are, and what the tables
//! hold before the first action.
//!
//! ```text
//! 0x001000  two roots, and for each a PDPT and a PD; the tables of the monitor's slot
//! 0x010000  tables that actions link, unlink and store to: three PTs, two PDs, two PDPTs
//! 0x020000  the monitor's pages
//! 0x028000  handlers and services, run at CPL 0
//! 0x080000  results, a word for each access
//! 0x100000  the program
//! 0x200000  data frames; the first word of each is its own address
//! ```
//!
//! The first 2 MiB are mapped to themselves in both roots by a large page that never changes. A and
//! D are set in every entry from the beginning, so that memory is a function of the program alone.

use crate::arch::addr::{Gpa, Gva};
use crate::arch::walk::{Tables, entry};
use crate::memory::GuestMemory;

/// Bytes of memory.
pub const SIZE: u64 = 4 << 20;
/// The roots of the two address spaces.
pub const ROOTS: [Gpa; 2] = [Gpa(0x1000), Gpa(0x2000)];
const PDPTS: [Gpa; 2] = [Gpa(0x3000), Gpa(0x4000)];
const PDS: [Gpa; 2] = [Gpa(0x5000), Gpa(0x6000)];
const MONITOR_TABLES: [Gpa; 3] = [Gpa(0x7000), Gpa(0x8000), Gpa(0x9000)];
/// Tables that actions link: the last level of all three regions.
const SHARED_PTS: [Gpa; 3] = [Gpa(0x1_0000), Gpa(0x1_1000), Gpa(0x1_2000)];
const SHARED_PDS: [Gpa; 2] = [Gpa(0x1_3000), Gpa(0x1_4000)];
const SHARED_PDPTS: [Gpa; 2] = [Gpa(0x1_5000), Gpa(0x1_6000)];
/// The monitor's four pages, supervisor only.
pub const MONITOR: Gpa = Gpa(0x2_0000);
/// The PML4 slot in which they are mapped.
pub const MONITOR_SLOT: u16 = 510;
/// Handlers and services.
#[cfg(feature = "kvm")]
pub const SERVICES: u64 = 0x2_8000;
/// Where results are stored.
#[cfg(feature = "kvm")]
pub const RESULTS: u64 = 0x8_0000;
/// The most accesses of a program.
#[cfg(feature = "kvm")]
pub const MOST_ACCESSES: u64 = (PROGRAM - RESULTS) / 8;
/// Where the program is.
pub const PROGRAM: u64 = 0x10_0000;
/// Bytes for it.
#[cfg(feature = "kvm")]
pub const PROGRAM_BYTES: u64 = FRAMES - PROGRAM;
/// The first data frame.
pub const FRAMES: u64 = 0x20_0000;
/// Data frames that single pages are mapped to. The first of a large page are others.
const SMALL_FRAMES: std::ops::Range<u64> = 16..24;

/// Pages of each region that are accessed.
pub const PAGES: u64 = 6;
/// First addresses of the regions: below a PDE, a PDPTE and a PML4E of each root.
pub const REGIONS: [u64; 3] = [0x20_0000, 0x4000_0000, 0x80_0000_0000];

/// What tables begin with, and structure entries that are not drawn: present, writable, user, A.
const LINK: u64 = entry::PRESENT | entry::WRITABLE | entry::USER | entry::ACCESSED;

/// Every page that is accessed.
pub fn pages() -> impl Iterator<Item = Gva> {
    let pages = |region| (0..PAGES).map(move |page| Gva(region + page * 4096));
    REGIONS.into_iter().flat_map(pages)
}

/// A paging-structure entry that actions store to, and what they may make it lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where it is.
    pub at: Gpa,
    /// Its level: 1 for a PTE.
    pub level: u8,
    /// Frames of data or tables.
    pub targets: Vec<Gpa>,
    /// Whether it may map a large page too.
    pub may_be_large: bool,
}

/// The entries of the last level.
#[must_use]
pub fn leaf_slots() -> Vec<Slot> {
    let targets: Vec<Gpa> = SMALL_FRAMES.map(|frame| Gpa(FRAMES + frame * 4096)).collect();
    let slot = |table: Gpa, page| Slot {
        at: Gpa(table.0 + page * 8),
        level: 1,
        targets: targets.clone(),
        may_be_large: false,
    };
    let slots = |table| (0..PAGES).map(move |page| (table, page));
    SHARED_PTS.into_iter().flat_map(slots).map(|(table, page)| slot(table, page)).collect()
}

/// The entries of upper levels.
#[must_use]
pub fn structure_slots() -> Vec<Slot> {
    let slot = |at: u64, level, targets: &[Gpa]| Slot {
        at: Gpa(at),
        level,
        targets: targets.to_vec(),
        may_be_large: level == 2,
    };
    let pdes = PDS.map(|table| table.0 + 8).into_iter().chain(SHARED_PDS.map(|table| table.0));
    let pdptes = PDPTS.map(|table| table.0 + 8).into_iter().chain(SHARED_PDPTS.map(|pd| pd.0));
    let pml4es = ROOTS.map(|table| table.0 + 8);
    pdes.map(|at| slot(at, 2, &SHARED_PTS))
        .chain(pdptes.map(|at| slot(at, 3, &SHARED_PDS)))
        .chain(pml4es.map(|at| slot(at, 4, &SHARED_PDPTS)))
        .collect()
}

/// The frame whose first word is `word`, of those that hold data.
#[must_use]
pub fn frame_of(word: u64) -> Option<Gpa> {
    (word.is_multiple_of(4096) && (FRAMES..SIZE).contains(&word)).then_some(Gpa(word))
}

/// Makes memory what every program begins with.
pub fn lay_out(memory: &GuestMemory) {
    let put = |at: u64, value: u64| memory.write_word(Gpa(at), value);
    let leaf = LINK | entry::DIRTY;
    for (index, root) in ROOTS.into_iter().enumerate() {
        put(root.0, PDPTS[index].0 | LINK);
        put(root.0 + 8, SHARED_PDPTS[index].0 | LINK);
        put(root.0 + u64::from(MONITOR_SLOT) * 8, MONITOR_TABLES[0].0 | LINK);
        put(PDPTS[index].0, PDS[index].0 | LINK);
        put(PDPTS[index].0 + 8, SHARED_PDS[index].0 | LINK);
        put(PDS[index].0, leaf | entry::PAGE_SIZE);
        put(PDS[index].0 + 8, SHARED_PTS[index].0 | LINK);
        put(SHARED_PDPTS[index].0, SHARED_PDS[index].0 | LINK);
        put(SHARED_PDS[index].0, SHARED_PTS[index].0 | LINK);
    }
    let supervisor = leaf & !entry::USER;
    put(MONITOR_TABLES[0].0, MONITOR_TABLES[1].0 | LINK);
    put(MONITOR_TABLES[1].0, MONITOR_TABLES[2].0 | LINK);
    for page in 0..4 {
        put(MONITOR_TABLES[2].0 + page * 8, (MONITOR.0 + page * 4096) | supervisor);
    }
    for (index, slot) in leaf_slots().into_iter().enumerate() {
        put(slot.at.0, slot.targets[index % slot.targets.len()].0 | leaf);
    }
    for frame in (FRAMES..SIZE).step_by(4096) {
        put(frame, frame);
    }
    debug_assert!(memory.entry(Gpa(SIZE - 8)).is_some());
}
