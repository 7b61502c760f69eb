//! An interrupt, or a CPU that was held back, at every instruction boundary: the run goes on from a
//! snapshot with it and then, from the same snapshot, without it to the next boundary.

use super::driver::{Driver, StepInput};
use super::session::{RunEnd, RunError, Session};
use crate::arch::addr::{CpuId, Gva};
use crate::arch::choice::{Chooser, Move, Point};
use crate::arch::vcpu::Vcpu;
use crate::event::{Event, Observer};
use crate::executor::ExecutorError;
use crate::inject::{Injector, Interrupt, Sweep};
use crate::machine::{Access, Halt, Watch};
use crate::schedule::{Scheduler, Scripted};
use stalemate_shared::layout::IRQ_VECTOR;

/// Where an interrupt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// The instruction that comes next.
    pub rip: Gva,
    /// The step under way.
    pub step: usize,
    /// The virtual CPL that it interrupts.
    pub cpl: u8,
}

/// What became of the boundaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// So many were met.
    pub met: usize,
    /// An interrupt was tried at so many.
    pub tried: usize,
    /// At so many an NMI would have been held back, since one was being handled; or no CPU was held
    /// back that could come in.
    pub held: usize,
    /// At so many it was raised and never delivered: interrupts stayed off.
    pub undelivered: usize,
    /// There were more than the executor tries.
    pub cut_short: bool,
}

/// The scheduler of a sweep: runs the foreground of the swept steps over one instruction at a time,
/// and says at which boundaries an interrupt is tried.
#[derive(Clone)]
struct Sweeping<'a> {
    inner: Scripted,
    sweep: &'a Sweep,
    limit: usize,
    swept: Swept,
    /// The step in the foreground.
    step: Option<usize>,
}

impl Sweeping<'_> {
    fn is_swept(&self) -> bool {
        self.step.is_some_and(|step| self.sweep.contains(step)) && !self.swept.cut_short
    }
}

impl Chooser for Sweeping<'_> {
    fn choose(&mut self, point: Point<'_>) -> usize {
        match point {
            Point::Next { moves, .. } => {
                let chosen = self.inner.choose(point);
                match moves.get(chosen) {
                    Some(Move::Begin(_, index)) => self.step = Some(*index),
                    Some(Move::Run(cpu))
                        if self.inner.foreground() == Some(*cpu) && self.is_swept() =>
                    {
                        let step = moves.iter().position(|one| *one == Move::Step(*cpu));
                        return step.unwrap_or(chosen);
                    }
                    _ => {}
                }
                chosen
            }
            Point::Interrupt { nmi_blocked, .. } => {
                let held = match self.sweep.interrupt {
                    Interrupt::Nmi => nmi_blocked,
                    Interrupt::Irq => false,
                    Interrupt::Preempt => self.inner.held().is_none(),
                };
                self.swept.met += 1;
                self.swept.held += usize::from(held);
                self.swept.cut_short |= !held && self.swept.tried >= self.limit;
                let tried = !held && !self.swept.cut_short && self.sweep.tries(self.swept.met);
                self.swept.tried += usize::from(tried);
                usize::from(tried)
            }
            point => self.inner.choose(point),
        }
    }
}

impl Scheduler for Sweeping<'_> {
    fn saw(&mut self, event: &Event) {
        self.inner.saw(event);
    }

    fn watch(&self) -> Option<Watch> {
        self.inner.watch()
    }

    fn holds_before(&mut self, cpu: CpuId, access: &Access<'_>) -> bool {
        self.inner.holds_before(cpu, access)
    }

    fn stepped(&mut self, cpu: CpuId, moved: bool) {
        self.inner.stepped(cpu, moved);
    }

    fn unreached(&self) -> &[usize] {
        self.inner.unreached()
    }
}

impl Session {
    /// Runs `steps`, and at each boundary that `sweep` means once more to the end with an
    /// interrupt there; `each` gets what those came to, with their observers. At most `limit`
    /// boundaries are tried.
    ///
    /// `observer` holds the initial state.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn sweep<O: Observer + Clone>(
        &mut self,
        steps: &[StepInput],
        injector: Injector,
        sweep: &Sweep,
        limit: usize,
        observer: &mut O,
        each: &mut dyn FnMut(Boundary, RunEnd, O),
    ) -> Result<(RunEnd, Swept), RunError> {
        // A run that never ends is one, and not one more at each of its boundaries.
        let mut without = observer.clone();
        let end = self.run_from_initial_state(steps, injector.clone(), &mut without)?;
        if self.spent || end.stop.as_ref().is_some_and(|(stop, _)| stop.is_hang()) {
            *observer = without;
            return Ok((end, Swept::default()));
        }
        self.begin(injector)?;
        let plain = self.driver(steps)?;
        let swept = Swept::default();
        let inner = plain.scheduler.clone();
        let scheduler = Sweeping { inner, sweep, limit, swept, step: None };
        let mut driver = plain.with_scheduler(scheduler);
        let halt = self.drive_and_branch(&mut driver, sweep.interrupt, observer, each)?;
        let swept = driver.scheduler.swept;
        let end = self.end(observer, driver, halt)?;
        Ok((end, swept))
    }

    /// Runs to the end; where the scheduler has an interrupt come in, a branch of its own does so.
    fn drive_and_branch<O: Observer + Clone>(
        &mut self,
        driver: &mut Driver<'_, Sweeping<'_>>,
        interrupt: Interrupt,
        observer: &mut O,
        each: &mut dyn FnMut(Boundary, RunEnd, O),
    ) -> Result<Option<Halt>, ExecutorError> {
        let mut before: Option<Vcpu> = None;
        while let Some(next) = driver.decide(&self.machine) {
            match next {
                Move::Begin(..) => before = None,
                Move::Step(cpu) => {
                    self.machine.switch_to(usize::from(cpu.0))?;
                    let vcpu = self.machine.vcpu();
                    // A trap that only filled the shadow pages is no boundary.
                    if before.as_ref() != Some(vcpu) {
                        before = Some(vcpu.clone());
                        let nmi_blocked = vcpu.nmi_blocked;
                        let point = Point::Interrupt { cpu, nmi_blocked };
                        if driver.scheduler.choose(point) == 1 {
                            self.branch(driver, cpu, interrupt, observer, each)?;
                        }
                        if self.spent {
                            return Ok(None);
                        }
                    }
                }
                Move::Run(_) => {}
            }
            if let Err(halt) = driver.make(&mut self.machine, observer, next) {
                return Ok(Some(halt));
            }
        }
        Ok(None)
    }

    /// Goes on to the end with an interrupt at this boundary of `cpu`, and comes back.
    fn branch<O: Observer + Clone>(
        &mut self,
        driver: &mut Driver<'_, Sweeping<'_>>,
        cpu: CpuId,
        interrupt: Interrupt,
        observer: &O,
        each: &mut dyn FnMut(Boundary, RunEnd, O),
    ) -> Result<(), ExecutorError> {
        let snapshot = self.machine.snapshot()?;
        let mut branch = driver.with_scheduler(driver.scheduler.inner.clone());
        let mut seen = observer.clone();
        let vcpu = self.machine.vcpu_mut();
        let step = driver.step_of(cpu).unwrap_or_default();
        let boundary = Boundary { rip: vcpu.rip(), step, cpl: vcpu.cpl };
        match interrupt {
            Interrupt::Nmi => vcpu.nmi_pending = true,
            Interrupt::Irq => vcpu.apic.request(IRQ_VECTOR),
            Interrupt::Preempt => branch.scheduler.preempt(),
        }
        let halt = branch.run(&mut self.machine, &mut seen).err();
        let end = self.end(&mut seen, branch, halt)?;
        let vcpu = &self.machine.cpus[usize::from(cpu.0)].vcpu;
        let undelivered = match interrupt {
            Interrupt::Nmi | Interrupt::Irq => vcpu.nmi_pending || vcpu.apic.is_pending(),
            Interrupt::Preempt => false,
        };
        driver.scheduler.swept.undelivered += usize::from(undelivered);
        each(boundary, end, seen);
        if !self.spent {
            self.machine.restore(&snapshot)?;
        }
        Ok(())
    }
}
