//! SIGINT and SIGTERM: the first one is a request to stop between two runs, the second ends the process.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// What signal handlers write to.
static LISTENING: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// A request to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The signal's number.
    pub signal: u8,
}

impl Request {
    /// The exit code of a process that a signal ends, as shells have it.
    #[must_use]
    pub fn code(self) -> u8 {
        128 + self.signal
    }

    /// The signal's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        if i32::from(self.signal) == SIGINT { "SIGINT" } else { "SIGTERM" }
    }
}

/// Has the signals of this process mean a request from now on.
///
/// # Errors
/// When the handlers cannot be registered.
pub fn listen() -> io::Result<()> {
    let request = Arc::clone(LISTENING.get_or_init(Arc::default));
    for signal in [SIGINT, SIGTERM] {
        let again = Arc::new(AtomicBool::new(false));
        // Handlers run in this order: at the first signal nothing was requested yet.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&again))?;
        flag::register(signal, again)?;
        flag::register_usize(signal, Arc::clone(&request), signal.unsigned_abs() as usize)?;
    }
    Ok(())
}

/// Whether somebody wants this process to stop.
#[must_use]
pub fn requested() -> Option<Request> {
    let signal = LISTENING.get()?.load(Ordering::Relaxed);
    u8::try_from(signal).ok().filter(|signal| *signal > 0).map(|signal| Request { signal })
}
