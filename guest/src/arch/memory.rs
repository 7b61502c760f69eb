//! Raw memory: physical words through the direct map, `TlbState` words, and the compiler's
//! `memcpy` family.
//!
//! Stores to page tables and to `TlbState` are single instructions of known form, which the
//! compiler can neither merge nor split: each is an event of its own.

use super::fence::noted;
use crate::fence::{BARRIER, STORE};
use core::arch::asm;
use core::cell::UnsafeCell;
use stalemate_shared::layout::{DIRECT_MAP_SIZE, KERNEL_BASE};

/// Reads the aligned word at guest-physical `at`.
#[must_use]
pub fn read_physical(at: u64) -> u64 {
    assert!(at < DIRECT_MAP_SIZE);
    // SAFETY: the direct map is mapped, and `at` lies in it; callers pass aligned addresses of
    // tables or boot data, to which no Rust reference exists.
    unsafe { ((KERNEL_BASE + at) as *const u64).read_volatile() }
}

/// Writes the aligned word at guest-physical `at`, with one MOV.
pub fn write_physical(at: u64, value: u64) {
    assert!(at < DIRECT_MAP_SIZE);
    // SAFETY: as in `read_physical`.
    unsafe {
        asm!("mov qword ptr [{}], {}", in(reg) KERNEL_BASE + at, in(reg) value,
             options(nostack, preserves_flags));
    };
}

/// Puts `value` in the place of the aligned word at guest-physical `at`, with one XCHG; what was
/// there.
pub fn exchange_physical(at: u64, value: u64) -> u64 {
    assert!(at < DIRECT_MAP_SIZE);
    let mut word = value;
    // SAFETY: as in `read_physical`.
    unsafe {
        asm!("xchg qword ptr [{}], {}", in(reg) KERNEL_BASE + at, inout(reg) word,
             options(nostack, preserves_flags));
    };
    word
}

/// Puts `new` in the place of the aligned word at guest-physical `at`, with one LOCK CMPXCHG, where
/// that is still `old`; whether it was.
pub fn replace_physical(at: u64, old: u64, new: u64) -> bool {
    assert!(at < DIRECT_MAP_SIZE);
    let was: u8;
    // SAFETY: as in `read_physical`.
    unsafe {
        asm!("lock cmpxchg qword ptr [{}], {}", "sete {}", in(reg) KERNEL_BASE + at, in(reg) new,
             out(reg_byte) was, inout("rax") old => _, options(nostack));
    };
    was != 0
}

/// A word of the kernel's that any CPU may read and write.
pub struct Word(UnsafeCell<u64>);

// SAFETY: every access is a single volatile instruction, and one CPU runs at a time.
unsafe impl Sync for Word {}

impl Word {
    /// Holds `value`.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        read_word(self.0.get() as u64)
    }

    /// Changes it.
    pub fn set(&self, value: u64) {
        write_word(self.0.get() as u64, value);
    }

    /// Its value, which a barrier is before.
    #[must_use]
    #[inline(always)]
    pub fn get_after<const FENCE: u64>(&self) -> u64 {
        super::fence::load::<FENCE>(self.0.get() as u64)
    }

    /// As [`Word::take_bit`], a barrier of its own.
    #[inline(always)]
    pub fn take_bit_fenced<const FENCE: u64>(&self, bit: u64) -> bool {
        let was: u8;
        // SAFETY: as in `set_bit`.
        unsafe {
            asm!(noted!(), ".pushsection .fences, \"a\"", ".quad 2b, {number}, {store}",
                 ".popsection", "lock bts qword ptr [{at}], {bit}", "setc {was}",
                 number = const FENCE, kind = const BARRIER, store = const STORE,
                 at = in(reg) self.0.get() as u64, bit = in(reg) bit, was = out(reg_byte) was,
                 options(nostack));
        };
        was == 0
    }

    /// Sets a bit that is clear; false where another CPU, or this one, has set it before.
    pub fn take_bit(&self, bit: u64) -> bool {
        !lock_test_and_set_bit(self.0.get() as u64, bit)
    }

    /// Clears a bit, and leaves those alone that other CPUs change.
    pub fn clear_bit(&self, bit: u64) {
        lock_clear_bit(self.0.get() as u64, bit);
    }
}

/// The direct-map address of guest-physical `at`.
#[must_use]
pub fn direct_map(at: u64) -> u64 {
    KERNEL_BASE + at
}

/// Reads the word at kernel-virtual `va`, of a static that is used as raw words.
#[must_use]
pub(super) fn read_word(va: u64) -> u64 {
    // SAFETY: callers pass aligned words of statics that are only ever used this way.
    unsafe { (va as *const u64).read_volatile() }
}

/// Writes such a word, with one MOV.
#[inline(always)]
pub(super) fn write_word(va: u64, value: u64) {
    // SAFETY: as in `read_word`.
    unsafe {
        asm!("mov qword ptr [{}], {}", in(reg) va, in(reg) value,
             options(nostack, preserves_flags));
    };
}

/// Writes a byte at kernel-virtual `va`: of code, at boot, on tables that let it be written.
pub(super) fn write_byte(va: u64, byte: u8) {
    // SAFETY: callers name code of the kernel's own that has not run yet.
    unsafe { (va as *mut u8).write_volatile(byte) };
}

/// Writes bytes one after the other, as [`write_byte`].
pub(super) fn write_bytes(va: u64, bytes: &[u8]) {
    (va..).zip(bytes).for_each(|(at, &byte)| write_byte(at, byte));
}

/// Sets a bit of such a word, with one BTS.
#[inline(always)]
pub(super) fn set_bit(va: u64, bit: u64) {
    // SAFETY: as in `read_word`; `bit` is below 64, so the store stays in the word.
    unsafe { asm!("bts qword ptr [{}], {}", in(reg) va, in(reg) bit, options(nostack)) };
}

/// Sets a bit of such a word that other CPUs change too, with one LOCK BTS, which barrier `FENCE`
/// is after.
#[inline(always)]
pub(super) fn lock_set_bit_before<const FENCE: u64>(va: u64, bit: u64) {
    // SAFETY: as in `set_bit`.
    unsafe {
        asm!(noted!(), "lock bts qword ptr [{at}], {bit}", number = const FENCE,
             kind = const STORE, at = in(reg) va, bit = in(reg) bit, options(nostack));
    };
}

/// Sets a bit of such a word; whether it was set before.
fn lock_test_and_set_bit(va: u64, bit: u64) -> bool {
    let was: u8;
    // SAFETY: as in `set_bit`.
    unsafe {
        asm!("lock bts qword ptr [{}], {}", "setc {}", in(reg) va, in(reg) bit, out(reg_byte) was,
             options(nostack));
    };
    was != 0
}

/// Clears one, with one LOCK BTR.
pub(super) fn lock_clear_bit(va: u64, bit: u64) {
    // SAFETY: as in `set_bit`.
    unsafe { asm!("lock btr qword ptr [{}], {}", in(reg) va, in(reg) bit, options(nostack)) };
}

/// Adds 1 to such a word with one LOCK XADD, which is a barrier of its own; what it is then.
#[inline(always)]
pub(super) fn lock_increment<const FENCE: u64>(va: u64) -> u64 {
    let mut one = 1u64;
    // SAFETY: as in `read_word`.
    unsafe {
        asm!(noted!(), ".pushsection .fences, \"a\"", ".quad 2b, {number}, {store}",
             ".popsection", "lock xadd qword ptr [{at}], {one}", number = const FENCE,
             kind = const BARRIER, store = const STORE, at = in(reg) va, one = inout(reg) one,
             options(nostack));
    };
    one + 1
}

macro_rules! symbol {
    ($name:ident) => {{
        unsafe extern "C" {
            static $name: u8;
        }
        &raw const $name as u64
    }};
}
pub(crate) use symbol;

/// A range of guest-virtual addresses between two linker symbols.
macro_rules! range {
    ($name:ident, $start:ident, $end:ident, $doc:literal) => {
        #[doc = $doc]
        #[must_use]
        pub fn $name() -> core::ops::Range<u64> {
            symbol!($start)..symbol!($end)
        }
    };
}

range!(text, __text_start, __text_end, "The kernel's code, trampoline and user code included.");
range!(rodata, __rodata_start, __rodata_end, "The kernel's constants.");
range!(trampoline_text, __trampoline_text_start, __trampoline_text_end, "Entry and exit code.");
range!(
    trampoline_data,
    __trampoline_data_start,
    __trampoline_data_end,
    "GDT, IDT, TSS and the per-CPU blocks."
);
range!(image, __text_start, __end, "All of the image.");
range!(user_code, __user_code_start, __user_code_end, "The page of user code.");

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller upholds memcpy's contract; DF is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: as in `memcpy`.
    unsafe {
        asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8,
             options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: the destination does not begin inside the source: copying upwards is right.
        return unsafe { memcpy(to, from, len) };
    }
    let mut left = len;
    while left > 0 {
        left -= 1;
        // SAFETY: the caller vouches for `len` bytes at both.
        unsafe { to.add(left).write_volatile(from.add(left).read_volatile()) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    for index in 0..len {
        // SAFETY: the caller vouches for `len` bytes at both.
        let (a, b) = unsafe { (a.add(index).read_volatile(), b.add(index).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}
