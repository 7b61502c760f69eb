//! Every interleaving of what several CPUs do, on the machine code itself, judged by the whole oracle.
//!
//! The search is depth-first over whose turn it is (`kernel::steps::Interleaving` says what a turn is), from
//! snapshots, and visits no state twice. Schedules with no preemption come first, then those with one, and so
//! on, so that the first that goes wrong is a short one; then all.

mod found;
mod pass;
mod passes;
pub mod report;
pub mod trust;
mod visited;

pub use found::{Found, What};
pub use passes::{Covered, Explored, Limits, Progress, explore};
