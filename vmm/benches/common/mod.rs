//! What the benches share: the guest that they run, the clock, and the table of figures.
//!
//! Times are CPU time of the thread that works, so that other work on the machine does not count.
//! A baseline and its subject are measured in turn, and what is printed is the median of the ratios of
//! the turns. With `--quick` each figure is measured once or twice: that shows only that all of them
//! are still printed.
#![allow(dead_code)]

use cpu_time::ThreadTime;
use stalemate::arch::features::CpuFeatures;
use stalemate::arch::tlb::{Fill, TlbModel};
use stalemate::executor::{Executor, ExecutorError};
use stalemate::kernel::steps::{Guest, KernelOptions, Session, SessionConfig, StepInput};
use stalemate::memory::GuestMemory;
use stalemate::scenario::{Scenario, parse, suite};
use stalemate::schedule::Schedule;
use stalemate_shared::boot::{Policy, options};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// CPU time that `work` takes, and what it gives.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = ThreadTime::now();
    let done = work();
    (start.elapsed(), done)
}

/// How often each figure is measured.
#[derive(Clone, Copy)]
pub struct Effort {
    quick: bool,
}

impl Effort {
    /// As the command line says: `cargo bench -- --quick`.
    pub fn from_args() -> Self {
        Self { quick: std::env::args().any(|argument| argument == "--quick") }
    }

    /// `full` rounds, or few.
    pub fn rounds(self, full: u32) -> u32 {
        if self.quick { full.min(2) } else { full }
    }

    /// So many of something, or a hundredth.
    pub fn rounds_of(self, many: usize) -> usize {
        if self.quick { many / 100 } else { many }
    }
}

/// The middle one of some measurements.
pub fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of `subject` / `baseline` over `rounds`, each round measuring both, one after the other.
pub fn ratio(
    rounds: u32,
    mut baseline: impl FnMut() -> Duration,
    mut subject: impl FnMut() -> Duration,
) -> f64 {
    let each = (0..rounds).map(|_| {
        let base = baseline();
        subject().as_secs_f64() / base.as_secs_f64()
    });
    median(each.collect())
}

/// The figures that a bench must print, by name: one that is missing, or printed twice, fails it.
pub struct Figures {
    missing: BTreeSet<&'static str>,
}

impl Figures {
    /// Nothing is printed yet of these.
    pub fn expect(names: &[&'static str]) -> Self {
        Self { missing: names.iter().copied().collect() }
    }

    /// Prints a figure, with its goal where there is one.
    pub fn print(&mut self, name: &str, figure: &str, goal: &str) {
        assert!(self.missing.remove(name), "`{name}` is no figure of this bench, or printed twice");
        self.detail(name, figure, goal);
    }

    /// Prints one of a series: a scenario, a size.
    pub fn detail(&self, name: &str, figure: &str, goal: &str) {
        println!("{}", format!("{name:<58} {figure:>16}  {goal}").trim_end());
    }

    /// Every figure was printed.
    pub fn finish(self) {
        assert!(self.missing.is_empty(), "never printed: {:?}", self.missing);
    }
}

/// `split` with PTI on a processor with PCIDs and without INVPCID, worst-case fills.
pub fn config(cpus: u8) -> SessionConfig {
    SessionConfig {
        features: CpuFeatures {
            pcid: true,
            invpcid: false,
            pge: true,
            smep: false,
            gib_pages: true,
        },
        kernel: KernelOptions { policy: Policy::Split, options: options::PTI, variant: None },
        model: TlbModel { fill: Fill::WorstCase, structure_caches: true, seed: 0 },
        cpus,
        schedule: Schedule::InOrder,
    }
}

/// Booted guests, by how many CPUs they have.
pub struct Guests<M> {
    guest: Guest,
    make: M,
    booted: BTreeMap<u8, Session>,
}

impl<M> Guests<M>
where
    M: Fn(&GuestMemory) -> Result<Box<dyn Executor>, ExecutorError>,
{
    /// None is booted yet.
    pub fn new(guest: &Guest, make: M) -> Self {
        Self { guest: guest.clone(), make, booted: BTreeMap::new() }
    }

    /// The guest with so many CPUs.
    pub fn with_cpus(&mut self, cpus: u8) -> &mut Session {
        self.booted.entry(cpus).or_insert_with(|| {
            Session::boot_on(config(cpus), &self.guest, &self.make).expect("the guest boots")
        })
    }
}

/// The built-in scenarios that fit [`config`].
pub fn scenarios() -> Vec<Arc<Scenario>> {
    let mut all = suite().expect("the built-in scenarios");
    all.retain(|scenario| scenario.pcid != [false] && scenario.global != Some(true));
    all
}

/// The inputs of a scenario's steps.
pub fn inputs(scenario: &Scenario) -> Vec<StepInput> {
    scenario.steps.iter().map(|step| step.input).collect()
}

/// Steps as a scenario writes them.
pub fn steps(text: &str) -> Vec<StepInput> {
    let text = format!("summary = \"s\"\nsteps = \"\"\"\n{text}\n\"\"\"\n");
    inputs(&parse("bench", "bench", &text).expect("a scenario"))
}
