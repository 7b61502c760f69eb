//! What is owed, and what ends that.

use super::*;
use crate::story::{KERNEL_PAGE, KERNEL_PTE, KERNEL_RED, NOFLUSH, USER};
use stalemate_model::arch::happened::Happened;
use stalemate_model::arch::tlb::{Fill, Tag};

const PGE: u64 = 1 << 7;
const CR4: u64 = 0x20 | PGE | 1 << 17;

#[test]
fn each_operation_discharges_what_it_removes_and_nothing_else() {
    let ends = |hits: &dyn Fn(&mut Story)| {
        let mut story = edited(2);
        hits(&mut story);
        story.owed()
    };
    let all = |ends: [&str; 4]| {
        let of = ["0 PCID 0x001 0x0", "0 PCID 0x801 0x0", "1 PCID 0x001 0x0", "1 PCID 0x801 0x0"];
        of.iter().zip(ends).map(|(of, end)| format!("{of} {end}")).collect::<Vec<_>>()
    };
    let open = ["open"; 4];
    assert_eq!(ends(&|_| {}), all(open));
    let invlpg = ["invlpg", "open", "open", "open"];
    assert_eq!(ends(&|story| _ = story.invlpg(0)), all(invlpg));
    assert_eq!(ends(&|story| _ = story.invlpg_of(0, NEXT)), all(open));
    assert_eq!(ends(&|story| _ = story.invlpg(1)), all(["open", "open", "invlpg", "open"]));
    assert_eq!(
        ends(&|story| _ = story.invpcid(0, 0, 0x801, PAGE)),
        all(["open", "invpcid", "open", "open"])
    );
    assert_eq!(
        ends(&|story| _ = story.invpcid(0, 1, 0x801, PAGE)),
        all(["open", "big-hammer", "open", "open"])
    );
    let both = ["big-hammer", "big-hammer", "open", "open"];
    assert_eq!(ends(&|story| _ = story.invpcid(0, 3, 0, PAGE)), all(both));
    assert_eq!(
        ends(&|story| _ = story.loads(0, A.0 | 1)),
        all(["cr3-load", "open", "open", "open"])
    );
    assert_eq!(ends(&|story| _ = story.loads(0, NOFLUSH | A.0 | 1)), all(open));
    assert_eq!(ends(&|story| _ = story.loads(0, A.0 | 2)), all(open));
    let user = A.0 | USER | 0x801;
    let consumes = |story: &mut Story| {
        marks(story, 0, 0x801);
        unmarks(story, 0, 0x801).loads(0, user);
    };
    assert_eq!(ends(&consumes), all(["open", "consume", "open", "open"]));
    assert_eq!(ends(&|story| _ = story.loads(0, user)), all(["open", "cr3-load", "open", "open"]));
    let faults = |story: &mut Story| {
        story.happens(1, Happened::PageFault { va: PAGE, error: 0 });
    };
    assert_eq!(ends(&faults), all(["open", "open", "page-fault", "open"]));
    let cr4 = Happened::WriteCr4 { old: CR4, new: CR4 ^ PGE };
    assert_eq!(ends(&|story| _ = story.happens(0, cr4.clone())), all(both));
    // What a store makes right again is right on every CPU.
    // Of what was cached in between the same is owed, where the PCID was current.
    let mut restored = all(["restored"; 4]);
    restored.extend([0, 1].map(|cpu| format!("{cpu} PCID 0x001 0x0 open")));
    assert_eq!(ends(&|story| _ = story.stores_to(0, A.1, BLUE, RED)), restored);
}

/// What a processor sets of A makes nothing right; D does.
#[test]
fn a_d_that_a_processor_sets_again_makes_right_what_has_it() {
    const DIRTY: u64 = 0x40;
    const ACCESSED: u64 = 0x20;
    let mut story = running(1);
    story.stores_to(0, A.1, RED, RED & !DIRTY);
    let owed = story.owed();
    assert_eq!(owed, ["0 PCID 0x001 0x0 open", "0 PCID 0x801 0x0 open"]);
    let sets = |old, new| Happened::AccessedDirty { slot: A.1, old, new };
    story.happens(0, sets(RED & !(DIRTY | ACCESSED), RED & !DIRTY));
    assert_eq!(story.owed(), owed);
    story.happens(0, sets(RED & !DIRTY, RED));
    assert_eq!(story.owed(), ["0 PCID 0x001 0x0 restored", "0 PCID 0x801 0x0 restored"]);
}

/// Control bits: what walks give no longer is owed from the write on, by the CPU that writes; no other bit
/// of the register makes a difference.
#[test]
fn a_write_of_control_bits_owes_what_walks_give_no_longer() {
    const WP: u64 = 1 << 16;
    const SMEP: u64 = 1 << 20;
    const NXE: u64 = 1 << 11;
    const XD: u64 = 1 << 63;
    const SUPERVISOR: u64 = RED & !4;
    let (cr0, efer) = (0x8005_0033, 0xd00);
    let owes = |story: &mut Story, write: Happened, owed: &[&str]| {
        story.happens(0, write);
        assert_eq!(story.owed(), owed);
    };
    // Without WP a supervisor may write through an entry that has D, and a walk sets D first.
    let mut story = Story::isolated(1);
    story.stores_to(0, KERNEL_PTE, KERNEL_RED, KERNEL_RED & !2).invlpg_of(0, KERNEL_PAGE);
    let written = "0 PCID 0x001 0xffff800000000000 invlpg";
    story.stores_to(0, KERNEL_PTE, KERNEL_RED & !2, KERNEL_RED & !0x42);
    owes(&mut story, Happened::WriteCr0 { old: cr0, new: cr0 | 8 }, &[written]);
    let open = "0 PCID 0x001 0xffff800000000000 open";
    owes(&mut story, Happened::WriteCr0 { old: cr0, new: cr0 & !WP }, &[written, open]);
    // With it nobody writes, and what was stale is so no more.
    let restored = "0 PCID 0x001 0xffff800000000000 restored";
    owes(&mut story, Happened::WriteCr0 { old: cr0 & !WP, new: cr0 }, &[written, restored]);

    // With SMEP a supervisor may not fetch from a user page. A PCID that is not current may keep its own.
    let mut story = Story::isolated(1);
    story
        .stores_to(0, A.1, RED, SUPERVISOR)
        .invlpg(0)
        .loads(0, A.0 | 2)
        .loads(0, NOFLUSH | A.0 | 1);
    story.stores_to(0, A.1, SUPERVISOR, RED);
    let first = "0 PCID 0x001 0x0 invlpg";
    owes(&mut story, Happened::WriteCr4 { old: CR4, new: CR4 | 1 << 9 }, &[first]);
    let smep = Happened::WriteCr4 { old: CR4, new: CR4 | SMEP };
    owes(&mut story, smep, &[first, "0 PCID 0x002 0x0 open"]);

    // Without NXE bit 63 is reserved.
    let mut story = Story::isolated(1);
    story.stores_to(0, A.1, RED, RED | XD).invlpg(0);
    owes(&mut story, Happened::WriteEfer { old: efer, new: efer | 1 }, &[first]);
    let nxe = Happened::WriteEfer { old: efer, new: efer & !NXE };
    owes(&mut story, nxe, &[first, "0 PCID 0x001 0x0 open"]);
}

/// What is owed with many entries is open until the last of them is gone, wherever that is.
#[test]
fn an_obligation_is_open_until_the_last_of_it_is_gone() {
    let held = |story: &Story| {
        let owed = story.oracle.obligations();
        (owed[0].held(), owed[0].is_open())
    };
    let pde = Gpa(A.1.0 - 0x1000);
    let detached = |story: &mut Story| {
        story.stores_to(0, pde, A.1.0 | 0x67, 0);
    };
    let mut story = Story::isolated(1);
    detached(&mut story);
    assert_eq!(held(&story), (3, true), "two pages and the table");
    // The table goes with any page.
    story.invlpg(0);
    assert_eq!(held(&story), (1, true));
    story.invlpg_of(0, after_next());
    assert_eq!(held(&story), (1, true));
    story.invlpg_of(0, NEXT);
    assert_eq!(held(&story), (0, false));
    // Pages that are far from each other.
    let (pdpte, far) = (Gpa(A.0 + 0x2008), Gva(PAGE.0 + (1 << 30)));
    let mut story = Story::isolated(1);
    story.stores_to(0, pdpte, 0, (A.0 + 0x3000) | 0x67).stores_to(0, Gpa(A.0), A.0 + 0x2067, 0);
    story.invlpg(0).invlpg_of(0, NEXT);
    assert_eq!(held(&story), (2, true));
    story.invlpg_of(0, far).invlpg_of(0, Gva(far.0 + NEXT.0));
    assert_eq!(held(&story), (0, false));
    // The table is left.
    let mut story = Story::isolated_but(1, |header| header.model.fill = Fill::OnDemand);
    story.fills(0, PAGE);
    detached(&mut story);
    assert_eq!(held(&story), (2, true));
    story.happens(0, Happened::Evict { tag: Tag::Pcid(Pcid::new(1)), page: PAGE });
    assert_eq!(held(&story), (1, true));
    story.invlpg_of(0, KERNEL_PAGE);
    assert_eq!(held(&story), (0, false));
    // A large page goes with any of its addresses.
    let large = |at: u64| {
        let mut story = Story::isolated(1);
        let slot = Gpa(0x4008);
        story.stores_to(0, slot, 0, 0x40_0063 | LARGE).stores_to(0, slot, 0x40_0063 | LARGE, 0);
        story.invlpg_of(0, Gva(KERNEL_PAGE.0 + at));
        held(&story)
    };
    assert_eq!(large(0x3f_f000), (0, false));
    assert_eq!(large(0x1f_f000), (1, true));
    assert_eq!(large(0x40_0000), (1, true));
}

fn after_next() -> Gva {
    Gva(NEXT.0 + 0x1000)
}
