//! The TLB against a naive model that shares no code with it: plain sets, no incremental state. What
//! may be held after a history is what may be held without its last operation, less what that must
//! remove, and all that every walk from every root and cached entry gives now.

mod driver;
mod history;
mod naive;
mod space;

use driver::{Driver, Op};
use history::history;
use naive::{Grants, Naive};
use proptest::prelude::*;
use space::VAS;
use stalemate_model::arch::addr::{Gva, Pcid};
use stalemate_model::arch::tlb::{Fill, Tag, TlbModel};
use stalemate_model::arch::walk::Translation;

fn check(history: &[Op], fill: Fill, structure_caches: bool) -> Result<(), TestCaseError> {
    let model = TlbModel { fill, structure_caches, seed: 0 };
    let driver = Driver::run(history, model);
    let naive = Naive::new(&driver.did, model);
    prop_assert_eq!(&driver.ram.0, &naive.world, "A and D");
    for va in VAS {
        for pcid in [None, Some(0), Some(1), Some(2), Some(3)] {
            let tag = pcid.map_or(Tag::Global, |pcid| Tag::Pcid(Pcid::new(pcid)));
            let entries = driver.tlb.held_in(&driver.ram, tag, Gva(va), Gva(va));
            let held: Vec<(u64, Grants)> = entries
                .iter()
                .filter(|entry| entry.covers(Gva(va)))
                .map(|entry| {
                    let held = entry.translation;
                    let Translation { writable, user, dirty, .. } = held;
                    let (executable, write_through) = (!held.no_execute, held.memory_type == 1);
                    let grants = Grants { writable, user, executable, dirty, write_through };
                    (held.at(Gva(va)).0, grants)
                })
                .collect();
            let pieces = naive.pieces.iter().filter(|piece| piece.pcid == pcid && piece.va == va);
            let may: Vec<(u64, Grants)> = pieces.map(|piece| (piece.frame, piece.grants)).collect();
            // What grants less than another that is there as long does not matter.
            let covered = |of: &[(u64, Grants)], (frame, grants): &(u64, Grants)| {
                of.iter().any(|(other, all)| other == frame && all.cover(*grants))
            };
            for entry in &held {
                prop_assert!(covered(&may, entry), "{tag:?} {va:#x} holds {entry:x?} of {may:x?}");
            }
            for piece in &may {
                prop_assert!(covered(&held, piece), "{tag:?} {va:#x} lacks {piece:x?}: {held:x?}");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_demand_agrees_with_the_naive_model(history in history()) {
        check(&history, Fill::OnDemand, false)?;
    }

    #[test]
    fn worst_case_agrees_with_the_naive_model(history in history()) {
        check(&history, Fill::WorstCase, false)?;
    }

    #[test]
    fn worst_case_with_structure_caches_agrees_with_the_naive_model(history in history()) {
        check(&history, Fill::WorstCase, true)?;
    }

    #[test]
    fn lazy_a_agrees_with_the_naive_model(history in history()) {
        check(&history, Fill::LazyA, false)?;
    }

    #[test]
    fn lazy_a_with_structure_caches_agrees_with_the_naive_model(history in history()) {
        check(&history, Fill::LazyA, true)?;
    }
}
