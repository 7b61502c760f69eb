//! What a command ends in, where that is not its verdict alone.

use super::failure::{EXIT_OK, Failure};
use super::terminal::Terminal;
use crate::interrupt::Request;

/// Says on standard error that a signal stopped the command, what was done until then, and how to go on.
/// The exit code: that of the verdict where something was not as expected, else the signal's.
pub fn stopped(terminal: &Terminal<'_>, request: Request, verdict: u8, rest: &str) -> u8 {
    terminal.warn(&format!("stopped by {}: {rest}", request.name()));
    if verdict == EXIT_OK { request.code() } else { verdict }
}

/// The exit code of a verdict whose report or outputs may not have been written: what was not as
/// expected stays what the process ends in.
pub fn verdict(code: u8, written: Result<(), Failure>) -> Result<u8, Failure> {
    match written {
        Ok(()) => Ok(code),
        Err(failure) if code == EXIT_OK => Err(failure),
        Err(failure) => Err(Failure { code, ..failure }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::{EXIT_HOST, EXIT_UNEXPECTED};

    #[test]
    fn what_cannot_be_written_hides_no_verdict() {
        let full = || Err(Failure::of(EXIT_HOST, "full"));
        let code = |code, written| verdict(code, written).unwrap_or_else(|failure| failure.code);
        assert_eq!(code(EXIT_UNEXPECTED, full()), EXIT_UNEXPECTED);
        assert_eq!(code(EXIT_OK, full()), EXIT_HOST);
        assert_eq!(code(EXIT_OK, Ok(())), EXIT_OK);
    }
}
