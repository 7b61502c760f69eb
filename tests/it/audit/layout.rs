//! Where the small kernel has what, in memory and in address spaces.

/// Where kernels have their image mapped: physical address zero.
pub const KERNEL: u64 = 0xffff_ffff_8000_0000;
/// Where the kernel maps frames one by one for itself.
pub const AREA: u64 = 0xffff_c900_0000_0000;
/// The first page of user mode.
pub const USER: u64 = 0x40_0000;
/// The first of those of user mode that another table maps.
const FAR: u64 = USER + 0x20_0000;
/// How many pages of user mode have code; those behind them have data.
pub const CODE_PAGES: u64 = 16;

/// Guest-physical addresses. What user roots map of the kernel lies in the first 2 MiB.
pub const CODE: u64 = 0x10_0000;
pub const GDT: u64 = 0x12_0000;
pub const TSS: u64 = GDT + 0x100;
pub const VARIABLES: u64 = GDT + 0x200;
pub const IDT: u64 = 0x12_1000;
pub const ENTRY_STACK: u64 = 0x12_2000;
pub const USER_CODE: u64 = 0x18_0000;
const TABLES: u64 = 0x20_0000;
const STACKS: u64 = 0x40_0000;
const FRAMES: u64 = 0x60_0000;

/// Tables that are not of one address space.
pub const BOOT_ROOT: u64 = TABLES + 0x8000;
pub const KERNEL_PDPT: u64 = TABLES + 0x9000;
pub const KERNEL_PD: u64 = TABLES + 0xa000;
pub const TRAMPOLINE_PDPT: u64 = TABLES + 0xb000;
pub const TRAMPOLINE_PD: u64 = TABLES + 0xc000;
pub const AREA_PDPT: u64 = TABLES + 0xd000;
pub const AREA_PD: u64 = TABLES + 0xe000;
pub const AREA_PT: u64 = TABLES + 0xf000;
pub const IDENTITY_PDPT: u64 = TABLES + 0x1_0000;
pub const IDENTITY_PD: u64 = TABLES + 0x1_1000;

pub const STACK_BYTES: u64 = 16 << 10;
pub const STACK_MOST: u64 = 4;

/// Bit 63 of what is loaded into CR3: what is cached under the PCID stays.
pub const NOFLUSH: u64 = 1 << 63;
/// What is set in CR3 while user mode runs: the user root, and the user PCID.
pub const USER_HALF: u64 = USER_ROOT | USER_PCID;
pub const USER_ROOT: u64 = 1 << 12;
pub const USER_PCID: u64 = 1 << 11;

/// Present, writable, accessible to user mode, accessed, dirty.
pub const TABLE: u64 = 0x27;
pub const PAGE: u64 = 0x67;
pub const READ_ONLY: u64 = 0x65;
pub const KERNEL_PAGE: u64 = 0x63;
pub const GLOBAL_PAGE: u64 = KERNEL_PAGE | 1 << 8;
/// The page of the kernel's area that is global.
pub const GLOBAL: u64 = 3;
pub const LARGE: u64 = 0xe3;

/// The end of a task's stack, as the kernel maps it.
pub fn stack(task: usize) -> u64 {
    KERNEL + STACKS + (task as u64 + 1) * STACK_BYTES
}

/// An address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space(pub u64);

pub const A: Space = Space(0);
pub const B: Space = Space(1);
pub const C: Space = Space(2);

impl Space {
    /// Its kernel root; its user root is the next page.
    pub fn root(self) -> u64 {
        TABLES + self.0 * 0x2000
    }

    /// Its kernel PCID.
    pub fn pcid(self) -> u64 {
        self.0 + 1
    }

    /// Its user PCID.
    pub fn user_pcid(self) -> u64 {
        self.pcid() | USER_PCID
    }

    /// CR3 for it.
    pub fn cr3(self) -> u64 {
        self.root() | self.pcid()
    }

    /// Its tables for user mode: PDPT, PD, PT, and that of the pages `far`.
    pub fn tables(self) -> [u64; 4] {
        [0, 0x1000, 0x2000, 0x3000].map(|table| TABLES + 0x2_0000 + self.0 * 0x1_0000 + table)
    }

    /// The entry that maps `data(index)`.
    pub fn slot(self, index: u64) -> u64 {
        self.tables()[2] + (CODE_PAGES + index) * 8
    }

    /// The entry that leads to the table of the pages `far`.
    pub fn far_slot(self) -> u64 {
        self.tables()[1] + (FAR >> 21 & 511) * 8
    }

    /// The frame that `data(index)` and `far(index)` lead to at first.
    pub fn frame(self, index: u64) -> u64 {
        FRAMES + self.0 * 0x1_0000 + index * 0x1000
    }
}

/// A page of data of user mode.
pub const fn data(index: u64) -> u64 {
    USER + (CODE_PAGES + index) * 0x1000
}

/// A page of data that is mapped by a table of its own.
pub const fn far(index: u64) -> u64 {
    FAR + index * 0x1000
}

/// A page of the kernel's area.
pub const fn area(index: u64) -> u64 {
    AREA + index * 0x1000
}

/// The entry that maps page `index` of the kernel's area.
pub const fn area_slot(index: u64) -> u64 {
    AREA_PT + index * 8
}
