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
    /// Refuses two outputs in one file, an output that is an input, and a place where nothing can be
    /// written, before anything runs.
    pub fn check(&self, inputs: &[&Path]) -> Result<(), Failure> {
        outputs(&[&self.record, &self.pictures.html, &self.pictures.perfetto], inputs)
    }

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
    /// As [`Files::check`].
    pub fn check(&self, inputs: &[&Path]) -> Result<(), Failure> {
        outputs(&[&self.html, &self.perfetto], inputs)
    }

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

fn outputs(all: &[&Option<PathBuf>], inputs: &[&Path]) -> Result<(), Failure> {
    let mut seen: Vec<PathBuf> = Vec::new();
    let inputs: Vec<PathBuf> = inputs.iter().filter_map(|path| path.canonicalize().ok()).collect();
    for &path in all {
        let Some(path) = path else { continue };
        let error = |what: &str| Failure::usage(format!("{}: {what}", path.display()));
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let whole = path
            .canonicalize()
            .or_else(|_| Ok(folder.canonicalize()?.join(path.file_name().unwrap_or_default())));
        let whole = whole.map_err(|why: std::io::Error| error(&why.to_string()))?;
        let is_file = whole.is_file() || !whole.exists();
        if whole.is_dir() {
            return Err(error("a directory"));
        }
        if inputs.contains(&whole) {
            return Err(error("this output is an input too"));
        }
        if is_file && seen.contains(&whole) {
            return Err(error("two outputs go to this file"));
        }
        let beside = whole.with_file_name(format!(".stalemate.{}.part", std::process::id()));
        if is_file {
            std::fs::write(&beside, "").map_err(|why| error(&why.to_string()))?;
            // Nothing was written.
            let _ = std::fs::remove_file(&beside);
        }
        seen.push(whole);
    }
    Ok(())
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

/// Writes a file beside where it goes, and renames it when it is whole: what was there stays until then.
/// What is no regular file, such as a pipe, is written to.
pub fn save(path: &Path, text: &str) -> Result<(), Failure> {
    let named = |error| Failure::usage(format!("{}: {error}", path.display()));
    // Through a symbolic link: what it leads to is what changes.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if path.exists() && !path.is_file() {
        return std::fs::write(path, text).map_err(named);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let written = std::fs::write(&beside, text).and_then(|()| {
        if let Ok(before) = std::fs::metadata(path) {
            std::fs::set_permissions(&beside, before.permissions())?;
        }
        std::fs::rename(&beside, path)
    });
    written.map_err(|error| {
        // It may not be there.
        let _ = std::fs::remove_file(&beside);
        named(error)
    })
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
