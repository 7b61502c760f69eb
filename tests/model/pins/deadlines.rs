//! The rules on stale entries: what is due at which deadline.

use super::*;
use crate::story::{B, KERNEL_PAGE, KERNEL_PTE, KERNEL_RED, NOFLUSH, ROOT, USER};
use stalemate_model::event::Until;

fn acknowledges(story: &mut Story, by: u8, to: u8) -> &mut Story {
    story.says(by, Announcement::Acknowledged { by: CpuId(by), to: CpuId(to) })
}

fn edits_over(story: &mut Story, cpu: u8) -> &mut Story {
    story.says(cpu, Announcement::EditsOver)
}

fn defers(story: &mut Story, cpu: u8, page: Gva, until: Until) -> &mut Story {
    let (root, end) = (Some(Gpa(A.0)), Gva(page.0 + 0x1000));
    story.says(cpu, Announcement::Deferred { root, start: page, end, until })
}

#[test]
fn a_flush_has_done_its_own_kernel_pcid_when_it_returns() {
    let mut story = edited(1);
    begins(&mut story).returns(0).has_broken(&["stale-kernel-entry"]);
    let mut story = edited(1);
    begins(&mut story).invlpg(0).returns(0).is_clean();
    // It is of another page, or of another address space.
    let mut story = edited(1);
    story.begins(0, FlushKind::OneUser, Some(A.0), NEXT).returns(0).is_clean();
    let mut story = edited(1);
    story.begins(0, FlushKind::OneUser, Some(B.0), PAGE).returns(0).is_clean();
    // What is made stale after it began may be too late for it.
    let mut story = edited(1);
    begins(&mut story).invlpg(0).stores_to(0, A.1, BLUE, RED).returns(0).is_clean();
}

#[test]
fn a_flush_leaves_the_user_pcid_to_the_next_entry_to_user_mode() {
    let mut story = edited(1);
    begins(&mut story).invlpg(0).returns(0).is_clean();
    story.runs_user(0, A, 0).has_broken(&["stale-user-entry"]);
    let mut story = edited(1);
    begins(&mut story).invlpg(0);
    marks(&mut story, 0, 0x801).returns(0);
    unmarks(&mut story, 0, 0x801).loads(0, A.0 | USER | 0x801).enters_user_mode(0).is_clean();
    assert_eq!(story.owed(), ["0 PCID 0x001 0x0 invlpg", "0 PCID 0x801 0x0 consume"]);
}

/// A large page owes its flush as a small one does, of a kernel page and of a user page; what is changed
/// of a global one is due for the same PCID.
#[test]
fn a_flush_has_done_large_and_global_pages_when_it_returns() {
    const PDE: Gpa = Gpa(0x4008);
    const PAGE_OF_2M: Gva = Gva(KERNEL_PAGE.0 + 0x20_0000);
    for global in [0, GLOBAL] {
        for flushes in [true, false] {
            let mut story = running(1);
            let (red, blue) = (0x40_0063 | LARGE | global, 0x60_0063 | LARGE | global);
            story.stores_to(0, PDE, 0, red).task_begins(0, 0).stores_to(0, PDE, red, blue);
            story.begins(0, FlushKind::OneKernel, None, PAGE_OF_2M);
            if flushes {
                story.invlpg_of(0, PAGE_OF_2M);
            }
            story.returns(0);
            let broken: &[&str] = if flushes { &[] } else { &["stale-kernel-entry"] };
            story.has_broken(broken);
        }
    }
}

/// A flush of this CPU alone promises nothing of others.
#[test]
fn a_flush_here_is_of_its_own_cpu() {
    let kernel = |flushes_here: bool| {
        let mut story = running(2);
        story.task_begins(0, 0).stores_to(0, KERNEL_PTE, KERNEL_RED, KERNEL_BLUE);
        story.begins(0, FlushKind::OneKernelHere, None, KERNEL_PAGE);
        if flushes_here {
            story.invlpg_of(0, KERNEL_PAGE);
        }
        story.returns(0);
        story.rules()
    };
    assert_eq!(kernel(false), ["stale-kernel-entry"]);
    assert!(kernel(true).is_empty());
}

#[test]
fn another_asid_is_flushed_before_it_is_current() {
    let parked = |covered: bool, page: Gva| {
        let mut story = running(1);
        story.runs_kernel(0, B, 1).runs_kernel(0, A, 0).task_begins(0, 0);
        let slot = if page == KERNEL_PAGE { KERNEL_PTE } else { after(KERNEL_PTE) };
        let red = if page == KERNEL_PAGE { KERNEL_RED } else { 0x10_9063 };
        story.stores_to(0, slot, red, KERNEL_BLUE);
        story.begins(0, FlushKind::OneKernel, None, KERNEL_PAGE).invlpg_of(0, page);
        if covered {
            story.returns(0).is_clean();
        }
        story
    };
    let caught = ["stale-other-asid"];
    parked(true, KERNEL_PAGE).runs_kernel(0, B, 1).has_broken(&caught);
    parked(true, KERNEL_PAGE).loads(0, B.0 | 2).is_clean();
    parked(false, KERNEL_PAGE).runs_kernel(0, B, 1).is_clean();
    parked(true, NEXT_KERNEL).runs_kernel(0, B, 1).is_clean();
    // A load that stays in the PCID makes nothing current, and one for a third PCID not the second.
    parked(true, KERNEL_PAGE).runs_kernel(0, A, 0).is_clean();
    parked(true, KERNEL_PAGE).loads(0, A.0 | 3).is_clean();
}

const NEXT_KERNEL: Gva = Gva(KERNEL_PAGE.0 + 0x1000);

/// A user CR3 that is loaded to return is judged at the entry to user mode, and a hop to the user CR3 and
/// back leaves the kernel PCID what it was; but after user mode the kernel PCID is current anew.
#[test]
fn a_hop_to_the_user_pcid_and_back_makes_nothing_current() {
    let covered = || {
        let mut story = edited(1);
        begins(&mut story).invlpg(0).returns(0);
        story
    };
    covered().loads(0, NOFLUSH | A.0 | USER | 0x801).is_clean();
    // Of PCID 1 something else is due.
    let kernel = || {
        let mut story = running(1);
        story.task_begins(0, 0).stores_to(0, KERNEL_PTE, KERNEL_RED, KERNEL_BLUE);
        story.begins(0, FlushKind::OneKernel, None, KERNEL_PAGE);
        story.runs_kernel(0, B, 1).invlpg_of(0, KERNEL_PAGE).returns(0).is_clean();
        story
    };
    kernel().runs_kernel(0, A, 0).has_broken(&["stale-other-asid"]);
    kernel().loads(0, NOFLUSH | A.0 | USER | 0x801).is_clean();
    kernel().loads(0, NOFLUSH | A.0 | USER | 0x801).runs_kernel(0, A, 0).is_clean();
    let mut story = kernel();
    story.runs_user(0, A, 0).is_clean();
    story.runs_kernel(0, A, 0).has_broken(&["stale-other-asid"]);
    // Without PCIDs nothing is current anew.
    let mut story = Story::isolated_but(1, |header| {
        header.cpus[0].cr4 &= !(1 << 17);
        header.cpus[0].cr3 = A.0;
    });
    story.task_begins(0, 0).stores_to(0, KERNEL_PTE, KERNEL_RED | GLOBAL, KERNEL_BLUE).is_clean();
}

#[test]
fn a_cpu_acknowledges_when_it_has_flushed() {
    for (flushes, acknowledges_by) in [(true, 1), (false, 1), (false, 2)] {
        let mut story = edited(3);
        story.invlpg(2);
        begins(&mut story).invlpg(0);
        if flushes {
            story.invlpg(1);
        }
        acknowledges(&mut story, acknowledges_by, 0);
        let broken: &[&str] =
            if !flushes && acknowledges_by == 1 { &["stale-remote-entry"] } else { &[] };
        story.has_broken(broken);
    }
    // What it acknowledges is another page, or its entry is in a PCID that is not current.
    let mut story = edited(2);
    story.begins(0, FlushKind::OneUser, Some(A.0), NEXT);
    acknowledges(&mut story, 1, 0).is_clean();
    let mut story = edited(2);
    story.runs_kernel(1, B, 1);
    begins(&mut story).invlpg(0);
    acknowledges(&mut story, 1, 0).returns(0).is_clean();
}

#[test]
fn a_shootdown_that_frees_tables_spares_no_lazy_cpu() {
    for (kind, spares) in [(FlushKind::Range, true), (FlushKind::FreeTables, false)] {
        let mut story = running(2);
        lazy(&mut story, 1, true).task_begins(0, 0).stores_to(0, A.1, RED, 0);
        story.begins(0, kind, Some(A.0), PAGE).invlpg(0).returns(0);
        let broken: &[&str] = if spares { &[] } else { &["stale-remote-entry"] };
        story.has_broken(broken);
    }
}

#[test]
fn a_cpu_that_goes_on_in_an_address_space_has_caught_up() {
    for (still_lazy, flushes, cpu) in
        [(false, false, 1), (true, false, 1), (false, true, 1), (false, false, 0)]
    {
        let mut story = running(2);
        lazy(&mut story, 1, true).task_begins(0, 0).stores_to(0, A.1, RED, BLUE);
        begins(&mut story).invlpg(0).returns(0).is_clean();
        story.task_begins(1, 1);
        if !still_lazy {
            lazy(&mut story, 1, false);
        }
        if flushes {
            story.invlpg(1);
        }
        story.task_ends(cpu, usize::from(cpu));
        let caught = !still_lazy && !flushes && cpu == 1;
        let broken: &[&str] = if caught { &["stale-remote-entry"] } else { &[] };
        story.has_broken(broken);
    }
    // Nothing has been asked of it yet.
    let mut story = edited(2);
    story.task_begins(1, 1).task_ends(1, 1).is_clean();
}

/// Under page-table isolation the entry path runs on the user root, and may use supervisor entries there;
/// without it a supervisor page is no matter to user mode.
#[test]
fn user_mode_and_its_entry_path_meet_nothing_that_is_due() {
    const SUPERVISOR: u64 = RED & !4;
    let mut story = Story::new(1);
    story.stores(0, RED, SUPERVISOR).invlpg(0).task_begins(0, 0).stores(0, SUPERVISOR, 0);
    story.enters_user_mode(0).is_clean();
    let mut story = Story::new(1);
    story.task_begins(0, 0).stores(0, RED, 0).enters_user_mode(0).has_broken(&["stale-user-entry"]);
    let mut story = running(1);
    story.stores_to(0, A.1, RED, SUPERVISOR);
    story
        .invlpg(0)
        .loads(0, A.0 | USER | 0x801)
        .enters_user_mode(0)
        .runs_kernel(0, A, 0)
        .is_clean();
    story.task_begins(0, 0).stores_to(0, A.1, SUPERVISOR, 0).invlpg(0);
    story.runs_user(0, A, 0).has_broken(&["stale-user-entry"]);
}

/// Another CPU's entries are not due before anybody has flushed them, and neither are those of a PCID
/// that is not current.
#[test]
fn user_mode_may_meet_what_another_cpu_has_yet_to_flush() {
    let mut story = edited(2);
    story.runs_user(1, A, 0).is_clean();
    let mut story = edited(2);
    begins(&mut story).invlpg(0);
    marks(&mut story, 0, 0x801).invlpg(1).returns(0).is_clean();
    story.runs_user(1, A, 0).has_broken(&["stale-user-entry"]);
    let mut story = edited(2);
    begins(&mut story).invlpg(0).invlpg(1).returns(0).runs_user(1, B, 1).is_clean();
}

#[test]
fn who_edits_asks_for_a_flush_before_its_edits_are_over() {
    let kernel = || {
        let mut story = Story::new(2);
        story.task_begins(0, 0).stores(0, RED, BLUE);
        story
    };
    edits_over(&mut kernel(), 0).has_broken(&["never-flushed"]);
    edits_over(&mut kernel(), 1).is_clean();
    edits_over(kernel().invlpg(0), 0).has_broken(&["never-flushed"]);
    edits_over(kernel().invlpg(0).invlpg(1), 0).is_clean();
    // A flush of it is under way, on whichever CPU; one of something else is not.
    edits_over(kernel().flush_begins(0), 0).is_clean();
    edits_over(kernel().begins(0, FlushKind::OneUser, Some(ROOT), NEXT), 0)
        .has_broken(&["never-flushed"]);
    // What a flush has covered is the affair of other rules.
    let mut story = kernel();
    lazy(&mut story, 1, true).flush_begins(0).invlpg(0).flush_returns(0).is_clean();
    edits_over(&mut story, 0).is_clean();
    // At the end whatever is left is due, whoever made it.
    kernel().ends().has_broken(&["never-flushed"]);
}

/// The mark of a user PCID defers its flush; no other mark does, and no mark excuses the kernel PCID.
#[test]
fn a_mark_excuses_its_own_pcid_alone() {
    for (on, marked, broken) in [
        (0, Some(0x801), &[][..]),
        (0, None, &["never-flushed"]),
        (0, Some(0x802), &["never-flushed"]),
        (1, Some(0x801), &["never-flushed"]),
    ] {
        let mut story = edited(2);
        story.invlpg(0).loads(1, A.0 | 1).loads(1, A.0 | USER | 0x801).runs_kernel(1, A, 0);
        if let Some(pcid) = marked {
            marks(&mut story, on, pcid);
        }
        edits_over(&mut story, 0).has_broken(broken);
    }
    // What another CPU holds is excused by that CPU's mark.
    let mut story = edited(2);
    story.invlpg(0).invlpg(1).invpcid(0, 1, 0x801, PAGE);
    marks(&mut story, 1, 0x801);
    edits_over(&mut story, 0).is_clean();
    let mut story = edited(1);
    marks(&mut story, 0, 0x801);
    edits_over(&mut story, 0).has_broken(&["never-flushed"]);
    assert_eq!(story.owed(), ["0 PCID 0x001 0x0 never-flushed", "0 PCID 0x801 0x0 open"]);
}

#[test]
fn a_frame_is_not_given_back_before_somebody_asks_for_its_flush() {
    const RED_FRAME: Gpa = Gpa(RED & !0xfff);
    let freed = |covers: bool, defers_until: Option<Until>, frame: Gpa| {
        let mut story = running(1);
        // The PCID whose entry is stale is not current: what reaches the frame is no matter.
        story.task_begins(0, 0).stores_to(0, A.1, RED, 0).invlpg(0);
        if let Some(until) = defers_until {
            defers(&mut story, 0, PAGE, until);
        }
        if covers {
            begins(&mut story).returns(0);
        }
        // Another address space maps it no longer either.
        story.stores_to(0, B.1, RED, 0).says(0, Announcement::FrameFreed(frame));
        story.rules()
    };
    let caught = ["never-flushed"];
    assert_eq!(freed(false, None, RED_FRAME), caught);
    assert_eq!(freed(false, Some(Until::Batched), RED_FRAME), caught, "a batch is no excuse");
    assert!(freed(false, Some(Until::Reuse), RED_FRAME).is_empty(), "nobody uses the addresses");
    assert!(freed(true, None, RED_FRAME).is_empty(), "it is covered");
    assert!(freed(false, None, Gpa(0x77_7000)).is_empty(), "another frame");
}

#[test]
fn what_waits_for_reuse_waits_at_the_end_too_and_what_waits_for_a_batch_does_not() {
    for (until, broken) in
        [(Until::Reuse, &[][..]), (Until::ReuseHere, &[]), (Until::Batched, &["never-flushed"])]
    {
        let mut story = edited(1);
        story.loads(0, A.0 | USER | 0x801).runs_kernel(0, A, 0);
        defers(&mut story, 0, PAGE, until);
        edits_over(&mut story, 0).is_clean();
        story.ends().has_broken(broken);
    }
}

/// What is deferred is what the range says, of the address space that it says.
#[test]
fn a_deferral_is_of_its_range() {
    for (root, start, end, deferred) in [
        (Some(A.0), 0, 0x1000, true),
        (None, 0, 0x1000, true),
        (Some(B.0), 0, 0x1000, false),
        (Some(A.0), 0x1000, 0x2000, false),
        (Some(A.0), 0, 0, false),
    ] {
        let mut story = edited(1);
        story.loads(0, A.0 | USER | 0x801).runs_kernel(0, A, 0);
        let (root, until) = (root.map(Gpa), Until::Batched);
        let (start, end) = (Gva(start), Gva(end));
        story.says(0, Announcement::Deferred { root, start, end, until });
        edits_over(&mut story, 0);
        assert_eq!(story.rules().is_empty(), deferred, "{root:?} {start} {end}");
    }
}

/// A batched flush is of what its own CPU left to it.
#[test]
fn a_batch_is_of_who_deferred_it() {
    let deferred = |by: u8, until: Until, flushes_on: u8| {
        let mut story = edited(2);
        story.loads(0, A.0 | USER | 0x801).runs_kernel(0, A, 0);
        defers(&mut story, by, PAGE, until);
        story.begins(flushes_on, FlushKind::Batched, None, PAGE).returns(flushes_on);
        story.rules()
    };
    assert_eq!(deferred(0, Until::Batched, 0), ["stale-kernel-entry", "stale-remote-entry"]);
    assert!(deferred(1, Until::Batched, 0).is_empty());
    assert!(deferred(0, Until::Reuse, 0).is_empty());
}

/// Who maps the page anew owes the flush: what waited waits no longer, unless its own task is about to
/// flush it, or the addresses are each CPU's own.
#[test]
fn who_maps_a_page_anew_takes_over_its_flush() {
    let anew = |until: Option<Until>, maps: u8, task_over: bool, slot: Gpa, old: u64| {
        let mut story = running(2);
        story.task_begins(0, 0).stores_to(0, A.1, RED, 0);
        if let Some(until) = until {
            defers(&mut story, 0, PAGE, until);
        }
        if task_over {
            story.task_ends(0, 0);
        }
        story.invlpg(0);
        if maps != 0 {
            story.task_begins(maps, 1);
        }
        story.stores_to(maps, slot, old, BLUE);
        edits_over(&mut story, maps);
        let mut rules = story.rules();
        rules.dedup();
        rules
    };
    let owes = ["never-flushed"];
    assert_eq!(anew(Some(Until::Reuse), 0, false, A.1, 0), owes);
    assert_eq!(anew(Some(Until::Batched), 1, true, A.1, 0), owes);
    assert_eq!(anew(None, 1, true, A.1, 0), owes);
    assert!(anew(Some(Until::Reuse), 0, true, B.1, RED).is_empty(), "elsewhere");
    assert_eq!(anew(None, 0, false, A.1, 0), owes, "it owes its own");
    // An entry that was there before is no page that is mapped anew, and one that is not is none.
    let mut story = running(2);
    story.task_begins(0, 0).stores_to(0, A.1, RED, BLUE);
    defers(&mut story, 0, PAGE, Until::Reuse).stores_to(0, A.1, BLUE, 0x5_5067);
    edits_over(&mut story, 0);
    let waits = story.owed();
    assert!(waits.iter().any(|owed| owed.ends_with("open")), "{waits:?}");
}

/// Of addresses that each CPU uses for itself, the others' entries wait for their own use of them.
#[test]
fn who_maps_its_own_address_anew_owes_its_own_flush() {
    let mut story = running(2);
    story.task_begins(0, 0).stores_to(0, KERNEL_PTE, KERNEL_RED, 0);
    let (start, end) = (KERNEL_PAGE, NEXT_KERNEL);
    story.says(0, Announcement::Deferred { root: None, start, end, until: Until::ReuseHere });
    story.stores_to(0, KERNEL_PTE, 0, KERNEL_BLUE).invlpg_of(0, KERNEL_PAGE);
    edits_over(&mut story, 0).is_clean();
    story.stores_to(1, KERNEL_PTE, KERNEL_BLUE, 0).stores_to(1, KERNEL_PTE, 0, KERNEL_BLUE);
    edits_over(&mut story, 1).has_broken(&["never-flushed"]);
    assert!(
        story.owed().iter().any(|owed| owed == "1 PCID 0x001 0xffff800000000000 never-flushed")
    );
}

/// Of one stale entry one rule speaks, whatever is a deadline after that.
#[test]
fn what_user_mode_was_entered_with_is_not_found_again_when_its_step_is_over() {
    let mut story = edited(1);
    story.invlpg(0).runs_user(0, A, 0).has_broken(&["stale-user-entry"]);
    story.runs_kernel(0, A, 0).says(0, Announcement::EditsOver);
    story.has_broken(&["stale-user-entry"]);
}
