//! What is written of one run, beside the report.

mod output;

use super::failure::Failure;
use super::terminal::Terminal;
use crate::event::Trace;
use crate::kernel::steps::RunError;
use crate::report::{Recorded, Recording, Results, html, perfetto, timeline};
use crate::runner::{Outcome, RunResult};
use crate::scenario::Run;
use crate::symbols::Symbols;
use std::fs::File;
use std::path::{Path, PathBuf};

pub use output::{Folder, Output, open};

/// Bytes of the largest file that is read.
const MAX_INPUT: u64 = 1 << 30;

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
    /// Opens what is requested, before anything runs. Two outputs in one file, an output that is an input, and
    /// a place where nothing can be written are refused.
    pub fn open(&self, inputs: &[&Path]) -> Result<Outputs, Failure> {
        let all = [
            self.record.as_deref(),
            self.pictures.html.as_deref(),
            self.pictures.perfetto.as_deref(),
        ];
        let [record, html, perfetto] = open(all, inputs)?;
        Ok(Outputs { record, pictures: OpenPictures { html, perfetto } })
    }
}

impl Pictures {
    /// As [`Files::open`].
    pub fn open(&self, inputs: &[&Path]) -> Result<OpenPictures, Failure> {
        let [html, perfetto] = open([self.html.as_deref(), self.perfetto.as_deref()], inputs)?;
        Ok(OpenPictures { html, perfetto })
    }
}

/// Files that wait for what is to be written.
#[derive(Debug)]
pub struct Outputs {
    record: Option<Output>,
    pictures: OpenPictures,
}

/// The same, of pictures.
#[derive(Debug)]
pub struct OpenPictures {
    html: Option<Output>,
    perfetto: Option<Output>,
}

impl Outputs {
    /// The folders in which they are.
    pub fn folders(&self) -> Vec<PathBuf> {
        let record = self.record.iter().filter_map(Output::folder);
        self.pictures.folders().into_iter().chain(record).collect()
    }

    /// Writes those that are requested. `again` does the run, and keeps its events.
    pub fn write(
        self,
        terminal: &Terminal<'_>,
        symbols: &Symbols,
        command: &str,
        again: impl FnOnce(&mut Trace) -> Result<(RunResult, &'static str), RunError>,
    ) -> Result<(), Failure> {
        let OpenPictures { html, perfetto } = &self.pictures;
        let Some(any) = [&self.record, html, perfetto].into_iter().flatten().next() else {
            return Ok(());
        };
        let mut trace = Trace::default();
        let (result, executor) = again(&mut trace).map_err(|error| Failure::host(&error))?;
        let recorded = Recorded { result: &result, trace: &trace, executor, symbols, command };
        let Some(recording) = Recording::new(&recorded) else {
            let any = any.shown.display();
            terminal.warn(&format!("the guest did not boot: no events to write to {any}"));
            return Ok(());
        };
        if let Some(output) = self.record {
            output.save(&(serde_json::to_string(&recording).unwrap_or_default() + "\n"))?;
        }
        self.pictures.write(&recorded)
    }
}

impl OpenPictures {
    /// As [`Outputs::folders`].
    pub fn folders(&self) -> Vec<PathBuf> {
        [&self.html, &self.perfetto].into_iter().flatten().filter_map(Output::folder).collect()
    }

    /// Writes those that are requested.
    pub fn write(self, recorded: &Recorded<'_>) -> Result<(), Failure> {
        if self.html.is_none() && self.perfetto.is_none() {
            return Ok(());
        }
        let timeline = timeline(recorded);
        if let Some(output) = self.html {
            output.save(&html(&timeline))?;
        }
        if let Some(output) = self.perfetto {
            output.save(&(perfetto(&timeline).to_string() + "\n"))?;
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

/// Opens a file that the command line names, to read it bit by bit.
pub fn file(path: &Path) -> Result<File, Failure> {
    let named =
        |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(|error| named(&error))?;
    match file.metadata().map_err(|error| named(&error))?.is_file() {
        true => Ok(file),
        false => Err(named(&"not a regular file")),
    }
}

/// Reads a file that the command line names, whole. A pipe or a device may have no end.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let named =
        |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let about = std::fs::metadata(path).map_err(|error| named(&error))?;
    if !about.is_file() {
        return Err(named(&"not a regular file"));
    }
    if about.len() > MAX_INPUT {
        let most = MAX_INPUT >> 20;
        return Err(named(&format!("{} bytes; {most} MiB are the most that is read", about.len())));
    }
    std::fs::read(path).map_err(|error| named(&error))
}

/// The same, of text.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    let text = String::from_utf8(read(path)?);
    text.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}
