//! What `--record` writes: a run's scenario, its place in the matrix, and its events.

use super::Recorded;
use crate::arch::addr::Gpa;
use crate::arch::happened::Happened;
use crate::event::{Announcement, Event, Trace, TraceHeader};
use crate::inject::FaultError;
use crate::ink::one_line;
use crate::runner::Outcome;
use crate::scenario::{Diagnostic, Run, RunConfig, parse};
use serde::{Deserialize, Serialize};
use stalemate_shared::layout::MAX_CPUS;

/// Of the file's form.
pub const RECORDING_VERSION: u32 = 3;

/// A run as a file keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recording {
    /// [`RECORDING_VERSION`].
    pub version: u32,
    /// The executor that it ran on.
    pub executor: String,
    /// The scenario's name, as reports show it.
    pub name: String,
    /// The scenario's file, as reports show it.
    pub file: String,
    /// The text of that file.
    pub source: String,
    /// Its place in the matrix.
    pub config: RunConfig,
    /// What was injected.
    pub faults: Vec<String>,
    /// What it came to.
    pub outcome: Outcome,
    /// The rules that were violated.
    pub violates: Vec<String>,
    /// What the events begin with.
    pub header: TraceHeader,
    /// The events.
    pub events: Vec<Event>,
}

/// Why a recording cannot be run again.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// It is no JSON, or not that of a recording.
    #[error("not what `stalemate run --record` writes: {0}")]
    Json(#[from] serde_json::Error),
    /// No processor is in it.
    #[error("a recording of a machine without a processor")]
    NoCpu,
    /// A text of it has control characters.
    #[error("its `{0}` has control characters, which no report shows")]
    Control(&'static str),
    /// No machine has so many processors.
    #[error("it begins with {0} processors, and a machine has {MAX_CPUS} at most")]
    TooMany(usize),
    /// It has more processors, or fewer, than its configuration.
    #[error("it begins with {0} processors, and its configuration has {1}")]
    Cpus(usize, u8),
    /// An event is of a processor that there is not.
    #[error("events[{place}] is of cpu{cpu}, and processors are numbered below {cpus}")]
    Event {
        /// Which, from 0.
        place: usize,
        /// Its processor.
        cpu: u8,
        /// How many there are.
        cpus: usize,
    },
    /// An event cannot be.
    #[error("events[{place}]: {why}")]
    Impossible {
        /// Which, from 0.
        place: usize,
        /// What of it.
        why: String,
    },
    /// It is of another version.
    #[error("a recording of version {0}; this stalemate reads version {RECORDING_VERSION}")]
    Version(u32),
    /// Its scenario is not legal.
    #[error("its scenario: {0}")]
    Scenario(#[from] Box<Diagnostic>),
    /// A fault of it is none.
    #[error("its faults: {0}")]
    Fault(#[from] FaultError),
}

impl Recording {
    /// Of a run that was traced; nothing where it did not begin.
    #[must_use]
    pub fn new(recorded: &Recorded<'_>) -> Option<Self> {
        let Recorded { result, trace, executor, .. } = *recorded;
        let scenario = &result.run.scenario;
        Some(Self {
            version: RECORDING_VERSION,
            executor: executor.to_owned(),
            name: scenario.name.clone(),
            file: scenario.file.clone(),
            source: scenario.source.clone(),
            config: result.run.config,
            faults: result.run.faults.iter().map(ToString::to_string).collect(),
            outcome: result.outcome,
            violates: result.rules().iter().map(ToString::to_string).collect(),
            header: trace.header.clone()?,
            events: trace.events.clone(),
        })
    }

    /// Reads what [`Recording::new`] and `serde_json` wrote.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn read(text: &str) -> Result<Self, RecordingError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_str(text)?;
        if version != RECORDING_VERSION {
            return Err(RecordingError::Version(version));
        }
        let recording: Self = serde_json::from_str(text)?;
        if recording.header.cpus.is_empty() {
            return Err(RecordingError::NoCpu);
        }
        recording.check().map(|()| recording)
    }

    /// What a scenario file is held to, and the order of events.
    fn check(&self) -> Result<(), RecordingError> {
        let texts = [("executor", &self.executor), ("name", &self.name), ("file", &self.file)];
        let of_lists = [("faults", &self.faults), ("violates", &self.violates)];
        let lists = of_lists.iter().flat_map(|(of, list)| list.iter().map(move |text| (*of, text)));
        if let Some((of, _)) =
            texts.into_iter().chain(lists).find(|(_, text)| one_line(text) != **text)
        {
            return Err(RecordingError::Control(of));
        }
        let cpus = self.header.cpus.len();
        if cpus > MAX_CPUS {
            return Err(RecordingError::TooMany(cpus));
        }
        if cpus != usize::from(self.config.cpus) {
            return Err(RecordingError::Cpus(cpus, self.config.cpus));
        }
        let mut next = 0;
        for (place, event) in self.events.iter().enumerate() {
            let named = event.announcements().iter().flat_map(Announcement::cpus);
            let sent = match event.happened() {
                Some(Happened::Ipi { to, .. }) => Some(*to),
                _ => None,
            };
            let mut all = named.chain(sent).chain([event.cpu]);
            if let Some(cpu) = all.find(|cpu| usize::from(cpu.0) >= cpus) {
                return Err(RecordingError::Event { place, cpu: cpu.0, cpus });
            }
            // A sweep's runs follow one another.
            if ![0, next].contains(&event.seq) {
                let why = format!("its number is {}, and {next} is next", event.seq);
                return Err(RecordingError::Impossible { place, why });
            }
            next = event.seq + 1;
            if let Some(why) = impossible(event) {
                return Err(RecordingError::Impossible { place, why });
            }
        }
        Ok(())
    }

    /// The run.
    ///
    /// # Errors
    /// Where its scenario or a fault is not legal.
    pub fn run(&self) -> Result<Run, RecordingError> {
        let scenario = parse(&self.name, &self.file, &self.source).map_err(Box::new)?;
        let faults: Result<Vec<_>, _> = self.faults.iter().map(|text| text.parse()).collect();
        Ok(scenario.run(self.config, &faults?))
    }

    /// The trace, as an observer records it.
    #[must_use]
    pub fn trace(&self) -> Trace {
        Trace::opened(self.header.clone(), self.events.clone())
    }
}

/// What of an event cannot be.
fn impossible(event: &Event) -> Option<String> {
    let slot_of = |slot: Gpa| {
        let wrong = !slot.0.is_multiple_of(8);
        wrong.then(|| format!("a page-table entry at {slot}, which is no multiple of 8"))
    };
    match event.happened()? {
        Happened::TableLinked { table, .. }
        | Happened::TableUnlinked { table }
        | Happened::RootLinked { root: table }
            if *table != table.page() =>
        {
            Some(format!("a page table at {table}, where no page begins"))
        }
        Happened::TableLinked { entries, .. } => {
            let (index, _) = entries.iter().find(|(index, _)| *index >= 512)?;
            Some(format!("entry {index} of a page table, which has 512"))
        }
        Happened::TableStore { slot, .. } | Happened::AccessedDirty { slot, .. } => slot_of(*slot),
        Happened::Invpcid { kind, .. } if *kind > 3 => {
            Some(format!("INVPCID of type {kind}, and there are 0 to 3"))
        }
        Happened::Delivered { from_cpl, .. } if *from_cpl > 3 => {
            Some(format!("an exception at CPL {from_cpl}"))
        }
        _ => None,
    }
}
