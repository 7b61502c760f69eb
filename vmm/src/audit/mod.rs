//! `stalemate audit`: judges the flushes of a kernel that is not ours, and that says nothing of them.
//!
//! The kernel boots on the interpreter's modelled processor; the one oracle judges it. When a flush is due
//! is told by the architecture, and by the *task*: whose kernel context made something stale owes its
//! flush until that task returns to user mode.

mod again;
mod baseline;
mod campaign;
mod coverage;
mod debugger;
mod exceptions;
mod finding;
mod html;
mod json;
mod judged;
mod moments;
mod profile;
mod recording;
mod stacks;
mod text;
mod watcher;

pub use again::{Evidence, Given, Grade, Seen};
pub use baseline::{Baseline, Compared, Excused, Known, today};
pub use campaign::{Came, Campaign, Dropped, Kinds, Plan, campaign};
pub use coverage::{Change, Coverage, Row};
pub use debugger::{Debugger, DebuggerError};
pub use exceptions::Exception;
pub use finding::{Finding, Key};
pub use html::{About, html};
pub use json::{SCHEMA_VERSION, json, schema};
pub use judged::{Counts, RULES};
pub use moments::{Closed, Noted};
pub use profile::{Applied, Line, Profile, profile_schema};
pub use recording::{
    AUDIT_RECORDING_VERSION, AuditRecordingError, Ending, Judgement, Opening, Recorder,
    is_audit_recording, judge,
};
pub use stacks::{Called, Calls};
pub use text::{compared, text};
pub use watcher::{FlushSite, Removals};

use crate::arch::choice::{Chooser, Point};
use crate::arch::features::CpuFeatures;
use crate::event::{Event, NullObserver, Observer, TraceHeader};
use crate::inject::{Fault, Injector, Sites};
use crate::kernel::free::{Boot, End, Free, FreeError, FreeRun, Hooks, KernelImage, Settings};
use crate::machine::Director;
use crate::oracle::Violation;
use crate::symbols::Symbols;
use serde::Serialize;
use std::collections::BTreeMap;
use watcher::Watcher;

/// What Linux is told where nobody says otherwise: a console, no address randomisation, and nothing that
/// needs devices which are not there.
pub const COMMAND_LINE: &str = "console=ttyS0 nokaslr pti=on rdinit=/init panic=-1 reboot=t \
    lpj=4000000 tsc_early_khz=1000000 pci=off acpi=off quiet lsm= audit=0 init_on_alloc=0 \
    kfence.sample_interval=0 cgroup_disable=memory numa=off dhash_entries=1024 \
    ihash_entries=1024 nowatchdog cryptomgr.notests=1 ftrace=off";

/// The same for so many CPUs: several of them are found by ACPI.
#[must_use]
pub fn command_line(cpus: u8) -> String {
    if cpus == 1 { COMMAND_LINE.to_owned() } else { COMMAND_LINE.replace(" acpi=off", "") }
}

/// What is audited, and on what.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The kernel.
    pub kernel: &'a KernelImage,
    /// Its initramfs.
    pub initrd: &'a [u8],
    /// Its command line.
    pub command_line: &'a str,
    /// The names of its functions, where they are known.
    pub symbols: &'a Symbols,
    /// What is known of kernels like it.
    pub profile: Option<&'a Profile>,
    /// What it runs on.
    pub settings: Settings,
    /// What is injected.
    pub faults: &'a [Fault],
    /// The text on the console that ends the run.
    pub until: Option<&'a str>,
}

/// What came of an audit.
#[derive(Clone, Debug)]
pub struct Audited {
    /// How the kernel ran.
    pub run: FreeRun,
    /// What it ran on.
    pub features: CpuFeatures,
    /// It loads user page tables of its own to return to user mode.
    pub isolated: bool,
    /// What rules have found, by key.
    pub findings: Vec<Finding>,
    /// What was changed in page tables, by whom, and what became of it.
    pub coverage: Coverage,
    /// How often each rule has judged something: it has spoken, or would have without the flush that came in
    /// time.
    pub judged: Counts,
    /// The same of what was flushed in time, by the function whose store it was.
    pub judged_by_store: BTreeMap<(String, Change), Counts>,
    /// How often each operation that removes cached translations was executed.
    pub flushes: Vec<(&'static str, u64)>,
    /// The flush ledger: the same by the function that they are in, with what they removed.
    pub sites: Vec<FlushSite>,
    /// The function in which it could not go on, if that is how it ended.
    pub stopped_in: Option<String>,
    /// What was known of the kernel, and what the run has shown of that; none if nothing was.
    pub profile: Option<Applied>,
    /// Faults that met nothing, as text.
    pub not_fired: Vec<String>,
}

/// An audit with all that belongs to its report.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What came of it.
    pub audited: &'a Audited,
    /// What became of each flush that was withheld, where that was asked for.
    pub campaign: Option<&'a Campaign>,
    /// How it compares with what is known, where that was given.
    pub compared: Option<&'a Compared>,
}

impl<'a> From<&'a Audited> for Report<'a> {
    fn from(audited: &'a Audited) -> Self {
        Self { audited, campaign: None, compared: None }
    }
}

/// What an audit comes to, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Verdict {
    /// Nothing was stale past its deadline.
    Clean,
    /// A rule has spoken.
    Violation,
    /// Nothing was there to judge.
    Vacuous,
    /// The kernel did not come to user mode, or cannot go on.
    Stopped,
    /// A fault met nothing.
    NotApplied,
}

impl Verdict {
    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Violation => "violation",
            Self::Vacuous => "vacuous",
            Self::Stopped => "stopped",
            Self::NotApplied => "not-applied",
        }
    }
}

impl Audited {
    /// What it comes to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if !self.findings.is_empty() {
            Verdict::Violation
        } else if matches!(self.run.end, End::Stopped(..)) || self.run.user_mode.is_none() {
            Verdict::Stopped
        } else if !self.not_fired.is_empty() {
            Verdict::NotApplied
        } else if self.coverage.judged() == 0 {
            Verdict::Vacuous
        } else {
            Verdict::Clean
        }
    }
}

impl Audited {
    /// The findings of this grade, or a higher one.
    pub fn graded(&self, grade: Grade) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.evidence.grade >= grade)
    }

    /// What `git bisect run` is told of the finding with this key, if it is of this grade or a higher one:
    /// 0 absent, 1 there, 125 cannot judge.
    #[must_use]
    pub fn bisect(&self, key: &str, grade: Grade) -> u8 {
        let found = self.graded(grade).any(|finding| finding.key.to_string() == key);
        match self.verdict() {
            _ if found => 1,
            Verdict::Clean | Verdict::Violation => 0,
            Verdict::Vacuous | Verdict::Stopped | Verdict::NotApplied => 125,
        }
    }
}

/// What is known of a kernel, and what of that is of this one.
fn profiled(subject: &Subject<'_>) -> (Hooks, Option<Applied>) {
    let Subject { kernel, symbols, command_line, settings, .. } = *subject;
    let apply = |profile: &Profile| profile.apply(kernel, symbols, command_line, settings.cpus);
    let applied = subject.profile.map(apply);
    applied.map_or_else(Default::default, |(hooks, applied)| (hooks, Some(applied)))
}

/// A kernel before its first instruction, and who watches it.
fn boot(subject: &Subject<'_>) -> Result<(Free, Watcher), FreeError> {
    let Subject { kernel, initrd, command_line, settings, .. } = *subject;
    let hooks = profiled(subject).0;
    let mut free = Free::new(&Boot { kernel, initrd, command_line }, settings, hooks)?;
    free.inject(Injector::new(subject.faults, Sites::default()));
    let watcher = Watcher::new(&free.header());
    Ok((free, watcher))
}

/// Boots and judges. `console` gets what the kernel prints as it comes.
///
/// # Errors
/// When the kernel does not fit into memory, or the host fails.
pub fn audit(subject: &Subject<'_>, console: &mut dyn FnMut(&[u8])) -> Result<Audited, FreeError> {
    observed(subject, console, &mut NullObserver)
}

/// The same, and `observer` is shown the events.
///
/// # Errors
/// As [`audit`].
pub fn observed(
    subject: &Subject<'_>,
    console: &mut dyn FnMut(&[u8]),
    observer: &mut dyn Observer,
) -> Result<Audited, FreeError> {
    let (mut free, mut watcher) = boot(subject)?;
    observer.begin(&free.header());
    let mut until = subject.until.map(Until::new);
    let mut both = Observed { watcher: &mut watcher, observer };
    let run = free.run(&mut both, &mut |bytes| {
        console(bytes);
        until.as_mut().is_some_and(|until| until.is_in(bytes))
    })?;
    audited(subject, &free, &watcher, run)
}

/// A watcher, and somebody who is shown the same.
struct Observed<'a> {
    watcher: &'a mut Watcher,
    observer: &'a mut dyn Observer,
}

impl Observer for Observed<'_> {
    fn begin(&mut self, header: &TraceHeader) {
        self.watcher.begin(header);
        self.observer.begin(header);
    }

    fn completed(&mut self, instructions: u64) {
        self.watcher.completed(instructions);
        self.observer.completed(instructions);
    }

    fn event(&mut self, event: &Event) {
        self.watcher.event(event);
        self.observer.event(event);
    }
}

impl Director for Observed<'_> {}

impl Chooser for Observed<'_> {
    fn choose(&mut self, point: Point<'_>) -> usize {
        self.watcher.choose(point)
    }
}

/// What came of a run. If it has found something, the kernel runs once more, to see what the findings rest on.
fn audited(
    subject: &Subject<'_>,
    free: &Free,
    watcher: &Watcher,
    run: FreeRun,
) -> Result<Audited, FreeError> {
    let stopped_in = match &run.end {
        End::Stopped(_, vcpu) => Some(coverage::function(subject.symbols, vcpu.rip())),
        _ => None,
    };
    let mut profile = profiled(subject).1;
    if let Some(profile) = &mut profile {
        profile.ran(free.hooks());
    }
    let due = |violation: &Violation| finding::due(violation, profile.as_ref(), free.hooks());
    let mut findings = watcher.findings(subject.symbols, &due);
    again::look(subject, watcher, &mut findings)?;
    let (judged, judged_by_store) = watcher.judged(subject.symbols);
    Ok(Audited {
        judged,
        judged_by_store,
        stopped_in,
        features: subject.settings.features,
        isolated: watcher.is_isolated(),
        findings,
        flushes: watcher.flushes(),
        sites: watcher.sites(subject.symbols),
        not_fired: free.not_fired(),
        coverage: watcher.coverage(subject.symbols),
        profile,
        run,
    })
}

/// A text that is waited for on a console.
struct Until<'t> {
    text: &'t [u8],
    /// The end of what was printed.
    printed: Vec<u8>,
}

impl<'t> Until<'t> {
    fn new(text: &'t str) -> Self {
        Self { text: text.as_bytes(), printed: Vec::new() }
    }

    /// Whether these bytes bring it, after those before.
    fn is_in(&mut self, bytes: &[u8]) -> bool {
        self.printed.extend(bytes);
        let found = self.printed.windows(self.text.len().max(1)).any(|part| part == self.text);
        // Of what was printed no more is needed than may be the text's begin.
        let kept = self.printed.len().saturating_sub(self.text.len());
        self.printed.drain(..kept);
        found
    }
}
