//! What belongs to one CPU: the block that GS points to, and its `TlbState`.

use super::memory::{read_word, set_bit, write_word};
use core::cell::UnsafeCell;
use core::mem::offset_of;
use stalemate_shared::layout::{KERNEL_BASE, MM_COUNT};
use stalemate_shared::pcid::ASID_SLOTS;
use stalemate_shared::tlb_state::{MmState, Slot, TlbState};

/// A static whose words are read and written one at a time, through its address.
#[repr(transparent)]
pub struct Words<T>(UnsafeCell<T>);

// SAFETY: one CPU, and every access is a single volatile word or instruction.
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

/// What GS:0 points to. The offsets are the entry code's.
#[repr(C)]
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
}

/// The boot CPU's block.
pub static PER_CPU: Words<PerCpu> = Words::new(PerCpu {
    kernel_rsp: 0,
    exit_kind: 0,
    exit_value: 0,
    exit_address: 0,
    tlb_state: 0,
});

#[unsafe(link_section = ".data")]
static TLB_STATE: Words<TlbState> = Words::new(TlbState::NEW);

static MM_STATES: Words<[MmState; MM_COUNT]> =
    Words::new([MmState { ctx_id: 0, tlb_gen: 0, kernel_root: 0 }; MM_COUNT]);

/// Points the block at its `TlbState`.
pub fn init() {
    write_word(PER_CPU.address() + offset_of!(PerCpu, tlb_state) as u64, TLB_STATE.address());
}

/// Guest-physical address of `TlbState`.
#[must_use]
pub fn tlb_state_physical() -> u64 {
    TLB_STATE.address() - KERNEL_BASE
}

/// Guest-physical address of the `MmState` array.
#[must_use]
pub fn mm_states_physical() -> u64 {
    MM_STATES.address() - KERNEL_BASE
}

macro_rules! field {
    ($get:ident, $set:ident, $field:ident) => {
        #[doc = concat!("Reads `", stringify!($field), "`.")]
        #[must_use]
        pub fn $get() -> u64 {
            read_word(TLB_STATE.address() + offset_of!(TlbState, $field) as u64)
        }
        #[doc = concat!("Writes `", stringify!($field), "`, where it changes.")]
        #[inline(always)]
        pub fn $set(value: u64) {
            if $get() != value {
                write_word(TLB_STATE.address() + offset_of!(TlbState, $field) as u64, value);
            }
        }
    };
}

field!(loaded_mm, set_loaded_mm, loaded_mm);
field!(loaded_mm_asid, set_loaded_mm_asid, loaded_mm_asid);
field!(next_asid, set_next_asid, next_asid);
field!(invalidate_other, set_invalidate_other, invalidate_other);
field!(cr4, set_cr4, cr4);

/// Marks a user PCID: it is flushed when its user tables are next loaded.
#[inline(always)]
pub fn mark(asid: u16) {
    let mask = TLB_STATE.address() + offset_of!(TlbState, user_pcid_flush_mask) as u64;
    set_bit(mask, u64::from(stalemate_shared::pcid::kernel_pcid(asid)));
}

fn slot_address(asid: u16) -> u64 {
    let slots = TLB_STATE.address() + offset_of!(TlbState, slots) as u64;
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

/// Reads the state of address space `number`.
#[must_use]
pub fn mm_state(number: usize) -> MmState {
    let at = MM_STATES.address() + (number * size_of::<MmState>()) as u64;
    MmState { ctx_id: read_word(at), tlb_gen: read_word(at + 8), kernel_root: read_word(at + 16) }
}

/// Writes it.
pub fn set_mm_state(number: usize, state: MmState) {
    let at = MM_STATES.address() + (number * size_of::<MmState>()) as u64;
    write_word(at, state.ctx_id);
    write_word(at + 8, state.tlb_gen);
    write_word(at + 16, state.kernel_root);
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
