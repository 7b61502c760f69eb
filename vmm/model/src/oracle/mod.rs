//! The oracle: judges a run from its events alone, live or recorded.

mod deadline;
mod held;
mod id;
mod key;
mod ledger;
mod obligation;
mod replica;
pub mod rule;
pub mod rules;
mod witness;

pub use deadline::Deadline;
pub use id::{About, RuleId};
pub use ledger::Ledger;
pub use obligation::{
    Cause, Cover, Deferral, Discharger, Downgrade, KERNEL_HALF, Obligation, ObligationId, State,
};
pub use replica::{OpenFlush, Replica, ReplicaCpu, Slot, Space};
pub use rules::big_hammer::BigHammer;
pub use rules::needless_flush::NeedlessFlush;
pub use rules::unowed_entry::self_check;
pub use witness::{Contradiction, Missed, SUPPRESSED, Violation};

use crate::arch::addr::{CpuId, Gpa};
use crate::arch::happened::Happened;
use crate::arch::tlb::Effect;
use crate::event::{Announcement, Event, Flush, KernelAbout, Observer, TaskId, TraceHeader};
use rule::{Context, Rule};
use std::collections::{BTreeSet, VecDeque};
use witness::Invalidation;

/// Judges one run.
#[derive(Clone)]
pub struct Oracle {
    header: Option<TraceHeader>,
    replica: Option<Replica>,
    ledger: Ledger,
    rules: Vec<Box<dyn Rule>>,
    /// Invalidations since the oldest downgrade that is open.
    history: VecDeque<Invalidation>,
    violations: Vec<Violation>,
    hammers: Vec<BigHammer>,
    losses: Vec<(u64, usize)>,
    needless: Vec<NeedlessFlush>,
    /// Violations already reported, so that one that lasts is reported once.
    reported: BTreeSet<(RuleId, String)>,
    disabled: Option<RuleId>,
    /// Of the last event.
    deadlines: Vec<Deadline>,
    /// Rules that were added, as they are before the first event.
    own: Vec<Box<dyn Rule>>,
}

impl Default for Oracle {
    fn default() -> Self {
        Self {
            header: None,
            replica: None,
            ledger: Ledger::default(),
            rules: rules::all(),
            history: VecDeque::new(),
            violations: Vec::new(),
            hammers: Vec::new(),
            losses: Vec::new(),
            needless: Vec::new(),
            reported: BTreeSet::new(),
            disabled: None,
            deadlines: Vec::new(),
            own: Vec::new(),
        }
    }
}

impl Oracle {
    /// The state that the run's first event meets has been shown. What follows may begin with a
    /// clone.
    pub fn ready(&mut self) {
        if let Some(replica) = &mut self.replica {
            replica.start();
        }
    }

    /// Runs without one rule, to see which faults only that rule catches.
    pub fn disable_rule(&mut self, rule: Option<RuleId>) {
        self.disabled = rule;
        self.rules.retain(|known| Some(known.id()) != rule);
    }

    /// Judges by one more rule, from the next trace on. It must have seen no event.
    pub fn add_rule(&mut self, rule: Box<dyn Rule>) {
        self.rules.push(rule.clone());
        self.own.push(rule);
    }

    /// The violations, in order.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// What is known of the kernel by now.
    #[must_use]
    pub fn kernel(&self) -> Option<&KernelAbout> {
        self.replica.as_ref().map(|replica| &replica.kernel)
    }

    /// The obligations and how they stand, in order of their downgrades.
    #[must_use]
    pub fn obligations(&self) -> Vec<&Obligation> {
        self.ledger.obligations()
    }

    /// The obligations of which something is still cached.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The big hammers.
    #[must_use]
    pub fn hammers(&self) -> &[BigHammer] {
        &self.hammers
    }

    /// What was lost: events that removed live entries which no flush under way was of, and how
    /// many. Big hammers are among them, and so are switches.
    #[must_use]
    pub fn losses(&self) -> &[(u64, usize)] {
        &self.losses
    }

    /// The needless flushes.
    #[must_use]
    pub fn needless(&self) -> &[NeedlessFlush] {
        &self.needless
    }

    /// The deadlines that the last event, which was `event`, is.
    #[must_use]
    pub fn deadlines(&self) -> &[Deadline] {
        &self.deadlines
    }

    /// Whether a rule says that an obligation is due at one of the deadlines of the last event, which
    /// was `event`, whether or not a rule has spoken of it already.
    #[must_use]
    pub fn is_due(&self, event: &Event, deadline: &Deadline, owed: &Obligation) -> bool {
        let (Some(header), Some(replica)) = (&self.header, &self.replica) else { return false };
        let context = Context {
            header,
            event,
            deadlines: &self.deadlines,
            replica,
            ledger: &self.ledger,
            effect: &Effect::default(),
        };
        owed.does_harm(replica)
            && rules::on_stale_entries().any(|rule| (rule.owes)(deadline, owed, &context))
    }

    /// The task that `cpu` is in, or was in last, and the flush that it is in the middle of.
    #[must_use]
    pub fn doing(&self, cpu: CpuId) -> (Option<TaskId>, Option<Flush>) {
        let Some(replica) = &self.replica else { return (None, None) };
        (replica.cpu(cpu).task, replica.flush_on(cpu).map(|open| open.flush))
    }

    fn judge(&mut self, header: &TraceHeader, replica: &Replica, event: &Event, effect: &Effect) {
        for rule in &mut self.rules {
            let context = Context {
                header,
                event,
                deadlines: &self.deadlines,
                replica,
                ledger: &self.ledger,
                effect,
            };
            let id = rule.id();
            let found = rule.observe(&context).into_iter().map(|finding| {
                let obligation = finding.obligation;
                (obligation, witness::violation(id, finding, &context, &self.history))
            });
            for (obligation, violation) in found.collect::<Vec<_>>() {
                if let Some(obligation) = obligation {
                    self.ledger.violate(obligation, id, event.seq);
                }
                if self.reported.insert((id, violation.message.clone())) {
                    self.violations.push(violation);
                }
            }
        }
    }

    /// Counts what the event cost.
    fn count(&mut self, event: &Event, replica: &Replica, effect: &Effect, before: &Before) {
        let (big, needless) =
            (RuleId(&rules::big_hammer::ABOUT), RuleId(&rules::needless_flush::ABOUT));
        if self.disabled != Some(big) {
            let hammer = rules::big_hammer::observe(event, replica, effect, before.consuming);
            self.hammers.extend(hammer);
        }
        if self.disabled != Some(needless) && !self.ledger.last_event_flushed_stale() {
            let found = rules::needless_flush::observe(event, replica, effect, before.root);
            self.needless.extend(found);
        }
        let open = replica.works_for(event.cpu);
        let requested = |page| open.is_some_and(|open| open.flush.covers(page));
        let lost = effect.live_lost.iter().filter(|(_, page)| !requested(*page)).count();
        if lost > 0 {
            self.losses.push((event.seq, lost));
        }
    }

    /// Remembers an invalidation for as long as something that it may have missed is open.
    fn remember(&mut self, event: &Event, replica: &Replica) {
        let oldest = self.ledger.open().next().map(|owed| owed.downgrade.seq);
        match oldest {
            None => self.history.clear(),
            Some(oldest) => {
                while self.history.front().is_some_and(|past| past.event.seq <= oldest) {
                    self.history.pop_front();
                }
                if witness::could_invalidate(event) {
                    let pcid = replica.cpu(event.cpu).pcid();
                    self.history.push_back(Invalidation { event: event.clone(), pcid });
                }
            }
        }
    }
}

/// What must be known of the state before an event.
#[derive(Default)]
struct Before {
    /// It loads a user CR3 without NOFLUSH because of a mark.
    consuming: bool,
    /// The root that the PCID had which it makes current.
    root: Option<Gpa>,
}

impl Before {
    fn of(event: &Event, replica: &Replica) -> Self {
        let cpu = replica.cpu(event.cpu);
        match event.happened() {
            Some(&Happened::LoadCr3 { value, .. }) => {
                Self { consuming: cpu.is_consuming(value), root: cpu.root_under(value) }
            }
            _ => Self::default(),
        }
    }
}

impl Observer for Oracle {
    fn begin(&mut self, header: &TraceHeader) {
        let own = std::mem::take(&mut self.own);
        let disabled = self.disabled;
        *self = Self::default();
        own.into_iter().for_each(|rule| self.add_rule(rule));
        self.disable_rule(disabled);
        self.replica = Some(Replica::new(header));
        self.header = Some(header.clone());
    }

    fn event(&mut self, event: &Event) {
        let (Some(header), Some(mut replica)) = (self.header.take(), self.replica.take()) else {
            return;
        };
        let before = Before::of(event, &replica);
        let effect = replica.apply(event);
        self.ledger.apply(event, &replica, &before);
        self.deadlines = deadline::deadlines(event, &replica);
        self.remember(event, &replica);
        self.judge(&header, &replica, event, &effect);
        for announcement in event.announcements() {
            if let Announcement::FlushReturns { id, .. } = announcement
                && let Some(open) = replica.flush(*id)
            {
                self.ledger.returned(&open, &replica);
            }
        }
        self.count(event, &replica, &effect, &before);
        replica.judged(event);
        self.header = Some(header);
        self.replica = Some(replica);
    }
}
