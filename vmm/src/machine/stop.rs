//! Why a machine's loop came to an end.

use crate::arch::fault;
use crate::executor::{ExecutorError, HostExit};

/// Why the guest cannot go on. None of these is an error of the VMM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The processor cannot.
    #[error(transparent)]
    Processor(#[from] fault::Stop),
    /// Every CPU that has something to do has executed HLT.
    #[error("HLT with no interrupt to come")]
    Halted,
    /// The kernel panicked and said so.
    #[error("the guest kernel panicked at {file}:{line}")]
    Panic {
        /// Source file.
        file: String,
        /// Source line.
        line: u64,
    },
    /// The kernel broke the interface that it has with its driver.
    #[error("the guest broke the interface: {0}")]
    Interface(String),
    /// Traps without end.
    #[error("no step completed within {budget} traps")]
    TrapBudget {
        /// The budget, in traps.
        budget: u64,
    },
    /// No trap for the watchdog's time, on a processor.
    #[error("no trap for {seconds} s")]
    Timeout {
        /// The watchdog's time.
        seconds: u64,
    },
    /// The host's virtual machine cannot go on with this guest.
    #[error("the host {exit}, at rip {rip:#x}")]
    Broken {
        /// What the host said.
        exit: HostExit,
        /// RIP of the real processor.
        rip: u64,
    },
    /// The guest's tables reach more than the modelled TLB follows.
    #[error(
        "page tables that lead to themselves, or to one table again and again, reach more translations \
         than a TLB that may hold them all is modelled with"
    )]
    TooManyTranslations,
    /// The run was not done.
    #[error("skipped: {hangs} runs of this kernel hung before")]
    Skipped {
        /// How many.
        hangs: usize,
    },
    /// A recorded schedule asks for what the guest does not do there.
    #[error(
        "the recorded schedule does not fit: a CPU comes to something else than when it was recorded"
    )]
    Schedule,
    /// CPUs wait for each other, or for nobody.
    #[error("every CPU that has something to do waits, and looks again in vain")]
    Deadlock,
    /// No trap within so many instructions.
    #[error("no trap within {instructions} instructions")]
    InstructionLimit {
        /// How many.
        instructions: u64,
    },
}

impl Stop {
    /// Whether the guest was stopped, since it went on for ever.
    #[must_use]
    pub fn is_hang(&self) -> bool {
        matches!(
            self,
            Self::Skipped { .. }
                | Self::Deadlock
                | Self::TrapBudget { .. }
                | Self::Timeout { .. }
                | Self::InstructionLimit { .. }
        )
    }
}

/// Why the machine's loop came to an end.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The guest cannot go on.
    Stop(Stop),
    /// The host cannot.
    Executor(ExecutorError),
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<fault::Stop> for Halt {
    fn from(stop: fault::Stop) -> Self {
        Self::Stop(stop.into())
    }
}

impl From<ExecutorError> for Halt {
    fn from(error: ExecutorError) -> Self {
        Self::Executor(error)
    }
}
