//! Runs: a guest booted for each configuration, each run judged, outcomes compared with what the
//! scenario says.

mod counts;
mod crosscheck;
mod examine;
mod outcome;
mod recorded;
mod seen;
mod sweep;

pub use counts::EventCounts;
pub use crosscheck::{Difference, Side, crosscheck, crosscheck_all};
pub use examine::{Deadlines, Examined};
pub(crate) use outcome::mismatch;
pub use outcome::{Hammers, Mismatch, Outcome, RunResult, StoppedIn, WENT_THROUGH};
pub use recorded::check_of;
pub use seen::Seen;
pub use sweep::{Failing, SweepResult};

use crate::arch::tlb::TlbModel;
use crate::arch::vcpu::Vcpu;
use crate::event::{Event, NullObserver, Observer, Trace, TraceHeader};
use crate::executor::Backend;
use crate::inject::{Injector, Sites, Sweep};
use crate::interrupt;
use crate::kernel::steps::{
    BootError, Guest, InitialState, KernelOptions, RunError, Session, SessionConfig,
};
use crate::machine::Probe;
use crate::oracle::rule::Rule;
use crate::oracle::{self, Oracle, RuleId};
use crate::scenario::{Run, RunConfig};
use crate::schedule::Segment;
use sweep::Branches;

/// What observes every run.
#[derive(Clone, Default)]
struct Observers {
    oracle: Oracle,
    counts: EventCounts,
    seen: Seen,
    trace: Option<Trace>,
    deadlines: Option<Deadlines>,
}

impl Observer for Observers {
    fn begin(&mut self, header: &TraceHeader) {
        self.oracle.begin(header);
        self.counts.begin(header);
        self.seen.begin(header);
        self.trace.begin(header);
    }

    fn event(&mut self, event: &Event) {
        self.oracle.event(event);
        self.counts.event(event);
        self.seen.event(event);
        self.trace.event(event);
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.event(event, &self.oracle);
        }
    }

    fn completed(&mut self, instructions: u64) {
        self.trace.completed(instructions);
    }
}

impl From<&RunConfig> for SessionConfig {
    fn from(config: &RunConfig) -> Self {
        Self {
            features: config.cpu.features,
            kernel: KernelOptions {
                policy: config.policy.boot(),
                options: config.options(),
                variant: config.variant,
            },
            model: TlbModel {
                fill: config.fill,
                structure_caches: config.structure_caches,
                seed: config.seed,
            },
            cpus: config.cpus,
            schedule: config.schedule,
        }
    }
}

/// The host failed in the middle of several runs, or somebody stopped them.
#[derive(Debug, thiserror::Error)]
#[error("{} of {wanted} runs were made", .results.len())]
pub struct Interrupted {
    /// The results of the runs before it, in the order given.
    pub results: Vec<RunResult>,
    /// Where two executors have differed in them.
    pub differences: Vec<Difference>,
    /// How many runs there would have been.
    pub wanted: usize,
    /// What failed; nothing where somebody stopped the runs.
    #[source]
    pub error: Option<RunError>,
}

/// Does `runs` with those of one configuration together, since one guest is alive at a time; the
/// results are in the order given.
fn in_order(
    runs: &[Run],
    mut each: impl FnMut(&Run) -> Result<RunResult, RunError>,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<RunResult>, Box<Interrupted>> {
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_key(|&index| (runs[index].config, index));
    let mut results: Vec<Option<RunResult>> = vec![None; runs.len()];
    for (done, index) in order.into_iter().enumerate() {
        let error = match interrupt::requested() {
            Some(_) => None,
            None => match each(&runs[index]) {
                Ok(result) => {
                    results[index] = Some(result);
                    progress(done + 1);
                    continue;
                }
                Err(error) => Some(error),
            },
        };
        let results = results.into_iter().flatten().collect();
        let (differences, wanted) = (Vec::new(), runs.len());
        return Err(Box::new(Interrupted { results, differences, wanted, error }));
    }
    Ok(results.into_iter().flatten().collect())
}

/// A guest that was booted for a configuration.
struct Booted {
    session: Session,
    /// Observers that hold its initial state.
    primed: Observers,
}

/// Runs scenarios on one guest kernel.
pub struct Runner {
    guest: Guest,
    sites: Sites,
    backend: Backend,
    /// Those that were booted last, the one in use at the end.
    booted: Vec<Booted>,
    /// How many of them are kept.
    kept: usize,
    /// Boundaries that a sweep tries at most.
    boundary_limit: usize,
    /// Of the boundaries, one in so many is tried where runs are examined.
    stride: usize,
    /// A rule that is disabled.
    without: Option<RuleId>,
    /// The schedule of its runs, where it was recorded.
    recorded: Option<Vec<Segment>>,
    /// Rules beside the built-in ones.
    rules: Vec<Box<dyn Rule>>,
    /// Runs that hung and were not meant to.
    hangs: usize,
    /// So many may; no limit where there is none.
    most_hangs: Option<usize>,
    /// A processor as the last of them left it.
    hung: Option<Box<Vcpu>>,
    /// Traps that the guest took to boot, the last time that one did.
    pub boot_traps: u64,
}

/// Whether the oracle is checked too: in builds with debug assertions, and where it is wanted.
fn checks_itself() -> bool {
    let wanted = || std::env::var_os("STALEMATE_SELF_CHECK").is_some_and(|value| value == "1");
    cfg!(debug_assertions) || wanted()
}

impl Runner {
    /// A runner of `guest` on executors of `backend`. With debug assertions, or where
    /// `STALEMATE_SELF_CHECK=1` is set, it judges by [`oracle::self_check`] too.
    #[must_use]
    pub fn new(guest: &Guest, backend: &Backend) -> Self {
        Self {
            guest: guest.clone(),
            sites: Sites::new(guest.symbols(), guest.abilities().addresses),
            backend: backend.clone(),
            booted: Vec::new(),
            kept: 1,
            boundary_limit: backend.boundary_limit(),
            stride: 1,
            without: None,
            recorded: None,
            rules: if checks_itself() { vec![oracle::self_check()] } else { Vec::new() },
            hangs: 0,
            most_hangs: None,
            hung: None,
            boot_traps: 0,
        }
    }

    /// Runs all of `runs`, calling `progress` after each; the results are in their order.
    ///
    /// # Errors
    /// When the host fails, an image cannot be loaded, or a signal stopped the runs; with what was run until then.
    pub fn run_all(
        &mut self,
        runs: &[Run],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<RunResult>, Box<Interrupted>> {
        in_order(runs, |run| self.run(run, None), progress)
    }

    /// The executor's name.
    #[must_use]
    pub fn executor(&self) -> &'static str {
        self.backend.name()
    }

    /// The boundaries that a sweep tries at most: as many as the executor can, unless fewer are
    /// wanted.
    pub fn limit_boundaries(&mut self, limit: usize) {
        self.boundary_limit = limit.min(self.backend.boundary_limit());
    }

    /// After so many runs that hung and were not meant to, others are skipped: each would take as long as
    /// the executor is patient, and tell no more.
    pub fn limit_hangs(&mut self, limit: usize) {
        self.most_hangs = Some(limit);
    }

    /// Keeps so many booted guests, 1 at first: for runs that come back to configurations. A boot takes
    /// longer than a run, and a guest some 30 MiB.
    pub fn keep(&mut self, guests: usize) {
        self.kept = guests.max(1);
    }

    /// Of the boundaries of a sweep that is examined, tries one in `stride`.
    pub fn stride(&mut self, stride: usize) {
        self.stride = stride;
    }

    /// Lets its runs have this schedule, which was recorded from one of them.
    pub fn follow(&mut self, recorded: Option<&[Segment]>) {
        self.recorded = recorded.map(<[Segment]>::to_vec);
    }

    /// Disables a rule for guests that are booted from now on, to see what only that rule catches.
    pub fn disable_rule(&mut self, rule: Option<RuleId>) {
        self.without = rule;
        self.booted.clear();
    }

    /// Judges by one more rule the guests that are booted from now on.
    pub fn add_rule(&mut self, rule: Box<dyn Rule>) {
        self.rules.push(rule);
        self.booted.clear();
    }

    /// Does one run for the registers at event `seq`, and the instruction that it is of.
    ///
    /// # Errors
    /// As [`Runner::run`].
    pub fn probe(&mut self, run: &Run, seq: u64) -> Result<Option<Probe>, RunError> {
        let injector = Injector::new(&run.faults, self.sites.clone());
        let session = match self.booted(&run.config) {
            Err(BootError::Guest { .. }) => return Ok(None),
            booted => &mut booted?.session,
        };
        session.probe(Some(seq));
        let end = session.run_from_initial_state(&run.steps(), injector, &mut NullObserver);
        session.probe(None);
        if session.spent {
            self.booted.pop();
        }
        Ok(end?.probed)
    }

    /// Boots the guest for a configuration, without a run; what it was seen to be at its first step, and
    /// what it printed until then.
    ///
    /// # Errors
    /// When it does not come to that, the image cannot be loaded, or the host fails.
    pub fn boot(&mut self, config: &RunConfig) -> Result<(Seen, String), BootError> {
        let Booted { session, primed } = self.booted(config)?;
        Ok((primed.seen.clone(), session.boot_printed.clone()))
    }

    /// Does one run; `observer` is notified of its events as they happen: a [`Trace`] keeps them.
    /// Those of a sweep, whose branches follow each other, are shown when it is over.
    ///
    /// # Errors
    /// When the host fails or the image cannot be loaded. A guest that does not boot is an
    /// outcome.
    pub fn run(
        &mut self,
        run: &Run,
        observer: Option<&mut dyn Observer>,
    ) -> Result<RunResult, RunError> {
        if let Some(vcpu) = self.hung.as_ref().filter(|_| Some(self.hangs) == self.most_hangs) {
            return Ok(RunResult::skipped(run, self.hangs, vcpu.clone()));
        }
        let result = self.run_once(run, observer)?;
        if result.outcome == Outcome::Hang && !result.as_expected {
            self.hangs += 1;
            self.hung = result.stop.as_ref().map(|(_, vcpu)| vcpu.clone()).or(self.hung.take());
        }
        Ok(result)
    }

    fn run_once(
        &mut self,
        run: &Run,
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<RunResult, RunError> {
        if let Some(schedule) = self.recorded.clone() {
            return self.run_recorded(run, &schedule, observer);
        }
        let inputs = run.steps();
        let (sweep, faults) = Sweep::split(&run.faults);
        let injector = Injector::new(&faults, self.sites.clone());
        let limit = self.boundary_limit;
        let Booted { session, primed } = match self.booted(&run.config) {
            Err(BootError::Guest { stop, vcpu, printed }) => {
                return Ok(RunResult::did_not_boot(run, stop, vcpu, printed));
            }
            booted => booted?,
        };
        let mut observers = primed.clone();
        let result = match &sweep {
            None => {
                if let Some(observer) = &mut observer {
                    session.initial_state().show(*observer);
                }
                let mut both = (observers, observer);
                let end = session.run_from_initial_state(&inputs, injector, &mut both)?;
                let Observers { oracle, counts, seen, .. } = both.0;
                RunResult::judge(run, end, &oracle, counts, seen)
            }
            Some(sweep) => {
                if observer.is_some() {
                    let InitialState { header, events } = session.initial_state().clone();
                    observers.trace = Some(Trace::opened(header, events));
                }
                let mut branches = Branches::default();
                let mut branched = Vec::new();
                let mut each = |boundary, end, seen: Observers| {
                    let Observers { oracle, counts, trace, seen, .. } = seen;
                    let result = RunResult::judge(run, end, &oracle, counts, seen);
                    branches.add(boundary, result, trace.as_ref());
                    branched.extend(trace);
                };
                let (end, swept) =
                    session.sweep(&inputs, injector, sweep, limit, &mut observers, &mut each)?;
                let Observers { oracle, counts, trace, seen, .. } = observers;
                if let (Some(observer), Some(mut whole)) = (observer, trace.clone()) {
                    for trace in branched {
                        whole.events.extend(trace.events);
                        whole.completed.extend(trace.completed);
                    }
                    whole.replay(observer);
                }
                let result = RunResult::judge(run, end, &oracle, counts, seen);
                branches.finish(result, trace, sweep, swept)
            }
        };
        if session.spent {
            self.booted.pop();
        }
        Ok(result)
    }

    /// The booted guest for a configuration, and an oracle that holds its initial state.
    pub(crate) fn lend(&mut self, config: &RunConfig) -> Result<(&mut Session, Oracle), BootError> {
        let Booted { session, primed } = self.booted(config)?;
        Ok((session, primed.oracle.clone()))
    }

    /// The faults of a run, for the image that is run.
    pub(crate) fn injector(&self, run: &Run) -> Injector {
        Injector::new(&run.faults, self.sites.clone())
    }

    /// The guest that is run.
    #[must_use]
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// The booted guest for a configuration.
    fn booted(&mut self, config: &RunConfig) -> Result<&mut Booted, BootError> {
        let wanted = SessionConfig::from(config);
        let booted = match self.booted.iter_mut().position(|one| one.session.serve(&wanted)) {
            Some(found) => self.booted.remove(found),
            None => self.boot_for(wanted)?,
        };
        self.boot_traps = booted.session.boot_traps;
        if self.booted.len() == self.kept {
            self.booted.remove(0);
        }
        self.booted.push(booted);
        let last = self.booted.len() - 1;
        Ok(&mut self.booted[last])
    }

    fn boot_for(&self, wanted: SessionConfig) -> Result<Booted, BootError> {
        let session = Session::boot(wanted, &self.guest, &self.backend)?;
        let mut primed = Observers::default();
        for rule in &self.rules {
            primed.oracle.add_rule(rule.clone());
        }
        primed.oracle.disable_rule(self.without);
        session.initial_state().show(&mut primed);
        primed.oracle.ready();
        Ok(Booted { session, primed })
    }
}
