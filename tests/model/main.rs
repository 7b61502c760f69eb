//! The processor model and the oracle, without a machine.
#![allow(missing_docs)]

mod legality;
mod memory;
mod owed;
mod pins;
mod replica;
mod rules;
mod stale;
mod story;
mod tlb_naive;
mod tlb_rules;
