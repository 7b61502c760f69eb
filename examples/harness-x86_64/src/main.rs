//! A kernel whose page tables are edited by the `x86_64` crate's mapper, and flushed by what that
//! returns.

#![no_std]
#![no_main]

mod flush;
#[path = "../../harness-rust/src/harness.rs"]
mod harness;
mod paging;
