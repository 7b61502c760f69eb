//! The guest kernel: split TLB flush primitives, on real instructions.
//!
//! Unsafe code lives in `arch` alone. Without the `image` feature the crate holds just what is
//! pure, for tests on the host.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

pub mod asid;
pub mod entry;
pub mod fence;

#[cfg(feature = "image")]
#[allow(unsafe_code)]
pub mod arch;
#[cfg(feature = "image")]
pub mod boot;
#[cfg(feature = "image")]
pub mod config;
#[cfg(feature = "image")]
pub mod flush;
#[cfg(feature = "image")]
pub mod mm;
#[cfg(feature = "image")]
pub mod nmi;
#[cfg(feature = "image")]
pub mod operations;
#[cfg(feature = "image")]
pub mod paging;
#[cfg(feature = "image")]
pub mod policy;
#[cfg(feature = "image")]
pub mod shootdown;
#[cfg(feature = "image")]
pub mod steps;
#[cfg(feature = "image")]
pub mod variant;
