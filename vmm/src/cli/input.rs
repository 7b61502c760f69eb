//! From names on the command line to typed values.

use super::Failure;
use crate::arch::tlb::{FILLS, Fill};
use crate::inject::Fault;
use crate::machine::Schedule;
use crate::oracle::RuleId;
use crate::scenario::{self, BUILTIN, CPUS, CpuModel, POLICIES, Policy, Scenario, ZOO, nearest};
use stalemate_shared::variant::{VARIANTS, Variant};
use std::path::Path;

/// The scenarios that `names` mean; the built-in ones if there is none.
pub fn scenarios(names: &[String]) -> Result<Vec<Scenario>, Failure> {
    if names.is_empty() {
        return Ok(scenario::builtin()?);
    }
    let mut found = Vec::new();
    for name in names {
        if name == "zoo" {
            found.extend(scenario::zoo()?);
            continue;
        }
        let of = |files: &[(&str, &'static str)]| {
            files.iter().find(|(known, _)| known == name).map(|(_, text)| *text)
        };
        let builtin = of(&BUILTIN).map(|text| (format!("scenarios/{name}.toml"), text));
        let zoo = || of(&ZOO).map(|text| (format!("scenarios/zoo/{name}.toml"), text));
        if let Some((file, text)) = builtin.or_else(zoo) {
            found.push(scenario::parse(name, &file, text)?);
            continue;
        }
        let path = Path::new(name);
        if path.is_dir() {
            let before = found.len();
            for path in toml_files(path)? {
                found.push(file(&path)?);
            }
            if found.len() == before {
                return Err(Failure::usage(format!("{name}: no .toml file in this directory")));
            }
        } else if path.exists() {
            found.push(file(path)?);
        } else {
            let known = BUILTIN.iter().chain(&ZOO).map(|(known, _)| *known);
            let near = nearest(name, known.chain(["zoo"]));
            let help = near.map_or_else(
                || "see `stalemate list scenarios`".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            let message = format!("`{name}` is no built-in scenario and no file; {help}");
            return Err(Failure::usage(message));
        }
    }
    Ok(found)
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

fn file(path: &Path) -> Result<Scenario, Failure> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
    let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into());
    Ok(scenario::parse(&name, &shown, &text)?)
}

/// The processors of `--cpu`.
pub fn cpus(list: Option<&str>) -> Result<Vec<CpuModel>, Failure> {
    let Some(list) = list else {
        return Ok(CPUS.into_iter().filter(|cpu| cpu.default).collect());
    };
    if list == "all" {
        return Ok(CPUS.to_vec());
    }
    let mut cpus = Vec::new();
    for name in list.split(',').map(str::trim) {
        match CPUS.iter().find(|cpu| cpu.name == name) {
            Some(cpu) if cpus.contains(cpu) => {}
            Some(cpu) => cpus.push(*cpu),
            None => {
                let names: Vec<&str> = CPUS.iter().map(|cpu| cpu.name).collect();
                return Err(Failure::usage(format!(
                    "`{name}` is no CPU; use `all` or some of {}",
                    names.join(", ")
                )));
            }
        }
    }
    Ok(cpus)
}

/// The policy of `--policy`.
pub fn policy(name: Option<&str>) -> Result<Option<Policy>, Failure> {
    let Some(name) = name else { return Ok(None) };
    let found = POLICIES.iter().find(|(_, known, _)| *known == name);
    found.map(|&(policy, ..)| Some(policy)).ok_or_else(|| {
        let names: Vec<&str> = POLICIES.iter().map(|(_, name, _)| *name).collect();
        Failure::usage(format!("`{name}` is no policy; use one of {}", names.join(", ")))
    })
}

/// The variant of `--variant`; none is the kernel as it is.
pub fn variant(name: &str) -> Result<Option<Variant>, Failure> {
    if name == "none" {
        return Ok(None);
    }
    let found = VARIANTS.iter().find(|about| about.name == name);
    found.map(|about| Some(about.variant)).ok_or_else(|| {
        let near = nearest(name, VARIANTS.iter().map(|about| about.name));
        let help = near.map_or_else(
            || "see `stalemate list variants`".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        Failure::usage(format!("`{name}` is no variant; {help}"))
    })
}

/// The fill choice of `--fill`.
pub fn fill(name: Option<&str>) -> Result<Option<Fill>, Failure> {
    let Some(name) = name else { return Ok(None) };
    let found = FILLS.iter().find(|(_, known, _)| *known == name);
    found.map(|&(fill, ..)| Some(fill)).ok_or_else(|| {
        let names: Vec<&str> = FILLS.iter().map(|(_, name, _)| *name).collect();
        Failure::usage(format!("`{name}` is no fill choice; use one of {}", names.join(", ")))
    })
}

/// The schedule of `--schedule`, drawn from the seed of `--seed`.
pub fn schedule(name: Option<&str>, seed: Option<u64>) -> Result<Option<Schedule>, Failure> {
    let Some(name) = name else { return Ok(None) };
    let seed = seed.unwrap_or_default();
    let all = [Schedule::InOrder, Schedule::Events(seed), Schedule::Instructions(seed)];
    let found = all.into_iter().find(|schedule| schedule.name() == name);
    found.map(Some).ok_or_else(|| {
        let names = all.map(Schedule::name);
        Failure::usage(format!("`{name}` is no schedule; use one of {}", names.join(", ")))
    })
}

/// The faults of `--inject`.
pub fn faults(texts: &[String]) -> Result<Vec<Fault>, Failure> {
    let parse = |text: &String| {
        text.parse().map_err(|error: crate::inject::FaultError| Failure::usage(error.to_string()))
    };
    texts.iter().map(parse).collect()
}

/// The rule of `--without`.
pub fn rule(name: Option<&str>) -> Result<Option<RuleId>, Failure> {
    let Some(name) = name else { return Ok(None) };
    let read = |error| Failure::usage(format!("`{name}` is no rule; {error}"));
    name.parse().map(Some).map_err(read)
}
