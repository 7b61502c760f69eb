//! How the TLB chooses where the manual leaves it to the processor: what it fills ahead of time, and
//! what it evicts.

use serde::{Deserialize, Serialize};

/// Which translations are filled, and which go on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fill {
    /// What was accessed.
    OnDemand,
    /// Everything that a speculating processor may reach; it sets A as it goes, never D.
    WorstCase,
    /// The same, but only where A is set already: a processor that never sets A ahead of time.
    LazyA,
    /// Now and then something that a speculating processor may reach, and now and then an entry
    /// goes: pseudo-random, from the model's seed.
    Seeded,
}

/// Every fill choice by its name in scenarios and reports, and what the TLB holds with it.
pub const FILLS: [(Fill, &str, &str); 4] = [
    (Fill::WorstCase, "worst-case", "everything that speculation may reach; it sets A, never D"),
    (Fill::LazyA, "lazy-a", "the same, but only where A is set already"),
    (Fill::OnDemand, "on-demand", "what was accessed"),
    (Fill::Seeded, "seeded", "what was accessed; pseudo-random fills and evictions from a seed"),
];

impl Fill {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        FILLS.iter().find(|(fill, ..)| *fill == self).map_or("?", |row| row.1)
    }

    /// Whether all that speculation reaches is filled.
    #[must_use]
    pub fn is_complete(self) -> bool {
        matches!(self, Self::WorstCase | Self::LazyA)
    }
}

/// How the TLB chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TlbModel {
    /// The fill choice.
    pub fill: Fill,
    /// Paging-structure caches are modelled.
    pub structure_caches: bool,
    /// Where [`Fill::Seeded`] begins.
    pub seed: u64,
}

/// The next number of a stream: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
/// number generators", 2014).
#[must_use]
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
