//! The processor as the manuals allow it to behave, what happens in a run, and what judges that.
//!
//! * [`arch`] is the modelled processor: TLB, page walks, privileged operations, delivery of
//!   exceptions. It knows no kernel.
//! * [`event`] is what a run consists of: what the processor did, and what its kernel announced.
//! * [`oracle`] judges events and nothing else.
//!
//! Nothing in this crate reads a file, asks the host for anything, or knows what runs a guest: the
//! compiler keeps it so, since none of that is among its dependencies.
#![forbid(unsafe_code)]

pub mod arch;
pub mod event;
pub mod oracle;
