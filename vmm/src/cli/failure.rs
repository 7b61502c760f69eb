//! What ends the program, and the exit code that it ends with.

use crate::ink::{Ink, Tone};
use crate::scenario::Diagnostic;
use std::fmt;

/// All as expected.
pub const EXIT_OK: u8 = 0;
/// An outcome was not as expected.
pub const EXIT_UNEXPECTED: u8 = 1;
/// Bad usage or bad input.
pub const EXIT_USAGE: u8 = 2;
/// The host cannot run what was asked.
pub const EXIT_HOST: u8 = 3;

/// An error with the exit code it ends in.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub code: u8,
    /// Printed to standard error.
    pub message: Message,
}

/// The text of an error.
#[derive(Debug)]
pub enum Message {
    /// In a sentence.
    Sentence(String),
    /// In a file, at a place.
    Diagnostic(Box<Diagnostic>),
}

impl Failure {
    /// An error in a sentence.
    pub(super) fn of(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: Message::Sentence(message.into()) }
    }

    /// Bad usage or bad input.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::of(EXIT_USAGE, message)
    }

    /// The host cannot do it.
    pub(super) fn host(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::of(EXIT_HOST, chain(error))
    }

    /// The same, with another remark after the sentence.
    pub(super) fn and(mut self, remark: &str) -> Self {
        if let Message::Sentence(sentence) = &mut self.message {
            sentence.push_str(remark);
        }
        self
    }

    /// The error as a terminal shows it.
    #[must_use]
    pub fn render(&self, ink: Ink) -> String {
        match &self.message {
            Message::Sentence(sentence) => format!("{}: {sentence}", ink.paint(Tone::Bad, "error")),
            Message::Diagnostic(diagnostic) => diagnostic.render(ink),
        }
    }
}

impl From<Diagnostic> for Failure {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { code: EXIT_USAGE, message: Message::Diagnostic(Box::new(diagnostic)) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Message::Sentence(sentence) => f.write_str(sentence),
            Message::Diagnostic(diagnostic) => diagnostic.fmt(f),
        }
    }
}

/// An error and its sources in one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
