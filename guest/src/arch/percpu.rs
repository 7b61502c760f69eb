//! What belongs to one CPU: the block that GS points to, and its `TlbState`; and the state of the
//! address spaces, which all of them share.

use super::fence;
use super::memory::{
    lock_clear_bit, lock_increment, lock_set_bit_before, read_word, set_bit, write_word,
};
use crate::fence::{GENERATION, IPI, LAZY_EXIT, SWITCH};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use stalemate_shared::layout::{KERNEL_BASE, MAX_CPUS, MM_STATES, PAGE_SIZE};
use stalemate_shared::pcid::ASID_SLOTS;
use stalemate_shared::tlb_state::{MmState, POINTER_IN_GS, SWITCHING, Slot, TlbState};

/// A static whose words are read and written one at a time, through its address.
#[repr(transparent)]
pub struct Words<T>(UnsafeCell<T>);

// SAFETY: every access is a single volatile word or instruction, and one CPU runs at a time.
unsafe impl<T> Sync for Words<T> {}

impl<T> Words<T> {
    /// Holds `value`.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.0.get() as u64
    }
}

/// What GS:0 points to. The offsets are the entry code's. It lies in the trampoline: entry code
/// uses it before it has left the user CR3.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PerCpu {
    /// 0: RSP of the kernel while user mode runs.
    pub kernel_rsp: u64,
    /// 8: how user mode was left: 0 by SYSCALL, else 1 + the vector.
    pub exit_kind: u64,
    /// 16: RAX at SYSCALL, or the error code.
    pub exit_value: u64,
    /// 24: CR2 after a fault.
    pub exit_address: u64,
    /// 32: address of this CPU's `TlbState`.
    pub tlb_state: u64,
    /// 40: RAX while the kernel's stack cannot be reached yet.
    pub scratch: u64,
    /// 48: this CPU's number.
    pub number: u64,
}

const _: () = assert!(offset_of!(PerCpu, tlb_state) as u64 == POINTER_IN_GS);

const EMPTY: PerCpu = PerCpu {
    kernel_rsp: 0,
    exit_kind: 0,
    exit_value: 0,
    exit_address: 0,
    tlb_state: 0,
    scratch: 0,
    number: 0,
};

#[unsafe(link_section = ".trampoline.data")]
static PER_CPU: Words<[PerCpu; MAX_CPUS]> = Words::new([EMPTY; MAX_CPUS]);

static TLB_STATES: Words<[TlbState; MAX_CPUS]> = Words::new([TlbState::NEW; MAX_CPUS]);

/// The states of the address spaces, alone on a page.
#[repr(C, align(4096))]
struct MmStates([MmState; MM_STATES]);

const NO_MM: MmState = MmState { ctx_id: 0, tlb_gen: 0, kernel_root: 0, cpumask: 0 };

static MM_STATE: Words<MmStates> = Words::new(MmStates([NO_MM; MM_STATES]));

/// The block of CPU `cpu`.
#[must_use]
pub fn block_of(cpu: u64) -> u64 {
    PER_CPU.address() + cpu * size_of::<PerCpu>() as u64
}

/// Fills in the blocks.
pub fn init() {
    for cpu in 0..MAX_CPUS as u64 {
        write_word(block_of(cpu) + offset_of!(PerCpu, tlb_state) as u64, tlb_state_of(cpu));
        write_word(block_of(cpu) + offset_of!(PerCpu, number) as u64, cpu);
    }
}

/// This CPU's number.
#[must_use]
#[inline(always)]
pub fn number() -> u64 {
    let number;
    // SAFETY: GS points to this CPU's block in kernel mode; offset 48 is its number.
    unsafe {
        asm!("mov {}, gs:[48]", out(reg) number, options(nostack, preserves_flags, readonly));
    };
    number
}

/// This CPU's block.
#[must_use]
pub fn block() -> u64 {
    block_of(number())
}

/// Address of this CPU's `TlbState`.
#[must_use]
#[inline(always)]
fn tlb_state() -> u64 {
    let address;
    // SAFETY: as in `number`; there is the address.
    unsafe {
        asm!("mov {}, gs:[{offset}]", out(reg) address, offset = const POINTER_IN_GS,
             options(nostack, preserves_flags, readonly));
    };
    address
}

fn tlb_state_of(cpu: u64) -> u64 {
    TLB_STATES.address() + cpu * PAGE_SIZE
}

/// Guest-physical address of the first `TlbState`.
#[must_use]
pub fn tlb_states_physical() -> u64 {
    TLB_STATES.address() - KERNEL_BASE
}

/// Guest-physical address of the `MmState` array.
#[must_use]
pub fn mm_states_physical() -> u64 {
    MM_STATE.address() - KERNEL_BASE
}

macro_rules! field {
    ($get:ident, $set:ident, $field:ident) => {
        #[doc = concat!("Reads this CPU's `", stringify!($field), "`.")]
        #[must_use]
        pub fn $get() -> u64 {
            read_word(tlb_state() + offset_of!(TlbState, $field) as u64)
        }
        #[doc = concat!("Writes this CPU's `", stringify!($field), "`, where it changes.")]
        #[inline(always)]
        pub fn $set(value: u64) {
            if $get() != value {
                write_word(tlb_state() + offset_of!(TlbState, $field) as u64, value);
            }
        }
    };
}

field!(loaded_mm, set_loaded_mm, loaded_mm);
field!(loaded_mm_asid, set_loaded_mm_asid, loaded_mm_asid);
field!(is_lazy, set_is_lazy, is_lazy);
field!(next_asid, set_next_asid, next_asid);
field!(invalidate_other, set_invalidate_other, invalidate_other);
field!(cr4, set_cr4, cr4);
field!(pending, set_pending, pending);
field!(waiting, set_waiting, waiting);

/// CR3 and this CPU's `loaded_mm` may disagree from here on.
#[inline(always)]
pub fn begin_switch() {
    fence::store::<SWITCH>(tlb_state() + offset_of!(TlbState, loaded_mm) as u64, SWITCHING);
}

/// This CPU is not lazy from here on; whether it was.
#[inline(always)]
pub fn leave_lazy() -> bool {
    let was = is_lazy() != 0;
    if was {
        fence::store::<LAZY_EXIT>(tlb_state() + offset_of!(TlbState, is_lazy) as u64, 0);
    }
    was
}

/// `loaded_mm` of another CPU.
#[must_use]
pub fn loaded_mm_of(cpu: u64) -> u64 {
    read_word(tlb_state_of(cpu) + offset_of!(TlbState, loaded_mm) as u64)
}

/// `is_lazy` of another CPU.
#[must_use]
pub fn is_lazy_of(cpu: u64) -> bool {
    read_word(tlb_state_of(cpu) + offset_of!(TlbState, is_lazy) as u64) != 0
}

/// Tells `cpu` that this one asks something of it.
#[inline(always)]
pub fn ask(cpu: u64) {
    lock_set_bit_before::<IPI>(tlb_state_of(cpu) + offset_of!(TlbState, pending) as u64, number());
}

/// Takes notice of what `cpu` asks.
pub fn take_notice(cpu: u64) {
    lock_clear_bit(tlb_state() + offset_of!(TlbState, pending) as u64, cpu);
}

/// Acknowledges to `cpu` that what it asked for is done.
pub fn acknowledge(cpu: u64) {
    lock_clear_bit(tlb_state_of(cpu) + offset_of!(TlbState, waiting) as u64, number());
}

/// Marks a user PCID: it is flushed when its user tables are next loaded.
#[inline(always)]
pub fn mark(asid: u16) {
    let mask = tlb_state() + offset_of!(TlbState, user_pcid_flush_mask) as u64;
    let bit = u64::from(stalemate_shared::pcid::kernel_pcid(asid));
    set_bit(mask, bit);
}

/// Sets a bit of the word `words` after `user_pcid_flush_mask`: what a mistaken mark does.
pub fn mark_elsewhere(words: u64, bit: u64) {
    let mask = tlb_state() + offset_of!(TlbState, user_pcid_flush_mask) as u64;
    set_bit(mask + words * 8, bit);
}

fn slot_address(asid: u16) -> u64 {
    let slots = tlb_state() + offset_of!(TlbState, slots) as u64;
    slots + u64::from(asid) * size_of::<Slot>() as u64
}

/// Reads an ASID slot.
#[must_use]
pub fn slot(asid: u16) -> Slot {
    let at = slot_address(asid);
    Slot { ctx_id: read_word(at), tlb_gen: read_word(at + 8) }
}

/// All of them.
#[must_use]
pub fn slots() -> [Slot; ASID_SLOTS] {
    core::array::from_fn(|asid| slot(asid as u16))
}

/// Writes what changes of an ASID slot.
#[inline(always)]
pub fn set_slot(asid: u16, new: Slot) {
    let (at, old) = (slot_address(asid), slot(asid));
    if old.ctx_id != new.ctx_id {
        write_word(at, new.ctx_id);
    }
    if old.tlb_gen != new.tlb_gen {
        write_word(at + 8, new.tlb_gen);
    }
}

fn mm_address(number: usize) -> u64 {
    MM_STATE.address() + (number * size_of::<MmState>()) as u64
}

/// Reads the state of address space `number`.
#[must_use]
pub fn mm_state(number: usize) -> MmState {
    let at = mm_address(number);
    MmState {
        ctx_id: read_word(at),
        tlb_gen: read_word(at + 8),
        kernel_root: read_word(at + 16),
        cpumask: read_word(at + 24),
    }
}

/// The same, where the generation is not read before what barrier `FENCE` is after.
#[must_use]
#[inline(always)]
pub fn mm_state_after<const FENCE: u64>(number: usize) -> MmState {
    let tlb_gen = fence::load::<FENCE>(mm_address(number) + offset_of!(MmState, tlb_gen) as u64);
    MmState { tlb_gen, ..mm_state(number) }
}

/// The CPUs that may have address space `number` loaded, now that its generation is raised.
#[must_use]
#[inline(always)]
pub fn cpumask_after_raise(number: usize) -> u64 {
    fence::load::<GENERATION>(mm_address(number) + offset_of!(MmState, cpumask) as u64)
}

/// Writes it, at boot.
pub fn set_mm_state(number: usize, state: MmState) {
    let at = mm_address(number);
    write_word(at, state.ctx_id);
    write_word(at + 8, state.tlb_gen);
    write_word(at + 16, state.kernel_root);
    write_word(at + 24, state.cpumask);
}

/// Raises an address space's generation; what it is then.
#[inline(always)]
pub fn raise_tlb_gen(number: usize) -> u64 {
    lock_increment::<GENERATION>(mm_address(number) + offset_of!(MmState, tlb_gen) as u64)
}

/// Says that this CPU may have the address space loaded.
#[inline(always)]
pub fn join(number: usize) {
    if mm_state(number).cpumask >> self::number() & 1 == 0 {
        lock_set_bit_before::<SWITCH>(
            mm_address(number) + offset_of!(MmState, cpumask) as u64,
            self::number(),
        );
    }
}

/// Says that it has not.
pub fn leave(number: usize) {
    if mm_state(number).cpumask >> self::number() & 1 != 0 {
        lock_clear_bit(mm_address(number) + offset_of!(MmState, cpumask) as u64, self::number());
    }
}

/// A value that is set once, at boot, before anything reads it.
pub struct Once<T>(UnsafeCell<Option<T>>);

// SAFETY: set before there is a second flow of control, read-only afterwards.
unsafe impl<T: Sync> Sync for Once<T> {}

impl<T> Once<T> {
    /// Holds nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(UnsafeCell::new(None))
    }

    /// Sets it.
    pub fn set(&self, value: T) {
        // SAFETY: boot calls this before `get` has given out a reference.
        unsafe { *self.0.get() = Some(value) };
    }

    /// The value.
    pub fn get(&self) -> &T {
        // SAFETY: nothing writes after boot's `set`.
        match unsafe { &*self.0.get() } {
            Some(value) => value,
            None => panic!("used before boot has set it"),
        }
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}
