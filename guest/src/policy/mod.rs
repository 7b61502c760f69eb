//! The policies: one file each, and which of them this kernel was booted with.
//!
//! A policy stands on `arch/` and `config.rs` alone. It knows no other CPU and announces nothing.

pub mod contract;
mod eager;
mod fallback;
mod full;
mod joined;
mod mistaken;
mod split;
mod unsplit;

use crate::config::config;
use contract::Policy;
use stalemate_shared::boot::Policy as Name;

/// The policy that this kernel was booted with.
#[must_use]
pub fn policy() -> &'static dyn Policy {
    match config().policy {
        Name::Split if config().variant.is_some_and(mistaken::concerns) => &mistaken::Mistaken,
        Name::Split => &split::Split,
        Name::Unsplit => &unsplit::Unsplit,
        Name::Full => &full::Full,
        Name::Eager => &eager::Eager,
        Name::Fallback => &fallback::Fallback,
        Name::Joined => &joined::Joined,
    }
}
