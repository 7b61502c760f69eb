//! A whole machine at one moment, to go back to: memory by the pages that differ from the booted
//! image, registers with XSAVE state, TLB, census and injector. The projection follows the TLB.

use super::schedule::Scheduler;
use super::{Cpu, Halt, Machine};
use crate::arch::census::Census;
use crate::boot::Delta;
use crate::event::Event;
use crate::executor::ExecutorError;
use crate::inject::Injector;

/// A machine at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    cpus: Vec<Cpu>,
    current: usize,
    schedule: Scheduler,
    census: Census,
    injector: Injector,
    seq: u64,
    traps: u64,
    held: Vec<Event>,
    memory: Delta,
    fpu: Vec<u32>,
}

impl Machine {
    /// The machine as it is now.
    pub(crate) fn snapshot(&mut self) -> Result<Snapshot, ExecutorError> {
        Ok(Snapshot {
            cpus: self.cpus.clone(),
            current: self.current,
            schedule: self.schedule.clone(),
            census: self.census.clone(),
            injector: self.injector.clone(),
            seq: self.seq,
            traps: self.traps,
            held: self.held.clone(),
            memory: self.memory.delta(),
            fpu: self.executor.save_fpu()?,
        })
    }

    /// Goes back to `snapshot`; the pages of memory that had to be written.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot) -> Result<usize, ExecutorError> {
        self.cpus.clone_from(&snapshot.cpus);
        self.current = snapshot.current;
        self.schedule.clone_from(&snapshot.schedule);
        self.census.clone_from(&snapshot.census);
        self.injector.clone_from(&snapshot.injector);
        self.seq = snapshot.seq;
        self.traps = snapshot.traps;
        self.held.clone_from(&snapshot.held);
        self.watched = None;
        self.stepped = 0;
        let written = self.memory.restore(&snapshot.memory);
        self.executor.restore_fpu(&snapshot.fpu)?;
        match self.revalidate_all() {
            Ok(()) | Err(Halt::Stop(_)) => Ok(written),
            Err(Halt::Executor(error)) => Err(error),
        }
    }
}
