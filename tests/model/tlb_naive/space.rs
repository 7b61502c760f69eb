//! The address space that histories change: its tables, and the addresses that are looked at.

use stalemate_model::arch::addr::Gpa;
use stalemate_model::arch::features::Paging;
use stalemate_model::arch::walk::Tables;
use std::collections::BTreeMap;

/// The control bits at first.
pub const PAGING: Paging =
    Paging { pcide: true, pge: true, wp: true, smep: false, nxe: true, gib_pages: true };
/// A control bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bit {
    Pge,
    Pcide,
    Smep,
    Wp,
    Nxe,
}

impl Bit {
    pub const ALL: [Self; 5] = [Self::Pge, Self::Pcide, Self::Smep, Self::Wp, Self::Nxe];
}

pub const P: u64 = 1;
pub const W: u64 = 1 << 1;
pub const U: u64 = 1 << 2;
pub const WT: u64 = 1 << 3;
pub const A: u64 = 1 << 5;
pub const D: u64 = 1 << 6;
pub const PS: u64 = 1 << 7;
pub const G: u64 = 1 << 8;
pub const NX: u64 = 1 << 63;
pub const FRAME: u64 = 0xff_ffff_f000;

/// Root 0x1000 has PDPT 0x3000 and PD 0x4000. Root 0x2000 has tables of its own down to the PT
/// 0x6000, which is the other's too at times, and nothing else.
pub const ROOTS: [u64; 2] = [0x1000, 0x2000];
pub const PDE: u64 = 0x4000;
pub const PDE_LARGE: u64 = 0x4008;
pub const PDPTE_HUGE: u64 = 0x3008;
pub const LARGE: u64 = 0x20_0000;
pub const HUGE: u64 = 0x4000_0000;
/// The addresses that are looked at: small pages, fractures of a 2 MiB and of a 1 GiB page; among
/// them all that the slots of `store` translate.
pub const VAS: [u64; 11] = [
    0,
    0x1000,
    0x2000,
    LARGE,
    LARGE + 0x1000,
    LARGE + 0x2000,
    LARGE + 0x5000,
    HUGE,
    HUGE + 0x1000,
    HUGE + 0x2000,
    HUGE + 0x20_0000,
];

pub type World = BTreeMap<u64, u64>;

pub struct Ram(pub World);

impl Tables for Ram {
    fn entry(&self, slot: Gpa) -> Option<u64> {
        Some(self.0.get(&slot.0).copied().unwrap_or(0))
    }
}

pub fn initial() -> World {
    let table = |at: u64| at | P | W | U | A;
    [
        (ROOTS[0], table(0x3000)),
        (0x3000, table(0x4000)),
        (PDE, table(0x5000)),
        (ROOTS[1], table(0x7000)),
        (0x7000, table(0x8000)),
        (0x8000, table(0x6000)),
    ]
    .into()
}
