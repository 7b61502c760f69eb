//! How a CPU that another one starts comes to the kernel's 64-bit code: no 16-bit code is executed. Linux has
//! copied its trampoline to a page below 640 KiB, at whose beginning the header of its real-mode code says where
//! that is, where the 64-bit part is entered, and on which tables (arch/x86/realmode/rm/header.S).

use crate::arch::addr::Gpa;
use crate::arch::core::Memory;
use crate::memory::GuestMemory;

const PAGE: u64 = 4096;
/// The end of memory that real-mode code can be in.
const LOW_END: u64 = 0xa_0000;
/// Words of 32 bits of the header: where the trampoline begins, and where its own header is.
const TRAMPOLINE: usize = 2;
const TRAMPOLINE_HEADER: usize = 3;
/// The one of these that a page begins at is the root: which one depends on options of the kernel.
const ROOTS: [usize; 2] = [5, 6];

/// Where a CPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Startup {
    /// The first instruction.
    pub entry: u64,
    /// The root.
    pub root: u64,
}

impl Startup {
    /// Of a CPU that is to begin at the page with this number.
    pub(super) fn find(memory: &GuestMemory, page: u8) -> Option<Self> {
        let vector = u64::from(page) * PAGE;
        let word = |at: u64| {
            let mut bytes = [0; 4];
            memory.read(Gpa(at), &mut bytes).then(|| u64::from(u32::from_le_bytes(bytes)))
        };
        (PAGE..LOW_END).step_by(PAGE as usize).find_map(|header| {
            let field = |number: usize| word(header + number as u64 * 4);
            // Its first word is where its text ends.
            let is_header = (header..LOW_END).contains(&field(0)?) && field(TRAMPOLINE)? == vector;
            let inside = |at: &u64| at.is_multiple_of(PAGE) && (header..LOW_END).contains(at);
            let root = ROOTS.into_iter().filter_map(field).find(inside)?;
            let entry = memory.read_word(Gpa(field(TRAMPOLINE_HEADER)? & !7));
            is_header.then_some(Self { entry, root })
        })
    }
}
