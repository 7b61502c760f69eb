//! Whose kernel context a CPU is in, where nobody says it: each task of a kernel has a stack of its own
//! there, and so the stack stands for the task.

use crate::arch::vcpu::{Vcpu, gpr};
use crate::event::TaskId;
use std::collections::BTreeMap;

/// What a kernel's stack is aligned to, and its size: Linux's THREAD_SIZE on x86-64.
const STACK: u64 = 16 << 10;
/// The half of the address space that kernels are in.
const KERNEL_HALF: u64 = 1 << 63;

/// The tasks that have been seen, numbered as they come, and the one that each CPU is in.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    stacks: BTreeMap<u64, TaskId>,
    current: BTreeMap<u8, TaskId>,
}

impl Tasks {
    /// The task that a trap of `vcpu` is in, if it is another than at the last.
    pub(super) fn at_trap(&mut self, vcpu: &Vcpu) -> Option<TaskId> {
        let pointer = vcpu.gpr[gpr::RSP];
        if vcpu.cpl != 0 || pointer < KERNEL_HALF || is_entry_stack(vcpu, pointer) {
            return None;
        }
        let next = TaskId(self.stacks.len());
        let task = *self.stacks.entry(pointer / STACK).or_insert(next);
        (self.current.insert(vcpu.id.0, task) != Some(task)).then_some(task)
    }
}

/// Whether it is what the processor switches to by itself, beside the task-state segment: whoever is
/// there has left its task's stack, or has not yet come to it.
fn is_entry_stack(vcpu: &Vcpu, pointer: u64) -> bool {
    /// Where Linux keeps, for each CPU, all stacks that the processor switches to, and that segment.
    const ENTRY_AREA: u64 = 1 << 20;
    vcpu.tss_limit != 0 && pointer.abs_diff(vcpu.tss_base) < ENTRY_AREA
}
