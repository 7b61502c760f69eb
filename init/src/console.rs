//! The init's lines on the console.

use crate::sys;
use core::fmt::{Arguments, Write};

/// What every line begins with.
const PREFIX: &str = "stalemate-init: ";

/// A line that is written by one call, so that lines of several processes do not mix.
struct Line {
    bytes: [u8; 160],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        // What is too long is cut; the last byte is the line's end.
        let room = self.bytes.len() - 1 - self.len;
        let len = text.len().min(room);
        self.bytes[self.len..self.len + len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

/// Prints one line.
pub fn say(text: Arguments<'_>) {
    let mut line = Line { bytes: [0; 160], len: 0 };
    let written = line.write_str(PREFIX).and_then(|()| line.write_fmt(text));
    if written.is_ok() {
        line.bytes[line.len] = b'\n';
        sys::print(&line.bytes[..=line.len]);
    }
}
