//! What the injector has the machine do beside, or instead of, the guest's operations.

use super::Fault;
use super::fault::{Action, Target};
use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::apic::msr::ICR;
use crate::arch::op::{ControlRegister, Op};
use crate::arch::privileged::{How, InvpcidDescriptor};
use stalemate_shared::pcid::{NOFLUSH, USER_PCID_BIT, USER_ROOT_BIT};

/// One deed of the injector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// An NMI becomes pending.
    Nmi,
    /// An interrupt becomes pending.
    Irq,
    /// What the current PCID, or every one, caches of the page that begins here goes.
    Evict(Gva),
    /// The page is cached.
    Speculate(Gva),
    /// The registers are written with the values they have.
    SetRegisters,
    /// A store to a `TlbState` that was kept back.
    Store(KeptStore),
    /// The CPU acknowledges to this one what it has not done.
    Acknowledge(CpuId),
    /// An operation that was kept back.
    Op(Kept),
    /// The slots of the address space with this kernel root get its generation.
    RaiseSlots(Gpa),
}

/// A deed, and the fault that asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// What to do.
    pub deed: Deed,
    /// The fault's number, where it has fired only if the deed finds something to do.
    pub if_done: Option<usize>,
}

/// An operation that was kept back, with its operands read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Anything but INVPCID, whose descriptor is in memory.
    Op(Op),
    /// INVPCID.
    Invpcid(u64, InvpcidDescriptor),
}

/// A store to a `TlbState` that was kept back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptStore {
    /// The CPU that stores.
    pub cpu: CpuId,
    /// The CPU whose `TlbState` it is.
    pub owner: CpuId,
    /// Byte offset of the word.
    pub offset: u64,
    /// The bits.
    pub bits: u64,
    /// They are cleared, not set.
    pub clears: bool,
}

/// What is one kind of operation to a delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Invlpg,
    Invpcid,
    Cr3,
    Cr4,
    Ipi,
}

impl Kind {
    pub(super) fn of(op: Op) -> Option<Self> {
        Some(match op {
            Op::Invlpg(_) => Self::Invlpg,
            Op::Invpcid { .. } => Self::Invpcid,
            Op::WriteCr { register: ControlRegister::Cr3, .. } => Self::Cr3,
            Op::WriteCr { register: ControlRegister::Cr4, .. } => Self::Cr4,
            Op::Wrmsr { msr: ICR, .. } => Self::Ipi,
            _ => return None,
        })
    }
}

impl Kept {
    pub(super) fn kind(&self) -> Option<Kind> {
        match self {
            Self::Op(op) => Kind::of(*op),
            Self::Invpcid(..) => Some(Kind::Invpcid),
        }
    }
}

/// One operation, and what the injector did to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectedOp {
    /// The operation.
    pub op: Op,
    /// How it is carried out.
    pub how: How,
    /// Whether it is other than what the guest asked for.
    pub injected: bool,
}

/// The deed of an action at a point in time.
pub(super) fn at_point(fault: &Fault) -> Option<Deed> {
    let page = fault.page.map(|page| Gva(page.address()));
    match fault.action {
        Action::Nmi => Some(Deed::Nmi),
        Action::Irq => Some(Deed::Irq),
        Action::Evict => page.map(Deed::Evict),
        Action::Speculate => page.map(Deed::Speculate),
        Action::SetRegisters => Some(Deed::SetRegisters),
        _ => None,
    }
}

/// Does `action` to the operations planned so far.
pub(super) fn perturb(ops: &mut Vec<InjectedOp>, action: Action, target: Target) {
    match (action, ops.first().copied()) {
        (Action::Drop | Action::Delay, _) => return ops.clear(),
        (Action::Repeat, Some(first)) => {
            return ops.push(InjectedOp { injected: true, ..first });
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
            (Target::InvlpgKeepsGlobals, _) => planned.how = How::KeepingGlobals,
            (Target::InvpcidGp, _) => planned.how = How::GeneralProtection,
            _ => planned.how = How::Altered,
        }
    }
}
