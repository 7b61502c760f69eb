//! `stalemate audit` of a small kernel of the tests' own: what it finds, and what it lets pass.

mod assembler;
mod command_line;
mod debugger;
mod elf;
mod evidence;
mod images;
mod kernel;
mod known;
mod layout;
mod profile;
mod reports;
mod scripts;
mod stacks;

use kernel::{Does, Task, User, kernel};
use layout::*;
use scripts::{LINES, Lacks, call, done, tasks};
use stalemate::arch::tlb::{Fill, TlbModel};
use stalemate::audit::{
    Audited, Came, Campaign, Dropped, Key, Kinds, Plan, Row, Subject, Verdict, audit, campaign,
};
use stalemate::event::TaskId;
use stalemate::inject::Fault;
use stalemate::ink::Ink;
use stalemate::kernel::free::{End, KernelImage, Settings, Turns};
use stalemate::scenario::CPUS;
use stalemate::symbols::Symbols;

/// What an audit has.
const MODEL: TlbModel = TlbModel { fill: Fill::OnDemand, structure_caches: false, seed: 0 };
const INSTRUCTIONS: u64 = 1_000_000;

/// What comes of a kernel with these tasks, and what it prints.
fn audited(tasks: &[Task], faults: &[&str]) -> (Audited, String) {
    let mut console = Vec::new();
    let audited = with_subject(tasks, faults, |subject| {
        audit(subject, &mut |bytes| console.extend(bytes)).expect("it runs")
    });
    (audited, String::from_utf8(console).expect("text"))
}

fn with_subject<T>(tasks: &[Task], faults: &[&str], work: impl FnOnce(&Subject<'_>) -> T) -> T {
    with_board(tasks, faults, false, work)
}

/// What the kernels run on: a board that answers whatever is asked of it, or not.
fn settings(lenient: bool) -> Settings {
    let cpu = CPUS.iter().find(|cpu| cpu.name == "pcid-invpcid").expect("a named CPU");
    Settings {
        features: cpu.features,
        model: MODEL,
        ram: 32 << 20,
        ticks: 1,
        cpus: 1,
        turns: Turns::default(),
        instructions: INSTRUCTIONS,
        lenient,
    }
}

/// The same on a board that answers whatever is asked of it, or not.
fn with_board<T>(
    tasks: &[Task],
    faults: &[&str],
    lenient: bool,
    work: impl FnOnce(&Subject<'_>) -> T,
) -> T {
    let kernel = KernelImage::parse(&kernel(tasks)).expect("a kernel");
    let faults: Vec<Fault> = faults.iter().map(|fault| fault.parse().expect("a fault")).collect();
    work(&Subject {
        kernel: &kernel,
        initrd: &[],
        command_line: "",
        symbols: &Symbols::new(&kernel.elf),
        profile: None,
        settings: settings(lenient),
        faults: &faults,
        until: None,
    })
}

/// The rules that have spoken, in the order in which they did.
pub fn rules(audited: &Audited) -> Vec<&str> {
    audited.findings.iter().map(|finding| finding.key.rule.as_str()).collect()
}

#[test]
fn a_kernel_that_flushes_all_that_it_changes_is_clean() {
    let (audited, console) = audited(&tasks(Lacks::Nothing), &[]);
    assert_eq!(console, LINES.concat());
    assert_eq!(audited.verdict(), Verdict::Clean, "{:?} {:?}", audited.findings, audited.run.end);
    assert_eq!(audited.run.end, End::Reset);
    assert!(audited.isolated);
    let total = Row { stores: 5, flushed: 5, ..Row::default() };
    assert_eq!(audited.coverage.total(), total);
    let flushes = audited.flushes.iter().map(|(_, count)| *count);
    assert_eq!(flushes.collect::<Vec<_>>(), [4, 2, 2, 0, 5, 23, 1]);
}

#[test]
fn each_flush_that_a_kernel_forgets_is_found_by_its_rule() {
    let keys = |lacks| {
        let (audited, console) = audited(&tasks(lacks), &[]);
        assert_eq!(audited.verdict(), Verdict::Violation, "{lacks:?}");
        // The kernel itself notices nothing.
        assert_eq!(console, LINES.concat(), "{lacks:?}");
        let keys = audited.findings.iter().map(|finding| {
            let Key { rule, change, .. } = &finding.key;
            format!("{rule} {change} {}", finding.count)
        });
        keys.collect::<Vec<_>>()
    };
    for (lacks, expected) in [
        (Lacks::UserHalf, &["stale-user-entry unmap 1"][..]),
        (Lacks::Flush, &["stale-user-entry write-protect 1", "stale-other-asid write-protect 1"]),
        (Lacks::Mark, &["stale-user-entry remap 1"]),
        (Lacks::Parked, &["stale-other-asid unmap 1", "stale-user-entry unmap 1"]),
        (Lacks::Reuse, &["va-reuse unmap 1"]),
        (Lacks::PcidFlush, &["pcid-reuse none 1"]),
        // The kernel's PCID is used for two roots then: on the way out, and on the next way in.
        (Lacks::Pairing, &["cr3-pairing none 1", "pcid-reuse none 1", "pcid-reuse none 1"]),
    ] {
        assert_eq!(keys(lacks), expected, "{lacks:?}");
    }
}

#[test]
fn each_flush_that_is_withheld_is_found_or_was_not_needed() {
    let expected = [
        // The kernel's own entries of user pages: found as its PCID becomes current again.
        (
            "drop invlpg",
            &["stale-other-asid", "stale-other-asid", "stale-other-asid", "va-reuse"][..],
        ),
        (
            "drop invpcid",
            &["stale-user-entry", "stale-user-entry", "stale-other-asid", "stale-user-entry"],
        ),
        // Nothing is cached yet at the first load of either PCID: they need not flush.
        ("set noflush@any", &["", "", "stale-user-entry", "pcid-reuse"]),
    ];
    for (form, found) in expected {
        for (nth, rule) in found.iter().enumerate() {
            let fault = format!("{form}#{}", nth + 1);
            let (audited, console) = audited(&tasks(Lacks::Nothing), &[&fault]);
            assert_eq!(rules(&audited).join(" "), *rule, "{fault}");
            let clean = audited.verdict() == Verdict::Clean;
            assert_eq!((clean, console), (rule.is_empty(), LINES.concat()), "{fault}");
        }
        let fault = format!("{form}#{}", found.len() + 1);
        let (audited, _) = audited(&tasks(Lacks::Nothing), &[&fault]);
        assert_eq!(audited.verdict(), Verdict::NotApplied, "{fault}");
        assert_eq!(audited.not_fired, [fault]);
    }
}

fn campaign_of(subject: &Subject<'_>, plan: Plan<'_>) -> (Audited, Campaign) {
    campaign(subject, plan, &mut |_| {}, &|_, _| {}).expect("it runs")
}

/// Each flush is withheld from a checkpoint before it, and it comes to what it does in a run of its own.
#[test]
fn a_campaign_says_of_each_flush_what_a_run_of_its_own_says() {
    let tasks = tasks(Lacks::Nothing);
    let campaigns = [1, 3].map(|jobs| {
        let plan = Plan { kinds: Kinds::Each, begins: None, jobs };
        with_subject(&tasks, &[], |subject| campaign_of(subject, plan))
    });
    let [(clean, campaign), (_, by_three)] = &campaigns;
    assert_eq!(clean.verdict(), Verdict::Clean);
    assert_eq!(campaign, by_three, "the same whatever the number of threads");
    // Four INVLPG, four INVPCID, and of five CR3 loads two: the others are before user mode.
    assert_eq!((campaign.operations, campaign.dropped.len()), (10, 10));
    for Dropped { fault, came, .. } in &campaign.dropped {
        let (alone, _) = audited(&tasks, &[fault]);
        let found = rules(&alone).first().map(ToString::to_string);
        let caught = match came {
            Came::Caught(rule) => Some(rule.to_string()),
            _ => None,
        };
        assert_eq!(caught, found, "{fault}: {came:?}");
    }
    let only = |kinds| {
        let plan = Plan { kinds, begins: Some("no such text"), jobs: 1 };
        let (_, none) = with_subject(&tasks, &[], |subject| campaign_of(subject, plan));
        none
    };
    assert_eq!(only(Kinds::Each), Campaign { operations: 0, dropped: Vec::new() });
}

/// Two tasks: the first unmaps a page, and before it has flushed, the other, which has run before,
/// runs in user mode: the first hands over to it, or a timer's interrupt does, in the space of
/// both.
fn preempted(other: Space, by_timer: bool) -> [Task; 2] {
    let load = |space: Space| (other != A).then_some(Does::Cr3(space.cr3() | NOFLUSH));
    let back = |says: Option<Does>| call([says, load(A), Some(Does::Switch(0))]);
    let switch = if by_timer { Does::Sleep(1) } else { Does::Switch(1) };
    let flush = both(data(0)).map(Some);
    let first = vec![
        User::Read(data(0)),
        call([load(other), Some(Does::Switch(1))]),
        call(
            [Some(Does::Read(data(0))), Some(Does::Store(A.slot(0), 0)), load(other), Some(switch)]
                .into_iter()
                .chain(flush),
        ),
        User::Read(data(0)),
        done(),
    ];
    let says = Does::Print(LINES[1]);
    let second = vec![User::Read(data(0)), back(None), User::Read(data(0)), back(Some(says))];
    [(A, first), (other, second)]
}

#[test]
fn a_task_that_is_preempted_before_its_flush_may_leave_others_what_is_stale() {
    for (other, by_timer) in [(A, false), (A, true), (B, false)] {
        let tasks = preempted(other, by_timer);
        let (clean, console) = audited(&tasks, &[]);
        assert_eq!(clean.verdict(), Verdict::Clean, "{:?}", clean.findings);
        assert_eq!(console, LINES[1..].concat(), "the other task has run");
        assert_eq!(clean.coverage.total(), Row { stores: 1, flushed: 1, ..Row::default() });
        let (forgotten, _) = audited(&tasks, &["drop invpcid#1"]);
        assert_eq!(rules(&forgotten), ["stale-user-entry"]);
        let (forgotten, _) = audited(&tasks, &["drop invlpg#1"]);
        assert_eq!(rules(&forgotten), ["stale-other-asid"]);
    }
}

/// One task that has used a page, through both PCIDs, `far(0)` too, and pages of the kernel's; then
/// the kernel does these, and user mode is entered.
fn after_use(does: &[Does]) -> (Audited, String) {
    let pages = [data(0), far(0)];
    let kernels = [area(0), area(GLOBAL)];
    let reads = pages.into_iter().chain(kernels).map(|va| Some(Does::Read(va)));
    let mut script: Vec<User> = pages.into_iter().map(User::Read).collect();
    script.extend([call(reads), User::Call(does.to_vec()), User::Read(data(1)), done()]);
    audited(&[(A, script)], &[])
}

/// The flushes of a page of user mode.
pub fn both(page: u64) -> [Does; 2] {
    [Does::Invlpg(page), Does::InvpcidAddress(A.user_pcid(), page)]
}

#[test]
fn what_needs_no_flush_or_has_it_otherwise_is_no_violation() {
    let unmap = Does::Store(A.slot(0), 0);
    let map = |frame: u64| Does::Store(A.slot(0), A.frame(frame) | PAGE);
    let [invlpg, invpcid] = both(data(0));
    let flushed = |stores| Row { stores, flushed: stores, ..Row::default() };
    let cases: [(&str, &[Does], Row); 9] = [
        ("restored before anybody could use the old entry", &[unmap.clone(), map(0)], flushed(1)),
        (
            "a load of each CR3 that flushes",
            &[unmap.clone(), Does::Cr3(A.cr3()), Does::Mark(A.pcid())],
            flushed(1),
        ),
        (
            "INVPCID of each PCID",
            &[unmap.clone(), Does::InvpcidAll(A.pcid()), Does::InvpcidAll(A.user_pcid())],
            flushed(1),
        ),
        (
            "mapped anew between the flushes of the two PCIDs",
            &[unmap, invlpg, map(5), invpcid],
            flushed(1),
        ),
        (
            "a table is unlinked",
            &[&[Does::Store(A.far_slot(), 0)][..], &both(far(0))].concat(),
            flushed(1),
        ),
        (
            "a global page is mapped anew",
            &[
                Does::Store(area_slot(GLOBAL), 0),
                Does::Invlpg(area(GLOBAL)),
                Does::Store(area_slot(GLOBAL), C.frame(12) | GLOBAL_PAGE),
            ],
            flushed(1),
        ),
        (
            "a kernel address that is not given out again",
            &[Does::Store(area_slot(0), 0)],
            Row { stores: 1, unused: 1, ..Row::default() },
        ),
        (
            "a page that nobody has used",
            &[Does::Store(A.slot(1), 0)],
            Row { stores: 1, harmless: 1, ..Row::default() },
        ),
        (
            "a page that was not mapped",
            &[Does::Store(area_slot(9), C.frame(12) | KERNEL_PAGE)],
            Row::default(),
        ),
    ];
    for (name, does, total) in cases {
        let (audited, console) = after_use(does);
        assert!(audited.findings.is_empty(), "{name}: {:?}", audited.findings);
        assert_eq!((audited.coverage.total(), &*console), (total, LINES[2]), "{name}");
    }
}

#[test]
fn what_is_not_flushed_as_it_should_be_is_found() {
    let slot = A.slot(0);
    let [invlpg, invpcid] = both(data(0));
    let cases: [(&str, &[Does], &[&str]); 7] = [
        (
            "mapped anew by the task that has not flushed yet",
            &[Does::Store(slot, 0), Does::Store(slot, A.frame(5) | PAGE), invlpg.clone(), invpcid],
            &["va-reuse unmap"],
        ),
        (
            "INVLPG does not reach the user PCID",
            &[Does::Store(slot, A.frame(0) | KERNEL_PAGE), invlpg.clone()],
            &["stale-user-entry supervisor"],
        ),
        (
            "D is cleared",
            &[Does::Store(slot, (A.frame(0) | PAGE) & !(1 << 6)), invlpg.clone()],
            &["stale-user-entry clean"],
        ),
        (
            "the other page is flushed",
            &[Does::Store(slot, 0), invlpg, Does::InvpcidAddress(A.user_pcid(), data(1))],
            &["stale-user-entry unmap"],
        ),
        (
            "a table is unlinked",
            &[Does::Store(A.far_slot(), 0), Does::Invlpg(far(0))],
            &["stale-user-entry unmap"],
        ),
        (
            "a load of CR3 leaves globals",
            &[
                Does::Store(area_slot(GLOBAL), 0),
                Does::Cr3(A.cr3()),
                Does::Store(area_slot(GLOBAL), C.frame(12) | GLOBAL_PAGE),
            ],
            &["va-reuse unmap"],
        ),
        // What was fetched through the kernel root is cached under the user PCID then.
        (
            "a user PCID is loaded with the kernel root",
            &[Does::Cr3(A.cr3() | USER_PCID), Does::Cr3(A.cr3() | NOFLUSH)],
            &["cr3-pairing none", "pcid-reuse none"],
        ),
    ];
    for (name, does, expected) in cases {
        let (audited, console) = after_use(does);
        let keys = audited.findings.iter().map(|finding| &finding.key);
        let keys: Vec<_> = keys.map(|key| format!("{} {}", key.rule, key.change)).collect();
        assert_eq!(
            (keys, &*console),
            (expected.iter().map(|&key| key.into()).collect(), LINES[2]),
            "{name}"
        );
    }
}

#[test]
fn tasks_are_told_by_their_stacks_alone() {
    let (of_first, _) = audited(&tasks(Lacks::UserHalf), &[]);
    let (of_second, _) = audited(&tasks(Lacks::Parked), &[]);
    for (audited, task) in [(of_first, 0), (of_second, 1)] {
        let downgrade = audited.findings[0].first.downgrade.as_ref().expect("a store");
        assert_eq!(downgrade.task, Some(TaskId(task)));
    }
}

#[test]
fn a_kernel_that_makes_nothing_stale_is_judged_by_nothing() {
    let (vacuous, console) = audited(&[(A, vec![User::Read(data(0)), done()])], &[]);
    assert_eq!((vacuous.verdict(), console.as_str()), (Verdict::Vacuous, LINES[2]));
    // What nobody has used is not cached.
    let unmap = call([Some(Does::Store(A.slot(0), 0))]);
    let (unused, _) = audited(&[(A, vec![unmap, done()])], &[]);
    assert_eq!(unused.verdict(), Verdict::Vacuous);
    assert_eq!(unused.coverage.total(), Row { stores: 1, harmless: 1, ..Row::default() });
}

#[test]
fn a_kernel_that_cannot_go_on_is_stopped_with_a_sentence() {
    for (bytes, sentence) in [
        (
            &[0x0f, 0x01, 0xd1][..],
            "XSETBV (0f 01 d1) cannot be carried out: the model does not know this operation",
        ),
        (
            &[0xc4, 0xe2, 0x7d, 0x18, 0x07],
            "VBROADCASTSS (c4 e2 7d 18 07) cannot be carried out: the interpreter does not know \
             this instruction",
        ),
    ] {
        let does = [Some(Does::Print("so far")), Some(Does::Bytes(bytes))];
        let (audited, console) = audited(&[(A, vec![call(does)])], &[]);
        assert_eq!((audited.verdict(), &*console), (Verdict::Stopped, "so far"));
        let End::Stopped(stop, _) = audited.run.end else { panic!("{:?}", audited.run.end) };
        assert_eq!(stop.to_string(), sentence);
    }
}

#[test]
fn what_kernels_look_for_in_vain_reads_as_an_empty_bus_and_is_listed() {
    let (audited, console) = audited(&[(A, vec![call([Some(Does::In(0x2f9))]), done()])], &[]);
    assert_eq!(audited.run.absent_ports, [(0x2f9, 1)]);
    assert_eq!(console, LINES[2]);
    let text = stalemate::audit::text(&audited, Ink::Plain);
    assert!(text.contains("nothing answers at 0x2f9 (1): they read as all ones"), "{text}");
}

#[test]
fn a_port_that_no_board_is_known_to_have_ends_the_run_and_is_named() {
    let does = [Some(Does::Print("so far")), Some(Does::In(0x1234))];
    let tasks = [(A, vec![call(does), done()])];
    let (audited, console) = audited(&tasks, &[]);
    assert_eq!((audited.verdict(), &*console), (Verdict::Stopped, "so far"));
    let text = stalemate::audit::text(&audited, Ink::Plain);
    let place = audited.stopped_in.expect("it was stopped");
    let sentence = format!(" in {place}: IN from port 0x1234, where no device is");
    assert!(text.contains(&sentence), "{text}");
}

#[test]
fn an_msr_that_the_processor_does_not_have_is_a_fault() {
    let does = [Some(Does::Print("so far")), Some(Does::Wrmsr(0x1234))];
    let (audited, console) = audited(&[(A, vec![call(does), done()])], &[]);
    assert_eq!((&audited.run.end, &*console), (&End::Reset, "so far"));
    assert_eq!(audited.run.absent_msrs, [(0x1234, 1)]);
}

#[test]
fn a_lenient_board_answers_whatever_it_is_asked_and_lists_it() {
    let does = [Does::In(0x1234), Does::Wrmsr(0x1235)].map(Some);
    let tasks = [(A, vec![call(does), done()])];
    let audited =
        with_board(&tasks, &[], true, |subject| audit(subject, &mut |_| {}).expect("it runs"));
    assert_eq!(audited.run.end, End::Reset);
    assert_eq!(
        (&*audited.run.absent_ports, &*audited.run.absent_msrs),
        (&[(0x1234, 1)][..], &[(0x1235, 1)][..])
    );
    let text = stalemate::audit::text(&audited, Ink::Plain);
    assert!(text.contains("the processor has no MSR 0x1235 (1)"), "{text}");
}

#[test]
fn a_kernel_that_halts_for_good_has_ended() {
    let (audited, _) = audited(&[(A, vec![call([Some(Does::Halt)])])], &[]);
    assert_eq!(audited.run.end, End::Halted);
}
