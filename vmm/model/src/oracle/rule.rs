//! What a rule is: it looks at each event with the state after it, and says what is wrong.

use super::deadline::Deadline;
use super::ledger::Ledger;
use super::obligation::{Obligation, ObligationId};
use super::replica::{Replica, ReplicaCpu};
use super::{About, RuleId};
use crate::arch::addr::{CpuId, Gva};
use crate::arch::key::StateKey;
use crate::arch::tlb::{Effect, Entry, Tag};
use crate::event::{Event, TraceHeader};
use dyn_clone::DynClone;

/// What a rule looks at: the event that has just taken effect, and the state after it.
pub struct Context<'a> {
    /// What the trace began with.
    pub header: &'a TraceHeader,
    /// The event.
    pub event: &'a Event,
    /// The deadlines that it is.
    pub deadlines: &'a [Deadline],
    /// Tables, TLBs, registers and announcements after it.
    pub replica: &'a Replica,
    /// The obligations.
    pub ledger: &'a Ledger,
    /// What the event did to the TLB.
    pub effect: &'a Effect,
}

impl Context<'_> {
    /// The CPU that the event is of.
    #[must_use]
    pub fn cpu(&self) -> &ReplicaCpu {
        self.replica.cpu(self.event.cpu)
    }

    /// What is stale on that CPU and no rule has spoken of.
    pub fn open_here(&self) -> impl Iterator<Item = &Obligation> {
        self.ledger.open().filter(|obligation| obligation.cpu == self.event.cpu)
    }

    /// What is open and may be due at a deadline.
    fn at_stake(&self, deadline: &Deadline) -> Box<dyn Iterator<Item = &Obligation> + '_> {
        let under = |cpu, tag| self.ledger.open_under(cpu, tag);
        match *deadline {
            Deadline::UserEntry { cpu } => {
                let pcid = Tag::Pcid(self.replica.cpu(cpu).pcid());
                Box::new(under(cpu, pcid).chain(under(cpu, Tag::Global)))
            }
            Deadline::Current { cpu, tag } => Box::new(under(cpu, tag)),
            Deadline::Returned(open) => {
                Box::new(self.ledger.open_in(&open.flush, self.replica).into_iter())
            }
            _ => Box::new(self.ledger.open()),
        }
    }

    /// Whether what is tagged so may be used on `cpu` as it is now.
    #[must_use]
    pub fn is_usable(&self, cpu: CpuId, tag: Tag) -> bool {
        tag == Tag::Global || tag == Tag::Pcid(self.replica.cpu(cpu).pcid())
    }

    /// Whether what is owed may be used as its CPU is now. One that is lazy, in a kernel that runs freely,
    /// uses no user address before it has been in user mode again, for which it compares generations.
    #[must_use]
    pub fn may_use(&self, owed: &Obligation) -> bool {
        let is_excused = self.replica.kernel.runs_freely
            && !owed.is_of_kernel()
            && self.replica.cpu(owed.cpu).has_yet_to_catch_up();
        self.is_usable(owed.cpu, owed.tag) && !is_excused
    }
}

/// A cached entry as a finding shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its tag.
    pub tag: Tag,
    /// The entry.
    pub entry: Entry,
}

/// An earlier place that a finding names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Because {
    /// The event.
    pub seq: u64,
    /// The instruction there.
    pub rip: Gva,
    /// What happened there.
    pub what: &'static str,
}

/// A rule is violated.
#[derive(Clone, Debug, Default)]
pub struct Finding {
    /// The obligation that was not met, if it is about one.
    pub obligation: Option<ObligationId>,
    /// The entry that should not be there.
    pub held: Option<Held>,
    /// What happened, in one sentence.
    pub message: String,
    /// Where the guest did it, if not at the event itself.
    pub at: Option<(u64, Gva)>,
    /// Until when it had to be met.
    pub deadline: Option<Deadline>,
    /// An earlier place that the finding names.
    pub because: Option<Because>,
}

impl Finding {
    /// One that rests on its message alone.
    #[must_use]
    pub fn new(message: String) -> Self {
        Self { message, ..Self::default() }
    }
}

/// How much of what a rule remembers has been said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// All of it.
    Whole,
    /// It has not said what it remembers.
    Unknown,
}

/// One rule; it sees every event in order.
pub trait Rule: DynClone {
    /// What it says of itself.
    fn about(&self) -> &'static About;
    /// Looks at one event.
    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding>;
    /// Adds all that it remembers of earlier events, by which it may speak of later ones. Where it does
    /// not, no two states that it has seen are taken for the same.
    fn put(&self, _key: &mut StateKey) -> Memory {
        Memory::Unknown
    }
    /// Its id.
    fn id(&self) -> RuleId {
        RuleId(self.about())
    }
}

dyn_clone::clone_trait_object!(Rule);

/// A rule on stale entries: it says which obligations are due at which deadlines.
#[derive(Clone, Copy)]
pub struct StaleRule {
    /// What it says of itself.
    pub about: &'static About,
    /// Whether the obligation must be discharged by this deadline.
    pub owes: fn(&Deadline, &Obligation, &Context<'_>) -> bool,
    /// What is wrong where it is not.
    pub sentence: fn(&Deadline, &Obligation) -> String,
}

impl Rule for StaleRule {
    fn about(&self) -> &'static About {
        self.about
    }

    /// It remembers nothing.
    fn put(&self, _key: &mut StateKey) -> Memory {
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let mut found = Vec::new();
        for deadline in context.deadlines {
            let due = context.at_stake(deadline).filter(|owed| {
                (self.owes)(deadline, owed, context) && owed.does_harm(context.replica)
            });
            found.extend(due.map(|owed| Finding {
                obligation: Some(owed.id),
                deadline: Some(*deadline),
                message: (self.sentence)(deadline, owed),
                ..Finding::default()
            }));
        }
        found
    }
}
