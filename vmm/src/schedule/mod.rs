//! Who decides what comes next: schedulers are [`Chooser`]s that also see what happens.

mod hold;
mod kind;
mod recorded;
mod scripted;
mod seeds;

pub use hold::{HOLD_POINTS, Hold, HoldPoint};
pub use kind::Schedule;
pub use recorded::{Recorded, Segment};
pub use scripted::{ScriptItem, Scripted};

use crate::arch::addr::CpuId;
use crate::arch::choice::Chooser;
use crate::event::Event;
use crate::machine::{Access, Watch};

/// A chooser of a whole run. A clone goes on from where it is.
pub trait Scheduler: Chooser + Clone {
    /// An event has happened.
    fn saw(&mut self, event: &Event);
    /// The CPU that may be held right before it accesses a word, and which accesses are meant.
    fn watch(&self) -> Option<Watch>;
    /// A CPU that is watched is about to make an access: whether it is held before that.
    fn holds_before(&mut self, cpu: CpuId, access: &Access<'_>) -> bool;
    /// A CPU that ran over one instruction has moved, or only filled its shadow pages.
    fn stepped(&mut self, cpu: CpuId, moved: bool);
    /// The steps so far whose hold point was never reached, or which found nobody held.
    fn unreached(&self) -> &[usize];
    /// How many times as many traps a step may take as where CPUs run from trap to trap: where they take
    /// turns of some instructions, one that waits traps in each of them.
    fn patience(&self) -> u64 {
        1
    }
}
