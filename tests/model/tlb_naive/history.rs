//! Any history.

use super::driver::Op;
use super::space::{A, Bit, D, G, HUGE, NX, P, PDE, PDE_LARGE, PDPTE_HUGE, PS, U, VAS, W, WT};
use proptest::prelude::*;

/// An entry of `base` with some of `flags`, each as likely set as not.
fn entry(base: u64, flags: &'static [u64]) -> impl Strategy<Value = u64> {
    prop::collection::vec(any::<bool>(), flags.len()).prop_map(move |set| {
        let chosen = flags.iter().zip(set).filter(|(_, set)| *set).map(|(flag, _)| *flag);
        base | P | chosen.fold(0, |all, flag| all | flag)
    })
}

fn leaf(frames: [u64; 2], ps: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        1 => Just(0),
        3 => prop::sample::select(frames.to_vec())
            .prop_flat_map(move |frame| entry(frame | ps, &[W, U, WT, NX, A, D, W | A])),
        1 => entry(frames[0] | ps, &[W, A, G]),
    ]
}

fn table(of: &'static [u64]) -> impl Strategy<Value = u64> {
    let entries = prop::sample::select(of).prop_flat_map(|table| entry(table, &[W, U, NX, A, A]));
    prop_oneof![1 => Just(0), 6 => entries]
}

fn store() -> impl Strategy<Value = Op> {
    let pte = (prop::sample::select(&[0x5000u64, 0x6000, 0x9000][..]), 0u64..3)
        .prop_map(|(table, page)| table + page * 8);
    let with = |slot: u64, bits: BoxedStrategy<u64>| {
        bits.prop_map(move |bits| Op::Store { slot, bits }).boxed()
    };
    prop_oneof![
        6 => (pte, leaf([0x1_0000, 0x2_0000], 0)).prop_map(|(slot, bits)| Op::Store { slot, bits }),
        2 => with(PDE, table(&[0x5000, 0x6000]).boxed()),
        2 => with(PDE_LARGE, leaf([0x40_0000, 0x60_0000], PS).boxed()),
        1 => with(PDE_LARGE, table(&[0x9000]).boxed()),
        2 => with(PDPTE_HUGE, leaf([HUGE, 2 * HUGE], PS).boxed()),
        1 => with(PDPTE_HUGE, table(&[0xa000]).boxed()),
        1 => with(0xa000, leaf([0x40_0000, 0x60_0000], PS).boxed()),
        1 => with(0xa000, table(&[0x9000]).boxed()),
        1 => with(0x8000, table(&[0x6000]).boxed()),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let va = || prop::sample::select(&VAS[..]);
    let pcid = 1u16..4;
    prop_oneof![
        6 => store(),
        3 => (pcid.clone(), 0usize..2, any::<bool>())
            .prop_map(|(pcid, root, flush)| Op::Load { pcid, root, flush }),
        4 => (va(), any::<bool>()).prop_map(|(va, write)| Op::Access { va, write }),
        2 => va().prop_map(|va| Op::Invlpg { va }),
        2 => (0u64..4, pcid, va()).prop_map(|(kind, pcid, va)| Op::Invpcid { kind, pcid, va }),
        2 => prop::sample::select(&Bit::ALL[..]).prop_map(Op::Toggle),
    ]
}

pub fn history() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(ops(), 1..60)
}
