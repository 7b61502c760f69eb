//! Stalemate proves, on the machine code that ran, that a guest kernel's TLB flushes are
//! sufficient.
#![deny(unsafe_code)]

pub mod arch;
pub mod boot;
pub mod cli;
pub mod compare;
pub mod event;
#[allow(unsafe_code)]
pub mod executor;
pub mod fuzz;
pub mod inject;
pub mod machine;
pub mod oracle;
pub mod report;
pub mod runner;
pub mod scenario;
pub mod score;
