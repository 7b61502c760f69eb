//! Kernels that run freely: they announce nothing but which task runs, and what a task has made
//! stale is due once that task is in user mode again.

use super::*;
use crate::story::{B, KERNEL_PAGE, KERNEL_PTE, KERNEL_RED, NOFLUSH, TRAMPOLINE_PTE, USER};
use stalemate_model::arch::happened::Happened;
use stalemate_model::arch::tlb::Tag;
use stalemate_model::event::{Event, KernelAbout, Kind};
use stalemate_model::oracle::{Deadline, Replica};

/// A second task, in the address space of the first.
const OTHER: usize = 2;

/// A user page of A is unmapped in a task on CPU 0, and stays cached under PCID 1 of all CPUs.
fn unmapped(cpus: u8) -> Story {
    let mut story = Story::free(usize::from(cpus));
    story.task_begins(0, 1).stores_to(0, A.1, RED, 0);
    story
}

/// A page of the kernel is.
fn unmapped_kernel() -> Story {
    let mut story = Story::free(1);
    story.task_begins(0, 1).stores_to(0, KERNEL_PTE, KERNEL_RED, 0);
    story
}

/// The user page is mapped to another frame.
fn maps(story: &mut Story) -> &mut Story {
    story.stores_to(0, A.1, 0, BLUE)
}

/// The task on a CPU enters user mode: what it was in the middle of is over.
fn over(story: &mut Story, task: usize) -> &mut Story {
    story.task_begins(0, task).enters_user_mode(0)
}

#[test]
fn an_address_of_the_kernel_is_not_used_again_while_it_is_cached() {
    let reused = |change: &dyn Fn(&mut Story)| {
        let mut story = unmapped_kernel();
        change(&mut story);
        story.stores_to(0, KERNEL_PTE, 0, KERNEL_BLUE);
        story.rules()
    };
    assert_eq!(reused(&|_| {}), ["va-reuse"]);
    assert_eq!(reused(&|story| _ = story.task_begins(0, OTHER)), ["va-reuse"], "any task");
    assert!(reused(&|story| _ = story.invlpg_of(0, KERNEL_PAGE)).is_empty());
    assert!(reused(&|story| _ = story.loads(0, NOFLUSH | B.0 | 2)).is_empty(), "not current");
    // The last page of the user half, and the first one of the kernel's.
    let mut story = Story::free(1);
    let last = Gva(0x7fff_ffff_f000);
    for (slot, entry) in [(A.0 + 255 * 8, 0xb067), (0xbff8, 0xc067), (0xcff8, 0xd067)] {
        story.stores_to(0, Gpa(slot), 0, entry);
        let entries = Vec::new();
        story.happens(0, Happened::TableLinked { table: Gpa(entry & !0xfff), entries });
    }
    let slot = Gpa(0xdff8);
    story.stores_to(0, slot, 0, RED).task_begins(0, 1).stores_to(0, slot, RED, 0);
    assert_eq!(story.owed(), [format!("0 PCID 0x001 {:#x} open", last.0)]);
    story.task_begins(0, OTHER).stores_to(0, slot, 0, BLUE).is_clean();
    assert!(!story.oracle.obligations()[0].is_of_kernel());
    assert!(unmapped_kernel().oracle.obligations()[0].is_of_kernel());
}

/// A global is usable whatever PCID is current.
#[test]
fn an_address_of_a_global_is_not_used_again_while_it_is_cached() {
    let reused = |change: &dyn Fn(&mut Story)| {
        let mut story = Story::free(1);
        let slot = after(after(KERNEL_PTE));
        story.stores_to(0, slot, 0, KERNEL_RED | GLOBAL).stores_to(0, slot, KERNEL_RED | GLOBAL, 0);
        change(&mut story);
        story.stores_to(0, slot, 0, KERNEL_BLUE);
        story.rules()
    };
    let page = Gva(KERNEL_PAGE.0 + 0x2000);
    assert_eq!(reused(&|story| _ = story.loads(0, B.0 | 2)), ["va-reuse"]);
    assert!(reused(&|story| _ = story.loads(0, B.0 | 2).invlpg_of(0, page)).is_empty());
}

/// What a CPU that was lazy holds of user addresses it does not use before user code runs on it again. It
/// holds of the kernel's what every CPU does.
#[test]
fn a_cpu_that_was_lazy_is_excused_for_user_addresses_until_user_code_runs_on_it() {
    let is_lazy = |cpu, lazy| Announcement::Lazy { cpu: CpuId(cpu), lazy };
    // CPU 0 has flushed, and CPU 1 has not.
    let other = |change: &dyn Fn(&mut Story)| {
        let mut story = unmapped(2);
        change(story.invlpg(0));
        maps(&mut story).rules()
    };
    assert_eq!(other(&|_| ()), ["va-reuse"]);
    assert!(other(&|story| _ = story.says(1, is_lazy(1, true))).is_empty());
    assert_eq!(other(&|story| _ = story.says(0, is_lazy(0, true))), ["va-reuse"], "another CPU");
    let again = |story: &mut Story| {
        story.says(1, is_lazy(1, true)).says(1, is_lazy(1, false));
    };
    assert!(other(&again).is_empty(), "it has to catch up");
    let kernel = |lazy: bool| {
        let mut story = unmapped_kernel();
        if lazy {
            story.says(0, is_lazy(0, true));
        }
        story.stores_to(0, KERNEL_PTE, 0, KERNEL_BLUE).rules()
    };
    assert_eq!((kernel(false), kernel(true)), (vec!["va-reuse".into()], vec!["va-reuse".into()]));
    // A frame that is given back, and a primitive that returns on the CPU itself.
    let freed = |lazy: bool| {
        let mut story = unmapped(1);
        if lazy {
            story.says(0, is_lazy(0, true));
        }
        story.says(0, Announcement::FrameFreed(Gpa(RED & !0xfff))).rules()
    };
    assert_eq!(freed(false), ["reuse-before-flush"]);
    assert!(freed(true).is_empty());
    let returned = |story: &mut Story, lazy: bool| {
        story.task_begins(0, 1).stores_to(0, A.1, RED, 0);
        if lazy {
            story.says(0, is_lazy(0, true));
        }
        begins(story);
        story.returns(0).rules()
    };
    assert_eq!(returned(&mut Story::free(1), false), ["stale-kernel-entry"]);
    assert!(returned(&mut Story::free(1), true).is_empty());
    // One that is handed steps has rules of its own for that.
    assert_eq!(returned(&mut running(1), true), ["stale-kernel-entry"]);
}

/// A user page is mapped anew by its own task, or once that one's operation is over; another task
/// may do so before the flush that is still to come.
#[test]
fn an_address_of_user_mode_is_not_used_again_by_who_knows_that_it_was_unmapped() {
    maps(&mut unmapped(1)).has_broken(&["va-reuse"]);
    maps(unmapped(1).task_begins(0, OTHER)).is_clean();
    maps(unmapped(1).invlpg(0)).is_clean();
    // The same frame with less rights; and as it was.
    unmapped(1).stores_to(0, A.1, 0, RED & !2).is_clean();
    unmapped(1).stores_to(0, A.1, 0, RED).is_clean();
    // Another CPU holds it, whose PCID is current or not.
    maps(unmapped(2).invlpg(0)).has_broken(&["va-reuse"]);
    maps(unmapped(2).loads(1, NOFLUSH | B.0 | 2).invlpg(0)).is_clean();
    // User mode runs in another address space, so that nothing else is due.
    let mut story = unmapped(1);
    over(story.loads(0, NOFLUSH | B.0 | 2), 1).is_clean();
    maps(story.task_begins(0, OTHER)).is_clean();
    let mut story = unmapped(2);
    over(story.loads(0, NOFLUSH | B.0 | 2), 1).is_clean();
    maps(story.task_begins(0, OTHER)).has_broken(&["va-reuse"]);
    // Before any task is known, none is the same.
    let mut story = Story::free(1);
    maps(story.stores_to(0, A.1, RED, 0)).is_clean();
}

/// Only an entry that becomes present, and the one that was unmapped.
#[test]
fn a_store_that_maps_nothing_anew_uses_no_address_again() {
    let mut story = Story::free(1);
    // Less rights, and then another frame: present all the time.
    story.task_begins(0, 1).stores_to(0, A.1, RED, RED & !2);
    story.stores_to(0, A.1, RED & !2, BLUE).is_clean();
    let mut story = Story::free(1);
    story.task_begins(0, 1).stores_to(0, A.1, RED, BLUE).is_clean();
    story.stores_to(0, A.1, BLUE, RED & !2).is_clean();
    unmapped(1).stores_to(0, A.1, 0, BLUE & !1).is_clean();
    maps(unmapped(1).stores_to(0, A.1, 0, BLUE & !1).invlpg(0)).is_clean();
    // The stale entry of a table is looked at with any address.
    let mut story = Story::free(1);
    story.task_begins(0, 1).stores_to(0, Gpa(0x4000), KERNEL_PTE.0 | 0x63, 0);
    story.stores_to(0, after(after(A.1)), 0, NEXT_RED).is_clean();
    let another = KERNEL_PTE.0 + 0x8_0000;
    story.happens(0, Happened::TableLinked { table: Gpa(another), entries: Vec::new() });
    story.stores_to(0, Gpa(0x4000), 0, another | 0x63).has_broken(&["va-reuse"]);
    // Another slot, in a table that has taken the place of the first.
    let mut story = Story::free(1);
    story.happens(0, Happened::TableLinked { table: Gpa(another), entries: Vec::new() });
    story.task_begins(0, 1).stores_to(0, Gpa(0x4000), KERNEL_PTE.0 | 0x63, another | 0x63);
    story.stores_to(0, Gpa(another), 0, KERNEL_BLUE).is_clean();
    // A kernel that announces its flushes is judged by those.
    let mut story = Story::isolated(1);
    maps(story.task_begins(0, 1).stores_to(0, A.1, RED, 0)).is_clean();
}

/// Of one stale entry the first rule speaks, and no other after it.
#[test]
fn an_address_that_a_rule_has_spoken_of_is_not_spoken_of_again() {
    let mut story = unmapped(1);
    over(&mut story, 1).has_broken(&["stale-user-entry"]);
    maps(&mut story).has_broken(&["stale-user-entry"]);
}

#[test]
fn user_mode_does_not_run_on_what_its_own_task_has_left_stale() {
    over(&mut unmapped(1), 1).has_broken(&["stale-user-entry"]);
    over(unmapped(1).invlpg(0), 1).is_clean();
    // Another task, while the first is in the middle of its operation; and after that.
    let mut story = unmapped(1);
    over(&mut story, OTHER).is_clean();
    over(&mut story, 1).has_broken(&["stale-user-entry"]);
    // On another CPU.
    let mut story = unmapped(2);
    story.task_begins(1, OTHER).invlpg(0).enters_user_mode(1).is_clean();
    story.enters_user_mode(0).is_clean();
    story.enters_user_mode(1).has_broken(&["stale-user-entry"]);
    // Under another PCID.
    let mut story = unmapped(1);
    over(story.loads(0, NOFLUSH | B.0 | 2), 1).is_clean();
    // A page of the kernel waits for its reuse.
    over(&mut unmapped_kernel(), 1).is_clean();
    // What a task does after it was in user mode is another operation.
    let mut story = Story::free(1);
    over(&mut story, 1).stores_to(0, A.1, RED, 0);
    over(&mut story, OTHER).is_clean();
}

/// What is cached late, through a stale entry of a table, is over with what made that stale.
#[test]
fn what_is_cached_late_is_over_with_the_operation_of_its_store() {
    const THIRD: Gva = Gva(0x2000);
    let cached = |late: bool| {
        let mut story = Story::free(1);
        story.task_begins(0, 1).stores_to(0, Gpa(A.1.0 - 0x1000), A.1.0 | 0x67, 0);
        if late {
            story.stores_to(0, after(after(A.1)), 0, NEXT_RED);
        }
        story.invlpg(0).invlpg_of(0, NEXT).enters_user_mode(0);
        let message = story.oracle.violations().first().map(|one| one.message.clone());
        (story.rules(), message.unwrap_or_default())
    };
    assert!(cached(false).0.is_empty());
    let (rules, message) = cached(true);
    assert_eq!(rules, ["stale-user-entry"]);
    assert!(message.contains(&THIRD.to_string()), "{message}");
}

/// Another PCID becomes current after the operation that left something stale under it, or in the
/// middle of that.
#[test]
fn what_is_stale_under_a_pcid_is_due_when_its_operation_is_over() {
    let switched = |slot: Gpa, (old, task): (u64, usize)| {
        let mut story = Story::free(1);
        story.loads(0, NOFLUSH | B.0 | 2).task_begins(0, 1).stores_to(0, slot, old, 0);
        if slot == KERNEL_PTE {
            story.invlpg_of(0, KERNEL_PAGE);
        }
        over(&mut story, task).loads(0, NOFLUSH | A.0 | 1);
        story.rules()
    };
    assert_eq!(switched(A.1, (RED, 1)), ["stale-other-asid"]);
    assert!(switched(A.1, (RED, OTHER)).is_empty(), "in the middle of it");
    assert!(switched(KERNEL_PTE, (KERNEL_RED, 1)).is_empty(), "it waits for its reuse");
    let mut story = Story::free(1);
    story.loads(0, NOFLUSH | B.0 | 2).task_begins(0, 1).stores_to(0, A.1, RED, 0);
    story.enters_user_mode(0).invpcid(0, 0, 1, PAGE).loads(0, NOFLUSH | A.0 | 1).is_clean();
    // Where flushes are announced, user mode ends nothing.
    let mut story = running(1);
    story.runs_kernel(0, B, 1).task_begins(0, 1).stores_to(0, A.1, RED, 0);
    story.runs_user(0, B, 1).runs_kernel(0, A, 0).is_clean();
}

/// A rule judges an obligation by its own CPU and tag, whichever it is asked about.
#[test]
fn a_deadline_is_of_one_cpu_and_one_tag() {
    let mut story = unmapped(2);
    story.loads(0, NOFLUSH | B.0 | 2).loads(1, NOFLUSH | B.0 | 2).enters_user_mode(0);
    let is_due = |story: &Story, cpu: u8, deadline: Deadline| {
        let (seq, rip, cpu) = (99, Gva(0), CpuId(cpu));
        let event = Event { seq, cpu, rip, injected: false, kind: Kind::Cpu(Happened::UserEntry) };
        let all = story.oracle.obligations();
        all.iter().map(|owed| story.oracle.is_due(&event, &deadline, owed)).collect::<Vec<_>>()
    };
    let (first, second) = (CpuId(0), CpuId(1));
    let current = |cpu, pcid| Deadline::Current { cpu, tag: Tag::Pcid(Pcid::new(pcid)) };
    assert_eq!(is_due(&story, 0, current(first, 1)), [true, false]);
    assert_eq!(is_due(&story, 1, current(second, 1)), [false, true]);
    assert_eq!(is_due(&story, 0, current(first, 2)), [false, false]);
    let enters = |cpu| Deadline::UserEntry { cpu };
    assert_eq!(is_due(&story, 0, enters(first)), [false, false], "PCID 2 is current");
    let mut story = unmapped(2);
    story.task_begins(0, 1).loads(0, A.0 | 1).enters_user_mode(0).is_clean();
    let on_second = story.oracle.obligations().len() - 1;
    assert!(is_due(&story, 1, enters(second))[on_second]);
    assert!(!is_due(&story, 0, enters(first))[on_second], "it is CPU 1's");
}

/// There are no steps: what nobody has flushed by the end of a run may have been about to be.
#[test]
fn a_run_may_end_in_the_middle_of_something() {
    unmapped(1).ends().is_clean();
    let mut story = Story::isolated(1);
    story.task_begins(0, 1).stores_to(0, A.1, RED, 0).ends().has_broken(&["never-flushed"]);
}

/// Page-table isolation shows itself in a load that goes from a root to that of the same pair.
#[test]
fn page_table_isolation_is_seen_in_a_load_of_the_user_root() {
    let isolates = |old: u64, value: u64| {
        let mut story = Story::free(1);
        story.happens(0, Happened::LoadCr3 { old, value });
        story.oracle.kernel().is_some_and(|kernel| kernel.isolated)
    };
    let user = A.0 | USER;
    assert!(isolates(A.0 | 1, user | 0x801));
    assert!(isolates(A.0 | 1, NOFLUSH | user | 0x801));
    assert!(isolates(user | 0x801, A.0 | 1));
    assert!(isolates(A.0, user), "without PCIDs");
    for value in
        [A.0 | 1, A.0 | 2, A.0 | 0x801, user | 2, user | 0x802, B.0 | 1, B.0 | USER | 0x801]
    {
        assert!(!isolates(A.0 | 1, value), "{value:#x}");
    }
    // What was seen once is so.
    let mut story = Story::free(1);
    story.loads(0, user | 0x801).loads(0, user | 0x802).loads(0, B.0 | 2);
    let kernel = story.oracle.kernel().expect("it has begun").clone();
    assert!(kernel.isolated);
    assert!(kernel.is_user_root(user) && !kernel.is_user_root(A.0));
    assert_eq!(kernel.kernel_root(Gpa(user)), Gpa(A.0));
    // A kernel that says what it does is believed.
    let kernel = KernelAbout { runs_freely: false, ..crate::story::free() };
    assert!(!kernel.may_isolate(A.0 | 1, user | 0x801));
    assert!(!kernel.is_user_root(user) && kernel.is_user_pcid(user | 0x801));
    assert_eq!(kernel.kernel_root(Gpa(user)), Gpa(user));
    let unpaired = KernelAbout { pairing: None, ..kernel };
    assert!(!unpaired.is_user_pcid(user | 0x801));
}

/// Two address spaces whose roots are neighbours by chance have the same kernel half.
#[test]
fn a_neighbour_is_no_user_root() {
    let shares_kernel_half = |story: &mut Story, root: u64| {
        for (index, entry) in [(256, 0x3063), (384, 0x3_9063)] {
            story.stores_to(0, Gpa((root | USER) + index * 8), 0, entry);
        }
    };
    let neighbours = |shares: bool| {
        let mut story = Story::free(1);
        if shares {
            shares_kernel_half(&mut story, A.0);
        }
        // Nor does it matter what they map for user mode.
        story.stores_to(0, Gpa((A.0 | USER) + 255 * 8), 0, B.0 + 0x2067);
        story.loads(0, A.0 | USER | 1).loads(0, A.0 | 1).enters_user_mode(0);
        story.rules()
    };
    assert_eq!(neighbours(false), ["cr3-pairing", "pti-leak"]);
    assert!(neighbours(true).is_empty());
    // They unsay nothing.
    let mut story = Story::free(1);
    story.loads(0, A.0 | USER | 0x801).loads(0, B.0 | 2);
    shares_kernel_half(&mut story, B.0);
    story.loads(0, B.0 | USER | 0x802);
    assert!(story.oracle.kernel().is_some_and(|kernel| kernel.isolated));
}

/// From then on user mode runs on a user root, and the PCID goes with the root. What else such a
/// kernel maps there, and what the way to user mode uses of it, it has not said.
#[test]
fn a_kernel_that_is_seen_to_isolate_page_tables_is_judged_by_that() {
    let user = NOFLUSH | A.0 | USER | 0x801;
    let mut story = Story::free(1);
    story.enters_user_mode(0).is_clean();
    story.loads(0, user).enters_user_mode(0).is_clean();
    story.loads(0, NOFLUSH | A.0 | 1).enters_user_mode(0).has_broken(&["pti-leak"]);
    let mut story = Story::free(1);
    story.loads(0, user).loads(0, A.0 | USER | 1).has_broken(&["cr3-pairing"]);
    let mut story = Story::free(1);
    story.loads(0, NOFLUSH | A.0 | 0x801).has_broken(&["cr3-pairing"]);
    let mut story = Story::free(1);
    story.loads(0, user).task_begins(0, 1);
    let entry = 0x10_a061;
    story.stores_to(0, TRAMPOLINE_PTE, entry, 0).enters_user_mode(0).is_clean();
    assert_eq!(story.owed().len(), 2, "{:?}", story.owed());
}

/// A root that is in no CR3 and under no PCID has been given back: its tables are none.
#[test]
fn a_root_that_no_pcid_has_is_forgotten() {
    let is_table = |kernel: Option<KernelAbout>, loads: &[(u8, u64)]| {
        let mut header = crate::story::header_of_isolated(2);
        header.kernel = kernel.unwrap_or(header.kernel);
        let mut replica = Replica::new(&header);
        let shown = crate::story::tables_of_isolated().into_iter().map(|happened| (0, happened));
        let load = |&(cpu, value): &(u8, u64)| (cpu, Happened::LoadCr3 { old: A.0 | 1, value });
        for (seq, (cpu, happened)) in (0..).zip(shown.chain(loads.iter().map(load))) {
            let (cpu, kind) = (CpuId(cpu), Kind::Cpu(happened));
            replica.apply(&Event { seq, cpu, rip: Gva(0), injected: false, kind });
        }
        let is_root = |root| replica.census.roots().any(|known| known == Gpa(root));
        assert_eq!(is_root(A.0), replica.census.is_table(A.1));
        (replica.census.is_table(A.1), is_root(B.0))
    };
    let free = || Some(crate::story::free());
    let both = [(0, B.0 | 1), (1, B.0 | 1)];
    assert_eq!(is_table(free(), &both), (false, true));
    assert_eq!(is_table(None, &both), (true, true), "it says when it gives a root back");
    assert_eq!(is_table(free(), &[(0, B.0 | 1)]), (true, true), "the other CPU has it");
    let another = [(0, B.0 | 2), (1, B.0 | 2)];
    assert_eq!(is_table(free(), &another), (true, true), "PCID 1 has it");
    assert_eq!(is_table(free(), &[(0, A.0 | 3)]), (true, false));
}

/// Nobody says how the tables of such a root change: when it is loaded again it is walked anew.
#[test]
fn a_root_that_was_forgotten_is_walked_anew() {
    let mut story = Story::free(2);
    story.loads(0, B.0 | 1).loads(1, B.0 | 1);
    let entries = vec![(0, BLUE)];
    story.happens(0, Happened::TableLinked { table: A.1, entries });
    story.loads(0, A.0 | 1).loads(1, A.0 | 1).is_clean();
    assert!(story.owed().is_empty(), "{:?}", story.owed());
    // And so are its globals, when the other is loaded.
    let mut story = Story::free(1);
    story.loads(0, B.0 | 1);
    let entries = vec![(0, BLUE | GLOBAL)];
    story.happens(0, Happened::TableLinked { table: A.1, entries });
    story.loads(0, A.0 | 1).loads(0, B.0 | 1);
    assert_eq!(story.owed(), ["0 global 0x0 open"]);
}
