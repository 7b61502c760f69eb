//! From what the command line names to scenarios, faults and kernels.

use super::failure::Failure;
use super::files;
use super::names::Mistake;
use super::terminal::Terminal;
use crate::executor::Backend;
use crate::inject::Fault;
use crate::kernel::free::KernelImage;
use crate::kernel::steps::escapes::{self, Escape};
use crate::kernel::steps::{BootError, Guest, ImageError};
use crate::report::Skipped;
use crate::runner::Runner;
use crate::scenario::{self, BUILTIN, CPUS, Policy, Run, Scenario, ZOO};
use crate::suggest::nearest;
use stalemate_shared::note::kernel;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The scenarios that `names` mean; the built-in ones if there is none.
pub fn scenarios(names: &[String]) -> Result<Vec<Arc<Scenario>>, Failure> {
    if names.is_empty() {
        return Ok(scenario::suite()?);
    }
    let mut found = Vec::new();
    for name in names {
        if name == "zoo" {
            found.extend(scenario::zoo()?);
            continue;
        }
        if let Some(known) = scenario::builtins(name) {
            found.extend(known?);
            continue;
        }
        let path = Path::new(name);
        if path.is_dir() {
            let before = found.len();
            for path in toml_files(path)? {
                found.extend(file(&path)?);
            }
            if found.len() == before {
                return Err(Failure::usage(format!("{name}: no .toml file in this directory")));
            }
        } else if path.exists() {
            found.extend(file(path)?);
        } else if let Some(one) = one_of_file(name)? {
            found.push(one);
        } else {
            let known = BUILTIN.iter().chain(ZOO).map(|(known, _)| *known);
            let near = nearest(name, known.chain(["zoo"]));
            let help = match near {
                _ if CPUS.iter().any(|cpu| cpu.name == name) => {
                    format!("processors are separated by commas: `--cpu pcid,{name}`")
                }
                _ if ["mark", "ipi", "ack", "invlpg", "invpcid", "generation"]
                    .contains(&name.as_str()) =>
                {
                    format!("a fault of two words is quoted: `--inject \"drop {name}\"`")
                }
                Some(near) => format!("did you mean `{near}`?"),
                None => "see `stalemate list scenarios`".to_owned(),
            };
            let message = format!("`{name}` is no built-in scenario and no file; {help}");
            return Err(Failure::usage(message));
        }
    }
    tell_apart(&mut found);
    Ok(found)
}

/// Calls files by their path where one name means several, or a built-in scenario too.
fn tell_apart(scenarios: &mut [Arc<Scenario>]) {
    let mut files = BTreeMap::<String, BTreeSet<String>>::new();
    for scenario in &*scenarios {
        files.entry(scenario.name.clone()).or_default().insert(scenario.file.clone());
    }
    for scenario in scenarios {
        if files[&scenario.name].len() > 1 && !scenario::is_builtin(scenario) {
            let scenario = Arc::make_mut(scenario);
            let cell = scenario.cell.as_ref().map(|cell| format!("/{}", cell.name));
            scenario.name = scenario.file.clone() + &cell.unwrap_or_default();
        }
    }
}

fn toml_files(directory: &Path) -> Result<Vec<std::path::PathBuf>, Failure> {
    let error = |error| Failure::usage(format!("{}: {error}", directory.display()));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The scenario that `FILE.toml/VALUE/VALUE` names, of a file with axes.
fn one_of_file(name: &str) -> Result<Option<Arc<Scenario>>, Failure> {
    let Some((path, cell)) = name.split_once(".toml/") else { return Ok(None) };
    let path = format!("{path}.toml");
    if !Path::new(&path).is_file() {
        return Ok(None);
    }
    let is = |one: &Arc<Scenario>| one.cell.as_ref().is_some_and(|of| of.name == cell);
    Ok(file(Path::new(&path))?.into_iter().find(is))
}

fn file(path: &Path) -> Result<Vec<Arc<Scenario>>, Failure> {
    let shown = path.display().to_string();
    // Names go into reports of every format, and to terminals.
    if shown.chars().any(char::is_control) {
        let message = format!("{shown:?}: the name has control characters; rename the file");
        return Err(Failure::usage(message));
    }
    let text = files::read_text(path)?;
    let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into());
    Ok(scenario::parse_all(&name, &shown, &text)?)
}

/// The faults of `--inject`.
pub fn faults(texts: &[String]) -> Result<Vec<Fault>, Failure> {
    let parse = |text: &String| {
        text.parse().map_err(|error: crate::inject::FaultError| Failure::usage(error.to_string()))
    };
    texts.iter().map(parse).collect()
}

/// Instructions that escape the VMM of which each is shown.
const SHOWN: usize = 5;

/// The kernel in an ELF file.
pub fn guest(path: &Path) -> Result<Guest, Failure> {
    let bytes: Arc<[u8]> = files::read(path)?.into();
    Guest::from_elf(Arc::clone(&bytes)).map_err(|error| {
        let path = path.display();
        // What the loader of audits takes is a kernel that boots by itself, unless it says otherwise.
        let noted = matches!(error, ImageError::Note(_));
        let other = match KernelImage::parse(&bytes) {
            Ok(_) if !noted => format!("; {}", boots_by_itself(&path)),
            _ => "; docs/guest.md says what a kernel for --guest must be".to_owned(),
        };
        Failure::usage(format!("{path}: {error}{other}"))
    })
}

/// What is said of a file that may be a kernel of another kind.
fn boots_by_itself(path: &dyn std::fmt::Display) -> String {
    format!(
        "a kernel that boots by itself is judged by `stalemate audit --kernel {path}`, and docs/guest.md says \
         what one for --guest must be"
    )
}

/// Boots that are tried, where one does not come to a first step.
const BOOTS: usize = 3;

/// Whether a kernel of the user's own comes to its first step in the first of these runs, or in
/// others; where it comes to none nothing is run.
pub fn check_boots(
    args: &GuestArgs,
    guest: &Guest,
    runner: &mut Runner,
    runs: &[Run],
) -> Result<(), Failure> {
    let Some(path) = &args.path else { return Ok(()) };
    let configs: BTreeSet<_> = runs.iter().map(|run| run.config).collect();
    let first = runs.first().map(|run| run.config);
    let mut stopped = None;
    for config in first.into_iter().chain(configs).take(BOOTS) {
        match runner.boot(&config) {
            Ok(_) => return Ok(()),
            Err(BootError::Guest { stop, vcpu, .. }) => {
                stopped = stopped.or(Some((config, stop, vcpu)))
            }
            Err(error) => return Err(Failure::host(&error)),
        }
    }
    let Some((config, stop, vcpu)) = stopped else { return Ok(()) };
    let (path, at) = (path.display(), guest.symbols().locate(vcpu.rip()));
    Err(Failure::usage(format!(
        "{path} does not come to its first step on {config}: {stop}, at {at}; {}",
        boots_by_itself(&path)
    )))
}

/// A kernel of one's own, instead of the built-in guest.
#[derive(Debug, Default, clap::Args)]
pub struct GuestArgs {
    /// Run this kernel (ELF) instead of the built-in guest; docs/guest.md says what it must be
    #[arg(long = "guest", value_name = "FILE")]
    pub path: Option<PathBuf>,
    /// Run it on KVM though it has instructions that do not trap there
    #[arg(long, requires = "path")]
    lenient: bool,
}

impl GuestArgs {
    /// The kernel of `--guest`, or the built-in one.
    pub fn guest(&self) -> Result<Guest, Failure> {
        self.path.as_deref().map_or_else(|| Ok(Guest::builtin()), guest)
    }

    /// On KVM a kernel's code must not escape the VMM, unless somebody is lenient.
    pub fn check_escapes(
        &self,
        guest: &Guest,
        backends: &[&Backend],
        terminal: &Terminal<'_>,
    ) -> Result<(), Failure> {
        match &self.path {
            Some(path) => check_escapes(path, guest, backends, self.lenient, terminal),
            None => Ok(()),
        }
    }

    /// Of the scenarios those that the kernel can run; and the others, each with what it lacks.
    pub fn can_run(
        &self,
        guest: &Guest,
        scenarios: Vec<Arc<Scenario>>,
    ) -> Result<(Vec<Arc<Scenario>>, Vec<Skipped>), Failure> {
        let abilities = guest.abilities();
        let (mut can, mut skipped) = (Vec::new(), Vec::new());
        for scenario in scenarios {
            match scenario.lacks(&abilities) {
                None => can.push(scenario),
                Some(reason) => skipped.push(Skipped { scenario, reason }),
            }
        }
        match (&self.path, skipped.first()) {
            (Some(path), Some(first)) if can.is_empty() => Err(Failure::usage(format!(
                "{} can run none of these scenarios; {} asks for what it lacks: {}",
                path.display(),
                first.scenario.name,
                first.reason
            ))),
            _ => Ok((can, skipped)),
        }
    }
}

/// Whether a policy or a variant was named for a kernel that has none to choose.
pub fn own_policy(
    args: &GuestArgs,
    guest: &Guest,
    policy: Option<Policy>,
    variant: Option<Mistake>,
) -> Result<(), Failure> {
    let Some(path) = &args.path else { return Ok(()) };
    let what = match (policy, variant) {
        (Some(_), _) if !guest.abilities().has_policies() => "policy",
        (_, Some(Mistake(Some(_)))) if !guest.abilities().has(kernel::MISTAKES) => "variant",
        _ => return Ok(()),
    };
    let shown = path.display();
    Err(Failure::usage(format!("{shown} has a {what} of its own; leave --{what} out")))
}

fn check_escapes(
    path: &Path,
    guest: &Guest,
    backends: &[&Backend],
    lenient: bool,
    terminal: &Terminal<'_>,
) -> Result<(), Failure> {
    let shown = path.display();
    let escapes = escapes::find(guest.image().bytes());
    if escapes.is_empty() {
        return Ok(());
    }
    let places = escapes.iter().take(SHOWN).map(|Escape { at, instruction, why }| {
        let location = guest.symbols().locate(*at);
        let place =
            if location.symbol.is_some() { format!(" in {location}") } else { String::new() };
        format!("\n  `{instruction}` at {at}{place} {why}")
    });
    let mut places: String = places.collect();
    if let Some(more) = escapes.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        places += &format!("\n  and {more} more");
    }
    let native = backends.iter().any(|backend| backend.name() != Backend::interp().name());
    if native && !lenient {
        let message = format!(
            "{shown}: instructions that do not trap where a kernel runs on KVM, and tell it of the host or \
             change what the VMM does not see:{places}\n  `--executor interp` executes them exactly; \
             `--lenient` runs the kernel all the same"
        );
        return Err(Failure::usage(message));
    }
    let which =
        if native { "runs all the same" } else { "is interpreted, and executes them exactly" };
    terminal.warn(&format!("{shown} {which}, but on KVM these do not trap:{places}"));
    Ok(())
}
