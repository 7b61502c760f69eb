//! The rules on costs, which count.

use super::*;
use crate::story::{B, NOFLUSH, USER};
use stalemate_model::arch::happened::Happened;
use stalemate_model::arch::tlb::Fill;

const PGE: u64 = 1 << 7;
const CR4: u64 = 0x20 | PGE | 1 << 17;

fn hammers(story: &Story) -> usize {
    story.oracle.hammers().len()
}

fn needless(story: &Story) -> usize {
    story.oracle.needless().len()
}

/// Inside a flush, or for a mark, and only where it is of more than a page.
#[test]
fn a_big_hammer_is_counted_where_somebody_asked_for_less() {
    let user = A.0 | USER | 0x801;
    let counted = |inside: bool, hits: &dyn Fn(&mut Story)| {
        let mut story = edited(1);
        if inside {
            begins(&mut story);
        }
        hits(&mut story);
        hammers(&story)
    };
    let toggles = |story: &mut Story| {
        story.happens(0, Happened::WriteCr4 { old: CR4, new: CR4 ^ PGE });
    };
    for inside in [true, false] {
        let one = usize::from(inside);
        assert_eq!(counted(inside, &|story| _ = story.invpcid(0, 0, 1, PAGE)), 0);
        assert_eq!(counted(inside, &|story| _ = story.invpcid(0, 1, 1, PAGE)), one);
        assert_eq!(counted(inside, &|story| _ = story.loads(0, A.0 | 1)), one);
        assert_eq!(counted(inside, &|story| _ = story.loads(0, NOFLUSH | A.0 | 1)), 0);
        assert_eq!(counted(inside, &toggles), one);
        assert_eq!(counted(inside, &|story| _ = story.invlpg(0)), 0);
        let consumes = |story: &mut Story| {
            marks(story, 0, 0x801);
            unmarks(story, 0, 0x801).loads(0, user);
        };
        assert_eq!(counted(inside, &consumes), 1);
        // The mark is consumed by the first load, and by one that empties; of a PCID that had none nothing.
        let twice = |story: &mut Story| {
            consumes(story);
            story.runs_kernel(0, A, 0).loads(0, user);
        };
        assert_eq!(counted(inside, &twice), 1 + one);
        let kept = |story: &mut Story| {
            marks(story, 0, 0x801);
            unmarks(story, 0, 0x801).loads(0, NOFLUSH | user);
        };
        assert_eq!(counted(inside, &kept), 0);
        let none = |story: &mut Story| {
            unmarks(story, 0, 0x801).loads(0, user);
        };
        assert_eq!(counted(inside, &none), one);
    }
    // A write of CR4 that removes nothing is none.
    let mut story = edited(1);
    begins(&mut story).happens(0, Happened::WriteCr4 { old: CR4, new: CR4 | 1 << 9 });
    assert_eq!(hammers(&story), 0);
}

/// Live entries that nobody asked for are the price.
#[test]
fn a_big_hammer_costs_what_it_removes_beside_its_flush() {
    let mut story = Story::isolated_but(1, |header| header.model.fill = Fill::OnDemand);
    for page in [PAGE, NEXT] {
        story.fills(0, page);
    }
    begins(&mut story).loads(0, A.0 | 1);
    let lost: Vec<usize> = story.oracle.hammers().iter().map(|hammer| hammer.live_lost).collect();
    assert_eq!(lost, [1], "the page that the flush is of is no loss");
    let losses =
        |story: &Story| story.oracle.losses().iter().map(|loss| loss.1).collect::<Vec<_>>();
    assert_eq!(losses(&story), [1]);
    // Where nobody asked for anything both are, and where nothing is held nothing is lost.
    let mut story = Story::isolated_but(1, |header| header.model.fill = Fill::OnDemand);
    for page in [PAGE, NEXT] {
        story.fills(0, page);
    }
    story.invlpg_of(0, Gva(0x7000)).loads(0, A.0 | 1).loads(0, A.0 | 1);
    assert_eq!(losses(&story), [2]);
}

#[test]
fn a_flush_that_removes_nothing_stale_is_needless() {
    let counted = |edits: bool, hits: &dyn Fn(&mut Story)| {
        let mut story = if edits { edited(1) } else { running(1) };
        hits(&mut story);
        needless(&story)
    };
    for edits in [true, false] {
        let one = usize::from(!edits);
        assert_eq!(counted(edits, &|story| _ = story.invlpg(0)), one);
        assert_eq!(counted(edits, &|story| _ = story.invpcid(0, 1, 1, PAGE)), one);
        assert_eq!(counted(edits, &|story| _ = story.loads(0, A.0 | 1)), one);
        assert_eq!(counted(edits, &|story| _ = story.loads(0, NOFLUSH | A.0 | 1)), 0);
        assert_eq!(counted(edits, &|story| _ = story.loads(0, B.0 | 1)), 0, "a slot changes hands");
    }
    // Nothing was cached.
    assert_eq!(counted(false, &|story| _ = story.invpcid(0, 1, 3, PAGE)), 0);
    let cr4 = |bit: u64| Happened::WriteCr4 { old: CR4, new: CR4 ^ bit };
    assert_eq!(counted(false, &|story| _ = story.happens(0, cr4(PGE))), 1);
    assert_eq!(counted(false, &|story| _ = story.happens(0, cr4(1 << 20))), 0, "SMEP is wanted");
    assert_eq!(counted(false, &|story| _ = story.enters_user_mode(0)), 0);
    // Without PCIDs a load must flush.
    let mut story = Story::isolated_but(1, |header| {
        header.cpus[0].cr4 &= !(1 << 17);
        header.cpus[0].cr3 = A.0;
    });
    story.loads(0, A.0);
    assert_eq!(needless(&story), 0);
}
