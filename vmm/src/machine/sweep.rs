//! An interrupt at every instruction boundary: the run goes on from a snapshot with the interrupt
//! and then, from the same snapshot, without it to the next boundary.

use super::{Halt, Machine, RunEnd, Session, StepInput, StepReport};
use crate::arch::addr::Gva;
use crate::arch::vcpu::Vcpu;
use crate::event::{Kind, Observer};
use crate::executor::ExecutorError;
use crate::inject::{Injector, Interrupt, Sweep};
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
    /// At so many an NMI would have been held back: one was being handled.
    pub held: usize,
    /// At so many it was raised and never delivered: interrupts stayed off.
    pub undelivered: usize,
    /// There were more than the executor tries.
    pub cut_short: bool,
}

impl Session {
    /// Runs `steps`, and at each boundary that `sweep` means once more to the end with an
    /// interrupt there; `each` gets what those came to, with their observers. At most `limit`
    /// boundaries are tried.
    ///
    /// `observer` has been told the opening.
    ///
    /// # Errors
    /// When the host fails.
    pub fn sweep<O: Observer + Clone>(
        &mut self,
        steps: &[StepInput],
        injector: Injector,
        sweep: &Sweep,
        limit: usize,
        observer: &mut O,
        each: &mut dyn FnMut(Boundary, RunEnd, O),
    ) -> Result<(RunEnd, Swept), ExecutorError> {
        let mut swept = Swept::default();
        // A run that never ends is one, and not one more at each of its boundaries.
        let mut without = observer.clone();
        let end = self.run_told(steps, injector.clone(), &mut without)?;
        if self.spent || end.stop.as_ref().is_some_and(|(stop, _)| stop.is_hang()) {
            *observer = without;
            return Ok((end, swept));
        }
        self.begin(injector)?;
        let mut reports = vec![None; steps.len()];
        for (index, step) in steps.iter().enumerate() {
            if !sweep.contains(index) || swept.cut_short {
                if let Err(halt) = self.machine.run_step(observer, index, step, &mut reports) {
                    return Ok((self.ended(observer, reports, Some(halt))?, swept));
                }
                continue;
            }
            if let Err(halt) = self.machine.begin_step(observer, index, step) {
                return Ok((self.ended(observer, reports, Some(halt))?, swept));
            }
            let foreground = usize::from(step.cpu.0);
            let budget = self.machine.step_budget();
            let mut before: Option<Vcpu> = None;
            while !self.machine.is_over(foreground) {
                let vcpu = self.machine.vcpu();
                // A trap that only filled the projection is no boundary; neither is what another
                // CPU does while this one waits.
                let moved = before.as_ref() != Some(vcpu) && self.machine.current == foreground;
                let held = sweep.interrupt == Interrupt::Nmi && vcpu.nmi_blocked;
                swept.met += usize::from(moved);
                swept.held += usize::from(moved && held);
                swept.cut_short |= moved && !held && swept.tried >= limit;
                if moved && !held && !swept.cut_short && sweep.tries(swept.met) {
                    swept.tried += 1;
                    let boundary = Boundary { rip: vcpu.rip(), step: index, cpl: vcpu.cpl };
                    let snapshot = self.machine.snapshot()?;
                    let mut branch = observer.clone();
                    raise(&mut self.machine, sweep.interrupt);
                    let end = self.go_on(&mut branch, reports.clone(), steps, index)?;
                    let vcpu = &self.machine.cpus[foreground].vcpu;
                    swept.undelivered += usize::from(vcpu.nmi_pending || vcpu.apic.is_pending());
                    each(boundary, end, branch);
                    if self.spent {
                        return Ok((self.ended(observer, reports, None)?, swept));
                    }
                    self.machine.restore(&snapshot)?;
                }
                before = Some(self.machine.vcpu().clone());
                let turn = self.machine.turn(observer, foreground, !swept.cut_short);
                match turn.and_then(|turn| self.machine.within(budget).map(|()| turn)) {
                    Ok(turn) => self.machine.report(observer, &turn, &mut reports),
                    Err(halt) => return Ok((self.ended(observer, reports, Some(halt))?, swept)),
                }
            }
            if let Err(halt) = self.machine.settle(observer, &mut reports, budget) {
                return Ok((self.ended(observer, reports, Some(halt))?, swept));
            }
        }
        let halt = self.machine.release_all(observer, &mut reports).err();
        Ok((self.ended(observer, reports, halt)?, swept))
    }

    /// From within step `index` to the end of the run.
    fn go_on(
        &mut self,
        observer: &mut dyn Observer,
        mut reports: Vec<Option<StepReport>>,
        steps: &[StepInput],
        index: usize,
    ) -> Result<RunEnd, ExecutorError> {
        let machine = &mut self.machine;
        let finished = machine.finish_step(observer, &steps[index], &mut reports);
        let halt = finished
            .and_then(|()| machine.run_steps(observer, steps, index + 1, &mut reports))
            .err();
        self.ended(observer, reports, halt)
    }

    /// Tells the end, and what the run came to.
    pub(super) fn ended(
        &mut self,
        observer: &mut dyn Observer,
        reports: Vec<Option<StepReport>>,
        halt: Option<Halt>,
    ) -> Result<RunEnd, ExecutorError> {
        let memory = self.tells_memory.then(|| self.machine.final_memory());
        let machine = &mut self.machine;
        let stop = match halt {
            None => None,
            Some(Halt::Executor(error)) => return Err(error),
            Some(Halt::Stop(stop)) => {
                self.spent |= matches!(stop, crate::arch::fault::Stop::Timeout { .. });
                Some((stop, Box::new(machine.vcpu().clone())))
            }
        };
        let rip = machine.vcpu().rip();
        machine.publish(observer, rip, false, Kind::End);
        Ok(RunEnd {
            reports,
            stop,
            traps: machine.traps,
            not_fired: machine.injector.not_fired().map(ToString::to_string).collect(),
            fired: machine.injector.fired(),
            met: machine.injector.met().collect(),
            memory,
            watched: machine.watched.take(),
        })
    }
}

fn raise(machine: &mut Machine, interrupt: Interrupt) {
    match interrupt {
        Interrupt::Nmi => machine.vcpu_mut().nmi_pending = true,
        Interrupt::Irq => machine.vcpu_mut().apic.request(IRQ_VECTOR),
    }
}
