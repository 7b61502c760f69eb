//! The `stalemate` command.
#![forbid(unsafe_code)]

use clap::Parser;
use stalemate::cli::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    // clap itself exits with code 2 on bad usage.
    let cli = Cli::parse();
    match cli::main(cli, &mut std::io::stdout().lock()) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("stalemate: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}
