//! What the manuals say: the modelled processor. Pure: no I/O, no unsafe, no executor.

pub mod addr;
pub mod apic;
pub mod census;
pub mod core;
mod cpuid;
pub mod deliver;
pub mod emulate;
pub mod fault;
pub mod features;
pub(crate) mod flags;
mod msr;
pub mod op;
pub mod privileged;
pub mod sensitive;
pub mod tlb;
pub mod vcpu;
pub mod walk;
