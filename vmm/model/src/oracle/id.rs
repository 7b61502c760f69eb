//! A rule's name and what it says of itself.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// What a rule says of itself.
#[derive(Clone, Copy)]
pub struct About {
    /// Its id: stable for ever.
    pub name: &'static str,
    /// The rule, in one or two sentences.
    pub statement: &'static str,
    /// What it rests on.
    pub source: &'static str,
    /// Arguments of `stalemate run` with which it is violated, by a built-in scenario; a test
    /// tries. Empty where no kernel that is handed steps can violate it.
    pub violated_by: &'static str,
    /// The same for what comes close and does not.
    pub near_miss: &'static str,
    /// What to try when it is violated.
    pub hint: &'static str,
    /// Whether it counts costs instead of failing runs.
    pub is_cost: bool,
}

impl About {
    /// Whether it judges kernels that run freely, and no others.
    #[must_use]
    pub fn is_of_audits(&self) -> bool {
        self.violated_by.is_empty()
    }
}

/// A rule, by its name.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub struct RuleId(pub &'static About);

impl RuleId {
    /// What the rule says of itself.
    #[must_use]
    pub fn about(self) -> &'static About {
        self.0
    }
}

impl PartialEq for RuleId {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for RuleId {}

impl PartialOrd for RuleId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RuleId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name.cmp(other.0.name)
    }
}

impl Hash for RuleId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl fmt::Debug for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.name)
    }
}

impl From<RuleId> for &'static str {
    fn from(id: RuleId) -> Self {
        id.0.name
    }
}
