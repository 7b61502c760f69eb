//! How CPUs preempt each other, by name.

use serde::{Deserialize, Serialize};

/// How CPUs preempt each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// In the order of the steps.
    #[default]
    InOrder,
    /// After any event, pseudo-random from this seed.
    Events(u64),
    /// After any instruction.
    Instructions(u64),
}

impl Schedule {
    /// The same, from another seed.
    #[must_use]
    pub fn from_seed(self, seed: u64) -> Self {
        match self {
            Self::InOrder => Self::InOrder,
            Self::Events(_) => Self::Events(seed),
            Self::Instructions(_) => Self::Instructions(seed),
        }
    }

    /// Its name in scenarios.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InOrder => "in-order",
            Self::Events(_) => "events",
            Self::Instructions(_) => "instructions",
        }
    }

    /// Where its choices begin, if it makes any.
    #[must_use]
    pub fn seed(self) -> Option<u64> {
        match self {
            Self::InOrder => None,
            Self::Events(seed) | Self::Instructions(seed) => Some(seed),
        }
    }
}
