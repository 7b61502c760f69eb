//! Runs: a guest booted for each configuration, each run judged, outcomes compared with what the
//! scenario says.

mod counts;
mod outcome;

pub use counts::EventCounts;
pub use outcome::{Mismatch, Outcome, RunResult};

use crate::arch::tlb::TlbModel;
use crate::boot::GuestMemory;
use crate::boot::{Image, Symbols};
use crate::event::{Event, Observer, TraceHeader};
use crate::executor::{Executor, ExecutorError};
use crate::inject::{Injector, Sites};
use crate::machine::{BootError, Session, SessionConfig, StepInput};
use crate::oracle::Oracle;
use crate::scenario::{Run, RunConfig, Scenario};

/// Makes an executor for a guest's memory.
pub type MakeExecutor<'a> = dyn Fn(&GuestMemory) -> Result<Box<dyn Executor>, ExecutorError> + 'a;

/// A trace as an observer keeps it.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// What it begins with.
    pub header: Option<TraceHeader>,
    /// The events.
    pub events: Vec<Event>,
}

impl Observer for Trace {
    fn begin(&mut self, header: &TraceHeader) {
        self.header = Some(header.clone());
        self.events.clear();
    }

    fn event(&mut self, event: &Event) {
        self.events.push(event.clone());
    }
}

impl Trace {
    /// Gives the trace to another observer.
    pub fn replay(&self, observer: &mut dyn Observer) {
        if let Some(header) = &self.header {
            observer.begin(header);
            self.events.iter().for_each(|event| observer.event(event));
        }
    }
}

/// Shows every event to several observers.
struct Tee<'a>(Vec<&'a mut dyn Observer>);

impl Observer for Tee<'_> {
    fn begin(&mut self, header: &TraceHeader) {
        self.0.iter_mut().for_each(|observer| observer.begin(header));
    }

    fn event(&mut self, event: &Event) {
        self.0.iter_mut().for_each(|observer| observer.event(event));
    }
}

/// Runs scenarios on guests of one image.
pub struct Runner<'a> {
    image: &'a Image<'a>,
    sites: Sites,
    make: &'a MakeExecutor<'a>,
    session: Option<Session>,
    /// Traps that the guest took to boot, the last time that one did.
    pub boot_traps: u64,
}

impl<'a> Runner<'a> {
    /// A runner of `image`, whose symbols are `symbols`, on executors made by `make`.
    #[must_use]
    pub fn new(image: &'a Image<'a>, symbols: &Symbols, make: &'a MakeExecutor<'a>) -> Self {
        Self { image, sites: Sites::new(symbols), make, session: None, boot_traps: 0 }
    }

    /// Runs all of `runs`, calling `progress` after each; the results are in their order. One
    /// guest is alive at a time, so runs of one configuration are done together.
    ///
    /// # Errors
    /// When the host fails or an image cannot be loaded.
    pub fn run_all(
        &mut self,
        scenarios: &[Scenario],
        runs: &[Run],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<RunResult>, BootError> {
        let mut order: Vec<usize> = (0..runs.len()).collect();
        order.sort_by_key(|&index| (runs[index].config, index));
        let mut results: Vec<Option<RunResult>> = vec![None; runs.len()];
        for (done, index) in order.into_iter().enumerate() {
            let run = &runs[index];
            results[index] = Some(self.run(&scenarios[run.scenario], run, None)?);
            progress(done + 1);
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Does one run; `trace` gets its events.
    ///
    /// # Errors
    /// When the host fails or the image cannot be loaded. A guest that does not boot is an
    /// outcome.
    pub fn run(
        &mut self,
        scenario: &Scenario,
        run: &Run,
        trace: Option<&mut Trace>,
    ) -> Result<RunResult, BootError> {
        let mut oracle = Oracle::default();
        let mut counts = EventCounts::default();
        let inputs: Vec<StepInput> = scenario.steps.iter().map(|step| step.input).collect();
        let injector = Injector::new(&run.faults, self.sites.clone());
        let session = match self.session(&run.config) {
            Ok(session) => session,
            Err(BootError::Guest { stop, vcpu }) => {
                return Ok(RunResult::did_not_boot(run, stop, vcpu));
            }
            Err(error) => return Err(error),
        };
        let mut observers: Vec<&mut dyn Observer> = vec![&mut oracle, &mut counts];
        if let Some(trace) = trace {
            observers.push(trace);
        }
        let end = session.run(&inputs, injector, &mut Tee(observers))?;
        if session.spent {
            self.session = None;
        }
        Ok(RunResult::judge(scenario, run, end, &oracle, counts))
    }

    /// The booted guest for a configuration.
    fn session(&mut self, config: &RunConfig) -> Result<&mut Session, BootError> {
        let wanted = SessionConfig {
            features: config.cpu.features,
            policy: config.policy.boot(),
            options: config.options(),
            model: TlbModel { fill: config.fill, structure_caches: config.structure_caches },
        };
        let session = match self.session.take() {
            Some(session) if *session.config() == wanted => session,
            _ => Session::boot(wanted, self.image, self.make)?,
        };
        self.boot_traps = session.boot_traps;
        Ok(self.session.insert(session))
    }
}
