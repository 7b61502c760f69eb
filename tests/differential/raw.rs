//! Any bytes as code, on the interpreter alone: it traps or goes on, and harms nothing.

use crate::rig::{PAGE, PAGES, Side, State};
use stalemate::executor::Trap;

/// Instructions without a trap.
const LIMIT: u64 = 1000;

/// An interpreter that is given bytes.
pub struct Raw {
    pub side: Side,
    state: State,
}

impl Raw {
    pub fn new() -> Self {
        let backend = stalemate::executor::Backend::Interp { limit: LIMIT, flaw: None };
        Self { side: Side::new(&backend), state: State::zero() }
    }

    /// Starts over.
    pub fn load(&mut self, state: State) {
        self.state = state;
        self.side.load(&self.state);
    }

    /// Runs `code` at `at` from the registers that the run before left.
    ///
    /// # Panics
    /// When the state after it is none that a processor can have.
    pub fn run(&mut self, at: u64, code: &[u8]) -> Trap {
        self.side.put(at, code);
        self.state.put(at, code);
        let fixed = self.side.vcpu.rflags & !0xcd5;
        self.side.vcpu.rip = at;
        let trap = self.side.run();
        assert_eq!(self.side.vcpu.rflags & !0xcd5, fixed, "flags that nothing here may change");
        trap
    }

    /// Checks that nothing was written but what is writable.
    pub fn check(&mut self) {
        let mut memory = Vec::new();
        self.side.read(&mut memory);
        let pages = PAGES.iter().zip(memory.chunks(PAGE as usize));
        for ((page, now), was) in pages.zip(self.state.memory.chunks(PAGE as usize)) {
            assert!(page.writable || now == was, "the page at {:#x} was written", page.at);
        }
    }
}
