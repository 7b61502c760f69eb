//! The executors there are, by name, and how one is made.

use super::interp::InterpExecutor;
use super::{Executor, ExecutorError};
use crate::memory::GuestMemory;
use std::path::Path;
#[cfg(feature = "kvm")]
use std::sync::Arc;
use std::time::Duration;

/// How long a guest may run on a processor without a trap.
pub const WATCHDOG: Duration = Duration::from_secs(10);
/// How many instructions it may run on the interpreter without a trap.
pub const INSTRUCTION_LIMIT: u64 = 50_000_000;

/// Boundaries that a sweep tries on KVM, where each is reached by single step and the rest of its
/// run takes milliseconds.
#[cfg(feature = "kvm")]
const KVM_BOUNDARIES: usize = 4096;

/// Set to 1, what needs KVM fails where there is none, instead of doing without.
pub const REQUIRE_KVM: &str = "STALEMATE_REQUIRE_KVM";

/// Whether [`REQUIRE_KVM`] is set.
#[must_use]
pub fn kvm_is_required() -> bool {
    // Whoever sets it to something wants KVM, unless it is one of the ways to say no.
    std::env::var_os(REQUIRE_KVM).is_some_and(|value| {
        let value = value.to_string_lossy().trim().to_ascii_lowercase();
        !["", "0", "false", "no", "off"].contains(&value.as_str())
    })
}

/// An executor that this host can make.
#[derive(Clone, Debug)]
pub enum Backend {
    /// Natively, on this KVM; a guest may run `limit` without a trap.
    #[cfg(feature = "kvm")]
    Kvm {
        /// The host.
        host: Arc<super::kvm::Host>,
        /// The watchdog's time.
        limit: Duration,
    },
    /// Interpreted; a guest may run so many instructions without a trap.
    Interp {
        /// How many.
        limit: u64,
        /// What to get wrong, for the tests that must notice.
        #[doc(hidden)]
        flaw: Option<super::interp::Flaw>,
    },
}

impl Backend {
    /// The interpreter.
    #[must_use]
    pub fn interp() -> Self {
        Self::Interp { limit: INSTRUCTION_LIMIT, flaw: None }
    }

    /// KVM on `device`.
    ///
    /// # Errors
    /// When it cannot be used, or was not compiled in.
    #[cfg(feature = "kvm")]
    pub fn kvm(device: &Path) -> Result<Self, NoKvm> {
        let host = Arc::new(super::kvm::Host::open(device)?);
        Ok(Self::Kvm { host, limit: WATCHDOG })
    }

    /// KVM on `device`.
    ///
    /// # Errors
    /// Always: it was not compiled in.
    #[cfg(not(feature = "kvm"))]
    pub fn kvm(_: &Path) -> Result<Self, NoKvm> {
        Err(NoKvm::NotBuilt)
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            #[cfg(feature = "kvm")]
            Self::Kvm { .. } => "kvm",
            Self::Interp { .. } => "interp",
        }
    }

    /// Boundaries at which a sweep tries an interrupt at most.
    #[must_use]
    pub fn boundary_limit(&self) -> usize {
        match self {
            #[cfg(feature = "kvm")]
            Self::Kvm { .. } => KVM_BOUNDARIES,
            Self::Interp { .. } => usize::MAX,
        }
    }

    /// An executor for this memory.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn make(&self, memory: &GuestMemory) -> Result<Box<dyn Executor>, ExecutorError> {
        Ok(match self {
            #[cfg(feature = "kvm")]
            Self::Kvm { host, limit } => {
                Box::new(super::kvm::KvmExecutor::new(host, memory, *limit)?)
            }
            Self::Interp { limit, flaw } => {
                let mut executor = InterpExecutor::new(memory, *limit);
                executor.set_flaw(*flaw);
                Box::new(executor)
            }
        })
    }
}

/// Why there is no `kvm` executor.
#[derive(Debug, thiserror::Error)]
pub enum NoKvm {
    /// The host's KVM cannot be used.
    #[cfg(feature = "kvm")]
    #[error(transparent)]
    Host(#[from] super::kvm::HostError),
    /// The program was built without it.
    #[error("built without the `kvm` feature; build with default features")]
    NotBuilt,
}
