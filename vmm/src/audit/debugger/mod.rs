//! `--gdb`: a run as GDB sees it, from the first finding on and in both directions.
//!
//! Nothing can be written: what a run comes to would be no function of its inputs any more.

mod monitor;
mod registers;
mod session;
mod target;

use super::{Audited, Subject};
use crate::kernel::free::FreeError;
use gdbstub::stub::{DisconnectReason, GdbStub};
use session::Session;
use std::io;
use std::net::TcpStream;
use target::{Events, Target};

/// Why a debugger's session ended before its user ended it.
#[derive(Debug, thiserror::Error)]
pub enum DebuggerError {
    /// The run.
    #[error(transparent)]
    Free(#[from] FreeError),
    /// The debugger, or the line to it.
    #[error("the debugger's session failed: {0}")]
    Session(String),
    /// The line to it.
    #[error("the line to the debugger failed")]
    Line(#[from] io::Error),
}

/// A run that waits for a debugger, at its first finding, or where it begins if there is none.
pub struct Debugger<'a> {
    target: Target<'a>,
}

impl<'a> Debugger<'a> {
    /// Runs the kernel once more, to its first finding.
    ///
    /// # Errors
    /// When the kernel does not fit into memory, or the host fails.
    pub fn new(subject: &Subject<'a>, audited: &Audited) -> Result<Self, FreeError> {
        let mut session = Session::new(subject, audited)?;
        session.seek_finding(0)?;
        Ok(Self { target: Target::new(session, subject.symbols) })
    }

    /// Serves one debugger until it leaves.
    ///
    /// # Errors
    /// When the line to it, or the host, fails.
    pub fn serve(&mut self, line: TcpStream) -> Result<(), DebuggerError> {
        let ended = GdbStub::new(line).run_blocking::<Events<'a>>(&mut self.target);
        match ended {
            Ok(
                DisconnectReason::Disconnect
                | DisconnectReason::Kill
                | DisconnectReason::TargetExited(_)
                | DisconnectReason::TargetTerminated(_),
            ) => Ok(()),
            // Whoever closes the line without a word has left too.
            Err(error) if error.is_connection_error() => Ok(()),
            Err(error) => Err(DebuggerError::Session(error.to_string())),
        }
    }
}
