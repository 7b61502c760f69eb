//! `never-flushed`: somebody asks for the flush.

use crate::arch::addr::CpuId;
use crate::arch::tlb::Tag;
use crate::event::{Kind, StepClass};
use crate::oracle::ledger::Obligation;
use crate::oracle::rule::{About, Context, Finding, Rule, RuleId};
use stalemate_shared::pcid::USER_PCID_BIT;

/// About the rule.
pub const ABOUT: About = About {
    id: RuleId::NeverFlushed,
    name: "never-flushed",
    statement: "A downgrade that no primitive covers, and that no mark defers, is flushed by the end of its step or before its frame is freed. An edit's step \
                lasts until the first step that is neither an edit nor a flush.",
    source: "SDM vol. 3, 4.10.5: the old frame must not be reused before the flush",
    violated_by: "forgotten-flush --cpu pcid --policy split",
    near_miss: "batched-unmap --cpu pcid --policy split",
    hint: "call a primitive whose range covers the page after the store, in the same \
           step; or announce the flush as deferred and do it before the frame is freed",
    is_cost: false,
};

/// A mark says that the user PCID is flushed when it is next loaded: a flush that is deferred.
fn is_marked(cpu: CpuId, tag: Tag, context: &Context<'_>) -> bool {
    match tag {
        Tag::Pcid(pcid) if pcid.is_user() => {
            context.shadow.cpu(cpu).marks() >> (pcid.value() & !USER_PCID_BIT as u16) & 1 != 0
        }
        _ => false,
    }
}

/// Some CPU is in the middle of a primitive that must discharge it.
fn is_under_way(obligation: &Obligation, context: &Context<'_>) -> bool {
    context.shadow.numbered().any(|(cpu, state)| {
        let primitive = state.primitive();
        primitive.is_some_and(|(since, primitive)| obligation.is_asked_of(cpu, since, &primitive))
    })
}

/// The rule.
#[derive(Clone)]
pub struct NeverFlushed;

impl Rule for NeverFlushed {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }

    fn id(&self) -> RuleId {
        ABOUT.id
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let frame = match context.event.kind {
            Kind::StepBegin { class: StepClass::Other, .. } | Kind::End => None,
            Kind::FrameFreed { frame } => Some(frame),
            _ => return Vec::new(),
        };
        let at_end = context.event.kind == Kind::End;
        let concerned = |held: Option<&crate::arch::tlb::Entry>| match (frame, held) {
            (None, _) => true,
            (Some(frame), Some(entry)) => entry.translation.frame == frame,
            (Some(_), None) => false,
        };
        context
            .ledger
            .open()
            .filter(|(_, obligation)| obligation.covered.is_none())
            // What was announced as deferred may stay until the frame goes; and another CPU may
            // still be between its edit and its flush.
            .filter(|(_, obligation)| frame.is_some() || !obligation.waits() || at_end)
            .filter(|(_, obligation)| {
                frame.is_some() || at_end || obligation.downgrade.cpu == context.event.cpu
            })
            .filter(|(_, obligation)| {
                frame.is_some() || !is_marked(obligation.cpu, obligation.tag, context)
            })
            // A primitive that waits for ever is a hang.
            .filter(|(_, obligation)| frame.is_some() || !is_under_way(obligation, context))
            .filter(|(_, obligation)| concerned(obligation.entry.as_ref()))
            .map(|(number, obligation)| Finding {
                obligation: Some(number),
                message: format!(
                    "nobody has asked for a flush of {}, and {} still holds it",
                    obligation.page, obligation.tag
                ),
                ..Finding::default()
            })
            .collect()
    }
}
