//! `loaded-mm`: CR3 holds the address space that `TlbState` says is loaded.

use crate::arch::key::StateKey;
use crate::event::Announcement;
use crate::oracle::About;
use crate::oracle::rule::{Context, Finding, Memory, Rule};

/// About the rule.
pub static ABOUT: About = About {
    name: "loaded-mm",
    statement: "When `loaded_mm` is set to an address space, CR3 holds its root.",
    source: "invariant S1 of the protocol; Linux switch_mm_irqs_off, which checks it in debug builds",
    violated_by: "two-spaces --cpu pcid --policy split --inject \"drop cr3@switch#1\"",
    near_miss: "two-spaces --cpu pcid --policy split --inject \"repeat cr3@switch#1\"",
    hint: "hold the marker of a switch in `loaded_mm` until CR3 holds the new root, and set it \
           after that",
    is_cost: false,
};

#[derive(Clone)]
struct LoadedMm;

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(LoadedMm)
}

impl Rule for LoadedMm {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn put(&self, _key: &mut StateKey) -> Memory {
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let said = context.event.announcements().iter();
        said.filter_map(|announcement| disagreement(announcement, context)).collect()
    }
}

fn disagreement(announcement: &Announcement, context: &Context<'_>) -> Option<Finding> {
    let Announcement::Loaded { cpu, space: Some(space) } = *announcement else { return None };
    let replica = context.replica;
    let root = replica.space(space)?.root;
    let held = replica.kernel.kernel_root(replica.cpu(cpu).root());
    (root != held).then(|| {
        Finding::new(format!(
            "loaded_mm of CPU {} is set to context {}, whose root is {root}, while CR3 holds root \
             {held}",
            cpu.0, space.0
        ))
    })
}
