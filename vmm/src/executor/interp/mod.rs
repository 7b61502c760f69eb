//! The `interp` executor: unprivileged x86-64 code, interpreted. The same traps at the same
//! instructions as on a processor, with no KVM at all.

mod access;
mod code;
mod decode;
mod engine;
mod flags;
mod memory;
mod ops;
mod run;
mod supported;
mod uop;
mod xmm;

pub use supported::is_supported;

use super::{Executor, ExecutorError, HostExit, Leaf, Sharing, Space, Trap};
use crate::arch::addr::Gva;
use crate::arch::vcpu::Vcpu;
use crate::memory::GuestMemory;
use code::CodeCache;
use engine::Engine;
use memory::DataMemory;
use std::time::{Duration, Instant};

/// Something that the interpreter gets wrong on purpose, so that a test can be seen to notice.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// ADC adds no carry.
    CarryOfAdc,
    /// A 32-bit MOV between registers leaves the upper half of its destination.
    OperandSizeOfMov,
    /// BTS of a register sets nothing.
    BitOfBts,
    /// An instruction that it does not know breaks it, as a host's virtual machine may break.
    Breaks,
    /// An instruction that it does not know is its failure, as a host's system call may fail.
    Fails,
}

/// An interpreter of unprivileged code.
#[derive(Debug)]
pub struct InterpExecutor {
    engine: Engine,
    code: CodeCache,
    limit: u64,
    instructions: u64,
    time: Duration,
}

impl InterpExecutor {
    /// An interpreter on this guest-physical memory, which gives each run `limit` instructions.
    #[must_use]
    pub fn new(memory: &GuestMemory, limit: u64) -> Self {
        Self {
            engine: Engine::new(DataMemory::new(memory)),
            code: CodeCache::new(),
            limit,
            instructions: 0,
            time: Duration::ZERO,
        }
    }

    /// Makes the interpreter wrong, or right again.
    #[doc(hidden)]
    pub fn set_flaw(&mut self, flaw: Option<Flaw>) {
        self.code = CodeCache::new();
        self.code.flaw = flaw;
    }

    /// An interpreter for single instructions, which keeps no decoded code: whoever else writes memory
    /// need not say so.
    #[cfg(feature = "kvm")]
    pub(super) fn for_single_steps(memory: &GuestMemory) -> Self {
        let mut executor = Self::new(memory, 1);
        executor.code.longest_block = 1;
        executor
    }

    /// Drops decoded code.
    #[cfg(feature = "kvm")]
    pub(super) fn forget_code(&mut self) {
        self.code.drop_all(&mut self.engine.memory);
    }

    fn run_for(&mut self, vcpu: &mut Vcpu, limit: u64) -> Result<Option<Trap>, ExecutorError> {
        let space = Space::of(vcpu);
        self.engine.memory.enter(space);
        self.engine.load(vcpu);
        if self.engine.memory.code_written() {
            self.code.drop_written(&mut self.engine.memory);
        }
        let start = Instant::now();
        let mut trap = run::run(&mut self.engine, &mut self.code, limit);
        match self.code.flaw {
            Some(Flaw::Breaks) if trap == Some(Trap::Unsupported) => {
                trap = Some(Trap::Broken { exit: HostExit::Shutdown, rip: vcpu.rip });
            }
            Some(Flaw::Fails) if trap == Some(Trap::Unsupported) => {
                let source = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
                return Err(ExecutorError::Host { what: "interpreting", source });
            }
            _ => {}
        }
        self.time += start.elapsed();
        self.engine.store(vcpu);
        self.instructions += self.engine.retired;
        if trap != Some(Trap::Breakpoint) && self.engine.retired > 0 {
            self.engine.reported = None;
        }
        Ok(trap)
    }
}

impl Executor for InterpExecutor {
    fn run(&mut self, vcpu: &mut Vcpu) -> Result<Trap, ExecutorError> {
        let trap = self.run_for(vcpu, self.limit)?;
        Ok(trap.unwrap_or(Trap::InstructionLimit { instructions: self.limit }))
    }

    fn set_limit(&mut self, instructions: u64) {
        self.limit = instructions;
    }

    fn set_breakpoint(&mut self, at: Gva) {
        self.code.set_breakpoint(&mut self.engine.memory, at.0);
    }

    fn share(&mut self, sharing: Option<Box<Sharing>>) -> Option<Box<Sharing>> {
        self.engine.memory.share(sharing)
    }

    fn sharing(&mut self) -> Option<&mut Sharing> {
        self.engine.memory.sharing()
    }

    fn step(&mut self, vcpu: &mut Vcpu) -> Result<Option<Trap>, ExecutorError> {
        let trap = self.run_for(vcpu, 1)?;
        Ok(trap.filter(|trap| *trap != Trap::Visible))
    }

    fn step_store(
        &mut self,
        vcpu: &mut Vcpu,
        _vector_state: bool,
    ) -> Result<Option<Trap>, ExecutorError> {
        let before = self.instructions;
        let stepped = self.step(vcpu);
        self.instructions = before;
        stepped
    }

    fn map_for_store(&mut self, space: Space, page: Gva, leaf: Leaf) -> Result<(), ExecutorError> {
        self.map(space, page, leaf)
    }

    fn store_leaf(&self, space: Space, page: Gva) -> Option<Leaf> {
        self.leaf(space, page)
    }

    fn map(&mut self, space: Space, page: Gva, leaf: Leaf) -> Result<(), ExecutorError> {
        self.engine.memory.map(space, page, leaf)
    }

    fn leaf(&self, space: Space, page: Gva) -> Option<Leaf> {
        self.engine.memory.leaf(space, page)
    }

    fn revalidate(
        &mut self,
        select: &dyn Fn(Space) -> bool,
        keep: &mut dyn FnMut(Space, Gva, Leaf) -> Option<Leaf>,
    ) -> Result<(), ExecutorError> {
        self.engine.memory.revalidate(select, None, keep);
        Ok(())
    }

    fn revalidate_page(
        &mut self,
        select: &dyn Fn(Space) -> bool,
        page: Gva,
        keep: &mut dyn FnMut(Space, Gva, Leaf) -> Option<Leaf>,
    ) -> Result<(), ExecutorError> {
        self.engine.memory.revalidate(select, Some(page), keep);
        Ok(())
    }

    fn instructions(&self) -> Option<u64> {
        Some(self.instructions)
    }

    fn time_running(&self) -> Duration {
        self.time
    }

    fn save_fpu(&mut self) -> Result<Vec<u32>, ExecutorError> {
        Ok(self.engine.fpu.save_state())
    }

    fn restore_fpu(&mut self, image: &[u32]) -> Result<(), ExecutorError> {
        self.engine.fpu.restore_state(image);
        // Another state runs now.
        self.engine.reported = None;
        Ok(())
    }
}
