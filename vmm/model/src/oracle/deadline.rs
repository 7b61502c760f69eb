//! Deadlines: the moments at which something stale must be gone.

use super::replica::{OpenFlush, Replica};
use crate::arch::addr::{CpuId, Gpa};
use crate::arch::happened::Happened;
use crate::arch::tlb::Tag;
use crate::event::{Announcement, Event, Flush, Kind};
use std::fmt;

/// A moment at which something may be due. A rule on stale entries says which obligations are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// A CPU enters user mode.
    UserEntry {
        /// The CPU.
        cpu: CpuId,
    },
    /// A flush returns.
    Returned(OpenFlush),
    /// A CPU acknowledges that it has flushed what another one requested.
    Acknowledged {
        /// The CPU that has flushed.
        by: CpuId,
        /// The flush that the other one is in.
        flush: OpenFlush,
    },
    /// A CR3 load makes a PCID current.
    Current {
        /// The CPU.
        cpu: CpuId,
        /// The PCID.
        tag: Tag,
    },
    /// A frame is given back.
    Freed(Gpa),
    /// What the CPU's tasks so far have changed, they have changed; or the run is over.
    EditsOver {
        /// The CPU; none at the end of the run.
        cpu: Option<CpuId>,
    },
    /// A task is over on a CPU.
    TaskOver {
        /// The CPU.
        cpu: CpuId,
    },
    /// A CPU is done with what it was in the middle of: what its slots claim must hold.
    Claimed {
        /// The CPU.
        cpu: CpuId,
    },
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UserEntry { .. } => "the next entry to user mode",
            Self::Returned(_) => "the return of the primitive that covers it",
            Self::Acknowledged { .. } => "the acknowledgement",
            Self::Current { .. } => "the CR3 load that makes its PCID current",
            Self::Freed(_) => "the moment at which its frame is given back",
            Self::EditsOver { .. } => "the end of the edit's step",
            Self::TaskOver { .. } => "the end of the step in which a CPU that was lazy goes on",
            Self::Claimed { .. } => "the end of what raised the slot's generation",
        })
    }
}

/// The deadlines that an event is, which `replica` has applied.
pub(super) fn deadlines(event: &Event, replica: &Replica) -> Vec<Deadline> {
    let cpu = event.cpu;
    let mut found = Vec::new();
    match event.happened() {
        Some(Happened::UserEntry) => {
            found.extend([Deadline::UserEntry { cpu }, Deadline::Claimed { cpu }]);
        }
        Some(&Happened::LoadCr3 { old, value }) if replica.changes_asid(cpu, old, value) => {
            found.push(Deadline::Current { cpu, tag: Tag::Pcid(replica.cpu(cpu).pcid()) });
        }
        _ => {}
    }
    for announcement in event.announcements() {
        match *announcement {
            Announcement::FlushReturns { id, .. } => {
                found.extend(replica.flush(id).map(Deadline::Returned));
                found.push(Deadline::Claimed { cpu });
            }
            Announcement::Acknowledged { by, to } => {
                let flush = replica.flush_on(to);
                found.extend(flush.map(|flush| Deadline::Acknowledged { by, flush }));
            }
            // What a kernel that runs freely has not flushed, it may be about to.
            Announcement::FrameFreed(frame) if !replica.kernel.runs_freely => {
                found.push(Deadline::Freed(frame));
            }
            Announcement::EditsOver => found.push(Deadline::EditsOver { cpu: Some(cpu) }),
            Announcement::TaskEnds { .. } if !replica.kernel.runs_freely => {
                found.extend([Deadline::TaskOver { cpu }, Deadline::Claimed { cpu }]);
            }
            _ => {}
        }
    }
    if event.kind == Kind::End {
        found.extend([Deadline::EditsOver { cpu: None }, Deadline::Claimed { cpu }]);
    }
    found
}

impl Deadline {
    /// The flush that returns or is acknowledged.
    #[must_use]
    pub fn flush(&self) -> Option<Flush> {
        match self {
            Self::Returned(open) | Self::Acknowledged { flush: open, .. } => Some(open.flush),
            _ => None,
        }
    }
}
