//! The kernel under test, as the machine knows it: words that it watches, and ports that it answers.

use super::Stop;
use crate::arch::addr::Gpa;
use crate::arch::happened::WordStore;
use crate::arch::vcpu::Vcpu;
use crate::event::{Announcement, Word};
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

    /// Answers an OUT at CPL 0 to `port`, whose instruction ends at `next`; none if the port is not
    /// the kernel's. Moves RIP on, unless the CPU stays at the instruction.
    fn output(
        &mut self,
        port: u8,
        vcpu: &mut Vcpu,
        next: u64,
        memory: &GuestMemory,
    ) -> Option<Result<Call, Stop>>;
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
