//! `stalemate completions` and `stalemate man`: made from the definition of the command line.

use super::failure::Failure;
use clap::Command;
use std::path::PathBuf;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The directory that they go to
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// The completion script of a shell.
pub fn completions(args: &CompletionsArgs, cli: &mut Command) -> String {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, cli, "stalemate", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes the man pages, one for the program and one for each command, to `directory`; what was
/// written.
pub fn man(args: &ManArgs, cli: Command) -> Result<String, Failure> {
    let directory = &args.directory;
    let error = |error: std::io::Error| Failure::usage(format!("{}: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(error)?;
    clap_mangen::generate_to(cli, directory).map_err(error)?;
    Ok(format!("man pages are in {}\n", directory.display()))
}
