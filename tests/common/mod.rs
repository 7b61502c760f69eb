//! What the integration tests share.
#![allow(dead_code, missing_docs)]

pub mod schema;

use stalemate::event::Trace;
use stalemate::executor::{Backend, REQUIRE_KVM, kvm_is_required};
use stalemate::kernel::steps::Guest;
use stalemate::runner::{RunResult, Runner};
use stalemate::scenario::{self, CPUS, Expected, Policy, Run, RunConfig, Scenario};
use std::process::{Command, Output};
use std::sync::Arc;

/// The host's KVM, or why the test is skipped. With STALEMATE_REQUIRE_KVM=1 that is a failure.
pub fn kvm() -> Result<Backend, String> {
    match Backend::kvm("/dev/kvm".as_ref()) {
        Ok(backend) => Ok(backend),
        Err(error) if kvm_is_required() => panic!("KVM is required here: {error}"),
        Err(error) => Err(format!("SKIP: {error}")),
    }
}

/// Says what is skipped, and why: the handle's writes are not captured with a passing test's
/// output, as those of `eprintln` are.
pub fn say(reason: &str) {
    use std::io::Write;
    thread_local!(static SAID: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    // Once a test, each of which has a thread of its own.
    if SAID.replace(true) {
        return;
    }
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Who cannot be told cannot be told.
    let _ = writeln!(std::io::stderr(), "{test}: {reason}");
}

/// Skips the calling test where there is no KVM.
#[allow(unused_macros)]
macro_rules! kvm_or_skip {
    () => {
        match $crate::common::kvm() {
            Ok(backend) => backend,
            Err(reason) => {
                $crate::common::say(&reason);
                return;
            }
        }
    };
}

/// The checkout.
pub fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The program, as a user calls it.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stalemate"));
    command.args(arguments).env_remove(REQUIRE_KVM);
    command
}

/// What the program does with these arguments.
pub fn stalemate(arguments: &[&str]) -> Output {
    command(arguments).output().expect("it runs")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard error of a command that must exit with `code`.
pub fn fails(arguments: &[&str], code: i32) -> String {
    let output = stalemate(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stderr)
}

/// The built-in guest's file.
pub fn guest_image() -> Vec<u8> {
    Guest::builtin().image().bytes().to_vec()
}

/// A point of the matrix, by the CPU's name.
pub fn config(cpu: &str, policy: Policy, pti: bool) -> RunConfig {
    RunConfig {
        cpu: *CPUS.iter().find(|model| model.name == cpu).expect("a named CPU"),
        policy,
        pti,
        global_with_pti: false,
        paranoid_rewrite: false,
        nmi_flush: false,
        variant: None,
        fill: stalemate::arch::tlb::Fill::WorstCase,
        seed: 0,
        structure_caches: true,
        cpus: 1,
        schedule: stalemate::schedule::Schedule::InOrder,
    }
}

/// A scenario that a test writes itself.
pub fn scenario(steps: &str) -> Arc<Scenario> {
    let text = format!("summary = \"a test\"\nsteps = \"\"\"\n{steps}\n\"\"\"\n");
    scenario::parse("test", "test.toml", &text).unwrap_or_else(|error| panic!("{error}"))
}

/// A built-in scenario.
pub fn builtin(name: &str) -> Arc<Scenario> {
    let all = scenario::suite().unwrap_or_else(|error| panic!("{error}"));
    all.into_iter().find(|scenario| scenario.name == name).expect("a built-in scenario")
}

/// Each executor that this host has; says which it lacks.
pub fn backends() -> impl Iterator<Item = Backend> {
    let kvm = kvm().inspect_err(|reason| say(reason));
    [Ok(Backend::interp()), kvm].into_iter().flatten()
}

/// One rig for each executor that this host has.
pub fn rigs() -> Vec<Rig> {
    backends().map(Rig::new).collect()
}

/// Runs scenarios on one executor.
pub struct Rig {
    pub backend: Backend,
    pub guest: Guest,
}

impl Rig {
    pub fn new(backend: Backend) -> Self {
        Self::of(backend, Guest::builtin())
    }

    /// Runs scenarios on a kernel of the test's own.
    pub fn of(backend: Backend, guest: Guest) -> Self {
        Self { backend, guest }
    }

    pub fn runner(&self) -> Runner {
        Runner::new(&self.guest, &self.backend)
    }

    pub fn run(&self, scenario: &Arc<Scenario>, config: RunConfig, faults: &[&str]) -> RunResult {
        self.record(scenario, config, faults).0
    }

    /// Does a run that a scenario's matrix gave.
    pub fn judge(&self, run: &Run) -> RunResult {
        self.with_trace(run).0
    }

    pub fn record(
        &self,
        scenario: &Arc<Scenario>,
        config: RunConfig,
        faults: &[&str],
    ) -> (RunResult, Trace) {
        let faults: Vec<_> = faults.iter().map(|fault| fault.parse().expect("a fault")).collect();
        let run = scenario.run(config, &faults);
        self.with_trace(&Run { expected: Expected::Clean, ..run })
    }

    /// A run with its events.
    pub fn with_trace(&self, run: &Run) -> (RunResult, Trace) {
        let mut runner = self.runner();
        let mut trace = Trace::default();
        let result = runner.run(run, Some(&mut trace)).expect("the host works");
        (result, trace)
    }
}

/// The words of a command line; quotes hold words together.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('"').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// The violated rules as text.
pub fn rules(result: &RunResult) -> Vec<String> {
    result.rules().iter().map(ToString::to_string).collect()
}
