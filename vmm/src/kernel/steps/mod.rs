//! A kernel that is handed steps, one at a time: our guest, and whoever keeps to the same interface.

mod abilities;
mod boot;
mod driver;
pub mod escapes;
mod final_memory;
mod guest;
mod hypercall;
mod image;
mod interleaving;
mod session;
mod sweep;
mod words;

pub use abilities::{Abilities, NoteError};
pub use boot::{KernelInfo, KernelOptions};
pub use driver::{StepClass, StepInput, StepReport};
pub use final_memory::FinalMemory;
pub use guest::{Guest, GuestError};
pub use image::{Image, ImageError};
pub use interleaving::{Interleaving, Part, Saved, Turn};
pub use session::{BootError, InitialState, RunEnd, RunError, Session, SessionConfig};
pub use sweep::{Boundary, Swept};
pub use words::{Layout, tlb_state_field};

use crate::arch::addr::{CpuId, Gpa};
use crate::arch::happened::WordStore;
use crate::arch::key::StateKey;
use crate::arch::vcpu::Vcpu;
use crate::event::{Announcement, Flush, FlushId};
use crate::machine::{Call, Kernel, Statement, Stop};
use crate::memory::GuestMemory;
use stalemate_shared::page::PageAddresses;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What a CPU says when it asks for a step, and where it goes on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ask {
    report: StepReport,
    next: u64,
}

/// A kernel that is handed steps.
#[derive(Clone, Debug)]
pub(crate) struct Steps {
    /// What it completed its boot block with; none before that.
    info: Option<Rc<KernelInfo>>,
    watched: Rc<BTreeSet<Gpa>>,
    /// Flushes that have begun and not returned.
    flushes: BTreeMap<FlushId, Flush>,
    /// The number of the flush that began last, from 1.
    last_flush: u64,
    /// The CPUs that ask for a step.
    asks: Vec<(CpuId, Ask)>,
    /// What it has printed since it booted, or began to.
    printed: Vec<u8>,
    /// Where it has the test pages.
    pages: PageAddresses,
}

/// Bytes that a kernel prints of which a report has each.
const MAX_PRINTED: usize = 1 << 14;

impl Steps {
    /// One that has not booted, and has the test pages here.
    fn new(pages: PageAddresses) -> Self {
        Self {
            info: None,
            watched: Rc::default(),
            flushes: BTreeMap::new(),
            last_flush: 0,
            asks: Vec::new(),
            printed: Vec::new(),
            pages,
        }
    }

    /// What the kernel said of itself.
    pub(crate) fn info(&self) -> Option<&KernelInfo> {
        self.info.as_deref()
    }

    /// What it has printed, as text.
    fn printed(&self) -> String {
        let more = if self.printed.len() < MAX_PRINTED { "" } else { " ..." };
        String::from_utf8_lossy(&self.printed).into_owned() + more
    }

    /// The same, of which nothing is left.
    fn take_printed(&mut self) -> String {
        let printed = self.printed();
        self.printed.clear();
        printed
    }

    /// Adds what it answers from here on depends on. What it has printed changes nothing.
    fn put(&self, key: &mut StateKey) {
        key.put((&self.flushes, self.last_flush));
        // What was reported has been told.
        let mut asks: Vec<_> = self.asks.iter().map(|(cpu, ask)| (*cpu, ask.next)).collect();
        asks.sort_unstable();
        key.put(asks);
    }

    fn layout(&self) -> Option<&Layout> {
        self.info().map(|info| &info.layout)
    }

    /// The kernel has completed its boot block.
    fn described(&mut self, info: KernelInfo) {
        self.watched = Rc::new(info.layout.frames());
        self.info = Some(Rc::new(info));
    }
}

impl Kernel for Steps {
    fn watched(&self) -> &BTreeSet<Gpa> {
        &self.watched
    }

    fn stored(&self, memory: &GuestMemory, store: &WordStore) -> Statement {
        let statement = self.layout().map(|layout| layout.stored(memory, store));
        // What is watched has been described.
        statement.unwrap_or_else(|| Statement::unknown(store))
    }

    fn state(&self, memory: &GuestMemory) -> Vec<Announcement> {
        self.layout().map_or_else(Vec::new, |layout| layout.state(memory))
    }

    fn store_for(&self, memory: &GuestMemory, announcement: &Announcement) -> Option<WordStore> {
        self.layout()?.store_for(memory, announcement)
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32, _instructions: u64) -> Option<()> {
        let prints = port == u16::from(stalemate_shared::hypercall::DEBUG_PORT) && size == 1;
        prints.then(|| {
            if self.printed.len() < MAX_PRINTED {
                self.printed.push(value as u8);
            }
        })
    }

    fn output(
        &mut self,
        port: u8,
        vcpu: &mut Vcpu,
        next: u64,
        memory: &GuestMemory,
    ) -> Option<Result<Call, Stop>> {
        (port == stalemate_shared::hypercall::PORT).then(|| self.hypercall(vcpu, next, memory))
    }
}
