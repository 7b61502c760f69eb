//! The `stalemate` command.
#![forbid(unsafe_code)]

use stalemate::cli::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::read();
    let ink = cli.error_ink();
    match cli::main(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            cli::complain(&failure.render(ink), ink);
            ExitCode::from(failure.code)
        }
    }
}
