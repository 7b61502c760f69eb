//! A program as the scenario that it is: the text of a file, and the same without going by the
//! text, of which a hundred thousand would take too long.

use super::generate::{self, Program};
use super::model::{self, Illegal};
use crate::arch::tlb::Fill;
use crate::inject::Fault;
use crate::kernel::steps::Abilities;
use crate::scenario::{
    self, CpuModel, Diagnostic, Policy, Run, RunConfig, Scenario, Selection, Step, parse_step,
};
use crate::schedule::Schedule;
use stalemate_shared::variant::Variant;
use std::fmt::Write;
use std::sync::Arc;

/// Lines of a file before its steps.
const HEADER: usize = 6;

/// What every program's scenario and configuration begin as.
#[derive(Clone, Debug)]
pub struct Base {
    scenario: Arc<Scenario>,
    abilities: Abilities,
}

impl Base {
    /// The base of programs for the built-in guest.
    ///
    /// # Errors
    /// None that a test has not seen.
    pub fn new() -> Result<Self, Diagnostic> {
        Self::of(Abilities::ALL)
    }

    /// The base of programs for a kernel with these abilities.
    ///
    /// # Errors
    /// As [`Base::new`].
    pub fn of(abilities: Abilities) -> Result<Self, Diagnostic> {
        let text = "summary = \"a random program\"\nsteps = \"user nop\"\n";
        Ok(Self { scenario: scenario::parse("fuzz", "fuzz.toml", text)?, abilities })
    }

    /// Where program `number` of `seed` runs under `policy`, if `cpus` are what there is.
    #[must_use]
    pub fn config(
        &self,
        seed: u64,
        number: u64,
        cpus: &[CpuModel],
        policy: Policy,
        variant: Option<Variant>,
    ) -> Option<RunConfig> {
        let setup = generate::setup_for(seed, number, &self.abilities);
        let cpu = cpus.get((setup.cpu % (cpus.len().max(1) as u64)) as usize)?;
        let selection = Selection {
            policy: Some(policy),
            variant: Some(variant),
            abilities: self.abilities,
            ..Selection::of(&[*cpu])
        };
        let config = self.scenario.configs(&selection).into_iter().next()?;
        let generate::Setup { pti, cpus, fill, schedule, seed, .. } = setup;
        Some(RunConfig { pti, cpus, fill, schedule, seed, ..config })
    }

    /// Program `number` of `seed`.
    #[must_use]
    pub fn program(&self, seed: u64, number: u64) -> Program {
        generate::program_for(seed, number, &self.abilities)
    }

    /// Whether the kernel can do all that a scenario asks for.
    pub(super) fn can(&self, scenario: &Scenario) -> bool {
        scenario.lacks(&self.abilities).is_none()
    }

    /// A program's scenario.
    ///
    /// # Errors
    /// When the program is not legal.
    pub fn scenario(&self, name: &str, program: &Program) -> Result<Arc<Scenario>, Illegal> {
        let lines = model::lines(&program.actions)?;
        let step = |(index, line): (usize, &String)| parse_step(line, HEADER + 1 + index).ok();
        let steps: Vec<Step> = lines.iter().enumerate().filter_map(step).collect();
        debug_assert_eq!(steps.len(), lines.len(), "the grammar knows every line: {lines:?}");
        let (file, name) = (format!("{name}.toml"), name.to_owned());
        let base = Scenario::clone(&self.scenario);
        Ok(Arc::new(Scenario { file, name, steps, ..base }))
    }
}

/// The run of a scenario on `config`, with as many CPUs as its steps use.
#[must_use]
pub fn run(scenario: &Arc<Scenario>, config: RunConfig, faults: &[Fault]) -> Run {
    scenario.run(RunConfig { cpus: scenario.cpus(), ..config }, faults)
}

/// The scenario file of a program that runs on `config`, about which `why` is said.
///
/// # Errors
/// When the program is not legal.
pub fn text(program: &Program, config: &RunConfig, why: &str) -> Result<String, Illegal> {
    let features = config.cpu.features;
    let mut text = format!("summary = {why:?}\n");
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "cpu     = {{ pcid = {}, invpcid = {}, pge = {} }}",
        features.pcid, features.invpcid, features.pge
    );
    let (policy, pti) = (config.policy, config.pti);
    let variant = config
        .variant
        .map_or_else(String::new, |variant| format!(", variant = \"{}\"", variant.about().name));
    let _ = writeln!(text, "kernel  = {{ policy = \"{policy}\", pti = {pti}{variant} }}");
    let (schedule, seed) = match config.schedule {
        Schedule::InOrder => ("", config.seed),
        Schedule::Events(seed) => (", schedule = \"events\"", seed),
        Schedule::Instructions(seed) => (", schedule = \"instructions\"", seed),
    };
    let seeded = config.fill == Fill::Seeded || config.schedule != Schedule::InOrder;
    let seed = if seeded { format!(", seed = {seed}") } else { String::new() };
    let fill = config.fill.name();
    let _ = writeln!(text, "model   = {{ fill = \"{fill}\"{schedule}{seed} }}");
    text.push_str("# Each read says what it must give.\nsteps   = \"\"\"\n");
    debug_assert_eq!(text.lines().count(), HEADER);
    for line in model::lines(&program.actions)? {
        text += &line;
        text.push('\n');
    }
    text.push_str("\"\"\"\n");
    if !program.faults.is_empty() {
        let faults: Vec<String> =
            program.faults.iter().map(|fault| format!("\"{fault}\"")).collect();
        let _ = writeln!(text, "\n[[fault]]\ninject   = [{}]\nviolates = []", faults.join(", "));
    }
    Ok(text)
}
