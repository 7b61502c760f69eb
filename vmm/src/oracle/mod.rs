//! The oracle: judges a run from its events alone, live or recorded.

mod ledger;
pub mod rule;
pub mod rules;
mod shadow;
#[cfg(test)]
mod shadow_test;
mod witness;

pub use ledger::{Cover, Discharger, Downgrade, Ledger, Obligation, State};
pub use rule::{About, RULES, RuleId};
pub use rules::big_hammer::BigHammer;
pub use rules::needless_flush::NeedlessFlush;
pub use shadow::Shadow;
pub use witness::{Contradiction, Missed, Violation, marked};

use crate::arch::addr::CpuId;
use crate::arch::tlb::{Effect, Tag};
use crate::event::{Event, Kind, Observer, Primitive, TraceHeader};
use rule::{Context, Finding, Rule};
use stalemate_shared::tlb_state::USER_PCID_FLUSH_MASK;
use std::collections::BTreeSet;
use witness::Invalidation;

/// Judges one run.
#[derive(Clone)]
pub struct Oracle {
    header: Option<TraceHeader>,
    shadow: Option<Shadow>,
    ledger: Ledger,
    rules: Vec<Box<dyn Rule>>,
    history: Vec<Invalidation>,
    violations: Vec<Violation>,
    hammers: Vec<BigHammer>,
    losses: Vec<(u64, usize)>,
    needless: Vec<NeedlessFlush>,
    told: BTreeSet<(RuleId, String)>,
    left_out: Option<RuleId>,
    changed_asid: bool,
    /// Rules that were added, as they are before the first event.
    own: Vec<Box<dyn Rule>>,
}

impl Default for Oracle {
    fn default() -> Self {
        Self {
            header: None,
            shadow: None,
            ledger: Ledger::default(),
            rules: rule::all(),
            history: Vec::new(),
            violations: Vec::new(),
            hammers: Vec::new(),
            losses: Vec::new(),
            needless: Vec::new(),
            told: BTreeSet::new(),
            left_out: None,
            changed_asid: false,
            own: Vec::new(),
        }
    }
}

impl Oracle {
    /// The state that the run's first event meets has been told. What follows may begin with a
    /// clone.
    pub fn ready(&mut self) {
        if let Some(shadow) = &mut self.shadow {
            shadow.start();
        }
    }

    /// Goes without a rule, if one is named: what would be missed?
    pub fn leave_out(&mut self, rule: Option<RuleId>) {
        self.left_out = rule;
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

    /// The obligations and how they stand.
    #[must_use]
    pub fn obligations(&self) -> &[Obligation] {
        self.ledger.obligations()
    }

    /// The big hammers.
    #[must_use]
    pub fn hammers(&self) -> &[BigHammer] {
        &self.hammers
    }

    /// What was lost: events that removed live entries which no primitive under way was asked
    /// for, and how many. Big hammers are among them, and so are switches.
    #[must_use]
    pub fn losses(&self) -> &[(u64, usize)] {
        &self.losses
    }

    /// Whether the last event was a CR3 load, and a deadline of what the PCID holds that it makes
    /// current.
    #[must_use]
    pub fn changed_asid(&self) -> bool {
        self.changed_asid
    }

    /// Whether `cpu` runs a kernel thread on an address space that is not its own.
    #[must_use]
    pub fn is_lazy(&self, cpu: CpuId) -> bool {
        self.shadow.as_ref().is_some_and(|shadow| shadow.cpu(cpu).is_lazy())
    }

    /// The tag of the PCID that is current on `cpu`.
    #[must_use]
    pub fn current(&self, cpu: CpuId) -> Option<Tag> {
        self.shadow.as_ref().map(|shadow| Tag::Pcid(shadow.cpu(cpu).pcid()))
    }

    /// The step that `cpu` is in, or was in last, and the primitive that it is in the middle of.
    #[must_use]
    pub fn doing(&self, cpu: CpuId) -> (Option<usize>, Option<Primitive>) {
        let state = self.shadow.as_ref().map(|shadow| shadow.cpu(cpu));
        let primitive = state.and_then(|state| state.primitive());
        (state.and_then(|state| state.step), primitive.map(|(_, primitive)| primitive))
    }

    /// The needless flushes.
    #[must_use]
    pub fn needless(&self) -> &[NeedlessFlush] {
        &self.needless
    }

    fn judge(
        &mut self,
        header: &TraceHeader,
        shadow: &Shadow,
        event: &Event,
        effect: &Effect,
        ended: Option<(u64, Primitive)>,
    ) {
        for rule in &mut self.rules {
            let context = Context { header, event, shadow, ledger: &self.ledger, effect, ended };
            let id = rule.id();
            let witnessed = |finding: Finding| {
                let number = finding.obligation;
                let obligation = number.and_then(|number| self.ledger.obligations().get(number));
                (number, witness::violation(id, finding, &context, obligation, &self.history))
            };
            let found: Vec<_> = rule.observe(&context).into_iter().map(witnessed).collect();
            for (number, violation) in found {
                if let Some(number) = number {
                    self.ledger.violate(number, id, event.seq);
                }
                // A leak that lasts is told once.
                if self.told.insert((id, violation.message.clone())) {
                    self.violations.push(violation);
                }
            }
        }
    }
}

impl Observer for Oracle {
    fn begin(&mut self, header: &TraceHeader) {
        let own = std::mem::take(&mut self.own);
        let left_out = self.left_out;
        *self = Self::default();
        own.into_iter().for_each(|rule| self.add_rule(rule));
        self.leave_out(left_out);
        self.shadow = Some(Shadow::new(header));
        self.header = Some(header.clone());
    }

    fn event(&mut self, event: &Event) {
        let (Some(header), Some(mut shadow)) = (self.header.take(), self.shadow.take()) else {
            return;
        };
        let consuming = match event.kind {
            Kind::LoadCr3 { value, .. } => shadow.cpu(event.cpu).is_consuming(value),
            _ => false,
        };
        let ended = match event.kind {
            Kind::PrimitiveEnd(_) => shadow.cpu(event.cpu).primitive(),
            _ => None,
        };
        let root_before = match event.kind {
            Kind::LoadCr3 { value, .. } => shadow.cpu(event.cpu).root_under(value),
            _ => None,
        };
        let effect = shadow.apply(event);
        self.ledger.apply(event, &shadow, consuming);
        if could_invalidate(&event.kind) {
            let pcid = shadow.cpu(event.cpu).pcid();
            self.history.push(Invalidation { event: event.clone(), pcid });
        }
        self.judge(&header, &shadow, event, &effect, ended);
        if let Some((since, primitive)) = ended {
            let cover = Cover { primitive, step: shadow.step() };
            self.ledger.returned(event.cpu, since, cover);
        }
        let context = Context {
            header: &header,
            event,
            shadow: &shadow,
            ledger: &self.ledger,
            effect: &effect,
            ended,
        };
        if self.left_out != Some(RuleId::BigHammer) {
            self.hammers.extend(rules::big_hammer::observe(&context, consuming));
        }
        if self.left_out != Some(RuleId::NeedlessFlush) {
            self.needless.extend(rules::needless_flush::observe(&context, root_before));
        }
        let primitive = shadow.works_for(event.cpu);
        let asked = |page| primitive.is_some_and(|(_, primitive)| primitive.covers(page));
        let lost = effect.live_lost.iter().filter(|(_, page)| !asked(*page)).count();
        if lost > 0 {
            self.losses.push((event.seq, lost));
        }
        self.changed_asid = false;
        if let Kind::LoadCr3 { old, value } = event.kind {
            self.changed_asid = shadow.changes_asid(header.pti, event.cpu, old, value);
            shadow.cpu_mut(event.cpu).loaded(value);
        }
        self.header = Some(header);
        self.shadow = Some(shadow);
    }
}

fn could_invalidate(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Invlpg { .. }
            | Kind::InvlpgKeptGlobals { .. }
            | Kind::Invpcid { .. }
            | Kind::LoadCr3 { .. }
            | Kind::WriteCr4 { .. }
            | Kind::PageFault { .. }
            | Kind::Withheld { .. }
            | Kind::StateStore { offset: USER_PCID_FLUSH_MASK, .. }
    )
}
