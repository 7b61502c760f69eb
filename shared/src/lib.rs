//! The interface between the guest kernel and its VMM, written once for both.
//!
//! Everything here is plain data: constants, `repr(C)` layouts and PCID arithmetic. A change of
//! meaning or layout raises [`VERSION`], which the guest checks at boot.
#![no_std]
#![forbid(unsafe_code)]

pub mod boot;
pub mod hypercall;
pub mod layout;
pub mod pcid;
pub mod step;
pub mod tlb_state;
pub mod variant;

/// Version of everything in this crate.
pub const VERSION: u32 = 2;
