//! Instructions before which whoever drives a kernel wants it back.

use super::session::{Checkpoint, End, Free};
use crate::arch::addr::Gva;
use crate::arch::core::Memory;
use crate::arch::vcpu::Vcpu;
use crate::arch::walk::{Start, Translation, walk};
use crate::executor::ExecutorError;
use crate::machine::Director;
use std::collections::BTreeSet;

const PAGE: u64 = 4096;

/// Some instructions.
#[derive(Clone, Debug, Default)]
pub(super) struct Stops {
    at: BTreeSet<Gva>,
    is_at_one: bool,
}

impl Stops {
    /// The instruction at `rip` is next.
    pub(super) fn reached(&mut self, rip: Gva) {
        self.is_at_one |= self.at.contains(&rip);
    }

    pub(super) fn is_at_one(&self) -> bool {
        self.is_at_one
    }
}

impl Free {
    /// [`Free::advance`] comes back from now on when one of these is next, if not before.
    pub(crate) fn stop_at(&mut self, at: &BTreeSet<Gva>) {
        self.machine.kernel.stops = Stops { at: at.clone(), is_at_one: false };
        at.iter().for_each(|&at| self.machine.executor.set_breakpoint(at));
    }

    /// Runs one instruction, or carries out the trap that it is.
    ///
    /// # Errors
    /// When the host fails.
    pub(crate) fn step(
        &mut self,
        director: &mut dyn Director,
        console: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<Option<End>, ExecutorError> {
        self.advance_by(director, console, true)
    }

    /// Traps so far.
    pub(crate) fn traps(&self) -> u64 {
        self.machine.traps
    }

    /// The CPU that runs.
    pub(crate) fn vcpu(&self) -> &Vcpu {
        self.machine.vcpu()
    }

    /// Where the page tables lead from an address now; none where nowhere.
    pub(crate) fn walked(&self, va: Gva) -> Option<Translation> {
        let vcpu = self.machine.vcpu();
        walk(&self.machine.memory, Start::root(vcpu.root()), va, vcpu.paging()).result.ok()
    }

    /// Where the TLB of the CPU that runs leads from an address, under its PCID.
    pub(crate) fn cached(&self, va: Gva) -> Option<Translation> {
        let cpu = &self.machine.cpus[self.machine.current()];
        cpu.tlb.peek(&self.machine.memory, cpu.vcpu.pcid(), va.page())
    }

    /// Reads what the CPU that runs would read: through what is cached, where something is, else through
    /// its tables. How many bytes there were, up to a page that is not mapped.
    pub(crate) fn read(&self, va: Gva, data: &mut [u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            let at = Gva(va.0.wrapping_add(done as u64));
            let length = (PAGE - at.0 % PAGE).min((data.len() - done) as u64) as usize;
            let Some(found) = self.cached(at).or_else(|| self.walked(at)) else { break };
            if !self.machine.memory.read(found.at(at), &mut data[done..done + length]) {
                break;
            }
            done += length;
        }
        done
    }

    /// The kernel as it is now, to go back to, besides the last checkpoint.
    ///
    /// # Errors
    /// When the host fails.
    pub(crate) fn snapshot(&mut self) -> Result<Checkpoint, ExecutorError> {
        Ok(Checkpoint { machine: self.machine.snapshot()?, user_mode: self.user_mode })
    }
}
