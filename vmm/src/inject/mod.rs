//! The injector: the one place that may alter an operation, before it takes effect.

pub mod fault;
mod site;

pub use fault::Fault;
pub use site::Sites;

use crate::arch::addr::Gva;
use crate::arch::core::{StateHook, StateWord};
use crate::arch::op::{ControlRegister, Op};
use fault::{Action, Occurrence, Point, Site, Target};
use stalemate_shared::pcid::{NOFLUSH, USER_PCID_BIT, USER_ROOT_BIT};
use stalemate_shared::tlb_state::{INVALIDATE_OTHER, USER_PCID_FLUSH_MASK};

/// What the machine does instead of one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Deliver an NMI first; the operation is met again afterwards.
    pub nmi_before: bool,
    /// An NMI becomes pending when the operations are done.
    pub nmi_after: bool,
    /// Clear the marks in `TlbState` first.
    pub clear_marks: bool,
    /// The operations, in order; empty where it is dropped.
    pub ops: Vec<InjectedOp>,
}

/// One operation, and what the injector did to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectedOp {
    /// The operation.
    pub op: Op,
    /// For INVPCID and INVLPG: alter the descriptor or the address.
    pub alter: bool,
    /// Whether it is other than what the guest asked for.
    pub injected: bool,
}

/// What comes at each boundary of a [`Sweep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// An NMI.
    Nmi,
    /// An interrupt.
    Irq,
}

/// `nmi@each` or `irq@each`: not one fault but as many runs as there are boundaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// As it was asked for.
    fault: Fault,
    /// What comes.
    pub interrupt: Interrupt,
    /// The first and the last step, from 1; none means all.
    steps: Option<(u32, u32)>,
}

impl Sweep {
    /// The first sweep among `faults`, and the rest of them. A second one never fires: it would
    /// be a run for each pair of boundaries.
    #[must_use]
    pub fn split(faults: &[Fault]) -> (Option<Self>, Vec<Fault>) {
        let is_each = |fault: &Fault| fault.target == Target::Point(Point::Each);
        let mut rest = faults.to_vec();
        let first = rest.iter().position(is_each).map(|at| rest.remove(at));
        let sweep = first.map(|fault| Self {
            fault,
            interrupt: if fault.action == Action::Irq { Interrupt::Irq } else { Interrupt::Nmi },
            steps: match fault.occurrence {
                Occurrence::Steps(first, last) => Some((first, last)),
                _ => None,
            },
        });
        (sweep, rest)
    }

    /// The fault that asked for it.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// Whether boundaries of the step with this index are meant.
    #[must_use]
    pub fn contains(&self, index: usize) -> bool {
        let number = index + 1;
        self.steps.is_none_or(|(first, last)| (first as usize..=last as usize).contains(&number))
    }
}

#[derive(Clone, Debug)]
struct Armed {
    fault: Fault,
    seen: u32,
    fired: u32,
}

impl Armed {
    /// Counts one occurrence, and says whether it is to be perturbed.
    fn hit(&mut self) -> bool {
        self.seen += 1;
        let hit = match self.fault.occurrence {
            Occurrence::All => true,
            Occurrence::Nth(n) => self.seen == n,
            Occurrence::Steps(..) => false,
        };
        self.fired += u32::from(hit);
        hit
    }
}

/// The faults of one run, counting from its first step.
#[derive(Clone, Debug, Default)]
pub struct Injector {
    armed: Vec<Armed>,
    sites: Sites,
    /// An NMI has just been delivered before the operation at this RIP: not once more.
    resumed: Option<Gva>,
    nmi_wanted: bool,
}

impl Injector {
    /// An injector of `faults` into an image with these `sites`.
    #[must_use]
    pub fn new(faults: &[Fault], sites: Sites) -> Self {
        let arm = |fault: &Fault| Armed { fault: *fault, seen: 0, fired: 0 };
        Self { armed: faults.iter().map(arm).collect(), sites, resumed: None, nmi_wanted: false }
    }

    /// The faults that never fired.
    pub fn not_fired(&self) -> impl Iterator<Item = &Fault> {
        self.armed.iter().filter(|armed| armed.fired == 0).map(|armed| &armed.fault)
    }

    /// Whether an NMI became due since the last call.
    pub fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.nmi_wanted)
    }

    /// What to do in place of `op`, about to execute at `rip`; `marks` is the mask in
    /// `TlbState`.
    pub fn plan(&mut self, rip: Gva, op: Op, marks: u64) -> Plan {
        // The interrupted operation is met again once the NMI's own have been.
        let resumed = self.resumed == Some(rip);
        if resumed {
            self.resumed = None;
        }
        let site = self.sites.at(rip);
        // The NMI's own exit may load the user CR3 too; that is not the window meant.
        let user_load = is_user_load(op) && site == Some(SiteAt::Cr3(Site::Return));
        let mut plan =
            Plan { ops: vec![InjectedOp { op, alter: false, injected: false }], ..Plan::default() };
        for armed in &mut self.armed {
            let target = armed.fault.target;
            match (armed.fault.action, target) {
                (Action::Nmi, Target::Point(Point::BeforeUserCr3)) if user_load && !resumed => {
                    plan.nmi_before |= armed.hit();
                }
                (Action::Nmi, Target::Point(Point::AfterUserCr3)) if user_load => {
                    plan.nmi_after |= armed.hit();
                }
                (Action::ClearMark, _) if site == Some(SiteAt::ParanoidIret) && marks != 0 => {
                    plan.clear_marks |= armed.hit();
                }
                // Met again after an NMI, an occurrence is not counted twice.
                (action, target)
                    if concerns(target, op, site, armed.fault.site) && !resumed && armed.hit() =>
                {
                    perturb(&mut plan.ops, action, target);
                }
                _ => {}
            }
        }
        if plan.nmi_before {
            self.resumed = Some(rip);
        }
        plan
    }
}

impl StateHook for Injector {
    fn state_store(&mut self, _: Gva, store: StateWord) -> Vec<u64> {
        let StateWord { offset, old, new, .. } = store;
        let mut words = vec![new];
        let (set, cleared) = (new & !old, old & !new);
        let is_mask = offset == USER_PCID_FLUSH_MASK;
        for armed in &mut self.armed {
            let concerned = match armed.fault.target {
                Target::Mark | Target::Point(Point::AfterMark) => is_mask && set != 0,
                Target::Consume => is_mask && cleared != 0,
                Target::InvalidateOther => offset == INVALIDATE_OTHER && set != 0,
                _ => false,
            };
            if !concerned || !armed.hit() {
                continue;
            }
            match armed.fault.action {
                Action::Drop => words.clear(),
                Action::Repeat => words.push(new),
                // The ASID's bit where the kernel PCID's belongs: one too low.
                Action::Alter => words = vec![old | set >> 1],
                Action::Nmi => self.nmi_wanted = true,
                Action::Set | Action::Clear | Action::ClearMark | Action::Irq => {}
            }
        }
        words
    }
}

/// A place in the image, as the injector tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteAt {
    /// A CR3 load at one of the named sites.
    Cr3(Site),
    /// The IRETQ of the paranoid exit.
    ParanoidIret,
}

fn is_user_load(op: Op) -> bool {
    let cr3 = ControlRegister::Cr3;
    matches!(op, Op::WriteCr { register, value } if register == cr3 && value & USER_ROOT_BIT != 0)
}

fn concerns(target: Target, op: Op, at: Option<SiteAt>, site: Option<Site>) -> bool {
    match (target, op) {
        (Target::Invlpg, Op::Invlpg(_))
        | (Target::Invpcid, Op::Invpcid { .. })
        | (Target::Cr4, Op::WriteCr { register: ControlRegister::Cr4, .. }) => true,
        (
            Target::Noflush | Target::Pcid | Target::Cr3,
            Op::WriteCr { register: ControlRegister::Cr3, .. },
        ) => site.is_some_and(|site| at == Some(SiteAt::Cr3(site))),
        _ => false,
    }
}

fn perturb(ops: &mut Vec<InjectedOp>, action: Action, target: Target) {
    match action {
        Action::Drop => ops.clear(),
        Action::Repeat => {
            if let Some(&first) = ops.first() {
                ops.push(InjectedOp { injected: true, ..first });
            }
        }
        Action::Set | Action::Clear | Action::Alter => {
            for planned in ops {
                planned.injected = true;
                match &mut planned.op {
                    Op::WriteCr { register: ControlRegister::Cr4, .. } => planned.alter = true,
                    Op::WriteCr { value, .. } => match (action, target) {
                        (Action::Set, Target::Noflush) => *value |= NOFLUSH,
                        (Action::Clear, Target::Noflush) => *value &= !NOFLUSH,
                        _ => *value ^= USER_PCID_BIT,
                    },
                    _ => planned.alter = true,
                }
            }
        }
        Action::Nmi | Action::Irq | Action::ClearMark => {}
    }
}
