//! Small traces, each of which one condition of a rule decides: the violation, and what comes closest.

mod costs;
mod deadlines;
mod events;
mod freely;
mod late;
mod ledger;
mod profiled;
mod reach;
mod who;
mod witness;

use crate::story::{A, BLUE, PAGE, RED, Story};
use stalemate_model::arch::addr::{CpuId, Gpa, Gva, Pcid};
use stalemate_model::event::{Announcement, FlushKind, SpaceId};

/// The user page after [`PAGE`], and what maps it.
const NEXT: Gva = Gva(0x1000);
const NEXT_RED: u64 = 0xa067;
const KERNEL_BLUE: u64 = 0x10_b063;
const GLOBAL: u64 = 0x100;
const LARGE: u64 = 0x80;

/// The slot after one.
fn after(slot: Gpa) -> Gpa {
    Gpa(slot.0 + 8)
}

/// CPUs on which the user and the kernel PCID of slot 0 have all of [`A`] cached.
fn running(cpus: u8) -> Story {
    let mut story = Story::isolated(usize::from(cpus));
    for cpu in 0..cpus {
        story.runs_user(cpu, A, 0).runs_kernel(cpu, A, 0);
    }
    story
}

/// A user page of A is changed in a task of CPU 0, which is going to flush it.
fn edited(cpus: u8) -> Story {
    let mut story = running(cpus);
    story.task_begins(0, 0).stores_to(0, A.1, RED, BLUE);
    story
}

/// CPU 0 begins to flush that page.
fn begins(story: &mut Story) -> &mut Story {
    story.begins(0, FlushKind::OneUser, Some(A.0), PAGE)
}

fn marks(story: &mut Story, cpu: u8, pcid: u16) -> &mut Story {
    story.says(cpu, Announcement::Marked { cpu: CpuId(cpu), pcid: Pcid::new(pcid) })
}

fn unmarks(story: &mut Story, cpu: u8, pcid: u16) -> &mut Story {
    story.says(cpu, Announcement::Unmarked { cpu: CpuId(cpu), pcid: Pcid::new(pcid) })
}

fn lazy(story: &mut Story, cpu: u8, lazy: bool) -> &mut Story {
    story.says(cpu, Announcement::Lazy { cpu: CpuId(cpu), lazy })
}

fn generation(story: &mut Story, cpu: u8, space: u64, generation: u64) -> &mut Story {
    story.says(cpu, Announcement::Generation { space: SpaceId(space), generation })
}

fn claims(story: &mut Story, cpu: u8, slot: u16, space: u64, generation: u64) -> &mut Story {
    let of = CpuId(cpu);
    story.says(cpu, Announcement::SlotOwner { cpu: of, slot, space: Some(SpaceId(space)) });
    story.says(cpu, Announcement::SlotFlushed { cpu: of, slot, generation })
}
