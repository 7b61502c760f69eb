//! Stacks at moments that somebody knows beforehand: when so many instructions have completed.

use super::unwind::{Stack, Unwinder};
use crate::arch::addr::Gva;
use crate::arch::vcpu::Vcpu;
use crate::memory::GuestMemory;
use std::collections::{BTreeMap, BTreeSet};

/// Who looks.
#[derive(Clone, Debug)]
pub(super) struct Look {
    unwinder: Unwinder,
    wanted: BTreeSet<u64>,
    taken: BTreeMap<(u64, Gva), Stack>,
    /// A CPU as it was at the last trap.
    last: Option<Box<Vcpu>>,
}

impl Look {
    /// At traps at which so many instructions have completed.
    pub(super) fn new(unwinder: Unwinder, wanted: BTreeSet<u64>) -> Self {
        Self { unwinder, wanted, taken: BTreeMap::new(), last: None }
    }

    /// `vcpu` traps.
    pub(super) fn at_trap(&mut self, vcpu: &Vcpu, memory: &GuestMemory, instructions: u64) {
        match &mut self.last {
            Some(last) => last.as_mut().clone_from(vcpu),
            None => self.last = Some(Box::new(vcpu.clone())),
        }
        if self.wanted.contains(&instructions) {
            let key = (instructions, vcpu.rip());
            self.taken.entry(key).or_insert_with(|| self.unwinder.stack(vcpu, memory));
        }
    }

    /// The stack at an instruction, once so many had completed.
    pub(super) fn taken(&self, instructions: u64, rip: Gva) -> Option<&Stack> {
        self.taken.get(&(instructions, rip))
    }

    /// The stack at the last trap.
    pub(super) fn last(&self, memory: &GuestMemory) -> Option<Stack> {
        self.last.as_ref().map(|vcpu| self.unwinder.stack(vcpu, memory))
    }
}
