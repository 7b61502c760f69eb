//! What `run` writes of one run, beside its report.

use super::Failure;
use crate::boot::Symbols;
use crate::machine::BootError;
use crate::report::{Recorded, Recording, html, perfetto, timeline};
use crate::runner::{Outcome, RunResult, Trace};
use crate::scenario::{Run, Scenario};
use std::path::{Path, PathBuf};

/// The files. Each is of one run: the first that was not as expected, else the first violation,
/// else the first.
#[derive(Debug, Default, clap::Args)]
pub struct Files {
    /// Write the events of the first run that is not as expected, of the first violation, or of the
    /// first run, to this file: `replay` runs it again
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Write a picture of the same run: one page for a browser, which needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a trace of the same run that ui.perfetto.dev opens
    #[arg(long, value_name = "FILE")]
    perfetto: Option<PathBuf>,
}

impl Files {
    /// Writes those that are asked for. `again` does the run, and keeps its events.
    pub fn write<'a>(
        &self,
        again: impl FnOnce(&mut Trace) -> Result<(&'a Scenario, RunResult, &'static str), BootError>,
        symbols: &Symbols,
    ) -> Result<(), Failure> {
        let Some(any) = [&self.record, &self.html, &self.perfetto].into_iter().flatten().next()
        else {
            return Ok(());
        };
        let mut trace = Trace::default();
        let (scenario, result, executor) =
            again(&mut trace).map_err(|error| Failure::host(&error))?;
        let recorded = Recorded { scenario, result: &result, trace: &trace, executor, symbols };
        let recording = Recording::new(&recorded).ok_or_else(|| {
            Failure::usage(format!("{}: the guest did not boot: no events", any.display()))
        })?;
        if let Some(path) = &self.record {
            save(path, &(serde_json::to_string(&recording).unwrap_or_default() + "\n"))?;
        }
        if self.html.is_some() || self.perfetto.is_some() {
            let timeline = timeline(&recorded);
            if let Some(path) = &self.html {
                save(path, &html(&timeline))?;
            }
            if let Some(path) = &self.perfetto {
                save(path, &(perfetto(&timeline).to_string() + "\n"))?;
            }
        }
        Ok(())
    }
}

/// The run that says most: the first that was not as expected, else the first violation, else the
/// first.
pub fn telling(results: &[RunResult]) -> Option<&Run> {
    let unexpected = results.iter().find(|result| !result.as_expected);
    let violation = || results.iter().find(|result| result.outcome == Outcome::Violation);
    unexpected.or_else(violation).or_else(|| results.first()).map(|result| &result.run)
}

fn save(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}
