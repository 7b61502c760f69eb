//! The init of a kernel under audit: a static program without a libc that makes every kind of call
//! that changes mappings, checks what it reads, and says how often each kind succeeded.
//!
//! Its lines on the console begin with `stalemate-init: `. `begins` is the first, `ready` comes
//! before the workload, `KIND N` or `KIND absent` say how often a kind of call succeeded or that
//! the kernel does not offer it, `FAILED KIND errno N` names the first other failure of a kind,
//! `WRONG ...` says that it read something else than it had written, or could do what it had
//! forbidden; `done` is the last.
//!
//! Unsafe code lives in `sys` alone. Without the `image` feature the crate holds just what is pure,
//! for tests on the host.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

pub mod kind;
pub mod options;

#[cfg(feature = "image")]
mod advice;
#[cfg(feature = "image")]
mod area;
#[cfg(feature = "image")]
pub mod console;
#[cfg(feature = "image")]
mod crew;
#[cfg(feature = "image")]
mod forks;
#[cfg(feature = "image")]
mod huge;
#[cfg(feature = "image")]
mod ksm;
#[cfg(feature = "image")]
mod life;
#[cfg(feature = "image")]
mod mappings;
#[cfg(feature = "image")]
mod reclaim;
#[cfg(feature = "image")]
mod setting;
#[cfg(feature = "image")]
#[allow(unsafe_code)]
mod sys;
#[cfg(feature = "image")]
mod tally;
#[cfg(feature = "image")]
mod uffd;

#[cfg(feature = "image")]
pub use sys::exit;
