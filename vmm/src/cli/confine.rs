//! Before the first guest boots: what the process may do from then on.

use super::failure::chain;
use super::terminal::Terminal;
use crate::sandbox::{self, Grants};

/// Confines the process to what a run needs and to these outputs, unless the command line says not to.
/// Whatever is read must be read before.
pub fn confine(terminal: &Terminal<'_>, grants: &Grants) {
    if terminal.unconfined {
        return;
    }
    if let Err(error) = sandbox::confine(grants) {
        let why = chain(&error);
        terminal.warn(&format!("guests run unconfined: {why}; --no-sandbox says so on purpose"));
    }
}

/// The threads that this process may have at once; asked before it is confined, since the answer is in files.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
