//! `stalemate completions` and `stalemate man`: made from the definition of the command line.

use super::{Cli, Failure};
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::Path;

/// The completion script of a shell.
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "stalemate", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes the man pages, one for the program and one for each command, to `directory`; what was
/// written.
pub fn man(directory: &Path) -> Result<String, Failure> {
    let error = |error: std::io::Error| Failure::usage(format!("{}: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(error)?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(error)?;
    Ok(format!("man pages are in {}\n", directory.display()))
}
