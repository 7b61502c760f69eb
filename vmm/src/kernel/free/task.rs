//! Whose kernel context a CPU is in. Where a profile says where the current task is, that is read.
//! Else each task of a kernel has a stack of its own there, and so the stack stands for the task.
//!
//! It is looked at where the processor traps, as each change of a table and each flush does. A
//! switch to a task that comes to user mode without a trap on its own stack is not seen: Linux has
//! one there, since it loads the thread's FS base.

use super::percpu::PerCpu;
use crate::arch::addr::{CpuId, Gva};
use crate::arch::vcpu::{Vcpu, gpr};
use crate::event::TaskId;
use crate::memory::GuestMemory;
use crate::oracle::KERNEL_HALF;
use std::collections::BTreeMap;

/// What a kernel's stack is aligned to, and its size: Linux's THREAD_SIZE on x86-64.
const STACK: u64 = 16 << 10;

/// The tasks that have been seen, numbered as they come, and the one that each CPU is in.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    /// By stack, or by what the kernel keeps of each.
    known: BTreeMap<u64, TaskId>,
    current: BTreeMap<u8, TaskId>,
    /// Where each CPU's current one is.
    place: Option<PerCpu>,
}

impl Tasks {
    pub(super) fn new(place: Option<PerCpu>) -> Self {
        Self { place, ..Self::default() }
    }

    /// The task that a CPU was in last.
    pub(super) fn of(&self, cpu: CpuId) -> Option<TaskId> {
        self.current.get(&cpu.0).copied()
    }

    /// The task that a trap of `vcpu` is in, if it is another than at the last.
    pub(super) fn at_trap(&mut self, vcpu: &Vcpu, memory: &GuestMemory) -> Option<TaskId> {
        let key = match &mut self.place {
            Some(place) => place.read(vcpu, memory).filter(|&task| Gva(task).is_kernel()),
            None => Self::stack(vcpu),
        }?;
        let next = TaskId(self.known.len());
        let task = *self.known.entry(key).or_insert(next);
        (self.current.insert(vcpu.id.0, task) != Some(task)).then_some(task)
    }

    /// The number of the stack that a CPU is on.
    fn stack(vcpu: &Vcpu) -> Option<u64> {
        let pointer = vcpu.gpr[gpr::RSP];
        // A kernel's entry may have CR3 in RSP, with NOFLUSH at bit 63: that is no address.
        let is_stack = pointer >= KERNEL_HALF.0 && !is_entry_stack(vcpu, pointer);
        // RSP of a stack that is empty is where the next one begins.
        (vcpu.cpl == 0 && is_stack).then(|| (pointer - 1) / STACK)
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
