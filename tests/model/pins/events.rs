//! The rules on events.

use super::*;
use crate::story::{B, NOFLUSH, PTE, TRAMPOLINE, TRAMPOLINE_PTE, USER};
use stalemate_model::arch::happened::Happened;
use stalemate_model::event::TraceHeader;

const PCIDE: u64 = 1 << 17;
const PGE: u64 = 1 << 7;

#[test]
fn bits_11_and_12_of_cr3_agree() {
    for (value, agrees) in
        [(A.0 | 1, true), (A.0 | USER | 0x801, true), (A.0 | 0x801, false), (A.0 | USER | 1, false)]
    {
        let broken: &[&str] = if agrees { &[] } else { &["cr3-pairing"] };
        let mut story = Story::isolated(1);
        story.loads(0, value).has_broken(broken);
        // A message names which half is which.
        let named = story.oracle.violations().iter().all(|violation| {
            let user_root = value & USER != 0;
            violation.message.contains(if user_root { "the user root" } else { "the kernel root" })
        });
        assert!(named);
    }
    let unpaired = |header: &mut TraceHeader| header.kernel.isolated = false;
    Story::isolated_but(1, unpaired).loads(0, A.0 | 0x801).has_broken(&["cr3-pairing"]);
    Story::isolated_but(1, unpaired).loads(0, A.0 | 2).is_clean();
    let without_pcids = |header: &mut TraceHeader| header.cpus[0].cr4 &= !PCIDE;
    Story::isolated_but(1, without_pcids).loads(0, A.0 | 0x800).is_clean();
}

#[test]
fn a_pcid_is_emptied_before_it_serves_another_root() {
    let mut story = running(1);
    story.loads(0, B.0 | 1).is_clean();
    let mut story = running(1);
    story.loads(0, NOFLUSH | B.0 | 1).has_broken(&["pcid-reuse"]);
    assert!(story.owed().iter().any(|owed| owed.ends_with("pcid-reuse")), "{:?}", story.owed());
    let mut story = running(1);
    story.loads(0, NOFLUSH | B.0 | 2).loads(0, NOFLUSH | A.0 | 1).is_clean();
    // What was stale before is another rule's.
    let mut story = edited(1);
    story.loads(0, NOFLUSH | B.0 | 1);
    let owed = story.owed();
    assert_eq!(owed.iter().filter(|owed| owed.ends_with("pcid-reuse")).count(), 1, "{owed:?}");
}

#[test]
fn user_mode_reaches_no_kernel_page_but_the_trampoline() {
    let mut story = running(1);
    story.runs_user(0, A, 0).is_clean();
    story.enters_user_mode(0).is_clean();
    let mut story = running(1);
    story.enters_user_mode(0).has_broken(&["pti-leak"]);
    // A page right after the trampoline, and the trampoline where the header says nothing of it.
    let mut story = Story::isolated(1);
    story
        .stores_to(0, after(TRAMPOLINE_PTE), 0, 0x10_c061)
        .runs_user(0, A, 0)
        .has_broken(&["pti-leak"]);
    let moved = |header: &mut TraceHeader| {
        header.kernel.trampoline = vec![(Gva(TRAMPOLINE.0 + 0x1000), Gva(TRAMPOLINE.0 + 0x2000))];
    };
    Story::isolated_but(1, moved).runs_user(0, A, 0).has_broken(&["pti-leak"]);
    // A global of the kernel's is reached from user mode as well.
    let mut story = Story::isolated(1);
    story.stores_to(0, Gpa(0x5010), 0, 0x10_c163);
    story.runs_user(0, A, 0).has_broken(&["stale-user-entry", "pti-leak"]);
    // Before user mode is entered nothing is wrong, and nothing without isolation.
    let mut story = Story::isolated(1);
    story.stores_to(0, after(TRAMPOLINE_PTE), 0, 0x10_c061).loads(0, A.0 | USER | 0x801).is_clean();
    let joined = |header: &mut TraceHeader| header.kernel.isolated = false;
    Story::isolated_but(1, joined).enters_user_mode(0).is_clean();
}

#[test]
fn a_mark_is_of_a_slot() {
    for (pcid, stray) in [(0x801, false), (0x803, false), (0x804, true), (1, true)] {
        let mut story = Story::isolated(1);
        marks(&mut story, 0, pcid);
        let broken: &[&str] = if stray { &["stray-mark"] } else { &[] };
        story.has_broken(broken);
    }
    // A kernel that has no slots may mark what it will.
    let mut story = Story::isolated_but(1, |header| header.kernel.slots.clear());
    marks(&mut story, 0, 0x804);
    story.is_clean();
}

#[test]
fn cr3_holds_what_is_said_to_be_loaded() {
    let says = |story: &mut Story, space: Option<u64>| {
        let space = space.map(SpaceId);
        story.says(0, Announcement::Loaded { cpu: CpuId(0), space });
        story.rules()
    };
    assert!(says(&mut Story::isolated(1), Some(1)).is_empty());
    assert_eq!(says(&mut Story::isolated(1), Some(2)), ["loaded-mm"]);
    assert!(says(&mut Story::isolated(1), None).is_empty());
    assert!(says(Story::isolated(1).loads(0, NOFLUSH | A.0 | USER | 0x801), Some(1)).is_empty());
    assert!(says(&mut Story::new(1), Some(7)).is_empty());
    // It is said of one CPU by another.
    let mut story = Story::isolated(2);
    let loaded = Announcement::Loaded { cpu: CpuId(1), space: Some(SpaceId(2)) };
    story.loads(1, NOFLUSH | B.0 | 2).says(0, loaded).is_clean();
}

/// After a mark was cleared: each thing that empties the user PCID, and what comes close.
#[test]
fn who_clears_a_mark_empties_its_pcid() {
    let user = A.0 | USER | 0x801;
    let cleared = |then: &dyn Fn(&mut Story)| {
        let mut story = running(2);
        marks(&mut story, 0, 0x801);
        unmarks(&mut story, 0, 0x801);
        then(&mut story);
        story.loads(0, NOFLUSH | user).enters_user_mode(0);
        story.rules()
    };
    let lost = ["lost-mark"];
    let cr4 = |old: u64, new: u64| Happened::WriteCr4 { old, new };
    assert_eq!(cleared(&|_| {}), lost);
    assert!(cleared(&|story| _ = story.loads(0, user)).is_empty());
    assert_eq!(cleared(&|story| _ = story.loads(0, A.0 | 1)), lost, "the kernel's");
    assert_eq!(cleared(&|story| _ = story.loads(0, A.0 | USER | 0x802)), lost, "another slot's");
    assert_eq!(cleared(&|story| _ = story.loads(1, user)), lost, "on another CPU");
    assert_eq!(cleared(&|story| _ = story.invpcid(0, 0, 0x801, PAGE)), lost, "one address");
    assert!(cleared(&|story| _ = story.invpcid(0, 1, 0x801, PAGE)).is_empty());
    assert_eq!(cleared(&|story| _ = story.invpcid(0, 1, 1, PAGE)), lost, "the pair's other half");
    assert_eq!(cleared(&|story| _ = story.invpcid(1, 1, 0x801, PAGE)), lost, "on another CPU");
    assert!(cleared(&|story| _ = story.invpcid(0, 2, 0, PAGE)).is_empty());
    assert!(cleared(&|story| _ = story.invpcid(0, 3, 0, PAGE)).is_empty());
    assert_eq!(cleared(&|story| _ = story.invpcid(1, 2, 0, PAGE)), lost, "on another CPU");
    let on = 0x20 | PCIDE | PGE;
    let toggles = |story: &mut Story, bit: u64| {
        story.happens(0, cr4(on, on ^ bit)).happens(0, cr4(on ^ bit, on));
    };
    assert!(cleared(&|story| toggles(story, PGE)).is_empty());
    assert_eq!(cleared(&|story| toggles(story, 1 << 9)), lost, "a bit that flushes nothing");
    assert!(cleared(&|story| _ = marks(story, 0, 0x801)).is_empty(), "marked again");
    assert_eq!(cleared(&|story| _ = marks(story, 1, 0x801)), lost, "another CPU's");
    // Until user mode runs nothing is lost, and of another slot's PCID nothing.
    let mut story = running(1);
    marks(&mut story, 0, 0x801);
    unmarks(&mut story, 0, 0x801).loads(0, NOFLUSH | user).is_clean();
    let mut story = running(1);
    marks(&mut story, 0, 0x802);
    unmarks(&mut story, 0, 0x802).runs_user(0, A, 0).is_clean();
}

/// A claim is of its own CPU, its own slot and its own address space, and of what was to be flushed by the
/// generation that it names.
#[test]
fn a_claim_is_of_its_own() {
    // CPU 0 changes a page at generation 2; CPU 1 has it cached under PCID 1.
    let changed = || {
        let mut story = edited(2);
        begins(&mut story);
        generation(&mut story, 0, 1, 2).invlpg(0);
        story
    };
    let judged = |claim: &dyn Fn(&mut Story)| {
        let mut story = changed();
        story.task_begins(1, 1);
        claim(&mut story);
        story.task_ends(1, 1);
        story.rules()
    };
    assert_eq!(judged(&|story| _ = claims(story, 1, 0, 1, 2)), ["generation"]);
    assert!(judged(&|story| _ = claims(story, 1, 0, 1, 1)).is_empty(), "an earlier one");
    assert!(judged(&|story| _ = claims(story, 1, 1, 1, 2)).is_empty(), "another slot's PCID");
    assert!(judged(&|story| _ = claims(story, 1, 0, 2, 1)).is_empty(), "another address space");
    assert!(judged(&|story| _ = claims(story, 0, 0, 1, 2)).is_empty(), "CPU 0 has flushed");
    assert!(judged(&|story| _ = claims(story.invlpg(1), 1, 0, 1, 2)).is_empty());
    assert_eq!(judged(&|story| _ = claims(story, 0, 0, 1, 7)), Vec::<String>::new());
    // It was made before the change.
    let mut story = running(2);
    generation(&mut story, 0, 1, 2);
    claims(&mut story, 1, 0, 1, 2).task_begins(0, 0).stores_to(0, A.1, RED, BLUE);
    begins(&mut story).invlpg(0);
    story.task_ends(1, 1).is_clean();
    // A task that ends in the middle of a switch relies on what its slots say.
    let mut story = changed();
    story.task_begins(1, 1).says(1, Announcement::Switching { cpu: CpuId(1) });
    claims(&mut story, 1, 0, 1, 2).task_ends(1, 1).has_broken(&["generation"]);
    // Without PCIDs all slots claim for PCID 0.
    let mut story = Story::isolated_but(2, |header| {
        for cpu in &mut header.cpus {
            cpu.cr4 &= !PCIDE;
            cpu.cr3 = A.0;
        }
    });
    story.task_begins(0, 0).stores_to(0, A.1, RED, BLUE);
    begins(&mut story);
    generation(&mut story, 0, 1, 2).invlpg(0).task_begins(1, 1);
    claims(&mut story, 1, 2, 1, 2).task_ends(1, 1).has_broken(&["generation"]);
}

/// The first generation that stands for a change is what a claim is measured by, of the flush that covers
/// it and of its own address space.
#[test]
fn a_generation_stands_for_what_its_flush_covers() {
    let claimed = |flushed: Gva, space: u64, later: bool, claim: u64| {
        let mut story = edited(2);
        story.begins(0, FlushKind::OneUser, Some(A.0), flushed);
        generation(&mut story, 0, space, 2);
        if later {
            generation(&mut story, 0, space, 3);
        }
        story.invlpg(0).task_begins(1, 1);
        claims(&mut story, 1, 0, 1, claim).task_ends(1, 1);
        story.rules()
    };
    assert_eq!(claimed(PAGE, 1, false, 2), ["generation"]);
    assert_eq!(claimed(PAGE, 1, true, 2), ["generation"], "the first one stands");
    assert!(claimed(NEXT, 1, false, 2).is_empty(), "another page's flush");
    assert!(claimed(PAGE, 2, false, 1).is_empty(), "another address space's generation");
}

/// A plain edit: what a processor set between the read and the store is kept, or lost.
#[test]
fn a_plain_edit_keeps_the_d_that_was_set_since_it_read() {
    const D: u64 = 0x40;
    const CLEAN: u64 = RED & !D;
    let reads = |story: &mut Story, cpu: u8, value: u64| {
        story.says(cpu, Announcement::EntryRead { slot: PTE, value });
    };
    let sets = |story: &mut Story, old: u64, new: u64| {
        story.happens(1, Happened::AccessedDirty { slot: PTE, old, new });
    };
    let edited = |before: u64, between: &dyn Fn(&mut Story), new: u64| {
        let mut story = Story::new(2);
        story.stores(0, RED, before).invlpg(0).invlpg(1);
        reads(&mut story, 0, before);
        between(&mut story);
        let now = story.entry(PTE);
        story.stores(0, now, new);
        let rules = story.rules();
        assert!(rules.iter().all(|rule| rule == "lost-dirty"), "{rules:?}");
        !rules.is_empty()
    };
    let dirtied = |story: &mut Story| sets(story, CLEAN, RED);
    assert!(edited(CLEAN, &dirtied, CLEAN & !2), "written back without it");
    assert!(edited(CLEAN, &dirtied, 0), "taken away by what was read");
    assert!(edited(CLEAN, &dirtied, BLUE), "another page's D");
    assert!(!edited(CLEAN, &dirtied, RED & !2), "it keeps both");
    assert!(!edited(CLEAN, &|_| {}, CLEAN & !2), "nobody set it");
    assert!(!edited(RED, &|_| {}, CLEAN), "it was there, and is cleared on purpose");
    let accessed = |story: &mut Story| sets(story, CLEAN & !0x20, CLEAN);
    assert!(!edited(CLEAN & !0x20, &accessed, CLEAN & !0x20), "A alone");
    let elsewhere = |story: &mut Story| {
        let slot = after(PTE);
        story.happens(1, Happened::AccessedDirty { slot, old: CLEAN, new: RED });
    };
    assert!(!edited(CLEAN, &elsewhere, CLEAN & !2), "another entry's");
    let taken = |story: &mut Story| {
        dirtied(story);
        story.stores(1, RED, CLEAN);
    };
    assert!(!edited(CLEAN, &taken, CLEAN & !2), "another CPU has seen it");
    let gone = |story: &mut Story| {
        dirtied(story);
        story.stores(1, RED, RED & !1);
    };
    assert!(!edited(CLEAN, &gone, CLEAN & !2), "another CPU has unmapped it");
    let again = |story: &mut Story| {
        dirtied(story);
        reads(story, 0, RED);
    };
    assert!(!edited(CLEAN, &again, CLEAN & !2), "it is read again");
    let ends = |cpu: u8| {
        move |story: &mut Story| {
            dirtied(story);
            story.task_ends(cpu, 0);
        }
    };
    assert!(!edited(CLEAN, &ends(0), CLEAN & !2), "the task is over");
    assert!(edited(CLEAN, &ends(1), CLEAN & !2), "another CPU's task");
    let other = |story: &mut Story| {
        story.stores(0, CLEAN, CLEAN);
        reads(story, 1, CLEAN);
        dirtied(story);
    };
    assert!(!edited(CLEAN, &other, CLEAN & !2), "another CPU has read it");
    // It was set before the read, or between the read and the word of it.
    let mut story = Story::new(2);
    story.stores(0, RED, CLEAN).invlpg(0).invlpg(1);
    sets(&mut story, CLEAN, RED);
    reads(&mut story, 0, RED);
    assert!(story.stores(0, RED, CLEAN & !2).rules().is_empty());
    let mut story = Story::new(2);
    story.stores(0, RED, CLEAN).invlpg(0).invlpg(1);
    sets(&mut story, CLEAN, RED);
    reads(&mut story, 0, CLEAN);
    assert_eq!(story.stores(0, RED, CLEAN & !2).rules(), ["lost-dirty"]);
    // An entry that was not present has no D for a processor to set.
    let absent = |story: &mut Story| {
        story.stores(1, CLEAN & !1, CLEAN);
        dirtied(story);
    };
    assert!(!edited(CLEAN & !1, &absent, CLEAN & !2));
}
