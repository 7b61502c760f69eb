//! `lazy-in-user-mode`: a CPU that runs user code is not said to be lazy.

use crate::arch::happened::Happened;
use crate::arch::key::StateKey;
use crate::oracle::About;
use crate::oracle::rule::{Context, Finding, Memory, Rule};

/// About the rule.
pub static ABOUT: About = About {
    name: "lazy-in-user-mode",
    statement: "No CPU enters user mode while its kernel says that it is lazy: the others would \
                leave it out of their flushes.",
    source: "Linux arch/x86/mm/tlb.c, is_lazy and switch_mm_irqs_off",
    violated_by: "lazy-said-wrongly --cpu pcid",
    near_miss: "matrix/free-table/lazy --cpu pcid --policy split",
    hint: "take the word back whenever an address space is loaded, its own or another, before the \
           generation is read",
    is_cost: false,
};

#[derive(Clone)]
struct LazyInUserMode;

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(LazyInUserMode)
}

impl Rule for LazyInUserMode {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn put(&self, _key: &mut StateKey) -> Memory {
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let enters = context.event.happened() == Some(&Happened::UserEntry);
        if !enters || !context.cpu().is_said_to_be_lazy() {
            return Vec::new();
        }
        let cpu = context.event.cpu.0;
        vec![Finding::new(format!("CPU {cpu} enters user mode while its kernel says it is lazy"))]
    }
}
