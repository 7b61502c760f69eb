//! `split` with one of the historical mistakes that concern a policy. Beside the real one, so that
//! this stays as it is.

use super::contract::Policy;
use super::split::Split;
use crate::arch::{cpu, percpu};
use crate::config::config;
use stalemate_shared::pcid::{NOFLUSH, kernel_pcid};
use stalemate_shared::variant::Variant;

/// The policy, for one variant.
pub struct Mistaken;

/// Whether the variant is of a policy.
pub fn concerns(variant: Variant) -> bool {
    matches!(
        variant,
        Variant::UserPcidForgotten
            | Variant::OtherForCurrent
            | Variant::FlushKeeps
            | Variant::OnePendingBit
            | Variant::NarrowMask
    )
}

/// Bits of the mask in the variant in which it has too few.
const NARROW_MASK_BITS: u64 = 4;

/// A mark that goes astray, or where it should.
fn mark(asid: u16) {
    let bit = u64::from(kernel_pcid(asid));
    match config().variant {
        Some(Variant::OnePendingBit) => percpu::mark_elsewhere(0, 1),
        // The word after it: what entry code tests stays clear.
        Some(Variant::NarrowMask) if bit >= NARROW_MASK_BITS => {
            percpu::mark_elsewhere(1, bit - NARROW_MASK_BITS);
        }
        _ => percpu::mark(asid),
    }
}

fn mark_loaded() {
    if config().pti && config().pcid {
        mark(percpu::loaded_mm_asid() as u16);
    }
}

impl Policy for Mistaken {
    fn flush_tlb_one_user(&self, va: u64) {
        match config().variant {
            Some(Variant::UserPcidForgotten) => cpu::invlpg(va),
            Some(Variant::OtherForCurrent) => {
                cpu::invlpg(va);
                percpu::set_invalidate_other(1);
            }
            Some(Variant::OnePendingBit | Variant::NarrowMask) => {
                cpu::invlpg(va);
                mark_loaded();
            }
            _ => Split.flush_tlb_one_user(va),
        }
    }

    fn flush_tlb_one_kernel(&self, va: u64) {
        Split.flush_tlb_one_kernel(va);
    }

    fn flush_tlb_mm(&self) {
        mark_loaded();
        // Without PCIDs the bit is reserved.
        let keeps = config().variant == Some(Variant::FlushKeeps) && config().pcid;
        cpu::load_cr3(cpu::read_cr3() | if keeps { NOFLUSH } else { 0 });
    }

    fn flush_tlb_all(&self) {
        Split.flush_tlb_all();
    }

    fn switch_mm_flush(&self, cr3: u64, asid: u16) {
        if config().pti {
            mark(asid);
        }
        cpu::load_cr3(cr3);
    }
}
