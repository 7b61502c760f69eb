//! Where CPUs are held back, by what they do.

use crate::fuzz::action::Verb;
use crate::schedule::HoldPoint;

/// Where a CPU is on its way to an address space, or to user mode.
const OF_SWITCHES: [HoldPoint; 10] = [
    HoldPoint::Start,
    HoldPoint::Instruction,
    HoldPoint::Switching,
    HoldPoint::Cr3,
    HoldPoint::LoadedMm,
    HoldPoint::CpuMask,
    HoldPoint::Slot,
    HoldPoint::Consume,
    HoldPoint::Interrupt,
    HoldPoint::User,
];
/// Where it is in an edit that flushes nothing.
const OF_EDITS: [HoldPoint; 3] = [HoldPoint::Start, HoldPoint::Instruction, HoldPoint::TableStore];
/// Where it is in a flush.
const OF_FLUSHES: [HoldPoint; 11] = [
    HoldPoint::Start,
    HoldPoint::Instruction,
    HoldPoint::Primitive,
    HoldPoint::Generation,
    HoldPoint::Ipi,
    HoldPoint::Invlpg,
    HoldPoint::Invpcid,
    HoldPoint::Mark,
    HoldPoint::Slot,
    HoldPoint::Cr3,
    HoldPoint::Acknowledge,
];
/// Where it is in an edit that flushes.
const OF_OPERATIONS: [HoldPoint; 8] = [
    HoldPoint::Instruction,
    HoldPoint::TableStore,
    HoldPoint::Primitive,
    HoldPoint::Generation,
    HoldPoint::Ipi,
    HoldPoint::Slot,
    HoldPoint::Freed,
    HoldPoint::TableStore,
];

/// Where a CPU may be held back in a step, so that it comes by for the most part.
pub(super) fn points(verb: Verb) -> &'static [HoldPoint] {
    match verb {
        Verb::Switch
        | Verb::Nop
        | Verb::Read(..)
        | Verb::Write(..)
        | Verb::Lazy
        | Verb::LeaveMm
        | Verb::Resume => &OF_SWITCHES,
        Verb::Map(..)
        | Verb::Remap(..)
        | Verb::Unmap(_)
        | Verb::Protect(..)
        | Verb::Clean(_)
        | Verb::Age(_) => &OF_EDITS,
        Verb::FlushOne(_)
        | Verb::FlushRange(..)
        | Verb::FlushMm
        | Verb::FlushAll
        | Verb::FlushKernelRange(..)
        | Verb::FlushBatched => &OF_FLUSHES,
        Verb::UnmapBatched(_)
        | Verb::Fork(_)
        | Verb::Split(_)
        | Verb::Merge(_)
        | Verb::Move(..)
        | Verb::Migrate(..)
        | Verb::WriteProtect(_)
        | Verb::MakeClean(_)
        | Verb::UnmapRange(..)
        | Verb::FreeTable(_) => &OF_OPERATIONS,
    }
}
