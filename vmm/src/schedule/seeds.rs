//! Streams of numbers from a seed.

use crate::arch::tlb::split_mix;

/// One in so many reachable translations is filled at a time.
const FILLED: u64 = 8;
/// One in so many entries is evicted at a time.
const EVICTED: u64 = 16;

/// A stream of numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Seeds {
    state: u64,
}

impl Seeds {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        split_mix(&mut self.state) % bound
    }

    /// Whether a reachable translation is filled now.
    pub(super) fn fills(&mut self) -> bool {
        self.below(FILLED) == 0
    }

    /// Whether an entry is evicted now.
    pub(super) fn evicts(&mut self) -> bool {
        self.below(EVICTED) == 0
    }
}
