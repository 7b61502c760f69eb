//! `stalemate audit` of a small kernel of the tests' own: what it finds, and what it lets pass.

mod assembler;
mod command_line;
mod elf;
mod images;
mod kernel;
mod layout;
mod scripts;

use kernel::{Does, Task, User, kernel};
use layout::*;
use scripts::{LINES, Lacks, call, done, tasks};
use stalemate::arch::tlb::{Fill, TlbModel};
use stalemate::audit::{Audited, Key, Row, Subject, Verdict, audit};
use stalemate::event::TaskId;
use stalemate::inject::Fault;
use stalemate::ink::Ink;
use stalemate::kernel::free::{End, KernelImage, Settings};
use stalemate::scenario::CPUS;
use stalemate::symbols::Symbols;

/// What an audit has.
const MODEL: TlbModel = TlbModel { fill: Fill::OnDemand, structure_caches: false, seed: 0 };
const INSTRUCTIONS: u64 = 1_000_000;

/// What comes of a kernel with these tasks, and what it prints.
fn audited(tasks: &[Task], faults: &[&str]) -> (Audited, String) {
    let kernel = KernelImage::parse(&kernel(tasks)).expect("a kernel");
    let faults: Vec<Fault> = faults.iter().map(|fault| fault.parse().expect("a fault")).collect();
    let cpu = CPUS.iter().find(|cpu| cpu.name == "pcid-invpcid").expect("a named CPU");
    let subject = Subject {
        kernel: &kernel,
        initrd: &[],
        command_line: "",
        symbols: &Symbols::new(&kernel.elf),
        settings: Settings {
            features: cpu.features,
            model: MODEL,
            ram: 32 << 20,
            ticks: 1,
            instructions: INSTRUCTIONS,
        },
        faults: &faults,
        until: None,
    };
    let mut console = Vec::new();
    let audited = audit(&subject, &mut |bytes| console.extend(bytes)).expect("it runs");
    (audited, String::from_utf8(console).expect("text"))
}

/// The rules that have spoken, in the order in which they did.
fn rules(audited: &Audited) -> Vec<&str> {
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

/// Two tasks of spaces: the first unmaps a page, and the other, which has run before, runs in user mode
/// before the first has flushed.
fn preempted(other: Space) -> [Task; 2] {
    let to = |task: usize, space: Space, from: Space| {
        let load = (space != from).then_some(Does::Cr3(space.cr3() | NOFLUSH));
        [load, Some(Does::Switch(task))]
    };
    let there = to(1, other, A);
    let back = || User::Call(to(0, A, other).into_iter().flatten().collect());
    let unmap = [Some(Does::Read(data(0))), Some(Does::Store(A.slot(0), 0))];
    let flush = [Some(Does::Invlpg(data(0))), Some(Does::InvpcidAddress(A.user_pcid(), data(0)))];
    let first = vec![
        User::Read(data(0)),
        call(there.clone()),
        call(unmap.into_iter().chain(there).chain(flush)),
        User::Read(data(0)),
        done(),
    ];
    let second = vec![User::Read(data(0)), back(), User::Read(data(0)), back()];
    [(A, first), (other, second)]
}

#[test]
fn a_task_that_is_preempted_before_its_flush_may_leave_others_what_is_stale() {
    for other in [A, B] {
        let (clean, console) = audited(&preempted(other), &[]);
        assert_eq!(clean.verdict(), Verdict::Clean, "{:?}", clean.findings);
        assert_eq!(console, LINES[2]);
        assert_eq!(clean.coverage.total(), Row { stores: 1, flushed: 1, ..Row::default() });
        let (forgotten, _) = audited(&preempted(other), &["drop invpcid#1"]);
        assert_eq!(rules(&forgotten), ["stale-user-entry"]);
        let (forgotten, _) = audited(&preempted(other), &["drop invlpg#1"]);
        assert_eq!(rules(&forgotten), ["stale-other-asid"]);
    }
}

#[test]
fn what_needs_no_flush_or_has_it_otherwise_is_no_violation() {
    let page = data(0);
    let cached = || [User::Read(page), call([Some(Does::Read(page)), Some(Does::Read(AREA))])];
    let flushed = Row { stores: 1, flushed: 1, ..Row::default() };
    for (name, does, total) in [
        (
            "the entry is restored before anybody could use the old one",
            vec![Does::Store(A.slot(0), 0), Does::Store(A.slot(0), A.frame(0) | PAGE)],
            flushed.clone(),
        ),
        (
            "a load of each CR3 flushes its PCID",
            vec![Does::Store(A.slot(0), 0), Does::Cr3(A.cr3()), Does::Mark(A.pcid())],
            flushed.clone(),
        ),
        (
            "INVPCID of each PCID",
            vec![
                Does::Store(A.slot(0), 0),
                Does::InvpcidAll(A.pcid()),
                Does::InvpcidAll(A.user_pcid()),
            ],
            flushed,
        ),
        (
            "a kernel address that is not given out again",
            vec![Does::Store(area_slot(0), 0)],
            Row { stores: 1, unused: 1, ..Row::default() },
        ),
        (
            "a page that nobody has used",
            vec![Does::Store(A.slot(1), 0)],
            Row { stores: 1, harmless: 1, ..Row::default() },
        ),
        (
            "rights that are given",
            vec![Does::Store(A.slot(0), A.frame(0) | PAGE | 1 << 8)],
            Row::default(),
        ),
    ] {
        let script = cached().into_iter().chain([User::Call(does), User::Read(data(1)), done()]);
        let (audited, console) = audited(&[(A, script.collect())], &[]);
        assert!(audited.findings.is_empty(), "{name}: {:?}", audited.findings);
        assert_eq!((audited.coverage.total(), &*console), (total, LINES[2]), "{name}");
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
            "VBROADCASTSS (c4 e2 7d 18 07) cannot be carried out: the interpreter does not know this \
             instruction",
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
fn a_port_at_which_nothing_is_reads_as_an_empty_bus_and_is_listed() {
    let (audited, console) = audited(&[(A, vec![call([Some(Does::In(0x1234))]), done()])], &[]);
    assert_eq!(audited.run.absent_ports, [(0x1234, 1)]);
    assert_eq!(console, LINES[2]);
    let text = stalemate::audit::text(&audited, Ink::Plain);
    assert!(text.contains("1   accesses where nothing answers: port 0x1234"), "{text}");
}

#[test]
fn an_msr_that_the_processor_does_not_have_is_a_fault() {
    let does = [Some(Does::Print("so far")), Some(Does::Wrmsr(0x1234))];
    let (audited, console) = audited(&[(A, vec![call(does), done()])], &[]);
    assert_eq!((audited.run.end, &*console), (End::Reset, "so far"));
}

#[test]
fn a_kernel_that_halts_for_good_has_ended() {
    let (audited, _) = audited(&[(A, vec![call([Some(Does::Halt)])])], &[]);
    assert_eq!(audited.run.end, End::Halted);
}
