//! Operations as faults alter them.

use super::fault::{Action, Target};
use crate::arch::addr::{Gva, Pcid};
use crate::arch::cr3::NOFLUSH;
use crate::arch::op::{ControlRegister, InvpcidDescriptor, Op};
use crate::arch::vcpu::cr4::PGE;
use crate::machine::PlannedOp;
use stalemate_shared::layout::PAGE_SIZE;
use stalemate_shared::pcid::{USER_PCID_BIT, USER_ROOT_BIT};

/// Does `action` to the operations planned so far; `cr4` is the register as it is.
pub(super) fn perturb(ops: &mut Vec<PlannedOp>, action: Action, target: Target, cr4: u64) {
    match (action, ops.first().copied()) {
        (Action::Drop | Action::Delay, _) => return ops.clear(),
        (Action::Repeat, Some(first)) => {
            return ops.push(PlannedOp { injected: true, ..first });
        }
        _ => {}
    }
    for planned in ops {
        planned.injected = true;
        match (target, &mut planned.op) {
            (Target::Noflush, Op::WriteCr { value, .. }) if action == Action::Set => {
                *value |= NOFLUSH;
            }
            (Target::Noflush, Op::WriteCr { value, .. }) => *value &= !NOFLUSH,
            (Target::Pcid, Op::WriteCr { value, .. }) => *value ^= USER_PCID_BIT,
            (Target::Root, Op::WriteCr { value, .. }) => *value &= !USER_ROOT_BIT,
            (Target::InvlpgKeepsGlobals, _) => planned.errata.invlpg_keeps_globals = true,
            (Target::InvpcidGp, _) => planned.errata.invpcid_gp = true,
            (_, op) => *op = altered(*op, cr4),
        }
    }
}

/// INVLPG of the next page, INVPCID of the other PCID of the pair, CR4 with PGE as it is.
fn altered(op: Op, cr4: u64) -> Op {
    match op {
        Op::Invlpg(va) => Op::Invlpg(Gva(va.0.wrapping_add(PAGE_SIZE))),
        Op::InvpcidOf { kind, descriptor } => {
            let pcid = Pcid::new(descriptor.pcid.value() ^ USER_PCID_BIT as u16);
            Op::InvpcidOf { kind, descriptor: InvpcidDescriptor { pcid, ..descriptor } }
        }
        Op::WriteCr { register: register @ ControlRegister::Cr4, value } => {
            Op::WriteCr { register, value: value & !PGE | cr4 & PGE }
        }
        op => op,
    }
}
