//! The monitor: the few bytes of CPL 0 code and tables that turn any exception at CPL 3 into an
//! exit. It is mapped, for supervisors only, at one [`Place`]: in a PML4 slot of all shadow page
//! tables in which no page of the guest's is mapped.
//!
//! ```text
//! page 0  stub: 32 entries of 16 bytes, `out 0x20+vector, al`; IRETQ at 0x400
//! page 1  GDT, and TSS at 0x100
//! page 2  IDT of 32 gates
//! page 3  stack; frames lie at its top, always at the same place, since RSP0 is loaded at each
//!         entry from CPL 3
//! ```

/// Guest-physical address of the monitor's first page; the pool of tables follows it.
pub const PHYS: u64 = 0x4000_0000;
/// Pages of the monitor.
pub const PAGES: u64 = 4;
/// First port of the stubs; vector `v` exits through `PORT + v`. The range avoids 0x7e.
pub const PORT: u16 = 0x20;
/// Number of vectors with a stub and a gate; INT n beyond them is #GP.
pub const VECTORS: u16 = 32;
/// Offset of the frame in which IRETQ finds RIP, CS, RFLAGS, RSP and SS.
pub const FRAME: u64 = PAGES * 4096 - 5 * 8;

/// PML4 slots, the half-open range that the monitor's place is taken from.
const SLOTS: std::ops::Range<u16> = 257..511;

/// Where the monitor is: a PML4 slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    slot: u16,
}

impl Place {
    /// The first place that is not among `taken`, by PML4 slot.
    pub fn outside(taken: &[bool; 512]) -> Option<Self> {
        SLOTS.rev().find(|&slot| !taken[usize::from(slot)]).map(|slot| Self { slot })
    }

    /// The place in a PML4 slot of the upper half.
    pub fn in_slot(slot: u16) -> Self {
        Self { slot }
    }

    /// The PML4 slot, which has nothing else in it.
    pub fn slot(self) -> usize {
        self.slot.into()
    }

    /// Linear address of the monitor's first page. All places are in the upper half.
    pub fn base(self) -> u64 {
        0xffff_0000_0000_0000 | u64::from(self.slot) << 39
    }

    /// Linear address of the IRETQ that resumes the guest.
    pub fn iret(self) -> u64 {
        self.base() + 0x400
    }

    /// Linear address of the frame at [`FRAME`].
    pub fn frame(self) -> u64 {
        self.base() + FRAME
    }

    /// RSP0.
    fn stack_top(self) -> u64 {
        self.base() + PAGES * 4096
    }

    /// SYSCALL must fault: an address of the monitor's slot that is never mapped.
    pub fn lstar(self) -> u64 {
        self.base() + 0x10_0000
    }

    /// The GDT's linear address.
    pub fn gdt(self) -> u64 {
        self.base() + 0x1000
    }

    /// The TSS's linear address.
    pub fn tss(self) -> u64 {
        self.gdt() + 0x100
    }

    /// The IDT's linear address.
    pub fn idt(self) -> u64 {
        self.base() + 0x2000
    }
}

/// CPL 0 code.
pub const MONITOR_CS: u16 = 0x10;
/// CPL 0 stack.
pub const MONITOR_SS: u16 = 0x18;
/// CPL 3 stack; what software-only hosts expect of user code.
pub const GUEST_SS: u16 = 0x28 | 3;
/// CPL 3 code, likewise.
pub const GUEST_CS: u16 = 0x30 | 3;
/// The monitor's TSS.
pub const TSS: u16 = 0x40;
/// The GDT's limit: no guest selector (0x80 and above) is valid in it.
pub const GDT_LIMIT: u16 = 0x4f;
/// The TSS's limit. The I/O-map base lies beyond it, so that IN and OUT at CPL 3 fault.
pub const TSS_LIMIT: u32 = 0x67;

/// The vectors that push an error code (SDM vol. 3, table 6-1).
#[must_use]
pub const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// The monitor's four pages, for `place`.
#[must_use]
pub fn image(place: Place) -> Vec<u8> {
    let (gdt, idt) = (place.gdt(), place.idt());
    let mut image = vec![0u8; (PAGES * 4096) as usize];
    for vector in 0..VECTORS {
        let at = usize::from(vector) * 16;
        // out imm8, al; then a jump to itself, never reached: the VMM sets RIP.
        image[at..at + 4].copy_from_slice(&[0xe6, (PORT + vector) as u8, 0xeb, 0xfe]);
    }
    image[0x400..0x402].copy_from_slice(&[0x48, 0xcf]);

    let mut put = |at: u64, value: u64| {
        let at = (at - place.base()) as usize;
        image[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    put(gdt + u64::from(MONITOR_CS), 0x00af_9b00_0000_ffff);
    put(gdt + u64::from(MONITOR_SS), 0x00cf_9300_0000_ffff);
    put(gdt + u64::from(GUEST_SS & !7), 0x00cf_f300_0000_ffff);
    put(gdt + u64::from(GUEST_CS & !7), 0x00af_fb00_0000_ffff);
    let tss = place.tss();
    let low = u64::from(TSS_LIMIT) & 0xffff
        | (tss & 0xff_ffff) << 16
        | 0x8b << 40
        | (tss >> 24 & 0xff) << 56;
    put(gdt + u64::from(TSS), low);
    put(gdt + u64::from(TSS) + 8, tss >> 32);
    // RSP0 is at offset 4 of the TSS; the I/O-map base at 0x66.
    put(tss + 4, place.stack_top());
    put(tss + 0x60, 0x0068 << 48);
    for vector in 0..VECTORS as u8 {
        let [low, high] = gate(vector, place.base() + u64::from(vector) * 16);
        put(idt + u64::from(vector) * 16, low);
        put(idt + u64::from(vector) * 16 + 8, high);
    }
    image
}

/// The gate of `vector` to a handler at CPL 0.
#[must_use]
pub fn gate(vector: u8, handler: u64) -> [u64; 2] {
    // DPL 0 but for #BP: INT n from CPL 3 is then #GP wherever it is not #UD.
    let dpl = if vector == 3 { 3u64 } else { 0 };
    let low = handler & 0xffff
        | u64::from(MONITOR_CS) << 16
        | (0x8e00 | dpl << 13) << 32
        | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}
