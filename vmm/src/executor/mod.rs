//! Executors run unprivileged instructions until one traps.
//!
//! An executor knows nothing of TLB semantics: it is told which pages each [`Space`] may use
//! (the *shadow pages* of the modelled TLB) and reports the first instruction that needs more.

use crate::arch::addr::{CpuId, Gpa, Gva, Pcid};
use crate::arch::vcpu::Vcpu;

mod backend;
pub mod interp;
#[cfg(feature = "kvm")]
pub mod kvm;
mod sharing;

pub use backend::{Backend, INSTRUCTION_LIMIT, NoKvm, REQUIRE_KVM, WATCHDOG, kvm_is_required};
pub use sharing::Sharing;

/// Key of one set of shadow pages: CPU, PCID, user or supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Space {
    /// The virtual CPU: each has a TLB of its own.
    pub cpu: CpuId,
    /// The PCID that is current.
    pub pcid: Pcid,
    /// Virtual CPL 3.
    pub user: bool,
}

impl Space {
    /// The space that `vcpu` runs in.
    #[must_use]
    pub fn of(vcpu: &Vcpu) -> Self {
        Self { cpu: vcpu.id, pcid: vcpu.pcid(), user: vcpu.cpl == 3 }
    }
}

/// What the shadow pages grant for one 4 KiB page. Everything in it is readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The 4 KiB frame.
    pub frame: Gpa,
    /// Stores run natively.
    pub writable: bool,
    /// Instructions run natively.
    pub executable: bool,
}

impl Leaf {
    /// Whether everything that `self` grants, `other` grants too.
    #[must_use]
    pub fn within(&self, other: &Leaf) -> bool {
        self.frame == other.frame
            && (!self.writable || other.writable)
            && (!self.executable || other.executable)
    }
}

/// Why an executor came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// An exception; RIP is the processor's (after INT3, at the instruction for faults).
    Exception {
        /// The vector.
        vector: u8,
        /// The error code, 0 for vectors without.
        error: u32,
        /// The faulting address for vector 14.
        address: u64,
    },
    /// SYSCALL, reported with RIP at the instruction; RCX and R11 may already be overwritten.
    Syscall {
        /// Where it led, on an executor that cannot tell it from a jump there.
        landed: Option<u64>,
    },
    /// An instruction that the executor does not execute, and that no processor refuses. RIP is
    /// at it.
    Unsupported,
    /// No trap for the watchdog's time: a loop that never leaves the processor. RIP is anywhere.
    Timeout {
        /// The watchdog's time.
        limit: std::time::Duration,
    },
    /// The host's virtual machine cannot go on with this guest. The executor is used no further.
    Broken {
        /// What the host said.
        exit: HostExit,
        /// RIP at that moment; that of the monitor's code where that ran.
        rip: u64,
    },
    /// No trap in so many instructions.
    InstructionLimit {
        /// How many.
        instructions: u64,
    },
    /// The next instruction is at a breakpoint. It runs when the executor is run again.
    Breakpoint,
    /// An instruction has completed whose accesses other CPUs can tell. Only where [`Executor::share`]
    /// asks for it.
    Visible,
}

/// What a host came back with that no monitor asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostExit {
    /// A triple fault of the real processor.
    Shutdown,
    /// The host could not emulate an instruction.
    InternalError,
    /// The host could not enter the guest.
    FailEntry,
    /// An access beyond memory.
    Mmio,
    /// An access to a port that is not the monitor's.
    Port,
    /// Any other.
    Other,
}

impl std::fmt::Display for HostExit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shutdown => "shut the virtual machine down",
            Self::InternalError => "could not emulate an instruction",
            Self::FailEntry => "could not enter the guest",
            Self::Mmio => "found an access beyond memory",
            Self::Port => "found an access to a port",
            Self::Other => "came back for a reason that has no name here",
        })
    }
}

/// An executor of unprivileged x86-64 code for one virtual CPU at a time.
pub trait Executor {
    /// Runs from the state in `vcpu` until a trap; leaves the state of that moment in `vcpu`.
    ///
    /// # Errors
    /// When the host fails; never for anything that the guest does.
    fn run(&mut self, vcpu: &mut Vcpu) -> Result<Trap, ExecutorError>;

    /// Gives the next runs so many instructions each, where the executor counts them.
    fn set_limit(&mut self, _instructions: u64) {}

    /// Reports [`Trap::Breakpoint`] from now on before each run of the instruction at `at`, in an executor
    /// that can; a loop of a few instructions that ends where it began is one run.
    fn set_breakpoint(&mut self, _at: Gva) {}

    /// Comes back with [`Trap::Visible`] from now on after each instruction whose accesses are visible, as
    /// `sharing` knows and learns it; with none no more. What was known before. An executor that cannot
    /// tell leaves this as it is.
    fn share(&mut self, sharing: Option<Box<Sharing>>) -> Option<Box<Sharing>> {
        sharing
    }

    /// What is known of accesses to memory, where that is asked for.
    fn sharing(&mut self) -> Option<&mut Sharing> {
        None
    }

    /// Runs one instruction, or one round of a repeated string instruction. None when it
    /// completed.
    ///
    /// # Errors
    /// When the host fails.
    fn step(&mut self, vcpu: &mut Vcpu) -> Result<Option<Trap>, ExecutorError>;

    /// Runs one instruction that stores to a frame which no leaf of [`Executor::map`] makes writable:
    /// by interpretation, through the leaves of [`Executor::map_for_store`]. None when it completed.
    /// It is not counted. `vector_state` says that it may store the x87 or SSE state.
    ///
    /// # Errors
    /// When the host fails.
    fn step_store(
        &mut self,
        vcpu: &mut Vcpu,
        vector_state: bool,
    ) -> Result<Option<Trap>, ExecutorError>;

    /// Lets [`Executor::step_store`] use `page` as `leaf` says, until it is revalidated.
    ///
    /// # Errors
    /// When the frame is beyond memory.
    fn map_for_store(&mut self, space: Space, page: Gva, leaf: Leaf) -> Result<(), ExecutorError>;

    /// The leaf through which [`Executor::step_store`] may use `page`.
    fn store_leaf(&self, space: Space, page: Gva) -> Option<Leaf>;

    /// Lets `space` use `page` as `leaf` says. What was mapped there before grants less.
    ///
    /// # Errors
    /// When the frame is beyond memory, or the host has no room for another table.
    fn map(&mut self, space: Space, page: Gva, leaf: Leaf) -> Result<(), ExecutorError>;

    /// The leaf through which `space` may use `page`.
    fn leaf(&self, space: Space, page: Gva) -> Option<Leaf>;

    /// Calls `keep` for every leaf in every space that `select`s, and revokes or narrows those
    /// for which it returns less than they grant.
    ///
    /// # Errors
    /// When the host cannot revoke.
    fn revalidate(
        &mut self,
        select: &dyn Fn(Space) -> bool,
        keep: &mut dyn FnMut(Space, Gva, Leaf) -> Option<Leaf>,
    ) -> Result<(), ExecutorError>;

    /// As [`Executor::revalidate`], for one page of the selected spaces.
    ///
    /// # Errors
    /// When the host cannot revoke.
    fn revalidate_page(
        &mut self,
        select: &dyn Fn(Space) -> bool,
        page: Gva,
        keep: &mut dyn FnMut(Space, Gva, Leaf) -> Option<Leaf>,
    ) -> Result<(), ExecutorError>;

    /// Instructions completed so far, where the executor counts them.
    fn instructions(&self) -> Option<u64>;

    /// Time spent running guest code so far.
    fn time_running(&self) -> std::time::Duration;

    /// The x87 and SSE state as an opaque image.
    ///
    /// # Errors
    /// When the host fails.
    fn save_fpu(&mut self) -> Result<Vec<u32>, ExecutorError>;

    /// Puts back what [`Executor::save_fpu`] gave.
    ///
    /// # Errors
    /// When the host fails.
    fn restore_fpu(&mut self, image: &[u32]) -> Result<(), ExecutorError>;
}

/// The host failed; nothing that a guest does ends here.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// An ioctl or system call failed.
    #[error("{what} failed")]
    Host {
        /// The call.
        what: &'static str,
        /// Its error.
        #[source]
        source: std::io::Error,
    },
    /// A leaf leads beyond guest-physical memory.
    #[error("a leaf's frame {frame} is beyond guest memory")]
    BeyondMemory {
        /// The frame.
        frame: Gpa,
    },
    /// The pool of shadow page tables is too small for one page.
    #[error("no page left for shadow page tables ({pages} in use)")]
    OutOfTables {
        /// Pages in the pool.
        pages: usize,
    },
}
