//! Privileged instructions. Each traps to the VMM, which carries it out as a processor would.

use core::arch::asm;

/// Reads CR3. Bit 63 always reads 0.
#[inline(always)]
pub fn read_cr3() -> u64 {
    let value;
    // SAFETY: reads a register; the kernel runs at CPL 0.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Loads CR3. Clobbers memory, so that page-table stores stay on their side of it.
#[inline(always)]
pub fn load_cr3(value: u64) {
    // SAFETY: callers pass roots whose kernel half maps the running code and stack.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Writes CR4.
#[inline(always)]
pub fn write_cr4(value: u64) {
    // SAFETY: callers set only PAE, OSFXSR, OSXMMEXCPT, PGE and PCIDE, none of which changes
    // what the running code may do.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Reads CR4.
#[inline(always)]
pub fn read_cr4() -> u64 {
    let value;
    // SAFETY: as in `read_cr3`.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads CR2.
#[inline(always)]
pub fn read_cr2() -> u64 {
    let value;
    // SAFETY: as in `read_cr3`.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// INVLPG: the page in the current PCID, globals of the page in every PCID.
#[inline(always)]
pub fn invlpg(va: u64) {
    // SAFETY: invalidates cached translations only.
    unsafe { asm!("invlpg [{}]", in(reg) va, options(nostack, preserves_flags)) };
}

/// INVPCID of type `kind`; see [`invpcid_address`] and [`invpcid_all`].
#[inline(always)]
fn invpcid(kind: u64, pcid: u16, va: u64) {
    let descriptor = [u64::from(pcid), va];
    // SAFETY: the descriptor is 16 readable bytes; only cached translations are invalidated.
    unsafe {
        asm!("invpcid {}, [{}]", in(reg) kind, in(reg) &raw const descriptor,
             options(nostack, readonly, preserves_flags));
    };
}

/// INVPCID type 0: one page of one PCID, globals excepted.
#[inline(always)]
pub fn invpcid_address(pcid: u16, va: u64) {
    invpcid(0, pcid, va);
}

/// INVPCID type 1: one PCID, globals excepted.
#[inline(always)]
pub fn invpcid_single(pcid: u16) {
    invpcid(1, pcid, 0);
}

/// INVPCID type 2: everything, globals too.
#[inline(always)]
pub fn invpcid_all() {
    invpcid(2, 0, 0);
}

/// STI.
pub fn enable_interrupts() {
    // SAFETY: every handler leaves what it interrupts as it was; callers hold nothing that a
    // handler takes.
    unsafe { asm!("sti", options(nostack)) };
}

/// CLI.
pub fn disable_interrupts() {
    // SAFETY: delays interrupts only.
    unsafe { asm!("cli", options(nostack)) };
}

/// Writes a model-specific register.
pub fn wrmsr(register: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: callers write EFER.SCE and NXE, and addresses of the kernel's own entry code and
    // per-CPU block.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") low, in("edx") high,
             options(nostack, preserves_flags));
    };
}

/// Ways to misbehave that need an instruction of their own.
pub mod broken {
    use core::arch::asm;

    /// An IDT of limit 0, then UD2: no exception can be delivered.
    pub fn triple_fault() -> ! {
        let table = [0u64; 2];
        // SAFETY: ends the machine, as asked.
        unsafe { asm!("lidt [{}]", "ud2", in(reg) &raw const table, options(noreturn)) }
    }

    /// Jumps to itself.
    pub fn spin() -> ! {
        // SAFETY: touches nothing. Not `loop {}`: the compiler may not fold it away.
        unsafe { asm!("2: jmp 2b", options(noreturn)) }
    }

    /// WBINVD.
    pub fn wbinvd() {
        // SAFETY: writes back caches; no memory contents change.
        unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
    }

    /// Clears an IDT at `idt`, then UD2: every gate is not present.
    pub fn zero_idt(idt: u64, words: usize) -> ! {
        for word in 0..words as u64 {
            super::super::memory::write_word(idt + word * 8, 0);
        }
        // SAFETY: ends the machine, as asked.
        unsafe { asm!("ud2", options(noreturn)) }
    }

    /// Stores to the instruction that stores.
    pub fn store_to_code() {
        // SAFETY: ends the machine by a fault, as asked: code is mapped read-only.
        unsafe { asm!("lea {0}, [rip + 2f]", "2: mov byte ptr [{0}], 0x90", out(reg) _) };
    }
}
