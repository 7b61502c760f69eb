//! The `stalemate` command.
#![forbid(unsafe_code)]

use clap::Parser;
use stalemate::cli::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    // clap itself exits with code 2 on bad usage.
    let cli = Cli::parse();
    let ink = cli.error_ink();
    match cli::main(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            cli::complain(&failure.render(ink), ink);
            ExitCode::from(failure.code)
        }
    }
}
