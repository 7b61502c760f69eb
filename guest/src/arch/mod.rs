//! Everything that is unsafe: instructions, entry code, statics that hardware reads, raw memory.
//!
//! The processor has one CPU and takes no interrupts but NMIs, whose handler touches only its own
//! counter; so the statics here are used by one flow of control at a time.

pub mod cpu;
mod entry;
pub mod hypercall;
pub mod memory;
pub mod percpu;
pub mod segments;
mod start;

pub use entry::{UserContext, UserExit, configure, enter_user, hop, probe_read, probe_write};
