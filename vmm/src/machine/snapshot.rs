//! A whole machine at one moment, to go back to: memory by the pages that differ from the booted
//! image, registers with XSAVE state, TLB, census, kernel and interceptor. The shadow pages follow the
//! TLB.

use super::{Cpu, Halt, Interceptor, Kernel, Machine};
use crate::arch::census::Census;
use crate::event::Event;
use crate::executor::ExecutorError;
use crate::memory::Delta;

/// A machine at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot<K, I> {
    cpus: Vec<Cpu>,
    current: usize,
    census: Census,
    kernel: K,
    interceptor: I,
    seq: u64,
    traps: u64,
    instructions: u64,
    held: Vec<Event>,
    memory: Delta,
    fpu: Vec<u32>,
}

impl<K: Kernel, I: Interceptor> Machine<K, I> {
    /// The machine as it is now.
    pub(crate) fn snapshot(&mut self) -> Result<Snapshot<K, I>, ExecutorError> {
        Ok(Snapshot {
            cpus: self.cpus.clone(),
            current: self.current,
            census: self.census.clone(),
            kernel: self.kernel.clone(),
            interceptor: self.interceptor.clone(),
            seq: self.seq,
            traps: self.traps,
            instructions: self.instructions(),
            held: self.held.clone(),
            memory: self.memory.delta(),
            fpu: self.executor.save_fpu()?,
        })
    }

    /// The same where memory is large and little of it is written before the next: what is in it now
    /// becomes what its pages are compared with.
    pub(crate) fn checkpoint(&mut self) -> Result<Snapshot<K, I>, ExecutorError> {
        // What may be written natively is told when it is mapped.
        self.executor.revalidate(&|_| true, &mut |_, _, _| None)?;
        self.memory.set_base();
        self.snapshot()
    }

    /// Goes back to `snapshot`; the pages of memory that had to be written.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot<K, I>) -> Result<usize, ExecutorError> {
        self.cpus.clone_from(&snapshot.cpus);
        self.current = snapshot.current;
        self.census.clone_from(&snapshot.census);
        self.kernel.clone_from(&snapshot.kernel);
        self.interceptor.clone_from(&snapshot.interceptor);
        self.seq = snapshot.seq;
        self.traps = snapshot.traps;
        let counted = self.executor.instructions().unwrap_or(0);
        self.counted = counted.wrapping_sub(snapshot.instructions);
        self.held.clone_from(&snapshot.held);
        self.probed = None;
        self.stepped = 0;
        let written = self.memory.restore(&snapshot.memory);
        self.executor.restore_fpu(&snapshot.fpu)?;
        match self.revalidate_all() {
            Ok(()) | Err(Halt::Stop(_)) => Ok(written),
            Err(Halt::Executor(error)) => Err(error),
        }
    }
}
