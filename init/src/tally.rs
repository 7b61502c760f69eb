//! How often each kind of call succeeded, and whether the kernel offers it.

use crate::console::say;
use crate::kind::{KINDS, Kind};
use crate::sys::Errno;
use core::fmt::Arguments;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

static SUCCESSES: [AtomicU32; KINDS.len()] = [const { AtomicU32::new(0) }; KINDS.len()];
static ABSENT: [AtomicBool; KINDS.len()] = [const { AtomicBool::new(false) }; KINDS.len()];
static FAILED: [AtomicBool; KINDS.len()] = [const { AtomicBool::new(false) }; KINDS.len()];
static WRONG: AtomicU32 = AtomicU32::new(0);

/// One success.
pub fn succeeded(kind: Kind) {
    SUCCESSES[kind as usize].fetch_add(1, Relaxed);
}

/// The kernel does not offer it.
pub fn absent(kind: Kind) {
    ABSENT[kind as usize].store(true, Relaxed);
}

/// Counts what a call returned.
pub fn count<T>(kind: Kind, result: Result<T, Errno>) -> Option<T> {
    match result {
        Ok(value) => {
            succeeded(kind);
            Some(value)
        }
        Err(errno) => {
            failed(kind, errno);
            None
        }
    }
}

/// A call failed: the kernel does not offer it, or there is another reason, which is said once.
pub fn failed(kind: Kind, errno: Errno) {
    if errno.is_absence() {
        absent(kind);
    } else if !FAILED[kind as usize].swap(true, Relaxed) {
        say(format_args!("FAILED {} errno {}", kind.name(), errno.0));
    }
}

/// What was read, or allowed, is not what should be.
pub fn wrong(text: Arguments<'_>) {
    WRONG.fetch_add(1, Relaxed);
    say(format_args!("WRONG {text}"));
}

/// Says that `kind` went wrong unless `is_right`.
pub fn check(is_right: bool, kind: Kind, what: &str) {
    if !is_right {
        wrong(format_args!("{}: {what}", kind.name()));
    }
}

/// Whether this process has read nothing wrong.
pub fn is_right() -> bool {
    WRONG.load(Relaxed) == 0
}

/// Prints a line for each kind.
pub fn print() {
    for kind in KINDS {
        let successes = SUCCESSES[*kind as usize].load(Relaxed);
        if successes == 0 && ABSENT[*kind as usize].load(Relaxed) {
            say(format_args!("{} absent", kind.name()));
        } else {
            say(format_args!("{} {successes}", kind.name()));
        }
    }
}
