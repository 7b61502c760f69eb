//! `cr3-pairing`: the user PCID goes with the user root.

use crate::arch::happened::Happened;
use crate::arch::key::StateKey;
use crate::oracle::About;
use crate::oracle::rule::{Context, Finding, Memory, Rule};

/// About the rule.
pub static ABOUT: About = About {
    name: "cr3-pairing",
    statement: "With PCID and PTI on, bits 11 and 12 of CR3 agree at every load; without PTI bit 11, \
                which tells user PCIDs, is never set.",
    source: "Linux calling.h, ADJUST_KERNEL_CR3 and SWITCH_TO_USER_CR3 (8a09317b895f)",
    violated_by: "mark-consumed --cpu pcid --policy split --inject \"alter pcid@return#1\"",
    near_miss: "mark-consumed --cpu pcid --policy split --inject \"clear noflush@return\"",
    hint: "make the user CR3 from the kernel CR3 by setting bits 11 and 12 together, and \
           clear both together on entry",
    is_cost: false,
};

#[derive(Clone)]
struct Cr3Pairing;

/// The rule.
pub(super) fn rule() -> Box<dyn Rule> {
    Box::new(Cr3Pairing)
}

impl Rule for Cr3Pairing {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn put(&self, _key: &mut StateKey) -> Memory {
        Memory::Whole
    }

    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
        let Some(&Happened::LoadCr3 { value, .. }) = context.event.happened() else {
            return Vec::new();
        };
        let kernel = &context.replica.kernel;
        let Some(pairing) = kernel.pairing.filter(|_| context.cpu().paging().pcide) else {
            return Vec::new();
        };
        let (user_pcid, user_root) = (pairing.is_user_pcid(value), pairing.is_user_root(value));
        let message = match kernel.isolated {
            false if user_pcid => {
                format!("CR3 load {value:#x} has a user PCID, and there is no PTI")
            }
            true if user_pcid != user_root => {
                let half = |user: bool| if user { "user" } else { "kernel" };
                let (root, pcid) = (half(user_root), half(user_pcid));
                format!("CR3 load {value:#x} pairs the {root} root with a {pcid} PCID")
            }
            _ => return Vec::new(),
        };
        vec![Finding::new(message)]
    }
}
