//! `--drop`: each flush of a workload withheld in turn, and what the audit makes of it.
//!
//! The kernel runs once as it is, and what removed something stale is noted. Then it runs again, and
//! before each of those operations a checkpoint is taken: the run goes on without that one operation until
//! nothing is cached any more that it would have removed, or a rule speaks, and back to the checkpoint.

mod report;

pub(super) use report::WORDS;

use super::coverage::{Fate, function};
use super::watcher::{Removal, Watcher};
use super::{Audited, Subject, Until, audited, boot};
use crate::arch::addr::Gva;
use crate::inject::{Fault, Injector, Sites};
use crate::kernel::free::{Free, FreeError};
use crate::oracle::{Downgrade, RuleId};
use crate::parallel::parallel;
use crate::symbols::Symbols;

/// Which operations are withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kinds {
    /// All of these
    Each,
    /// INVLPG
    Invlpg,
    /// INVPCID
    Invpcid,
    /// CR3 loads that flush
    Cr3,
    /// CR4 writes that flush
    Cr4,
}

impl Kinds {
    fn has(self, operation: &str) -> bool {
        match self {
            Self::Each => true,
            Self::Invlpg => operation == "INVLPG",
            Self::Invpcid => operation.starts_with("INVPCID"),
            Self::Cr3 => operation.starts_with("CR3"),
            Self::Cr4 => operation.starts_with("CR4"),
        }
    }
}

/// What a campaign is of.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// What is withheld.
    pub kinds: Kinds,
    /// The text on the console that the workload begins with; none for user mode.
    pub begins: Option<&'a str>,
    /// Runs at once.
    pub jobs: usize,
}

/// What came of one operation that was withheld.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// A rule has spoken.
    Caught(RuleId),
    /// Something else removed, in time, all that it would have removed: what, and in which function.
    Covered(String),
    /// Something is cached at the end that may be, under a PCID that is not current: what.
    Parked(String),
    /// Something is cached at the end of a kernel address that was not used again: what.
    Unused(String),
    /// Something is cached at the end, and no deadline came: what.
    Unjudged(String),
}

/// One operation that was withheld.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The fault that withholds it in a run of its own.
    pub fault: String,
    /// The operation.
    pub operation: &'static str,
    /// The function that it is in.
    pub function: String,
    /// What came of it.
    pub came: Came,
    /// Instructions until that was known.
    pub instructions: u64,
}

/// What a campaign came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Campaign {
    /// Operations of the workload that could be withheld.
    pub operations: u64,
    /// Those without which something is stale, in order. That each other one had nothing to remove that
    /// was or would be, the run without a fault has shown.
    pub dropped: Vec<Dropped>,
}

/// An operation to withhold.
struct Target {
    removal: Removal,
    /// Instructions that have completed when it is executed.
    at: u64,
}

/// Audits, and withholds each operation of the workload that removed something stale. `console` gets what
/// the kernel prints in the run without a fault; `progress` is told how many are to be withheld, and of
/// each that was.
///
/// # Errors
/// When the kernel does not fit into memory, or the host fails.
pub fn campaign(
    subject: &Subject<'_>,
    plan: Plan<'_>,
    console: &mut dyn FnMut(&[u8]),
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<(Audited, Campaign), FreeError> {
    let (audited, targets, operations) = workload(subject, plan, console)?;
    let all = targets.len() as u64;
    progress(0, all);
    let jobs = plan.jobs.clamp(1, targets.len().max(1));
    let shares: Vec<usize> = (0..jobs).collect();
    let share = |_: &mut (), &first: &usize| {
        let targets = targets.iter().skip(first).step_by(jobs);
        withhold(subject, targets, &|| progress(1, all))
    };
    let shares =
        if targets.is_empty() { Vec::new() } else { parallel(&shares, jobs, || (), share)? };
    let mut shares: Vec<_> = shares.into_iter().map(Vec::into_iter).collect();
    let dropped = (0..targets.len()).filter_map(|number| shares[number % jobs].next().flatten());
    let dropped = dropped.collect();
    Ok((audited, Campaign { operations, dropped }))
}

/// The run without a fault: what it comes to, which operations of the workload removed something stale,
/// and how many there were that a fault counts.
fn workload(
    subject: &Subject<'_>,
    plan: Plan<'_>,
    console: &mut dyn FnMut(&[u8]),
) -> Result<(Audited, Vec<Target>, u64), FreeError> {
    let (mut free, mut watcher) = boot(subject)?;
    let mut begins = plan.begins.map(Until::new);
    let mut before: Option<u64> = None;
    let mut targets = Vec::new();
    let end = loop {
        let mut begun = false;
        let end = free.advance(&mut watcher, &mut |bytes| {
            console(bytes);
            begun |= begins.as_mut().is_some_and(|begins| begins.is_in(bytes));
            false
        })?;
        begun |= begins.is_none() && free.is_in_user_mode();
        if begun && before.is_none() {
            before = Some(countable(&watcher, plan.kinds));
        }
        let removal = watcher.take_removal().filter(|_| before.is_some());
        if let Some(removal) = removal.filter(|removal| plan.kinds.has(removal.operation())) {
            targets.push(Target { removal, at: free.instructions() });
        }
        if let Some(end) = end {
            break end;
        }
    };
    let run = free.finish(
        &mut watcher,
        &mut |bytes| {
            console(bytes);
            false
        },
        end,
    );
    let all = countable(&watcher, plan.kinds);
    let audited = audited(subject, &free, &watcher, run)?;
    Ok((audited, targets, all - before.unwrap_or(all)))
}

/// Operations so far that could be withheld.
fn countable(watcher: &Watcher, kinds: Kinds) -> u64 {
    let flushes = watcher.flushes().into_iter();
    let of_kind =
        flushes.filter(|(operation, _)| kinds.has(operation) && !operation.ends_with("NOFLUSH"));
    of_kind.map(|(_, count)| count).sum()
}

/// Runs the kernel and withholds one after the other of `targets`.
fn withhold<'t>(
    subject: &Subject<'_>,
    targets: impl Iterator<Item = &'t Target>,
    done: &dyn Fn(),
) -> Result<Vec<Option<Dropped>>, FreeError> {
    let (mut free, watcher) = boot(subject)?;
    let mut watcher = watcher.without_moments();
    let mut dropped = Vec::new();
    for Target { removal, at } in targets {
        free.pause_at(Some(*at));
        let is_here = |free: &Free, watcher: &Watcher| {
            free.instructions() == *at
                && free.rip() == removal.rip
                && watcher.met(removal) + 1 == removal.number
        };
        while !is_here(&free, &watcher) {
            let end = free.advance(&mut watcher, &mut |_| false)?;
            // A run is a function of its inputs, so it comes here again.
            if end.is_some() {
                return Err(FreeError::NotRepeated(removal.fault(removal.number)));
            }
        }
        free.pause_at(None);
        let checkpoint = free.checkpoint()?;
        let fault = removal.fault(1);
        let fault: Fault = fault.parse().map_err(|_| FreeError::NotRepeated(fault))?;
        free.inject(Injector::new(&[fault], Sites::default()));
        let begun = free.instructions();
        let came = without(&mut free, watcher.clone(), removal, subject.symbols)?;
        dropped.push(came.map(|came| Dropped {
            fault: removal.fault(removal.number),
            operation: removal.operation(),
            function: function(subject.symbols, removal.rip),
            came,
            instructions: free.instructions() - begun,
        }));
        free.go_back(&checkpoint)?;
        done();
    }
    Ok(dropped)
}

/// Runs on without one operation, until it is known what comes of that; none if nothing can, since it
/// removed nothing stale, and what it left is right.
fn without(
    free: &mut Free,
    mut watcher: Watcher,
    removal: &Removal,
    symbols: &Symbols,
) -> Result<Option<Came>, FreeError> {
    let before = watcher.violations().len();
    let mut records = removal.records.clone();
    let mut last: (&str, Gva) = ("nothing", removal.rip);
    loop {
        let end = free.advance(&mut watcher, &mut |_| false)?;
        if let Some(violation) = watcher.violations().get(before) {
            return Ok(Some(Came::Caught(violation.rule)));
        }
        if free.has_fired() {
            if removal.records.is_empty() {
                return Ok(None);
            }
            watcher.retain_held(&mut records);
            last = watcher.last_flushed().unwrap_or(last);
            if records.is_empty() {
                let (what, rip) = last;
                let what = format!("{what} in {}", function(symbols, rip));
                return Ok(Some(Came::Covered(what)));
            }
        }
        if end.is_some() {
            let Some((fate, owed)) = watcher.worst(&records) else {
                return Ok(Some(Came::Unjudged("it was not met again".to_owned())));
            };
            let Downgrade { rip, task, .. } = owed.downgrade;
            let task = task.map_or_else(String::new, |task| format!(" by task {}", task.0));
            let place = function(symbols, rip);
            let what = format!("{} under {}, changed in {place}{task}", owed.page, owed.tag);
            return Ok(Some(match fate {
                Fate::Parked => Came::Parked(what),
                Fate::Unused => Came::Unused(what),
                _ => Came::Unjudged(what),
            }));
        }
    }
}
