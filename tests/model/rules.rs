//! What the rules say of traces that are told event by event: each kind of violation, and the legal
//! trace that comes closest.

use crate::story::{BLUE, RED, SPACE, Story};
use stalemate_model::arch::addr::CpuId;
use stalemate_model::event::Announcement;

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
