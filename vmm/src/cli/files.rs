//! What is written of one run, beside the report.

use super::failure::Failure;
use super::terminal::Terminal;
use crate::event::Trace;
use crate::kernel::steps::RunError;
use crate::report::{Recorded, Recording, Results, html, perfetto, timeline};
use crate::runner::{Outcome, RunResult};
use crate::scenario::Run;
use crate::symbols::Symbols;
use std::path::{Path, PathBuf};

/// The files. Each is of one run: the first that was not as expected, else the first violation,
/// else the first.
#[derive(Debug, Default, clap::Args)]
pub struct Files {
    /// Write the events of the first run that is not as expected, of the first violation, or of the
    /// first run, to this file: `replay` runs it again
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(flatten)]
    pictures: Pictures,
}

/// What shows a run.
#[derive(Debug, Default, clap::Args)]
pub struct Pictures {
    /// Write a picture of the run, or of several runs of the one that tells most: one page for a
    /// browser, which needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a trace of the same run that ui.perfetto.dev opens
    #[arg(long, value_name = "FILE")]
    perfetto: Option<PathBuf>,
}

impl Files {
    /// Writes those that are requested. `again` does the run, and keeps its events.
    pub fn write(
        &self,
        terminal: &Terminal<'_>,
        symbols: &Symbols,
        command: &str,
        again: impl FnOnce(&mut Trace) -> Result<(RunResult, &'static str), RunError>,
    ) -> Result<(), Failure> {
        let all = [&self.record, &self.pictures.html, &self.pictures.perfetto];
        let Some(any) = all.into_iter().flatten().next() else { return Ok(()) };
        let mut trace = Trace::default();
        let (result, executor) = again(&mut trace).map_err(|error| Failure::host(&error))?;
        let recorded = Recorded { result: &result, trace: &trace, executor, symbols, command };
        let Some(recording) = Recording::new(&recorded) else {
            let any = any.display();
            terminal.warn(&format!("the guest did not boot: no events to write to {any}"));
            return Ok(());
        };
        if let Some(path) = &self.record {
            save(path, &(serde_json::to_string(&recording).unwrap_or_default() + "\n"))?;
        }
        self.pictures.write(&recorded)
    }
}

impl Pictures {
    /// Writes those that are requested.
    pub fn write(&self, recorded: &Recorded<'_>) -> Result<(), Failure> {
        if self.html.is_none() && self.perfetto.is_none() {
            return Ok(());
        }
        let timeline = timeline(recorded);
        if let Some(path) = &self.html {
            save(path, &html(&timeline))?;
        }
        if let Some(path) = &self.perfetto {
            save(path, &(perfetto(&timeline).to_string() + "\n"))?;
        }
        Ok(())
    }
}

/// The run to write: the first that was not as expected or on which the executors differ, else
/// the first violation, else the first.
pub fn run_to_show<'a>(results: &Results<'a>) -> Option<&'a Run> {
    let all = results.results;
    let good = |result: &RunResult| result.as_expected && results.difference_of(result).is_none();
    let unexpected = all.iter().find(|result| !good(result));
    let violation = || all.iter().find(|result| result.outcome == Outcome::Violation);
    unexpected.or_else(violation).or_else(|| all.first()).map(|result| &result.run)
}

fn save(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}
