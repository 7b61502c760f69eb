//! What goes wrong under some schedule.

use crate::oracle::RuleId;
use crate::schedule::Recorded;
use std::fmt;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A rule is violated.
    Violation {
        /// The rule.
        rule: RuleId,
        /// What it says.
        message: String,
    },
    /// A step comes to something else than it says, and no rule speaks.
    Mismatch {
        /// The step's index.
        step: usize,
        /// What it comes to.
        got: String,
    },
    /// The guest cannot go on.
    Stop(String),
}

impl What {
    /// Whether both are one finding: the same rule, step or stop.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Violation { rule, .. }, Self::Violation { rule: of, .. }) => rule == of,
            (Self::Mismatch { step, .. }, Self::Mismatch { step: of, .. }) => step == of,
            (one, other) => one == other,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation { rule, message } => write!(f, "{rule}: {message}"),
            Self::Mismatch { step, got } => write!(f, "mismatch: step {} comes to {got}", step + 1),
            Self::Stop(stop) => f.write_str(stop),
        }
    }
}

/// Something that goes wrong, with the shortest schedule that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// What.
    pub what: What,
    /// Who ran how far until then.
    pub schedule: Recorded,
    /// How often a CPU was preempted in the middle of a step.
    pub preemptions: u32,
    /// How many turns there were.
    pub turns: usize,
    /// Under how many schedules it was found.
    pub times: u64,
}
