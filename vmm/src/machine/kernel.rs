//! The kernel under test, as the machine knows it: words that it watches, and ports that it answers.

use super::Stop;
use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::happened::WordStore;
use crate::arch::vcpu::Vcpu;
use crate::event::{Announcement, Owner, Word};
use crate::memory::GuestMemory;
use std::collections::BTreeSet;

/// What a kernel said by one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What it said; nothing where the word says nothing by itself.
    pub announcements: Vec<Announcement>,
    /// The word, as people read it.
    pub word: Word,
}

impl Statement {
    /// Of a word that nobody has described: nothing.
    #[must_use]
    pub fn unknown(store: &WordStore) -> Self {
        let WordStore { at, old, new } = *store;
        let word = Word { field: format!("the word at {at}"), owner: Owner::Unknown, old, new };
        Self { announcements: Vec::new(), word }
    }
}

/// What a kernel wants by one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// To say this, and go on.
    Says(Vec<Announcement>),
    /// The words that it has described to be watched from now on.
    Watches,
    /// Another CPU to run, for it waits for one.
    Waits,
    /// Something of its driver: the CPU goes on when the driver lets it.
    Asks,
}

/// An interrupt that a device sends from one CPU to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// To this CPU.
    pub to: CpuId,
    /// The vector; 2 of an NMI.
    pub vector: u8,
    /// An NMI.
    pub nmi: bool,
}

/// What a breakpoint that is reached says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// By itself.
    pub says: Vec<Announcement>,
    /// Where there are to be breakpoints too, from now on.
    pub more: Vec<Gva>,
}

/// A kernel under test. It is part of a snapshot: plain data.
pub trait Kernel: Clone {
    /// Frames to each of whose words a store is shown to [`Kernel::stored`].
    fn watched(&self) -> &BTreeSet<Gpa>;

    /// What a store to a watched word says; `memory` holds the other words.
    fn stored(&self, memory: &GuestMemory, store: &WordStore) -> Statement;

    /// What the words in `memory` say.
    fn state(&self, memory: &GuestMemory) -> Vec<Announcement>;

    /// The store by which the kernel would say this now; none if it has no word for it.
    fn store_for(&self, memory: &GuestMemory, announcement: &Announcement) -> Option<WordStore>;

    /// Answers an OUT of one byte at CPL 0 to `port`, whose instruction ends at `next`; none if the
    /// port is not the kernel's. Moves RIP on, unless the CPU stays at the instruction.
    fn output(
        &mut self,
        port: u8,
        vcpu: &mut Vcpu,
        next: u64,
        memory: &GuestMemory,
    ) -> Option<Result<Call, Stop>>;

    /// What IN finds in the `size` low bytes (1, 2 or 4) of `port` on this kernel's board; none if
    /// no device is there. `instructions` have completed so far.
    fn port_in(&mut self, _port: u16, _size: u8, _instructions: u64) -> Option<u32> {
        None
    }

    /// OUT of the `size` low bytes (1, 2 or 4) of `value` to a device of this kernel's board; none
    /// if there is none. `instructions` have completed so far.
    fn port_out(&mut self, _port: u16, _size: u8, _value: u32, _instructions: u64) -> Option<()> {
        None
    }

    /// It does not say when it frees a root: one that is the last loaded under no PCID is forgotten.
    fn frees_roots_in_silence(&self) -> bool {
        false
    }

    /// Whether a device of the board asks for an interrupt of `cpu`, once `instructions` have completed.
    fn is_interrupting(&mut self, _cpu: CpuId, _instructions: u64) -> bool {
        false
    }

    /// `cpu` takes that interrupt: its vector; none if no device asks any more.
    fn acknowledge(&mut self, _cpu: CpuId) -> Option<u8> {
        None
    }

    /// Whether a device of the board asks for an NMI of `cpu`: it is taken with this.
    fn takes_nmi(&mut self, _cpu: CpuId) -> bool {
        false
    }

    /// Whether a device of the board is at this address, where no memory is.
    fn has_device(&self, _at: Gpa) -> bool {
        false
    }

    /// `cpu` loads 32 bits of that device.
    fn load_device(&mut self, _cpu: CpuId, _at: Gpa, _instructions: u64) -> u32 {
        u32::MAX
    }

    /// `cpu` stores 32 bits to that device: the interrupts that it sends by that.
    fn store_device(
        &mut self,
        _cpu: CpuId,
        _at: Gpa,
        _value: u32,
        _instructions: u64,
    ) -> Vec<Sent> {
        Vec::new()
    }

    /// So many more instructions may complete before a device of the board has something to do; none if
    /// it never has, so that a kernel which runs on without a trap is one that hangs.
    fn quiet(&self, _instructions: u64) -> Option<u64> {
        None
    }

    /// What a trap of `vcpu` says by itself, before it is carried out, when so many `instructions` have
    /// completed.
    fn at_trap(
        &mut self,
        _vcpu: &Vcpu,
        _memory: &GuestMemory,
        _instructions: u64,
    ) -> Vec<Announcement> {
        Vec::new()
    }

    /// `vcpu` is about to execute an instruction at which there is a breakpoint.
    fn at_breakpoint(
        &mut self,
        _vcpu: &Vcpu,
        _memory: &GuestMemory,
        _instructions: u64,
    ) -> Reached {
        Reached::default()
    }

    /// What RDMSR at CPL 0 of `cpu` finds in a register that the modelled processor has not; none for #GP.
    fn read_msr(&mut self, _cpu: CpuId, _msr: u32) -> Option<u64> {
        None
    }

    /// WRMSR at CPL 0 of `cpu` of a register that the modelled processor has not; none for #GP.
    fn write_msr(&mut self, _cpu: CpuId, _msr: u32, _value: u64) -> Option<()> {
        None
    }

    /// The time-stamp counter once `instructions` have completed; none if the board has no clock.
    fn time(&self, _instructions: u64) -> Option<u64> {
        None
    }
}

/// A kernel's words as they are now.
pub trait KernelWords {
    /// What they say.
    fn state(&self) -> Vec<Announcement>;
    /// The store by which the kernel would say this now.
    fn store_for(&self, announcement: &Announcement) -> Option<WordStore>;
}

/// A kernel with the memory that its words are in.
pub(super) struct View<'a, K> {
    pub(super) kernel: &'a K,
    pub(super) memory: &'a GuestMemory,
}

impl<K: Kernel> KernelWords for View<'_, K> {
    fn state(&self) -> Vec<Announcement> {
        self.kernel.state(self.memory)
    }

    fn store_for(&self, announcement: &Announcement) -> Option<WordStore> {
        self.kernel.store_for(self.memory, announcement)
    }
}
