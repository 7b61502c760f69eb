//! What the rules say of traces that are told event by event: each kind of violation, and the legal
//! trace that comes closest.

use crate::story::{BLUE, PAGE, PTE, RED, ROOT, SPACE, Story};
use stalemate_model::arch::addr::{CpuId, Gpa};
use stalemate_model::arch::happened::Happened;
use stalemate_model::event::{Announcement, SpaceId};

const CPU: CpuId = CpuId(0);

fn owner(story: &mut Story) {
    story.says(0, Announcement::SlotOwner { cpu: CPU, slot: 0, space: Some(SPACE) });
}

fn claims(story: &mut Story, generation: u64) {
    story.says(0, Announcement::SlotFlushed { cpu: CPU, slot: 0, generation });
}

/// A page is changed and its generation raised; whether it is flushed before the slot claims it.
fn changes(story: &mut Story, flushes: bool) {
    story.task_begins(0, 0).stores(0, RED, BLUE).flush_begins(0);
    story.says(0, Announcement::Generation { space: SPACE, generation: 2 });
    if flushes {
        story.invlpg(0);
    }
}

#[test]
fn a_claim_is_judged_when_it_is_relied_on_in_whatever_order_its_words_are_stored() {
    for owner_first in [true, false] {
        for flushes in [true, false] {
            let mut story = Story::new(1);
            changes(&mut story, flushes);
            if owner_first {
                owner(&mut story);
            }
            claims(&mut story, 2);
            if !owner_first {
                owner(&mut story);
            }
            assert!(story.rules().is_empty(), "nobody relies on it yet");
            story.task_ends(0, 0);
            let generation = story.rules().contains(&"generation".to_owned());
            assert_eq!(generation, !flushes, "owner first: {owner_first}, {:?}", story.rules());
        }
    }
}

#[test]
fn a_lower_generation_forces_a_flush_and_is_no_mistake() {
    let mut story = Story::new(1);
    changes(&mut story, true);
    owner(&mut story);
    claims(&mut story, 2);
    story.flush_returns(0);
    claims(&mut story, 0);
    story.task_ends(0, 0).enters_user_mode(0);
    assert!(story.rules().is_empty(), "{:?}", story.rules());
}

#[test]
fn a_slot_claims_no_more_than_its_address_space_has_reached() {
    let mut story = Story::new(1);
    owner(&mut story);
    claims(&mut story, 5);
    story.task_ends(0, 0);
    assert_eq!(story.rules(), ["generation"]);
}

/// Between `Switching` and `Loaded` the words of a slot may be half written: an NMI's flush that returns
/// there relies on none of them.
#[test]
fn a_flush_in_the_middle_of_a_switch_relies_on_no_claim() {
    for switching in [true, false] {
        let mut story = Story::new(1);
        if switching {
            story.says(0, Announcement::Switching { cpu: CPU });
        }
        owner(&mut story);
        claims(&mut story, 5);
        story.flush_begins(0).invlpg(0).flush_returns(0);
        assert_eq!(story.rules().is_empty(), switching, "{:?}", story.rules());
        story.says(0, Announcement::Loaded { cpu: CPU, space: Some(SPACE) });
        story.task_ends(0, 0);
        assert_eq!(story.rules(), ["generation"]);
    }
}

/// A kernel's word that a CPU is lazy excuses it until user mode runs there, and no longer.
#[test]
fn user_mode_ends_what_a_lazy_cpu_is_excused_from() {
    for runs_user in [true, false] {
        let mut story = Story::new(2);
        story.says(1, Announcement::Lazy { cpu: CpuId(1), lazy: true });
        if runs_user {
            story.enters_user_mode(1);
        }
        story.task_begins(0, 0).stores(0, RED, BLUE);
        story.flush_begins(0).invlpg(0).flush_returns(0).task_ends(0, 0);
        let caught = story.rules().contains(&"stale-remote-entry".to_owned());
        assert_eq!(caught, runs_user, "{:?}", story.rules());
    }
}

/// A CPU that ceased to be lazy while it was left out owes at its next entry to user mode; one that had
/// ceased before, at the return.
#[test]
fn who_was_lazy_since_a_flush_began_owes_when_user_mode_runs() {
    for (before, flushes) in [(false, true), (false, false), (true, false)] {
        let lazy = |lazy| Announcement::Lazy { cpu: CpuId(1), lazy };
        let mut story = Story::new(2);
        story.says(1, lazy(true)).task_begins(0, 0).stores(0, RED, BLUE);
        if before {
            story.says(1, lazy(false));
        }
        story.flush_begins(0).invlpg(0);
        if !before {
            story.says(1, lazy(false));
        }
        story.flush_returns(0);
        assert_eq!(story.rules().is_empty(), !before, "{:?}", story.rules());
        if flushes {
            story.invlpg(1);
        }
        story.enters_user_mode(1);
        let user = story.rules().contains(&"stale-user-entry".to_owned());
        assert_eq!(user, !before && !flushes, "{:?}", story.rules());
    }
}

/// A CPU that enters user mode is not lazy, whatever its kernel says; what it says of another CPU, or
/// takes back in time, is no matter.
#[test]
fn no_cpu_enters_user_mode_while_it_is_said_to_be_lazy() {
    for (of, takes_back, caught) in [(1, false, true), (1, true, false), (0, false, false)] {
        let lazy = |lazy| Announcement::Lazy { cpu: CpuId(of), lazy };
        let mut story = Story::new(2);
        story.says(1, lazy(true));
        if takes_back {
            story.says(1, lazy(false));
        }
        story.enters_user_mode(1);
        assert_eq!(!story.rules().is_empty(), caught, "{:?}", story.rules());
        assert!(story.rules().iter().all(|rule| rule == "lazy-in-user-mode"));
    }
}

/// Contents are taken: what another CPU may still write through is caught, under its current PCID or as a
/// global; what it may only read, what the taker holds itself, what has been flushed, what is not stale,
/// and what a lazy CPU holds is not.
#[test]
fn contents_are_taken_when_nobody_can_write_them_any_more() {
    const READ_ONLY: u64 = RED & !2;
    const GLOBAL: u64 = RED | 0x100;
    let taken = |prepare: &dyn Fn(&mut Story), by: u8| {
        let mut story = Story::new(2);
        prepare(&mut story);
        story.says(by, Announcement::ContentsTaken(Gpa(RED & !0xfff)));
        story.rules().contains(&"copied-while-writable".to_owned())
    };
    let protect = |story: &mut Story| {
        story.task_begins(0, 0).stores(0, RED, READ_ONLY).invlpg(0);
    };
    assert!(taken(&protect, 0));
    assert!(
        taken(
            &|story| {
                story.stores(0, RED, 0).invlpg(0);
            },
            0
        ),
        "moved"
    );
    assert!(
        taken(
            &|story| {
                story.stores(0, RED, BLUE).invlpg(0);
            },
            0
        ),
        "remapped"
    );
    assert!(
        !taken(
            &|story| {
                story.stores(0, RED, BLUE).stores(0, BLUE, RED).invlpg(0);
            },
            0
        ),
        "remapped, and mapped again as it was"
    );
    assert!(
        taken(
            &|story| {
                story
                    .stores(0, RED, GLOBAL)
                    .happens(1, Happened::Invlpg { va: PAGE, keeps_globals: true });
                story.stores(0, GLOBAL, 0).invlpg(0);
            },
            0
        ),
        "global"
    );
    assert!(
        !taken(
            &|story| {
                protect(story);
                story.invlpg(1);
            },
            0
        ),
        "flushed"
    );
    assert!(!taken(&|_| {}, 0), "nothing is stale");
    assert!(
        !taken(
            &|story| {
                story.stores(0, RED, READ_ONLY).invlpg(1);
            },
            0
        ),
        "its own"
    );
    assert!(
        !taken(
            &|story| {
                story.stores(0, RED, READ_ONLY).invlpg(0).invlpg(1).stores(0, READ_ONLY, BLUE & !2);
            },
            0
        ),
        "it was read-only"
    );
    assert!(
        !taken(
            &|story| {
                story.says(1, Announcement::Lazy { cpu: CpuId(1), lazy: true });
                protect(story);
                story.says(1, Announcement::Lazy { cpu: CpuId(1), lazy: false });
            },
            0
        ),
        "lazy"
    );
}

/// A table that maps nothing may be taken away without a flush: what is cached leads nowhere. As soon as
/// something is stored into it, or it is given back, that counts.
#[test]
fn a_table_that_maps_nothing_needs_no_flush_until_it_does() {
    const PDE: Gpa = Gpa(0x3000);
    let detached = |story: &mut Story| {
        story.task_begins(0, 0).stores(0, RED, 0).flush_begins(0).invlpg(0).flush_returns(0);
        story.happens(0, Happened::TableStore { slot: PDE, old: 0x4067, new: 0 });
    };
    let mut story = Story::new(1);
    detached(&mut story);
    story.says(0, Announcement::EditsOver).task_ends(0, 0).enters_user_mode(0);
    assert!(story.rules().is_empty(), "{:?}", story.rules());

    story.task_begins(0, 1).stores(0, 0, BLUE).says(0, Announcement::EditsOver);
    assert_eq!(story.rules(), ["never-flushed"], "mapped through a table that is detached");

    let mut story = Story::new(1);
    detached(&mut story);
    story.says(0, Announcement::FrameFreed(Gpa(PTE.0)));
    assert_eq!(story.rules(), ["reuse-before-flush"]);
}

/// A root dies when no CPU has it in CR3, and lives again when an address space gets it.
#[test]
fn a_root_is_given_back_when_no_cpu_runs_on_it_and_used_when_it_has_an_owner() {
    const OTHER: u64 = 0x6000;
    let load = |value| Happened::LoadCr3 { old: ROOT | 1, value };
    let born = || {
        let mut story = Story::new(2);
        story.happens(0, Happened::TableLinked { table: Gpa(OTHER), entries: Vec::new() });
        story.happens(0, Happened::RootLinked { root: Gpa(OTHER) });
        story
    };
    let mut story = born();
    story.happens(1, load(OTHER | 2)).says(0, Announcement::FrameFreed(Gpa(OTHER)));
    assert_eq!(story.rules(), ["reuse-before-flush"], "CPU 1 runs on it");

    let owner = Announcement::Root { space: SpaceId(8), root: Gpa(OTHER) };
    for has_owner in [true, false] {
        let mut story = born();
        story.says(0, Announcement::FrameFreed(Gpa(OTHER)));
        assert!(story.rules().is_empty(), "{:?}", story.rules());
        if has_owner {
            story.says(0, owner);
        }
        story.happens(1, load(OTHER | 2));
        assert_eq!(story.rules().is_empty(), has_owner, "{:?}", story.rules());
    }
}

/// A global that the new root does not grant is owed from the load on, to whoever loads.
#[test]
fn a_load_of_cr3_makes_due_the_globals_that_its_root_does_not_grant() {
    const OTHER: u64 = 0x6000;
    const GLOBAL: u64 = RED | 0x100;
    for (grants, flushes) in [(false, false), (false, true), (true, false)] {
        let mut story = Story::new(1);
        story.stores(0, RED, GLOBAL).invlpg(0);
        let entries = if grants { vec![(0, 0x2067)] } else { Vec::new() };
        story.happens(0, Happened::TableLinked { table: Gpa(OTHER), entries });
        story.happens(0, Happened::RootLinked { root: Gpa(OTHER) });
        story.happens(0, Happened::LoadCr3 { old: ROOT | 1, value: OTHER | 2 });
        if flushes {
            story.invlpg(0);
        }
        story.enters_user_mode(0);
        let caught = story.rules() == ["stale-user-entry"];
        assert_eq!(caught, !grants && !flushes, "{:?}", story.rules());
        assert!(caught || story.rules().is_empty());
    }
}
