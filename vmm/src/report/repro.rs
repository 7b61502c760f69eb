//! The command line that reproduces a run.

use crate::arch::tlb::Fill;
use crate::scenario::{self, Policy, Run, RunConfig, Scenario};
use std::path::Path;

/// The one command that reproduces a run: with this kernel where it is not the built-in guest, and
/// on both executors where they were compared.
#[must_use]
pub fn command(run: &Run, guest: Option<&Path>, both: bool) -> String {
    let Run { scenario, config, .. } = run;
    let mut command = format!("stalemate run {} --cpu {}", named(scenario), config.cpu.name);
    if config.policy != Policy::Own {
        command += &format!(" --policy {}", config.policy);
    }
    if scenario.variant != [config.variant] {
        command += " --variant ";
        command += config.variant.map_or("none", |variant| variant.about().name);
    }
    if scenario.pti.len() > 1 {
        command += if config.pti { " --pti on" } else { " --pti off" };
    }
    command += &choices(scenario, run);
    match scenario.case(run) {
        // What the file says of a fault is said of it by its number.
        Some(case) if !scenario.faults.is_empty() => command += &format!(" --case {case}"),
        _ => {
            for fault in &run.faults {
                command += " --inject ";
                command += &quoted(&fault.to_string());
            }
        }
    }
    if let Some(guest) = guest {
        command += " --guest ";
        command += &quoted(&guest.display().to_string());
    }
    if both {
        command += " --executor both";
    }
    command
}

/// What calls the scenario on the command line: its name where it is a built-in one, which a file of
/// the same name need not be; else its file.
#[must_use]
pub fn named(scenario: &Scenario) -> String {
    match &scenario.cell {
        _ if scenario::is_builtin(scenario) => quoted(&scenario.name),
        Some(cell) => quoted(&format!("{}/{}", scenario.file, cell.name)),
        None => quoted(&scenario.file),
    }
}

/// What was left to chance in the run, where the scenario leaves it open.
fn choices(scenario: &Scenario, run: &Run) -> String {
    let RunConfig { fill, schedule, seed, .. } = run.config;
    let mut choices = String::new();
    if scenario.fill != [fill] {
        choices += &format!(" --fill {}", fill.name());
    }
    if scenario.schedule != [schedule] {
        choices += &format!(" --schedule {}", schedule.name());
    }
    let drawn = schedule.seed().or((fill == Fill::Seeded).then_some(seed));
    if let Some(seed) = drawn {
        choices += &format!(" --seed {seed}");
    }
    choices
}

/// A word as a POSIX shell reads it: as it is where nothing in it is special.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./:,=@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else if !word.contains(['"', '$', '`', '\\', '!']) {
        format!("\"{word}\"")
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for word in ["drop mark#1", "nmi@each", "my dir/it's.toml", "a$b`c\"d\\e!", "", "-x"] {
            let command = format!("printf %s {}", quoted(word));
            let shell = std::process::Command::new("sh").args(["-c", &command]).output();
            assert_eq!(String::from_utf8_lossy(&shell.expect("a shell").stdout), word);
        }
        assert_eq!(quoted("nmi@each"), "nmi@each");
    }

    #[test]
    fn a_file_that_is_called_like_a_built_in_scenario_is_none() {
        let (name, text) = scenario::BUILTIN[0];
        let file = format!("scenarios/{name}.toml");
        let own = crate::scenario::parse(name, &file, text).expect("legal");
        assert_eq!(named(&own), name);
        let changed = format!("{text}\n# changed\n");
        let own = crate::scenario::parse(name, &file, &changed).expect("legal");
        assert_eq!(named(&own), file);
    }
}
