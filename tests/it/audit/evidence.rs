//! What a run shows of what it has found: how sure it is that a processor has it, and what came of it.

use super::kernel::{Does, User};
use super::layout::*;
use super::scripts::{Lacks, call, done, tasks};
use super::{audited, with_subject};
use stalemate::arch::tlb::{Fill, TlbModel};
use stalemate::audit::{Audited, Finding, Grade, Subject, audit};
use stalemate::ink::Ink;

/// A task that does these, with a page that user mode has read and written, and the kernel has read; then it
/// does these.
fn one(does: &[Does], then: &[User]) -> Audited {
    let page = data(0);
    let mut script = vec![User::Read(page), User::Write(page), call([Some(Does::Read(page))])];
    script.push(User::Call(does.to_vec()));
    script.extend(then.iter().cloned());
    script.push(done());
    audited(&[(A, script)], &[]).0
}

fn only(audited: &Audited) -> &Finding {
    let [finding] = &audited.findings[..] else { panic!("{:?}", audited.findings) };
    finding
}

fn grade_and_kind(audited: &Audited) -> (Grade, Option<&'static str>) {
    let evidence = &only(audited).evidence;
    (evidence.grade, evidence.used.as_ref().map(|used| used.kind))
}

fn slot() -> u64 {
    A.slot(0)
}

fn write_protect() -> [Does; 2] {
    [Does::Store(slot(), A.frame(0) | READ_ONLY), Does::Invlpg(data(0))]
}

#[test]
fn what_went_through_a_stale_entry_is_told_from_what_might() {
    let nothing = one(&write_protect(), &[User::Read(data(1))]);
    assert_eq!(grade_and_kind(&nothing), (Grade::Held, None));
    // The tables grant the read too.
    let read = one(&write_protect(), &[User::Read(data(0))]);
    assert_eq!(grade_and_kind(&read), (Grade::Held, None));
    let written = one(&write_protect(), &[User::Read(data(0)), User::Write(data(0))]);
    assert_eq!(grade_and_kind(&written), (Grade::Used, Some("write")));
    let unmap = [Does::Store(slot(), 0), Does::Invlpg(data(0))];
    let unmapped = one(&unmap, &[User::Read(data(0))]);
    assert_eq!(grade_and_kind(&unmapped), (Grade::Used, Some("read")));
    let remap = [Does::Store(slot(), A.frame(5) | PAGE), Does::Invlpg(data(0))];
    let remapped = one(&remap, &[User::Read(data(0))]);
    assert_eq!(grade_and_kind(&remapped), (Grade::Used, Some("read")));
    let clean = [Does::Store(slot(), (A.frame(0) | PAGE) & !(1 << 6)), Does::Invlpg(data(0))];
    assert_eq!(grade_and_kind(&one(&clean, &[User::Read(data(0))])), (Grade::Held, None));
    let dirtied = one(&clean, &[User::Write(data(0))]);
    assert_eq!(grade_and_kind(&dirtied), (Grade::Used, Some("write")));
}

#[test]
fn the_kernels_own_access_is_one_too() {
    let reused = audited(&tasks(Lacks::Reuse), &[]).0;
    let evidence = &only(&reused).evidence;
    let used = evidence.used.as_ref().expect("it is read");
    assert_eq!((evidence.grade, used.kind, used.user), (Grade::Used, "read", false));
    assert_eq!(used.va, area(0));
}

#[test]
fn when_an_entry_was_used_first_is_before_it_became_stale() {
    let audited = one(&write_protect(), &[]);
    let Finding { evidence, noted, .. } = only(&audited);
    let held = evidence.held.as_ref().expect("user mode has read it");
    let stored = noted.stored.expect("when the store was made");
    assert_eq!((held.kind, held.user, held.va), ("read", true, data(0)));
    assert!(held.at < stored && stored < noted.found, "{held:?} {noted:?}");
    assert_eq!(evidence.of, (1, 1));
}

/// What is cached ahead of accesses is no more than speculative.
#[test]
fn what_no_access_went_through_is_speculative() {
    let unmap = call([Some(Does::Store(A.slot(3), 0))]);
    let tasks = [(A, vec![User::Read(data(0)), unmap, User::Read(data(0)), done()])];
    let fill = TlbModel { fill: Fill::WorstCase, structure_caches: false, seed: 0 };
    let found = with_subject(&tasks, &[], |subject| {
        let settings = stalemate::kernel::free::Settings { model: fill, ..subject.settings };
        audit(&Subject { settings, ..subject.clone() }, &mut |_| {}).expect("it runs")
    });
    let user = found.findings.iter().find(|finding| finding.key.rule == "stale-user-entry");
    let evidence = &user.expect("a finding").evidence;
    assert_eq!((evidence.grade, &evidence.held), (Grade::Speculative, &None));
    assert_eq!(found.graded(Grade::Held).count(), 0, "{:?}", found.findings);
    assert!(found.graded(Grade::Speculative).count() > 0);
}

#[test]
fn the_window_has_an_end_and_says_what_that_was() {
    let unmap = [Does::Store(slot(), 0), Does::Invlpg(data(0))];
    let flush = call([Some(Does::InvpcidAll(A.user_pcid()))]);
    let closed = one(&unmap, &[flush]);
    let noted = &only(&closed).noted;
    let closed = noted.closed.as_ref().expect("it is flushed");
    assert_eq!(closed.what, "INVPCID of a PCID");
    assert!(closed.at > noted.found, "{noted:?}");
    let open = one(&unmap, &[]);
    assert_eq!(only(&open).noted.closed, None);
}

#[test]
fn a_frame_that_is_given_out_again_is_told() {
    let unmap = [Does::Store(slot(), 0), Does::Invlpg(data(0))];
    let elsewhere = call([Some(Does::Store(A.slot(9), A.frame(0) | PAGE))]);
    let given = one(&unmap, std::slice::from_ref(&elsewhere));
    let frame = &only(&given).evidence.frame;
    let [given] = &frame[..] else { panic!("{frame:?}") };
    assert!(given.what.starts_with("it was mapped by a store to "), "{given:?}");
    // After it is flushed, or before the store, it is nobody's affair.
    let flush = call([Some(Does::InvpcidAll(A.user_pcid()))]);
    let late = one(&unmap, &[flush, elsewhere]);
    assert_eq!(only(&late).evidence.frame, []);
}

#[test]
fn what_might_have_made_it_legal_is_told_with_what_was_seen() {
    let audited = one(&write_protect(), &[]);
    let seen: Vec<String> = only(&audited)
        .noted
        .exceptions
        .iter()
        .map(|exception| format!("{}: {}", exception.if_only, exception.seen))
        .collect();
    let expected = [
        "the tables grant it again: a walk comes to: 0x410000 -> 0x600000 -xud-",
        "it is under a PCID that is not current: PCID 0x801 is usable here",
        "another task is still in the middle of the operation, before its flush: task 0 made it stale",
        "user mode cannot use it: U/S is 1",
    ];
    assert_eq!(seen.len(), expected.len(), "{seen:?}");
    for (seen, expected) in seen.iter().zip(expected) {
        assert!(seen.trim_end().starts_with(expected.trim_end()), "{seen}");
    }
    let text = stalemate::audit::text(&audited, Ink::Plain);
    assert!(text.contains("\n  legal if     user mode cannot use it: no, U/S is 1\n"), "{text}");
    assert!(text.contains("\n  grade        held: "), "{text}");
    assert!(text.contains("\nBUG: STALEMATE: stale-user-entry in "), "{text}");
}

/// Without the flush that came in time its rule would have spoken: that is what it has judged.
#[test]
fn each_rule_says_how_much_it_has_judged() {
    let (clean, _) = audited(&tasks(Lacks::Nothing), &[]);
    let judged = |audited: &Audited| {
        let counts = audited.judged.iter().filter(|(_, count)| **count > 0);
        counts.map(|(rule, count)| format!("{rule} {count}")).collect::<Vec<_>>()
    };
    // Each of four pages under both PCIDs, and a page of the kernel's.
    let expected = [
        "cr3-pairing 27",
        "pcid-reuse 1",
        "stale-other-asid 4",
        "stale-user-entry 4",
        "va-reuse 1",
    ];
    assert_eq!(judged(&clean), expected);
    let by_store: u64 = clean.judged_by_store.values().flat_map(|counts| counts.values()).sum();
    let stale = ["stale-user-entry", "stale-other-asid", "va-reuse"].map(|rule| clean.judged[rule]);
    assert_eq!(by_store, stale.iter().sum::<u64>());
    // It is the same rule that speaks when the flush does not come.
    let (forgotten, _) = audited(&tasks(Lacks::UserHalf), &[]);
    assert_eq!(forgotten.judged["stale-user-entry"], clean.judged["stale-user-entry"]);
    let text = stalemate::audit::text(&clean, Ink::Plain);
    assert!(text.contains("\n  va-reuse                     1   times that a store"), "{text}");
}

/// What is mapped again as it was needed no flush, so no rule has judged one.
#[test]
fn what_is_restored_was_not_judged() {
    let restored = one(&[Does::Store(slot(), 0), Does::Store(slot(), A.frame(0) | PAGE)], &[]);
    assert_eq!(restored.findings, []);
    assert_eq!(restored.judged_by_store.len(), 0, "{:?}", restored.judged_by_store);
    let flushed = [
        Does::Store(slot(), 0),
        Does::Invlpg(data(0)),
        Does::InvpcidAddress(A.user_pcid(), data(0)),
    ];
    assert_eq!(one(&flushed, &[]).judged["stale-user-entry"], 1);
}
