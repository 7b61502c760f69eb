//! What `audit --record` writes: a line of JSON that says of what, a line for each event that rules look
//! at, and a line that says what they came to. A boot has too many events to keep, so each is written
//! as it comes, and read again as it is judged.

use super::Audited;
use crate::arch::happened::Happened;
use crate::event::{Announcement, Event, Kind, Observer, TraceHeader};
use crate::ink::one_line;
use crate::oracle::Oracle;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

/// Of the file's form.
pub const AUDIT_RECORDING_VERSION: u32 = 1;

/// Bytes of the longest line that is read.
const MAX_LINE: u64 = 1 << 20;

/// The first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Opening {
    /// [`AUDIT_RECORDING_VERSION`].
    pub audit: u32,
    /// The kernel.
    pub kernel: String,
    /// The command that did the audit.
    pub command: String,
    /// The state that the first event meets.
    pub header: TraceHeader,
}

/// The last line: how often each rule has spoken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// By rule.
    pub violations: BTreeMap<String, usize>,
}

/// What the last line begins with.
const ENDING: &[u8] = b"{\"violations\":";

/// Why a recording cannot be judged again.
#[derive(Debug, thiserror::Error)]
pub enum AuditRecordingError {
    /// It cannot be read.
    #[error("reading line {0} failed: {1}")]
    Read(usize, io::Error),
    /// A line is none of a recording's.
    #[error("line {0} is not what `stalemate audit --record` writes: {1}")]
    Json(usize, serde_json::Error),
    /// A line is too long to be one.
    #[error("line {0} is longer than {MAX_LINE} bytes: not what `stalemate audit --record` writes")]
    Long(usize),
    /// It is of another version.
    #[error("a recording of version {0}; this stalemate reads version {AUDIT_RECORDING_VERSION}")]
    Version(u32),
    /// A text of it has control characters.
    #[error("its `{0}` has control characters, which no report shows")]
    Control(&'static str),
    /// It has no processor, or more than there are numbers.
    #[error("a recording of a machine with {0} processors")]
    Cpus(usize),
    /// An event is of a processor that there is not.
    #[error("line {line} is of cpu{cpu}, and processors are numbered below {cpus}")]
    Cpu {
        /// Which, from 1.
        line: usize,
        /// The processor.
        cpu: u8,
        /// How many there are.
        cpus: usize,
    },
    /// It has no last line.
    #[error("it is cut short: after line {0} comes no line that says what the rules found")]
    Short(usize),
}

/// What a recording comes to as its events are judged again.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The first line.
    pub opening: Opening,
    /// Its events.
    pub events: usize,
    /// What was recorded.
    pub recorded: Ending,
    /// What the events come to now.
    pub now: Ending,
}

/// Whether rules look at it.
pub(super) fn is_judged(event: &Event) -> bool {
    !matches!(event.kind, Kind::Cpu(Happened::Other { .. } | Happened::Delivered { .. }))
}

/// Writes events as they come. What fails is kept, and the rest is not written.
pub struct Recorder<W: Write> {
    to: W,
    kernel: String,
    command: String,
    failed: Option<io::Error>,
}

impl<W: Write> Recorder<W> {
    /// Writes to `to`.
    pub fn new(to: W, kernel: &str, command: &str) -> Self {
        let (kernel, command) = (one_line(kernel), one_line(command));
        Self { to, kernel, command, failed: None }
    }

    /// Writes the last line.
    ///
    /// # Errors
    /// When that, or a line before, could not be written.
    pub fn finish(mut self, audited: &Audited) -> io::Result<W> {
        let mut violations = BTreeMap::new();
        for finding in &audited.findings {
            *violations.entry(finding.key.rule.clone()).or_default() += finding.count;
        }
        self.line(&Ending { violations });
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.to.flush().map(|()| self.to),
        }
    }

    fn line(&mut self, line: &impl Serialize) {
        if self.failed.is_none() {
            let written = serde_json::to_writer(&mut self.to, line).map_err(io::Error::from);
            self.failed = written.and_then(|()| self.to.write_all(b"\n")).err();
        }
    }
}

impl<W: Write> Observer for Recorder<W> {
    fn begin(&mut self, header: &TraceHeader) {
        let (kernel, command) = (self.kernel.clone(), self.command.clone());
        let header = header.clone();
        self.line(&Opening { audit: AUDIT_RECORDING_VERSION, kernel, command, header });
    }

    fn event(&mut self, event: &Event) {
        if is_judged(event) {
            self.line(event);
        }
    }
}

/// Lines, and the number of the last.
struct Lines<R> {
    from: R,
    number: usize,
}

impl<R: BufRead> Lines<R> {
    /// The next line; none at the end.
    fn next(&mut self) -> Result<Option<Vec<u8>>, AuditRecordingError> {
        self.number += 1;
        let mut line = Vec::new();
        let read = io::Read::take(&mut self.from, MAX_LINE + 1).read_until(b'\n', &mut line);
        read.map_err(|error| AuditRecordingError::Read(self.number, error))?;
        if line.len() as u64 > MAX_LINE {
            return Err(AuditRecordingError::Long(self.number));
        }
        Ok((!line.is_empty()).then_some(line))
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self, line: &[u8]) -> Result<T, AuditRecordingError> {
        serde_json::from_slice(line).map_err(|error| AuditRecordingError::Json(self.number, error))
    }
}

/// Whether this begins as a recording of an audit does.
#[must_use]
pub fn is_audit_recording(text: &[u8]) -> bool {
    text.starts_with(b"{\"audit\":")
}

/// Judges the events of a recording again.
///
/// # Errors
/// Where it is something else, or cut short.
pub fn judge(from: impl BufRead) -> Result<Judgement, AuditRecordingError> {
    #[derive(Deserialize)]
    struct Versioned {
        audit: u32,
    }
    let mut lines = Lines { from, number: 0 };
    let first = lines.next()?.unwrap_or_default();
    let Versioned { audit } = lines.parse(&first)?;
    if audit != AUDIT_RECORDING_VERSION {
        return Err(AuditRecordingError::Version(audit));
    }
    let opening: Opening = lines.parse(&first)?;
    for (of, text) in [("kernel", &opening.kernel), ("command", &opening.command)] {
        if one_line(text) != **text {
            return Err(AuditRecordingError::Control(of));
        }
    }
    let cpus = opening.header.cpus.len();
    if !(1..=256).contains(&cpus) {
        return Err(AuditRecordingError::Cpus(cpus));
    }
    let mut oracle = Oracle::default();
    oracle.begin(&opening.header);
    let mut events = 0;
    while let Some(line) = lines.next()? {
        if line.starts_with(ENDING) {
            let recorded = lines.parse(&line)?;
            let mut now = Ending::default();
            for violation in oracle.violations() {
                *now.violations.entry(violation.rule.to_string()).or_default() += 1;
            }
            return Ok(Judgement { opening, events, recorded, now });
        }
        let event: Event = lines.parse(&line)?;
        if let Some(cpu) = no_cpu(&event, cpus) {
            return Err(AuditRecordingError::Cpu { line: lines.number, cpu, cpus });
        }
        events += 1;
        oracle.event(&event);
    }
    Err(AuditRecordingError::Short(lines.number - 1))
}

/// A processor that an event names and that there is not.
fn no_cpu(event: &Event, cpus: usize) -> Option<u8> {
    let named = event.announcements().iter().flat_map(Announcement::cpus);
    let sent = match event.happened() {
        Some(Happened::Ipi { to, .. }) => Some(*to),
        _ => None,
    };
    let mut all = named.chain(sent).chain([event.cpu]);
    all.find(|cpu| usize::from(cpu.0) >= cpus).map(|cpu| cpu.0)
}
