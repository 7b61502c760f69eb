//! Everything that is unsafe: instructions, entry code, statics that hardware reads, raw memory.
//!
//! Virtual CPUs run one at a time and change places only where one traps or is interrupted: a word
//! that more than one of them writes is written by a single instruction, locked where it depends
//! on what it finds.
//!
//! `start` and `handlers` call what is above them: boot, and what an interrupt is for. Nothing that
//! these import imports `start`, `handlers` or `entry`.

pub mod apic;
pub mod cpu;
pub mod entry;
pub mod fence;
mod handlers;
pub mod hop;
pub mod hypercall;
pub mod memory;
pub mod percpu;
mod probe;
pub mod segments;
mod start;
pub mod trampoline;
mod user;

pub use probe::{probe_read, probe_write};
pub use user::{UserContext, UserExit, enter_user};
