//! What the manuals say: the modelled processor. Pure: no I/O, no unsafe, no executor.

pub mod addr;
pub mod apic;
pub mod census;
pub mod choice;
pub mod core;
pub mod cpuid;
pub mod cr3;
pub mod debug;
pub mod deliver;
pub mod fault;
pub mod features;
pub mod happened;
pub mod key;
mod msr;
pub mod op;
mod operand;
pub mod privileged;
pub mod segment;
pub mod sensitive;
pub mod tlb;
pub mod vcpu;
pub mod walk;
