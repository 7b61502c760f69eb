//! Whose something is: which obligation, which flush, which task, which CPU.

use super::*;
use crate::story::{B, KERNEL_PAGE, KERNEL_PTE, KERNEL_RED, NOFLUSH, USER};
use stalemate_model::event::{TaskId, Until};
use stalemate_model::oracle::{Obligation, RuleId};

fn of(story: &Story, cpu: u8, pcid: u16) -> &Obligation {
    let tag = stalemate_model::arch::tlb::Tag::Pcid(Pcid::new(pcid));
    let all = story.oracle.obligations();
    all.into_iter().find(|owed| (owed.cpu, owed.tag) == (CpuId(cpu), tag)).expect("it is owed")
}

fn defers(story: &mut Story, until: Until) -> &mut Story {
    let (root, end) = (Some(Gpa(A.0)), NEXT);
    story.says(0, Announcement::Deferred { root, start: PAGE, end, until })
}

#[test]
fn a_ledger_is_empty_before_anything_was_stale() {
    let mut story = running(1);
    assert!(story.oracle.ledger().is_empty());
    story.stores_to(0, A.1, RED, BLUE);
    assert!(!story.oracle.ledger().is_empty());
    story.invpcid(0, 3, 0, PAGE);
    assert!(story.oracle.ledger().held().next().is_none());
    assert!(!story.oracle.ledger().is_empty());
    assert!(
        "stale-user-entry"
            .parse::<RuleId>()
            .is_ok_and(|rule| rule.to_string() == "stale-user-entry")
    );
    assert!("no-such-rule".parse::<RuleId>().is_err());
}

/// What a rule has spoken of stays so: it is not deferred, and no flush makes it good; what another store
/// makes stale once more is owed once more.
#[test]
fn what_is_violated_is_settled() {
    let mut story = edited(1);
    begins(&mut story).returns(0).has_broken(&["stale-kernel-entry"]);
    defers(&mut story, Until::Batched);
    assert!(of(&story, 0, 1).deferred.is_none());
    assert!(of(&story, 0, 0x801).deferred.is_some());
    story.stores_to(0, A.1, BLUE, RED & !2);
    let owed = story.owed();
    assert_eq!(owed.iter().filter(|owed| owed.starts_with("0 PCID 0x001")).count(), 2, "{owed:?}");
    let last =
        story.oracle.obligations().into_iter().next_back().map(|owed| (owed.tag, owed.held()));
    let tag = stalemate_model::arch::tlb::Tag::Pcid(Pcid::new(1));
    assert_eq!(last, Some((tag, 2)), "what was violated, and what was cached since");
    story.invlpg(0);
    assert_eq!(story.owed()[0], "0 PCID 0x001 0x0 stale-kernel-entry");
    // No other rule speaks of it, and nobody takes it over.
    let mut story = edited(1);
    let spoken = ["never-flushed", "never-flushed"];
    story.says(0, Announcement::EditsOver).has_broken(&spoken);
    begins(&mut story).returns(0).has_broken(&spoken);
    let mut story = edited(1);
    story.says(0, Announcement::EditsOver).has_broken(&spoken);
    story.stores_to(0, A.1, BLUE, 0).task_ends(0, 0).stores_to(0, A.1, 0, RED & !2);
    assert!(of(&story, 0, 1).taken_over.is_empty());
}

/// A page is mapped anew where its own slot becomes present, by another task than the one that unmapped
/// it.
#[test]
fn a_page_is_mapped_anew_at_its_own_place() {
    let anew = |store: &dyn Fn(&mut Story), deferred: bool| {
        let mut story = running(2);
        story.stores_to(0, B.1, RED, 0).stores_to(0, after(A.1), NEXT_RED, 0).invlpg_of(0, NEXT);
        story.invlpg_of(1, NEXT).invpcid(0, 1, 0x801, PAGE).invpcid(1, 1, 0x801, PAGE);
        story.task_begins(0, 0).stores_to(0, A.1, RED, 0);
        if deferred {
            defers(&mut story, Until::Reuse);
        }
        store(&mut story);
        let all = story.oracle.obligations();
        let page = all.iter().filter(|owed| owed.page == PAGE && owed.is_open());
        let taken: Vec<u8> =
            page.flat_map(|owed| owed.taken_over.iter().map(|cpu| cpu.0)).collect();
        taken
    };
    assert_eq!(anew(&|story| _ = story.stores_to(0, A.1, 0, BLUE), true), [0, 0]);
    assert!(anew(&|story| _ = story.stores_to(0, A.1, 0, BLUE), false).is_empty(), "its own task");
    let other_task = |story: &mut Story| {
        story.task_ends(0, 0).task_begins(0, 1).stores_to(0, A.1, 0, BLUE);
    };
    assert_eq!(anew(&other_task, false), [0, 0]);
    let task_over = |story: &mut Story| {
        story.task_ends(0, 0).stores_to(0, A.1, 0, BLUE);
    };
    assert_eq!(anew(&task_over, false), [0, 0]);
    let other_cpu = |story: &mut Story| {
        story.task_begins(1, 1).stores_to(1, A.1, 0, BLUE);
    };
    assert!(anew(&other_cpu, false).is_empty(), "the first one is still at work on it");
    let later = |story: &mut Story| {
        story.task_ends(0, 0).task_begins(1, 1).stores_to(1, A.1, 0, BLUE);
    };
    assert_eq!(anew(&later, false), [1, 1]);
    assert!(anew(&|story| _ = story.stores_to(0, A.1, 0, 0x5_5000), true).is_empty(), "absent");
    assert!(anew(&|story| _ = story.stores_to(0, B.1, 0, BLUE), true).is_empty(), "another root");
    assert!(anew(&|story| _ = story.stores_to(0, after(A.1), 0, BLUE), true).is_empty(), "another");
    // What a flush has covered is nobody else's.
    let covered = |story: &mut Story| {
        lazy(story, 1, true);
        begins(story).invlpg(0).returns(0).task_ends(0, 0).stores_to(0, A.1, 0, BLUE);
    };
    assert!(anew(&covered, false).is_empty());
}

/// A slot that is in more than one address space is at a page of its own in each.
#[test]
fn a_page_is_mapped_anew_in_its_own_address_space() {
    let taken = |story: &Story| {
        let owed = story.oracle.obligations();
        let mut open = owed.iter().filter(|owed| owed.is_open() && owed.page == PAGE);
        let (Some(owed), None) = (open.next(), open.next()) else { panic!("{:?}", story.owed()) };
        !owed.taken_over.is_empty()
    };
    // B maps A's table after its own, and its own no longer.
    let (first, second) = (Gpa(B.1.0 - 0x1000), Gpa(B.1.0 - 0x1000 + 8));
    let mut story = Story::isolated(1);
    story.stores_to(0, A.1, RED, 0).invlpg(0).loads(0, B.0 | 2);
    story.stores_to(0, second, 0, A.1.0 | 0x67).task_begins(0, 0);
    story.stores_to(0, first, B.1.0 | 0x67, 0).task_ends(0, 0).stores_to(0, A.1, 0, BLUE);
    assert!(!taken(&story));
    story.stores_to(0, first, 0, B.1.0 | 0x67).stores_to(0, B.1, RED, 0).task_begins(0, 1);
    story.task_ends(0, 1).stores_to(0, B.1, 0, BLUE);
    assert!(taken(&story));
    // The PCID is B's by now.
    let mut story = Story::isolated(1);
    story.stores_to(0, B.1, RED, 0).task_begins(0, 0).stores_to(0, A.1, RED, 0).task_ends(0, 0);
    story.loads(0, NOFLUSH | B.0 | 1).stores_to(0, A.1, 0, BLUE);
    assert!(!taken(&story));
}

/// Outside of a flush a generation stands for what its own CPU deferred, in its own address space.
#[test]
fn a_generation_is_of_its_address_space() {
    let raised = |space: u64, flush: Option<FlushKind>| {
        let mut story = edited(1);
        defers(&mut story, Until::Batched);
        if let Some(kind) = flush {
            story.begins(0, kind, None, PAGE);
        }
        generation(&mut story, 0, space, 5);
        of(&story, 0, 1).generation
    };
    for flush in [None, Some(FlushKind::Batched)] {
        assert_eq!(raised(1, flush), Some(5));
        assert_eq!(raised(2, flush), None);
    }
}

/// An acknowledgement covers what its own CPU holds, the return the rest; the first to cover it is the one.
#[test]
fn an_acknowledgement_covers_its_own_cpu() {
    let mut story = edited(2);
    story.loads(1, NOFLUSH | B.0 | 2);
    begins(&mut story).invlpg(0);
    story.says(1, Announcement::Acknowledged { by: CpuId(1), to: CpuId(0) });
    assert!(of(&story, 1, 1).covered.is_some());
    assert!(of(&story, 0, 0x801).covered.is_none());
    story.task_begins(0, 9).returns(0);
    assert!(of(&story, 0, 0x801).covered.is_some_and(|cover| cover.task == Some(TaskId(9))));
    assert!(of(&story, 1, 1).covered.is_some_and(|cover| cover.task == Some(TaskId(0))));
    story.begins(0, FlushKind::Mm, Some(A.0), PAGE).returns(0);
    assert!(
        of(&story, 0, 0x801).covered.is_some_and(|cover| cover.flush.kind == FlushKind::OneUser)
    );
}

/// Flushes overlap: each is of its own number and its own CPU.
#[test]
fn flushes_that_overlap_are_told_apart() {
    // The second returns, and the first, of a page that is stale, has not flushed yet.
    let mut story = running(1);
    story.task_begins(0, 0).stores_to(0, after(A.1), NEXT_RED, 0);
    story.begins(0, FlushKind::OneUser, Some(A.0), NEXT);
    story.begins(0, FlushKind::OneUser, Some(A.0), PAGE).returns(0).is_clean();
    // It is still under way, and what has returned is not.
    story.invpcid(0, 1, 0x801, PAGE);
    assert_eq!(story.oracle.hammers().len(), 1);
    story.invlpg_of(0, NEXT).returns(0).is_clean();
    story.runs_user(0, A, 0).runs_kernel(0, A, 0).invpcid(0, 1, 0x801, PAGE);
    assert_eq!(story.oracle.hammers().len(), 1);
    // CPU 1 acknowledges to CPU 0, whose flush is of a page that CPU 1 has flushed; CPU 2 is in a flush
    // of another page, which began later.
    let mut story = running(3);
    story.task_begins(0, 0).stores_to(0, A.1, RED, 0).stores_to(0, after(A.1), NEXT_RED, 0);
    begins(&mut story).begins(2, FlushKind::OneUser, Some(A.0), NEXT).invlpg(1);
    story.says(1, Announcement::Acknowledged { by: CpuId(1), to: CpuId(0) }).is_clean();
}

/// What a CPU does for one that waits for it is of that one's task and flush, unless it has a task itself.
#[test]
fn who_works_for_another_works_for_its_task() {
    let task = |waits_for: u8, own: bool| {
        let mut story = running(3);
        story.task_begins(1, 3).task_ends(1, 3).task_begins(0, 5);
        begins(&mut story).says(0, Announcement::Requested { by: CpuId(0), of: CpuId(waits_for) });
        if own {
            story.task_begins(1, 6);
        }
        story.stores_to(1, A.1, RED, 0).invpcid(1, 1, 1, PAGE);
        (of(&story, 1, 1).downgrade.task, story.oracle.hammers().len())
    };
    assert_eq!(task(1, false), (Some(TaskId(5)), 1));
    assert_eq!(task(2, false), (Some(TaskId(3)), 0));
    assert_eq!(task(1, true), (Some(TaskId(6)), 1));
}

/// A flush that removes nothing stale is needless, whatever else is owed on its CPU.
#[test]
fn a_flush_is_needless_although_something_else_is_owed() {
    let mut story = edited(1);
    story.stores_to(0, after(after(A.1)), 0, NEXT_RED).invpcid(0, 0, 1, Gva(0x2000));
    assert_eq!(story.oracle.needless().len(), 1);
}

#[test]
fn who_was_not_lazy_is_not_excused() {
    // Said not to be lazy, without having been it.
    let mut story = edited(2);
    story.stores_to(0, B.1, RED, 0).invlpg(0);
    story.enters_user_mode(1);
    lazy(&mut story, 1, false).says(0, Announcement::FrameFreed(Gpa(RED & !0xfff)));
    assert!(story.rules().contains(&"reuse-before-flush".to_owned()));
    // It ceased to be lazy before the flush began, and is said so once more.
    let mut story = running(2);
    lazy(&mut story, 1, true);
    lazy(&mut story, 1, false).task_begins(0, 0).stores_to(0, A.1, RED, BLUE);
    begins(&mut story).invlpg(0);
    lazy(&mut story, 1, false);
    story.returns(0).has_broken(&["stale-remote-entry"]);
    // User mode had run, while its kernel said that it was lazy.
    let mut story = Story::new(2);
    lazy(&mut story, 1, true).enters_user_mode(1).has_broken(&["lazy-in-user-mode"]);
    story.task_begins(0, 0).stores(0, RED, BLUE).flush_begins(0).invlpg(0);
    lazy(&mut story, 1, false);
    story.flush_returns(0).has_broken(&["lazy-in-user-mode", "stale-remote-entry"]);
}

/// What waits for a batch is not due on the CPU that made it stale, when user mode is entered.
#[test]
fn user_mode_may_meet_what_waits_for_a_batch() {
    let mut story = edited(1);
    defers(&mut story, Until::Batched).runs_user(0, A, 0).is_clean();
}

/// Without PCIDE the low bits of CR3 are no PCID.
#[test]
fn without_pcide_all_is_under_pcid_0() {
    let mut story = Story::isolated_but(1, |header| {
        header.cpus[0].cr4 &= !(1 << 17);
        header.cpus[0].cr3 = A.0;
    });
    story.loads(0, A.0 | 0x18).stores_to(0, A.1, RED, BLUE);
    assert_eq!(story.owed(), ["0 PCID 0x000 0x0 open"]);
}

/// A load that stays in its PCID makes nothing current that was not, and neither does one of a user CR3.
#[test]
fn a_load_of_the_same_pcid_is_no_deadline() {
    let mut story = edited(2);
    lazy(&mut story, 1, true);
    begins(&mut story).invlpg(0).returns(0).is_clean();
    story.loads(1, NOFLUSH | A.0 | 1).is_clean();
    let mut story = edited(1);
    begins(&mut story).invlpg(0).returns(0);
    story.runs_kernel(0, B, 1).loads(0, NOFLUSH | A.0 | USER | 0x801).is_clean();
}

/// A trace that begins without a word has begun with its first event that shows no table.
#[test]
fn a_trace_begins_with_what_shows_no_table() {
    let mut story = Story::unready(1);
    story.stores(0, RED, BLUE);
    assert_eq!(story.owed(), ["0 PCID 0x001 0x0 open"]);
}

/// Of two stale pages under one tag, the one whose frame it is.
#[test]
fn contents_are_taken_through_the_entry_that_reaches_them() {
    let mut story = running(2);
    story.task_begins(0, 0);
    story.stores_to(0, A.1, RED, RED & !2).stores_to(0, after(A.1), NEXT_RED, NEXT_RED & !2);
    story.invlpg(0).invlpg_of(0, NEXT).says(0, Announcement::ContentsTaken(Gpa(NEXT_RED & !0xfff)));
    let owed = story.owed();
    let broken: Vec<_> = owed.iter().filter(|owed| owed.ends_with("writable")).collect();
    assert_eq!(broken, ["1 PCID 0x001 0x1000 copied-while-writable"]);
    // The taker's own is not what is found.
    let mut story = running(2);
    story.task_begins(0, 0).stores_to(0, A.1, RED, RED & !2);
    story.says(0, Announcement::ContentsTaken(Gpa(RED & !0xfff)));
    let owed = story.owed();
    assert_eq!(owed[0], "0 PCID 0x001 0x0 open");
    assert_eq!(owed[2], "1 PCID 0x001 0x0 copied-while-writable");
}

/// A claim is of the address space that the slot is said to have, and older than what comes after it.
#[test]
fn a_claim_is_judged_for_its_owner_and_its_time() {
    let mut story = edited(2);
    generation(&mut story, 0, 2, 5);
    begins(&mut story);
    generation(&mut story, 0, 1, 2).invlpg(0).task_begins(1, 1);
    claims(&mut story, 1, 0, 2, 5).task_ends(1, 1).is_clean();
    // What is not this CPU's is not in its claim.
    let mut story = edited(2);
    begins(&mut story);
    generation(&mut story, 0, 1, 2).invlpg(0);
    claims(&mut story, 0, 0, 1, 2).task_ends(0, 0).is_clean();
    // A change that was made after the claim.
    let mut story = running(1);
    generation(&mut story, 0, 1, 2);
    claims(&mut story, 0, 0, 1, 2).task_begins(0, 0).stores_to(0, A.1, RED, BLUE);
    begins(&mut story);
    generation(&mut story, 0, 1, 2).task_ends(0, 0).is_clean();
}

/// What a load of CR3 makes stale is `pcid-reuse`'s; what was stale before stays as it was.
#[test]
fn a_pcid_that_is_reused_is_blamed_for_what_that_makes_stale() {
    let mut story = edited(1);
    story.loads(0, NOFLUSH | B.0 | 1);
    let owed = story.owed();
    assert_eq!(owed[..2], ["0 PCID 0x001 0x0 restored", "0 PCID 0x801 0x0 open"]);
    let mut story = running(1);
    story.enters_user_mode(0).has_broken(&["pti-leak"]);
    let message = &story.oracle.violations()[0].message;
    assert!(message.contains("on a kernel root"), "{message}");
}

/// An excuse for addresses that wait for their reuse is of the CPU and the tag that it is for.
#[test]
fn what_waits_for_reuse_on_one_cpu_is_no_excuse_on_another() {
    let mut story = running(2);
    story.task_begins(0, 0).stores_to(0, KERNEL_PTE, KERNEL_RED, 0);
    let (start, end, until) = (KERNEL_PAGE, Gva(KERNEL_PAGE.0 + 0x1000), Until::ReuseHere);
    story.says(0, Announcement::Deferred { root: None, start, end, until });
    story.stores_to(1, KERNEL_PTE, 0, KERNEL_BLUE);
    story.says(0, Announcement::FrameFreed(Gpa(KERNEL_RED & !0xfff)));
    let reached = |story: &Story| story.rules().contains(&"reuse-before-flush".to_owned());
    assert!(reached(&story), "{:?}", story.rules());
    // The obligation is of a table, and names the first page below; the second page's frame is given
    // back while nothing defers its flush.
    let mut story = running(1);
    story.task_begins(0, 0).stores_to(0, Gpa(0x4000), KERNEL_PTE.0 | 0x63, 0);
    story.says(0, Announcement::FrameFreed(Gpa(0x10_9000)));
    assert!(reached(&story), "{:?}", story.rules());
}
