//! What this kernel was booted with.

use crate::arch::percpu::Once;
use stalemate_shared::boot::Policy;
use stalemate_shared::variant::Variant;

/// What this kernel is, decided at boot and never changed.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// A kernel and a user root per address space.
    pub pti: bool,
    /// PCIDs are in use.
    pub pcid: bool,
    /// INVPCID exists.
    pub invpcid: bool,
    /// Global pages are in use.
    pub pge: bool,
    /// The kernel executes no user page.
    pub smep: bool,
    /// Kernel pages outside the trampoline are global.
    pub kernel_global: bool,
    /// The flush policy.
    pub policy: Policy,
    /// The NMI handler flushes.
    pub nmi_flush: bool,
    /// How many CPUs there are.
    pub cpus: u64,
    /// The historical mistake that this kernel makes.
    pub variant: Option<Variant>,
}

static CONFIG: Once<Config> = Once::new();

/// Says what this kernel is, once, at boot.
pub fn install(config: Config) {
    CONFIG.set(config);
}

/// What this kernel is.
#[must_use]
pub fn config() -> &'static Config {
    CONFIG.get()
}
