//! `reuse-before-flush` and `copied-while-writable`: what a CPU may still reach.

use super::*;
use crate::story::{B, KERNEL_PTE, KERNEL_RED, NOFLUSH, USER};
use stalemate_model::arch::happened::Happened;
use stalemate_model::event::Until;

const RED_FRAME: Gpa = Gpa(RED & !0xfff);
const KERNEL_FRAME: Gpa = Gpa(KERNEL_RED & !0xfff);

fn frees(story: &mut Story, frame: Gpa) -> &mut Story {
    story.says(0, Announcement::FrameFreed(frame))
}

/// A user page of both address spaces, unmapped from both, is given back.
#[test]
fn a_frame_is_given_back_when_no_cpu_reaches_it() {
    let freed = |change: &dyn Fn(&mut Story)| {
        let mut story = running(2);
        story.task_begins(0, 0).stores_to(0, A.1, RED, 0).stores_to(0, B.1, RED, 0).invlpg(0);
        change(&mut story);
        is_reached(frees(&mut story, RED_FRAME))
    };
    assert!(freed(&|_| {}), "CPU 1");
    assert!(!freed(&|story| _ = story.invlpg(1)));
    assert!(!freed(&|story| _ = story.runs_kernel(1, B, 1)), "not current");
    assert!(!freed(&|story| _ = story.loads(1, A.0 | 1)));
    assert!(!freed(&|story| _ = lazy(story, 1, true)));
    assert!(freed(&|story| _ = lazy(story, 1, true).enters_user_mode(1)));
}

fn is_reached(story: &Story) -> bool {
    story.rules().contains(&"reuse-before-flush".to_owned())
}

/// A lazy CPU is excused from user pages, not from the kernel's; what waits for its reuse may be reached;
/// the map of all memory does not count.
#[test]
fn a_kernel_frame_is_given_back_when_nobody_will_use_its_address() {
    let freed = |change: &dyn Fn(&mut Story)| {
        let mut story = running(1);
        story.task_begins(0, 0).stores_to(0, KERNEL_PTE, KERNEL_RED, 0);
        change(&mut story);
        is_reached(frees(&mut story, KERNEL_FRAME))
    };
    let defers = |story: &mut Story, until: Until| {
        let (start, end) = (crate::story::KERNEL_PAGE, Gva(crate::story::KERNEL_PAGE.0 + 0x1000));
        story.says(0, Announcement::Deferred { root: None, start, end, until });
    };
    assert!(freed(&|_| {}));
    assert!(freed(&|story| _ = lazy(story, 0, true)), "no user page");
    assert!(!freed(&|story| defers(story, Until::Reuse)));
    assert!(freed(&|story| defers(story, Until::Batched)));
    let global = |story: &mut Story| {
        story.stores_to(0, Gpa(0x5010), 0, 0x10_c163).stores_to(0, Gpa(0x5010), 0x10_c163, 0);
        frees(story, Gpa(0x10_c000));
    };
    assert!(freed(&|story| global(story.invlpg_of(0, crate::story::KERNEL_PAGE))), "a global");
    // Only the entry that waits is excused, not another for the same frame.
    let twice = |story: &mut Story| {
        story.stores_to(0, Gpa(0x5018), 0, KERNEL_RED);
        defers(story, Until::Reuse);
        story.stores_to(0, Gpa(0x5018), KERNEL_RED, 0);
    };
    assert!(freed(&twice));
    // The direct map is of frames from 0 on.
    for (index, counts) in [(0, true), (1, false)] {
        let mut story = Story::isolated_but(1, |header| {
            let start = Gva(0xffff_c000_0000_0000 + index * 0x20_0000);
            header.kernel.direct_map = (start, Gva(start.0 + 0x20_0000));
        });
        frees(&mut story, Gpa(0x15_5000));
        assert_eq!(story.rules().is_empty(), counts, "{:?}", story.rules());
    }
    let mut story = Story::isolated_but(1, |header| {
        header.kernel.direct_map = (Gva(0xffff_c000_0000_0000), Gva(0xffff_c000_0000_0000));
    });
    frees(&mut story, Gpa(0x15_5000));
    assert!(!story.rules().is_empty(), "it ends where it begins");
}

/// A walk reaches it: as a page, or as a table.
#[test]
fn nothing_is_given_back_that_a_walk_reaches() {
    for (frame, reached) in [
        (RED_FRAME, true),
        (Gpa(0x1_4000), true),
        (Gpa(0x77_7000), false),
        (Gpa(0x10_9000), true),
        (Gpa(0x10_a000), true),
    ] {
        let mut story = Story::isolated(1);
        frees(&mut story, frame);
        let messages: Vec<&str> =
            story.oracle.violations().iter().map(|one| one.message.as_str()).collect();
        let walks = messages.iter().any(|message| message.contains("a walk of root"));
        assert_eq!(walks, reached, "{frame}: {messages:?}");
    }
}

/// Only a root that was given back is used again, by a load or by a store that links it as a table.
#[test]
fn a_root_that_was_given_back_is_neither_loaded_nor_linked() {
    let b_user = B.0 | USER;
    let freed = |frame: u64, then: &dyn Fn(&mut Story)| {
        let mut story = Story::isolated(1);
        frees(&mut story, Gpa(frame));
        let before = story.rules().len();
        then(&mut story);
        story.rules().len() > before
    };
    assert!(freed(b_user, &|story| _ = story.loads(0, NOFLUSH | b_user | 0x802)));
    assert!(!freed(b_user, &|story| _ = story.loads(0, NOFLUSH | B.0 | 2)), "another root");
    // Linked below a PDPT as a page table, as a page, and not at all.
    let link = |entry: u64| move |story: &mut Story| _ = story.stores_to(0, Gpa(0x3008), 0, entry);
    let links = |entry: u64| freed(b_user, &link(entry));
    assert!(links(b_user | 0x63));
    assert!(!links(b_user | 0x62));
    let leaf = |story: &mut Story| {
        story.stores_to(0, Gpa(0x5018), 0, 0x55_5063);
    };
    assert!(!freed(b_user, &leaf));
    // A frame that is no root is used as its kernel likes.
    let other = |story: &mut Story| {
        story.happens(0, Happened::TableLinked { table: Gpa(0x55_5000), entries: Vec::new() });
        story.stores_to(0, Gpa(0x3008), 0, 0x55_5063);
    };
    assert!(!freed(0x55_5000, &other));
}

/// The frame is what is written to, the entry is what a rule has not spoken of, and an excuse is of user
/// pages only.
#[test]
fn contents_are_taken_of_a_frame_and_through_its_own_entries() {
    let taken = |frame: u64, page: Gva| {
        let mut story = running(2);
        story.task_begins(0, 0);
        story.stores_to(0, A.1, RED, RED & !2).stores_to(0, after(A.1), NEXT_RED, NEXT_RED & !2);
        story.invlpg(0).invlpg_of(0, NEXT).invlpg_of(1, page);
        story.says(0, Announcement::ContentsTaken(Gpa(frame)));
        (
            story.rules(),
            story.owed().into_iter().filter(|owed| owed.ends_with("writable")).collect::<Vec<_>>(),
        )
    };
    let (rules, owed) = taken(RED & !0xfff, NEXT);
    assert_eq!(rules, ["copied-while-writable"]);
    assert_eq!(owed, ["1 PCID 0x001 0x0 copied-while-writable"]);
    assert!(taken(RED & !0xfff, PAGE).0.is_empty(), "only the other page is left");
    assert_eq!(taken(NEXT_RED & !0xfff, PAGE).1, ["1 PCID 0x001 0x1000 copied-while-writable"]);
    let mut story = running(2);
    lazy(&mut story, 1, true).stores_to(0, KERNEL_PTE, KERNEL_RED, KERNEL_RED & !2);
    story.says(0, Announcement::ContentsTaken(KERNEL_FRAME)).has_broken(&["copied-while-writable"]);
}
