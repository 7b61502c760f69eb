//! Kernels that run freely, whose functions somebody knows: when flushes begin and return, which frames
//! are given back, and when an operation is over.

use super::*;
use crate::story::{B, KERNEL_PAGE, KERNEL_PTE, KERNEL_RED, NOFLUSH, free};
use stalemate_model::arch::happened::Happened;
use stalemate_model::arch::tlb::{Fill, Tag};
use stalemate_model::event::{Event, Flush, FlushId, KernelAbout, Kind};
use stalemate_model::oracle::{Deadline, OpenFlush};

const OTHER: usize = 2;

/// A user page of A is unmapped in a task, and stays cached under PCID 1.
fn unmapped(cpus: u8) -> Story {
    let mut story = Story::free(usize::from(cpus));
    story.task_begins(0, 1).stores_to(0, A.1, RED, 0);
    story
}

/// A flush of that page begins and returns, and flushes what `change` does.
fn flushed(story: &mut Story, change: impl Fn(&mut Story)) -> &mut Story {
    story.begins(0, FlushKind::Range, Some(A.0), PAGE);
    change(story);
    story.returns(0)
}

#[test]
fn what_a_primitive_was_called_for_is_gone_when_it_returns() {
    flushed(&mut unmapped(1), |_| {}).has_broken(&["stale-kernel-entry"]);
    flushed(&mut unmapped(1), |story| _ = story.invlpg(0)).is_clean();
    // On another CPU.
    flushed(&mut unmapped(2), |story| _ = story.invlpg(0)).has_broken(&["stale-remote-entry"]);
    // A global of the kernel's.
    let global = |flushes: bool| {
        let mut story = Story::free(1);
        let slot = after(after(KERNEL_PTE));
        let page = Gva(KERNEL_PAGE.0 + 0x2000);
        story.stores_to(0, slot, 0, KERNEL_RED | GLOBAL);
        story.loads(0, NOFLUSH | B.0 | 2).task_begins(0, 1);
        story.stores_to(0, slot, KERNEL_RED | GLOBAL, 0);
        story.begins(0, FlushKind::KernelRange, None, page);
        if flushes {
            story.invlpg_of(0, page);
        }
        story.returns(0);
        story.rules()
    };
    assert_eq!(global(false), ["stale-kernel-entry"]);
    assert!(global(true).is_empty());
}

/// What is not current then is due from then on, for whoever comes to it.
#[test]
fn what_a_primitive_was_called_for_is_due_for_other_tasks_too() {
    let parked = |covers: bool| {
        let mut story = Story::free(1);
        story.loads(0, NOFLUSH | B.0 | 2).task_begins(0, 1).stores_to(0, A.1, RED, 0);
        if covers {
            flushed(&mut story, |_| {});
        }
        story.is_clean().task_begins(0, OTHER).loads(0, NOFLUSH | A.0 | 1);
        story.rules()
    };
    assert_eq!(parked(true), ["stale-other-asid"]);
    assert!(parked(false).is_empty());
    // Of the kernel's half too, which waits for its reuse where nobody has requested its flush.
    let parked = |covers: bool| {
        let mut story = Story::free(1);
        story.loads(0, NOFLUSH | B.0 | 2).task_begins(0, 1).stores_to(0, KERNEL_PTE, KERNEL_RED, 0);
        story.begins(0, FlushKind::KernelRange, None, KERNEL_PAGE).invlpg_of(0, KERNEL_PAGE);
        if covers {
            story.returns(0);
        }
        story.enters_user_mode(0).loads(0, NOFLUSH | A.0 | 1);
        story.rules()
    };
    assert_eq!(parked(true), ["stale-other-asid"]);
    assert!(parked(false).is_empty());
}

/// A rule judges an obligation by its own tag, whichever it is asked about.
#[test]
fn what_is_not_current_when_a_primitive_returns_is_not_due_then() {
    let is_due = |value: u64| {
        let mut story = unmapped(1);
        story.loads(0, value);
        let flush = Flush { kind: FlushKind::Range, root: Some(Gpa(A.0)), start: PAGE, end: NEXT };
        let open = OpenFlush { id: FlushId(0), cpu: CpuId(0), since: 98, flush };
        let kind = Kind::Cpu(Happened::UserEntry);
        let event = Event { seq: 99, cpu: CpuId(0), rip: Gva(0), injected: false, kind };
        let deadline = Deadline::Returned(open);
        let owed = story.oracle.obligations();
        owed.iter().any(|owed| story.oracle.is_due(&event, &deadline, owed))
    };
    assert!(is_due(NOFLUSH | A.0 | 1));
    assert!(!is_due(NOFLUSH | B.0 | 2));
}

/// A kernel that has a page waiting for its reuse, and the map of all memory.
fn with_areas() -> KernelAbout {
    KernelAbout {
        wait_for_reuse: vec![(Gva(0x5000), Gva(0x6000)), (NEXT, Gva(NEXT.0 + 0x1000))],
        direct_map: (PAGE, Gva(PAGE.0 + 0x1000)),
        ..free()
    }
}

#[test]
fn a_frame_is_given_back_when_nothing_that_is_stale_leads_to_it() {
    let freed = |frame: u64, change: &dyn Fn(&mut Story)| {
        let mut story = unmapped(1);
        change(&mut story);
        story.says(0, Announcement::FrameFreed(Gpa(frame)));
        story.rules()
    };
    assert_eq!(freed(0x8000, &|_| {}), ["reuse-before-flush"]);
    assert!(freed(0x9000, &|_| {}).is_empty(), "another frame");
    assert!(freed(0x8000, &|story| _ = story.invlpg(0)).is_empty());
    assert!(freed(0x8000, &|story| _ = story.stores_to(0, A.1, 0, RED)).is_empty(), "restored");
    assert!(freed(0x8000, &|story| _ = story.loads(0, NOFLUSH | B.0 | 2)).is_empty(), "parked");
    // What is mapped still is the kernel's affair.
    Story::free(1).says(0, Announcement::FrameFreed(Gpa(0x8000))).is_clean();
    // Nor is a root that no CPU has.
    let mut story = Story::free(1);
    story.says(0, Announcement::FrameFreed(Gpa(B.0))).loads(0, NOFLUSH | B.0 | 2).is_clean();
    // What a rule has spoken of is not spoken of again.
    let mut story = unmapped(1);
    story.enters_user_mode(0).has_broken(&["stale-user-entry"]);
    story.says(0, Announcement::FrameFreed(Gpa(0x8000))).has_broken(&["stale-user-entry"]);
}

#[test]
fn a_table_is_given_back_when_no_paging_structure_entry_leads_to_it() {
    const PDE: Gpa = Gpa(A.0 + 0x3000);
    const TABLE: Announcement = Announcement::FrameFreed(A.1);
    // All that it maps is unmapped and flushed, and then the table itself is unlinked.
    let unlinked = |mut story: Story| {
        story.task_begins(0, 1).stores_to(0, A.1, RED, 0).stores_to(0, after(A.1), NEXT_RED, 0);
        story.invlpg(0).invlpg_of(0, NEXT).stores_to(0, PDE, A.1.0 | 0x67, 0);
        story
    };
    let freed = |change: &dyn Fn(&mut Story)| {
        let mut story = unlinked(Story::free(1));
        change(&mut story);
        story.says(0, TABLE);
        story.rules()
    };
    assert_eq!(freed(&|_| {}), ["table-reuse"]);
    assert!(freed(&|story| _ = story.invlpg_of(0, KERNEL_PAGE)).is_empty(), "any address will do");
    assert!(
        freed(&|story| _ = story.stores_to(0, PDE, 0, A.1.0 | 0x67)).is_empty(),
        "linked again"
    );
    assert!(freed(&|story| _ = story.loads(0, NOFLUSH | B.0 | 2)).is_empty(), "parked");
    assert_eq!(freed(&|story| _ = story.says(0, TABLE)), ["table-reuse"], "once");
    unlinked(Story::free(1)).says(0, Announcement::FrameFreed(B.1)).is_clean();
    // Of another CPU, while it is parked on the first.
    let mut story = unlinked(Story::free(2));
    story.invlpg(1).invlpg_of(1, NEXT).loads(0, NOFLUSH | B.0 | 2);
    assert!(story.says(0, TABLE).rules().is_empty(), "it was flushed there");
    let mut story = Story::free(2);
    story.stores_to(0, A.1, RED, 0).stores_to(0, after(A.1), NEXT_RED, 0);
    for cpu in 0..2 {
        story.invlpg(cpu).invlpg_of(cpu, NEXT);
    }
    story.stores_to(0, PDE, A.1.0 | 0x67, 0).loads(0, NOFLUSH | B.0 | 2);
    story.says(0, TABLE).has_broken(&["table-reuse"]);
    // With pages that it still maps: what a rule has spoken of is not spoken of again, and the frame of one
    // that is cached no longer is no table.
    let with_pages = || {
        let mut story = Story::free(1);
        story.task_begins(0, 1).stores_to(0, PDE, A.1.0 | 0x67, 0);
        story
    };
    let mut story = with_pages();
    story.enters_user_mode(0).has_broken(&["stale-user-entry"]);
    story.says(0, TABLE).has_broken(&["stale-user-entry"]);
    let mut story = with_pages();
    story.happens(0, Happened::Evict { tag: Tag::Pcid(Pcid::new(1)), page: PAGE });
    story.says(0, Announcement::FrameFreed(Gpa(RED & !0xfff))).is_clean();
    // A kernel that announces what it does is judged by that.
    unlinked(Story::isolated(1)).says(0, TABLE).has_broken(&["reuse-before-flush"]);
}

#[test]
fn a_frame_may_be_given_back_while_what_leads_to_it_is_stale_by_design() {
    let freed = |kernel: KernelAbout, slot: Gpa, entry: u64| {
        let mut story = Story::isolated_but(1, |header| header.kernel = kernel.clone());
        story.stores_to(0, slot, entry, 0);
        story.says(0, Announcement::FrameFreed(Gpa(entry & !0xfff)));
        story.rules()
    };
    let next = after(A.1);
    for (slot, entry) in [(A.1, RED), (next, NEXT_RED)] {
        assert_eq!(freed(free(), slot, entry), ["reuse-before-flush"]);
        assert!(freed(with_areas(), slot, entry).is_empty());
    }
    // The ends of the area.
    for (area, found) in
        [((PAGE, NEXT), 1), ((NEXT, Gva(0x2000)), 0), ((Gva(0x2000), Gva(0x3000)), 1)]
    {
        let kernel = KernelAbout { wait_for_reuse: vec![area], ..free() };
        assert_eq!(freed(kernel, next, NEXT_RED).len(), found, "{area:?}");
    }
}

/// The frame may be any of a large page's.
#[test]
fn a_frame_inside_a_large_page_is_led_to_by_it() {
    let freed = |frame: u64| {
        let mut story = Story::free(1);
        let slot = Gpa(A.1.0 - 0x1000 + 8);
        story.stores_to(0, slot, 0, 0x40_0067 | LARGE).stores_to(0, slot, 0x40_0067 | LARGE, 0);
        story.says(0, Announcement::FrameFreed(Gpa(frame)));
        story.rules()
    };
    for frame in [0x40_0000, 0x40_1000, 0x5f_f000] {
        assert_eq!(freed(frame), ["reuse-before-flush"], "{frame:#x}");
    }
    assert!(freed(0x3f_f000).is_empty() && freed(0x60_0000).is_empty());
    // A small page that begins where a large one might.
    let freed = |frame: u64| {
        let mut story = Story::free(1);
        let slot = after(after(A.1));
        story.stores_to(0, slot, 0, 0x40_0067).stores_to(0, slot, 0x40_0067, 0);
        story.says(0, Announcement::FrameFreed(Gpa(frame)));
        story.rules()
    };
    assert_eq!(freed(0x40_0000), ["reuse-before-flush"]);
    assert!(freed(0x40_1000).is_empty());
}

/// Of a task that never returns to user mode.
#[test]
fn an_operation_is_over_when_its_task_says_so() {
    let used = |task: Option<usize>| {
        let mut story = unmapped(1);
        if let Some(task) = task {
            story.task_ends(0, task);
        }
        story.task_begins(0, OTHER).enters_user_mode(0);
        story.rules()
    };
    assert_eq!(used(Some(1)), ["stale-user-entry"]);
    assert!(used(None).is_empty() && used(Some(OTHER)).is_empty());
}

/// Nobody hands it steps whose end, or whose frames, would be deadlines by themselves.
#[test]
fn what_such_a_kernel_says_is_a_deadline_of_its_own_only_where_a_rule_is_about_it() {
    let deadlines = |runs_freely: bool, said: Announcement| {
        let mut story = if runs_freely { Story::free(1) } else { Story::isolated(1) };
        story.task_begins(0, 1).says(0, said);
        story.oracle.deadlines().to_vec()
    };
    let frame = Gpa(0x8000);
    let freed = Announcement::FrameFreed(frame);
    assert_eq!(deadlines(false, freed), [Deadline::Freed(frame)]);
    assert!(deadlines(true, freed).is_empty());
    let task = stalemate_model::event::TaskId(1);
    let ends = Announcement::TaskEnds { task, status: 0, value: 0 };
    assert_eq!(deadlines(false, ends).len(), 2);
    assert!(deadlines(true, ends).is_empty());
}

/// With a fill that waits for A, what was accessed since it was last flushed is told from what is mapped.
#[test]
fn what_a_flush_removes_had_been_accessed_or_not() {
    let removed = |change: &dyn Fn(&mut Story)| {
        let mut story = Story::isolated_but(1, |header| {
            header.model.fill = Fill::LazyA;
            header.kernel = free();
        });
        change(&mut story);
        story.stores_to(0, A.1, RED, 0).invlpg(0);
        let ledger = story.oracle.ledger();
        assert!(ledger.last_event_flushed_stale());
        let accessed = ledger.last_event_flushed_accessed();
        story.invlpg(0);
        assert!(!story.oracle.ledger().last_event_flushed_accessed(), "of that event alone");
        accessed
    };
    assert!(!removed(&|_| {}));
    assert!(removed(&|story| _ = story.fills(0, PAGE)));
    assert!(!removed(&|story| _ = story.fills(0, PAGE).invlpg(0)), "it was flushed since");
    assert!(!removed(&|story| _ = story.fills(0, NEXT)), "another page");
    let loads = |value: u64| move |story: &mut Story| _ = story.fills(0, PAGE).loads(0, value);
    assert!(!removed(&loads(A.0 | 1)), "it was flushed with its PCID");
    assert!(removed(&loads(NOFLUSH | A.0 | 1)));
}
