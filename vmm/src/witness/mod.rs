//! The witness: does the model hold what a real TLB keeps?
//!
//! A small guest runs on this host's KVM with page tables and a CPL 0 of its own, under no model:
//! it stores to its tables, flushes now and then, and looks what its pages lead to. Then the same
//! is replayed on the one TLB model that there is ([`crate::arch::tlb`]). Where an access came to
//! something that neither today's tables nor anything the model holds gives, the model is wrong
//! about this machine, or the machine about the manual.
//!
//! It is a *may* check: what a TLB shows, the model must hold. That it holds too much, it cannot
//! show.

#[cfg(feature = "kvm")]
mod code;
mod kept;
mod layout;
mod processor;
mod program;
mod replay;
#[cfg(feature = "kvm")]
mod run;
mod text;

pub use kept::{KINDS, Kept};
pub use processor::{MUTATIONS, Mutation, Seen};
pub use program::{ACTIONS, Action, Program};
pub use replay::{Account, Findings, Options, replay, worst_case};
#[cfg(feature = "kvm")]
pub use run::{WitnessError, examine, features, options, run};
pub use text::text;
