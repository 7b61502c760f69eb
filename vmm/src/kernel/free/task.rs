//! Whose kernel context a CPU is in, where nobody says it: each task of a kernel has a stack of its
//! own there, and so the stack stands for the task.
//!
//! It is looked at where the processor traps, as each change of a table and each flush does. A
//! switch to a task that comes to user mode without a trap on its own stack is not seen: Linux has
//! one there, since it loads the thread's FS base.

use crate::arch::vcpu::{Vcpu, gpr};
use crate::event::TaskId;
use crate::oracle::KERNEL_HALF;
use std::collections::BTreeMap;

/// What a kernel's stack is aligned to, and its size: Linux's THREAD_SIZE on x86-64.
const STACK: u64 = 16 << 10;

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
        // A kernel's entry may have CR3 in RSP, with NOFLUSH at bit 63: that is no address.
        let is_stack = pointer >= KERNEL_HALF.0 && !is_entry_stack(vcpu, pointer);
        if vcpu.cpl != 0 || !is_stack {
            return None;
        }
        let next = TaskId(self.stacks.len());
        // RSP of a stack that is empty is where the next one begins.
        let task = *self.stacks.entry((pointer - 1) / STACK).or_insert(next);
        (self.current.insert(vcpu.id.0, task) != Some(task)).then_some(task)
    }
}

/// Whether it is what the processor switches to by itself, beside the task-state segment: whoever
/// is there has left its task's stack, or has not yet come to it.
fn is_entry_stack(vcpu: &Vcpu, pointer: u64) -> bool {
    /// Where Linux keeps, for each CPU, all stacks that the processor switches to, and that
    /// segment.
    const ENTRY_AREA: u64 = 1 << 20;
    vcpu.tss_limit != 0 && pointer.abs_diff(vcpu.tss_base) < ENTRY_AREA
}
