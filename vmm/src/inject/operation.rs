//! Operations of the guest, and what happens in their place.

use super::Injector;
use super::alter::perturb;
use super::fault::{self, Action, Fault, Point, Target};
use super::site::SiteAt;
use crate::arch::apic::msr::ICR;
use crate::arch::cr3::NOFLUSH;
use crate::arch::op::{ControlRegister, Op};
use crate::arch::vcpu::cr4::PCIDE;
use crate::event::Announcement;
use crate::machine::{KernelWords, Plan, Scheduled, SideEffect, Site};
use stalemate_shared::pcid::USER_ROOT_BIT;

/// What is one kind of operation to a delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpKind {
    Invlpg,
    Invpcid,
    Cr3,
    Cr4,
    Ipi,
}

impl OpKind {
    pub(super) fn of(op: Op) -> Option<Self> {
        Some(match op {
            Op::Invlpg(_) => Self::Invlpg,
            Op::Invpcid { .. } | Op::InvpcidOf { .. } => Self::Invpcid,
            Op::WriteCr { register: ControlRegister::Cr3, .. } => Self::Cr3,
            Op::WriteCr { register: ControlRegister::Cr4, .. } => Self::Cr4,
            Op::Wrmsr { msr: ICR, .. } => Self::Ipi,
            _ => return None,
        })
    }
}

impl Injector {
    /// What to do in place of `op`.
    pub(super) fn plan(&mut self, at: &Site, op: Op, words: &dyn KernelWords) -> Plan {
        let mut plan = Plan::unaltered(op);
        let &Site { cpu, rip, cr4 } = at;
        // The interrupted operation is met again once the NMI's own have been.
        let resumed = self.resumed == Some(rip);
        if resumed {
            self.resumed = None;
        }
        let site = self.sites.at(rip);
        // The exit of what is injected may load the user CR3 too; that is not the window meant.
        let own_exit = self.sites.is_irq_exit(rip);
        let returns = site == Some(SiteAt::Cr3(fault::Site::Return));
        let user_load = is_user_load(op) && returns && !own_exit;
        if user_load && !resumed {
            plan.before = self.effects_at(Point::BeforeUserCr3);
            let is_nmi = |scheduled: &Scheduled| scheduled.effect == SideEffect::Nmi;
            plan.nmi_before = plan.before.iter().any(is_nmi);
            plan.before.retain(|scheduled| !is_nmi(scheduled));
        }
        if plan.nmi_before {
            self.resumed = Some(rip);
            return plan;
        }
        let kind = OpKind::of(op);
        let late =
            self.delayed.extract_if(.., |(of, delayed)| *of == cpu && OpKind::of(*delayed) == kind);
        plan.before.extend(late.map(|(_, op)| Scheduled::surely(SideEffect::Op(op))));
        for armed in &mut self.armed {
            let (action, target) = (armed.fault.action, armed.fault.target);
            if action == Action::ClearMark {
                let marks = match site {
                    Some(SiteAt::ParanoidIret) => marks(at, words),
                    _ => Vec::new(),
                };
                if !marks.is_empty() && armed.fires() {
                    let unmarked = marks.into_iter().map(SideEffect::Say);
                    plan.before.extend(unmarked.map(Scheduled::surely));
                }
            } else if concerns(&armed.fault, op, site, cr4) && armed.fires() {
                plan.delayed |= action == Action::Delay;
                perturb(&mut plan.ops, action, target, cr4);
            }
        }
        if plan.delayed {
            self.delayed.push((cpu, op));
        }
        if user_load {
            self.point(cpu, Point::AfterUserCr3);
        }
        if kind == Some(OpKind::Cr4) {
            self.point(cpu, Point::AfterCr4);
        }
        plan
    }
}

/// The statements that take the marks of the CPU away.
fn marks(at: &Site, words: &dyn KernelWords) -> Vec<Announcement> {
    let marks = words.state().into_iter().filter_map(|said| match said {
        Announcement::Marked { cpu, pcid } if cpu == at.cpu => {
            Some(Announcement::Unmarked { cpu, pcid })
        }
        _ => None,
    });
    marks.collect()
}

fn is_user_load(op: Op) -> bool {
    let cr3 = ControlRegister::Cr3;
    matches!(op, Op::WriteCr { register, value } if register == cr3 && value & USER_ROOT_BIT != 0)
}

fn concerns(fault: &Fault, op: Op, at: Option<SiteAt>, cr4: u64) -> bool {
    match (fault.target, OpKind::of(op)) {
        (Target::Invlpg | Target::InvlpgKeepsGlobals, Some(OpKind::Invlpg))
        | (Target::Invpcid | Target::InvpcidGp, Some(OpKind::Invpcid))
        | (Target::Cr4, Some(OpKind::Cr4))
        | (Target::Ipi, Some(OpKind::Ipi)) => true,
        (Target::Noflush, Some(OpKind::Cr3)) if fault.site == Some(fault::Site::Any) => {
            // The loads that it makes another of: those that flush, or those that do not.
            let keeps = matches!(op, Op::WriteCr { value, .. } if value & NOFLUSH != 0);
            cr4 & PCIDE != 0 && keeps == (fault.action == Action::Clear)
        }
        (Target::Noflush | Target::Pcid | Target::Root | Target::Cr3, Some(OpKind::Cr3)) => {
            let here = |site| site == fault::Site::Any || at == Some(SiteAt::Cr3(site));
            fault.site.is_some_and(here)
        }
        _ => false,
    }
}
