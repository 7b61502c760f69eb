//! The injector: the one place that may alter an operation, before it takes effect.

mod deed;
pub mod fault;
pub mod forms;
mod grammar;
mod site;
mod store;
mod sweep;

pub use crate::arch::privileged::How;
pub use deed::{Deed, Due, InjectedOp, Kept, KeptStore};
pub use fault::Fault;
pub use grammar::FaultError;
pub use site::Sites;
pub use sweep::{Interrupt, Sweep};

use crate::arch::addr::{CpuId, Gpa, Gva};
use crate::arch::op::{ControlRegister, Op};
use deed::{Kind, at_point, perturb};
use fault::{Action, Occurrence, Point, Site, Target};
use stalemate_shared::pcid::USER_ROOT_BIT;

/// What the machine does instead of one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Deliver an NMI first; the operation is met again afterwards.
    pub nmi_before: bool,
    /// Clear the marks in `TlbState` first.
    pub clear_marks: bool,
    /// Do these first.
    pub before: Vec<Due>,
    /// The operations, in order; empty where it does not happen now.
    pub ops: Vec<InjectedOp>,
    /// Keep the operation, for later.
    pub keep: bool,
}

#[derive(Clone, Debug)]
struct Armed {
    fault: Fault,
    seen: u32,
    fired: u32,
    /// Only counted.
    dry: bool,
}

impl Armed {
    /// Counts one occurrence, and says whether it is to be perturbed.
    fn hit(&mut self) -> bool {
        self.seen += 1;
        match self.fault.occurrence {
            _ if self.dry => false,
            Occurrence::All => true,
            Occurrence::Nth(n) => self.seen == n,
            Occurrence::Steps(..) => false,
        }
    }

    /// The same, where being perturbed is having fired.
    fn fires(&mut self) -> bool {
        let hit = self.hit();
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
    /// To be done before the next instruction of a CPU.
    due: Vec<(CpuId, Due)>,
    /// Operations that were kept back.
    kept: Vec<(CpuId, Kept)>,
    /// Stores to `TlbState` that were kept back.
    kept_stores: Vec<KeptStore>,
    /// Faults are of the steps before this one.
    end: Option<usize>,
}

impl Injector {
    /// An injector of `faults` into an image with these `sites`.
    #[must_use]
    pub fn new(faults: &[Fault], sites: Sites) -> Self {
        let arm = |fault: &Fault| Armed { fault: *fault, seen: 0, fired: 0, dry: false };
        Self { armed: faults.iter().map(arm).collect(), sites, ..Self::default() }
    }

    /// The same, that does nothing from the step with this index on.
    #[must_use]
    pub fn until(self, step: usize) -> Self {
        Self { end: Some(step), ..self }
    }

    /// The same, that only counts what the faults would be about.
    #[must_use]
    pub fn dry(mut self) -> Self {
        self.armed.iter_mut().for_each(|armed| armed.dry = true);
        self
    }

    /// How often each fault's operation was met.
    pub fn met(&self) -> impl Iterator<Item = u32> + '_ {
        self.armed.iter().map(|armed| armed.seen)
    }

    /// The faults that never fired.
    pub fn not_fired(&self) -> impl Iterator<Item = &Fault> {
        self.armed.iter().filter(|armed| armed.fired == 0).map(|armed| &armed.fault)
    }

    /// How often faults fired.
    #[must_use]
    pub fn fired(&self) -> u32 {
        self.armed.iter().map(|armed| armed.fired).sum()
    }

    /// What is to be done before the next instruction of `cpu`.
    pub fn take_due(&mut self, cpu: CpuId) -> Vec<Due> {
        self.due.extract_if(.., |(of, _)| *of == cpu).map(|(_, due)| due).collect()
    }

    /// A deed found something to do.
    pub fn done(&mut self, due: &Due) {
        if let Some(armed) = due.if_done.and_then(|number| self.armed.get_mut(number)) {
            armed.fired += 1;
        }
    }

    /// Keeps an operation for later.
    pub fn keep(&mut self, cpu: CpuId, kept: Kept) {
        self.kept.push((cpu, kept));
    }

    /// The step of `cpu` with this index begins.
    pub fn step_begins(&mut self, cpu: CpuId, index: usize) {
        if self.end == Some(index) {
            // What has fired has fired.
            self.armed
                .iter_mut()
                .for_each(|armed| armed.fault.occurrence = Occurrence::Steps(0, 0));
        }
        self.point(cpu, Point::Step);
    }

    /// The step of `cpu` is over: what it has kept back happens.
    pub fn step_ends(&mut self, cpu: CpuId) -> Vec<Due> {
        let mut due = self.take_due(cpu);
        due.extend(self.late(cpu, |_| true));
        due
    }

    /// `cpu` waits for another one: what was to reach another CPU happens now, or never.
    pub fn waits(&mut self, cpu: CpuId) -> Vec<Due> {
        self.late(cpu, |kept| kept.kind() == Some(Kind::Ipi))
    }

    fn late(&mut self, cpu: CpuId, select: impl Fn(&Kept) -> bool) -> Vec<Due> {
        let of_cpu = |store: &mut KeptStore| store.cpu == cpu || store.clears;
        let stores = self.kept_stores.extract_if(.., of_cpu).map(Deed::Store);
        let chosen = |(of, kept): &mut (CpuId, Kept)| *of == cpu && select(kept);
        let ops = self.kept.extract_if(.., chosen).map(|(_, kept)| Deed::Op(kept));
        stores.chain(ops).map(|deed| Due { deed, if_done: None }).collect()
    }

    /// A flush primitive of `cpu` begins.
    pub fn flush_begins(&mut self, cpu: CpuId) {
        self.point(cpu, Point::FlushBegin);
    }

    /// A flush primitive of `cpu`, of the address space with this kernel root, has returned.
    pub fn flush_ends(&mut self, cpu: CpuId, root: Gpa) {
        for number in 0..self.armed.len() {
            let fault = self.armed[number].fault;
            let deed = match (fault.action, fault.target) {
                (Action::Early, Target::Generation) => Deed::RaiseSlots(root),
                _ => continue,
            };
            if self.armed[number].hit() {
                self.due.push((cpu, Due { deed, if_done: Some(number) }));
            }
        }
        self.point(cpu, Point::FlushEnd);
    }

    /// A point in time of `cpu` has come.
    fn point(&mut self, cpu: CpuId, point: Point) {
        let due = self.deeds_at(point);
        self.due.extend(due.into_iter().map(|due| (cpu, due)));
    }

    fn deeds_at(&mut self, point: Point) -> Vec<Due> {
        let mut due = Vec::new();
        for (number, armed) in self.armed.iter_mut().enumerate() {
            let Some(deed) = at_point(&armed.fault) else { continue };
            if armed.fault.target != Target::Point(point) || !armed.hit() {
                continue;
            }
            let uncertain = matches!(deed, Deed::Evict(_) | Deed::Speculate(_));
            armed.fired += u32::from(!uncertain);
            due.push(Due { deed, if_done: uncertain.then_some(number) });
        }
        due
    }

    /// What to do in place of `op`, about to execute at `rip`; `marks` is the mask in
    /// `TlbState`.
    pub fn plan(&mut self, cpu: CpuId, rip: Gva, op: Op, marks: u64) -> Plan {
        let mut plan = Plan {
            ops: vec![InjectedOp { op, how: How::Right, injected: false }],
            ..Plan::default()
        };
        if self.armed.is_empty() {
            return plan;
        }
        // The interrupted operation is met again once the NMI's own have been.
        let resumed = self.resumed == Some(rip);
        if resumed {
            self.resumed = None;
        }
        let site = self.sites.at(rip);
        // The exit of what is injected may load the user CR3 too; that is not the window meant.
        let own_exit = self.sites.is_irq_exit(rip);
        let user_load = is_user_load(op) && site == Some(SiteAt::Cr3(Site::Return)) && !own_exit;
        if user_load && !resumed {
            plan.before = self.deeds_at(Point::BeforeUserCr3);
            plan.nmi_before = plan.before.iter().any(|due| due.deed == Deed::Nmi);
            plan.before.retain(|due| due.deed != Deed::Nmi);
        }
        if plan.nmi_before {
            self.resumed = Some(rip);
            return plan;
        }
        let kind = Kind::of(op);
        let late = self.kept.extract_if(.., |(of, kept)| *of == cpu && kept.kind() == kind);
        plan.before.extend(late.map(|(_, kept)| Due { deed: Deed::Op(kept), if_done: None }));
        for armed in &mut self.armed {
            let (action, target) = (armed.fault.action, armed.fault.target);
            if action == Action::ClearMark {
                let here = site == Some(SiteAt::ParanoidIret) && marks != 0;
                plan.clear_marks |= here && armed.fires();
            } else if concerns(target, op, site, armed.fault.site) && armed.fires() {
                plan.keep |= action == Action::Delay;
                perturb(&mut plan.ops, action, target);
            }
        }
        if user_load {
            self.point(cpu, Point::AfterUserCr3);
        }
        if kind == Some(Kind::Cr4) {
            self.point(cpu, Point::AfterCr4);
        }
        plan
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
    match (target, Kind::of(op)) {
        (Target::Invlpg | Target::InvlpgKeepsGlobals, Some(Kind::Invlpg))
        | (Target::Invpcid | Target::InvpcidGp, Some(Kind::Invpcid))
        | (Target::Cr4, Some(Kind::Cr4))
        | (Target::Ipi, Some(Kind::Ipi)) => true,
        (Target::Noflush | Target::Pcid | Target::Root | Target::Cr3, Some(Kind::Cr3)) => {
            site.is_some_and(|site| at == Some(SiteAt::Cr3(site)))
        }
        _ => false,
    }
}
