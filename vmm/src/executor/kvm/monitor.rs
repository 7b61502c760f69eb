//! The monitor: the few bytes of CPL 0 code and tables that turn any exception at CPL 3 into an
//! exit. It is mapped, for supervisors only, in PML4 slot 510 of all shadow page tables.
//!
//! ```text
//! page 0  stub: 32 entries of 16 bytes, `out 0x20+vector, al`; IRETQ at 0x400
//! page 1  GDT, and TSS at 0x100
//! page 2  IDT of 32 gates
//! page 3  stack; frames lie at its top, always at the same place, since RSP0 is loaded at each
//!         entry from CPL 3
//! ```

/// Linear address of the monitor's first page.
pub const BASE: u64 = 0xffff_ff00_0000_0000;
/// Guest-physical address of the monitor's first page; the pool of tables follows it.
pub const PHYS: u64 = 0x4000_0000;
/// Pages of the monitor.
pub const PAGES: u64 = 4;
/// The PML4 slot that [`BASE`] lies in.
pub const PML4_SLOT: usize = 510;
/// First port of the stubs; vector `v` exits through `PORT + v`. The range avoids 0x7e.
pub const PORT: u16 = 0x20;
/// Number of vectors with a stub and a gate; INT n beyond them is #GP.
pub const VECTORS: u16 = 32;
/// Linear address of the IRETQ that resumes the guest.
pub const IRET: u64 = BASE + 0x400;
/// RSP0.
pub const STACK_TOP: u64 = BASE + PAGES * 4096;
/// Where IRETQ finds RIP, CS, RFLAGS, RSP and SS.
pub const FRAME: u64 = STACK_TOP - 5 * 8;
/// SYSCALL must fault: an address of the monitor's slot that is never mapped.
pub const LSTAR: u64 = BASE + 0x10_0000;

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
/// The GDT's linear address.
pub const GDT: u64 = BASE + 0x1000;
/// The TSS's linear address.
pub const TSS_BASE: u64 = GDT + 0x100;
/// The TSS's limit. The I/O-map base lies beyond it, so that IN and OUT at CPL 3 fault.
pub const TSS_LIMIT: u32 = 0x67;
/// The IDT's linear address.
pub const IDT: u64 = BASE + 0x2000;

/// The vectors that push an error code (SDM vol. 3, table 6-1).
#[must_use]
pub const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// The monitor's four pages.
#[must_use]
pub fn image() -> Vec<u8> {
    let mut image = vec![0u8; (PAGES * 4096) as usize];
    for vector in 0..VECTORS {
        let at = usize::from(vector) * 16;
        // out imm8, al; then a jump to itself, never reached: the VMM sets RIP.
        image[at..at + 4].copy_from_slice(&[0xe6, (PORT + vector) as u8, 0xeb, 0xfe]);
    }
    image[0x400..0x402].copy_from_slice(&[0x48, 0xcf]);

    let mut put = |at: u64, value: u64| {
        let at = (at - BASE) as usize;
        image[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    put(GDT + u64::from(MONITOR_CS), 0x00af_9b00_0000_ffff);
    put(GDT + u64::from(MONITOR_SS), 0x00cf_9300_0000_ffff);
    put(GDT + u64::from(GUEST_SS & !7), 0x00cf_f300_0000_ffff);
    put(GDT + u64::from(GUEST_CS & !7), 0x00af_fb00_0000_ffff);
    let tss = TSS_BASE;
    let low = u64::from(TSS_LIMIT) & 0xffff
        | (tss & 0xff_ffff) << 16
        | 0x8b << 40
        | (tss >> 24 & 0xff) << 56;
    put(GDT + u64::from(TSS), low);
    put(GDT + u64::from(TSS) + 8, tss >> 32);
    // RSP0 is at offset 4 of the TSS; the I/O-map base at 0x66.
    put(TSS_BASE + 4, STACK_TOP);
    put(TSS_BASE + 0x60, 0x0068 << 48);
    for vector in 0..u64::from(VECTORS) {
        let handler = BASE + vector * 16;
        // DPL 0 but for #BP: INT n from CPL 3 is then #GP wherever it is not #UD.
        let dpl = if vector == 3 { 3u64 } else { 0 };
        let low = handler & 0xffff
            | u64::from(MONITOR_CS) << 16
            | (0x8e00 | dpl << 13) << 32
            | (handler >> 16 & 0xffff) << 48;
        put(IDT + vector * 16, low);
        put(IDT + vector * 16 + 8, handler >> 32);
    }
    image
}
