//! Which historical mistake this kernel makes, if any: see `stalemate_shared::variant`.

use crate::config::config;
use stalemate_shared::variant::Variant;

/// Whether it makes this one.
#[must_use]
#[inline(always)]
pub fn is(variant: Variant) -> bool {
    config().variant == Some(variant)
}
