//! Where results, notes and progress go, and how they look there.

use super::failure::{EXIT_HOST, Failure};
use crate::ink::{Ink, Tone};
use crate::report::{DEFAULT_WIDTH, LEAST_WIDTH, fold, what_is_real};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;

/// Work that is done before a bar appears would be over before it is read.
const WORTH_A_BAR: u64 = 13;

/// When text is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Colour {
    /// What that comes to for a stream.
    pub fn ink(self, stream: &impl anstream::stream::RawStream) -> Ink {
        let choice = match self {
            Self::Auto => anstream::AutoStream::choice(stream),
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        };
        if choice == anstream::ColorChoice::Never { Ink::Plain } else { Ink::Coloured }
    }
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// Results go to `out`; progress and warnings to standard error.
pub struct Terminal<'a> {
    /// Where results go.
    pub out: &'a mut dyn Write,
    /// How results are coloured.
    pub ink: Ink,
    /// How warnings are coloured.
    pub warning_ink: Ink,
    /// Only what is not as expected is shown, and no progress.
    pub quiet: bool,
    /// Each run is shown in full.
    pub verbose: bool,
    /// The columns of a line; nothing where lines may be as long as they are.
    pub columns: Option<usize>,
    /// Guests run in a process that is not confined.
    pub unconfined: bool,
}

/// Says something on standard error, if that is still there.
pub fn complain(text: &str, ink: Ink) {
    let _ = writeln!(std::io::stderr(), "{}", ink.harmless(text));
}

/// The columns to fold to: as COLUMNS says, or as the terminal has; nothing where there is none.
pub fn columns() -> Option<usize> {
    let said: Option<usize> =
        std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || console::Term::stdout().size_checked().map(|(_, columns)| columns.into());
    said.or_else(terminal).filter(|columns| *columns > 0).map(|columns| columns.max(LEAST_WIDTH))
}

impl Terminal<'_> {
    /// The columns that tables are laid out for.
    pub fn width(&self) -> usize {
        self.columns.unwrap_or(DEFAULT_WIDTH)
    }

    /// Writes a result.
    pub fn write(&mut self, text: &str) -> Result<(), Failure> {
        let text = self.ink.harmless(text);
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            // Whoever reads us has read enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::of(EXIT_HOST, format!("writing: {error}"))),
            Ok(()) => Ok(()),
        }
    }

    /// Writes a report for people. Its last line says what was real and what was modelled.
    pub fn report(&mut self, text: &str, executors: &[&str]) -> Result<(), Failure> {
        let last = fold(&what_is_real(executors), self.width());
        let last = self.ink.paint(Tone::Faint, &last);
        let text = format!("{text}{last}\n");
        match self.columns {
            Some(columns) => self.write(&fold(&text, columns)),
            None => self.write(&text),
        }
    }

    /// Writes a report for programs.
    pub fn json(&mut self, report: &serde_json::Value) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(report).unwrap_or_default();
        // What JSON leaves as it is a terminal may not: in strings alone, where JSON has an escape for it.
        let beyond =
            |c: char| c != '\n' && Ink::Plain.harmless(c.encode_utf8(&mut [0; 4])) != c.to_string();
        let text: String = text
            .chars()
            .map(|c| if beyond(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() })
            .collect();
        self.write(&(text + "\n"))
    }

    /// Says what was done otherwise than one may think. Quiet or not: it is no small thing.
    pub fn warn(&self, text: &str) {
        let warning = self.warning_ink.paint(Tone::Warning, "warning");
        complain(&format!("{warning}: {text}"), self.warning_ink);
    }

    /// A bar on standard error for so many of something; in a pipe, for little work, or where quiet
    /// is requested, there is none.
    pub fn progress(&self, total: u64, unit: &'static str) -> ProgressBar {
        if self.quiet || total < WORTH_A_BAR {
            return ProgressBar::hidden();
        }
        // It hides itself where standard error is no terminal.
        let bar = ProgressBar::new(total).with_message(unit);
        // The template is right, or a test would say so.
        let style = ProgressStyle::with_template("{bar:30} {pos} of {len} {msg}, {eta} left");
        bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_of_the_bar_is_right() {
        assert!(ProgressStyle::with_template("{bar:30} {pos} of {len} {msg}, {eta} left").is_ok());
    }
}
