//! The replay: what the host's processor did, on the model; and what of that the model does not
//! permit.

use super::kept::{Epoch, History, KINDS, Kept, kinds};
use super::layout;
use super::processor::{Mutation, Processor, Seen};
use super::program::{Action, Program};
use crate::arch::addr::Gva;
use crate::arch::walk::Access;
use std::fmt;

/// Accounts that are kept of accesses outside the model.
const ACCOUNTS: usize = 3;
/// Actions that an account shows.
const SHOWN: usize = 12;

/// What came of one program or of many.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Programs.
    pub programs: u64,
    /// Accesses.
    pub accesses: u64,
    /// Those that came to something else than today's tables say.
    pub stale: u64,
    /// Those of them that only a known defect of a software KVM explains:
    /// [`Options::software_kvm`].
    pub defect: u64,
    /// Those that the model does not permit.
    pub outside: u64,
    /// How many showed each kind of what may be kept, in the order of [`KINDS`].
    pub kept: [u64; KINDS.len()],
    /// The first accesses that the model does not permit.
    pub accounts: Vec<Account>,
}

impl Findings {
    /// Stale accesses of a kind.
    #[must_use]
    pub fn of(&self, kind: Kept) -> u64 {
        self.kept[kind as usize]
    }

    /// Stale accesses that the model permits.
    #[must_use]
    pub fn explained(&self) -> u64 {
        self.stale - self.outside - self.defect
    }

    /// Adds those of other programs.
    pub fn add(&mut self, other: Self) {
        self.programs += other.programs;
        self.accesses += other.accesses;
        self.stale += other.stale;
        self.defect += other.defect;
        self.outside += other.outside;
        self.kept.iter_mut().zip(other.kept).for_each(|(sum, count)| *sum += count);
        let room = ACCOUNTS.saturating_sub(self.accounts.len());
        self.accounts.extend(other.accounts.into_iter().take(room));
    }
}

/// An access that came to something which the model does not permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The program's seed.
    pub seed: u64,
    /// The number of the action.
    pub index: usize,
    /// The access.
    pub action: Action,
    /// What it came to.
    pub seen: Seen,
    /// What a walk gives.
    pub today: Seen,
    /// What else the model permits, and by which cached entry.
    pub held: Vec<(Seen, String)>,
    /// Until when walks gave what was seen, if they ever did: the action that ended it, and all
    /// since that may bear on what is cached, by number; of accesses also what they came to.
    pub since: Vec<(usize, Action, Option<Seen>)>,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, index, action, seen, today, held, since } = self;
        writeln!(f, "seed {seed}, action {index}: {action}")?;
        writeln!(f, "  it came to {seen}; a walk gives {today}")?;
        for (seen, entry) in held.iter().filter(|(seen, _)| seen != today) {
            writeln!(f, "  the model permits {seen} by {entry}")?;
        }
        let Some((_, first, _)) = since.first() else {
            return writeln!(f, "  no walk ever gave that to this page under this PCID");
        };
        writeln!(f, "  a walk last gave that before: {first}; from there on:")?;
        let skipped = since.len().saturating_sub(SHOWN);
        for (position, (index, action, seen)) in since.iter().enumerate() {
            if position == 0 || position > skipped {
                let seen = seen.map(|seen| format!(": {seen}")).unwrap_or_default();
                writeln!(f, "    action {index}: {action}{seen}")?;
            }
        }
        if skipped > 0 {
            writeln!(f, "    (and {skipped} before the latest of these)")?;
        }
        Ok(())
    }
}

/// How a replay judges.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A wrong choice of the model.
    pub mutation: Option<Mutation>,
    /// What was seen is of a software KVM, which interprets CPL 0 and shadows page tables. A page
    /// fault that finds no page (P=0 in its error code) leaves its older translations there, which
    /// it must drop (SDM vol. 3, 4.10.4.1): KVM drops them where P is set only
    /// (`kvm_inject_emulated_page_fault` in Linux's arch/x86/kvm/x86.c). What only that explains is
    /// counted, and is not outside the model.
    pub software_kvm: bool,
}

/// Replays a program with what its accesses came to on some processor.
///
/// # Panics
/// When `seen` has not one result for each access.
#[must_use]
pub fn replay(program: &Program, seen: &[Seen], options: Options) -> Findings {
    assert_eq!(program.accesses(), seen.len(), "a result for each access");
    let processor = || Processor::new(program.features, options.mutation);
    let mut replay = Replay {
        program,
        processor: processor(),
        defective: options.software_kvm.then(processor),
        history: History::default(),
        results: Vec::with_capacity(program.actions.len()),
        findings: Findings { programs: 1, ..Findings::default() },
    };
    let mut seen = seen.iter();
    replay.note(0);
    for (index, &action) in program.actions.iter().enumerate() {
        let result = match action {
            Action::Access { .. } => seen.next().copied(),
            _ => None,
        };
        match (action, result) {
            (Action::Access { page, access }, Some(seen)) => {
                replay.access(index, page, access, seen);
            }
            _ => {
                replay.processor.act(action);
                replay.defective.iter_mut().for_each(|processor| processor.act(action));
            }
        }
        replay.results.push(result);
        if matches!(action, Action::Store { .. } | Action::LoadCr3(_) | Action::WriteCr4(_)) {
            replay.note(index);
        }
    }
    replay.findings
}

/// What a processor that keeps all that the model permits, and uses the oldest of it, does with a
/// program. Actions that it does not `heed` are not carried out: with all of them it is right.
#[must_use]
pub fn worst_case(program: &Program, heeds: impl Fn(&Action) -> bool) -> Vec<Seen> {
    let mut processor = Processor::new(program.features, None);
    let mut seen = Vec::with_capacity(program.accesses());
    for &action in &program.actions {
        match action {
            Action::Access { page, access } => seen.push(processor.access(page, access)),
            _ if heeds(&action) => processor.act(action),
            _ => {}
        }
    }
    seen
}

struct Replay<'a> {
    program: &'a Program,
    processor: Processor,
    /// The same with the defect of [`Options::software_kvm`].
    defective: Option<Processor>,
    history: History,
    /// What each action so far came to.
    results: Vec<Option<Seen>>,
    findings: Findings,
}

impl Replay<'_> {
    /// Notes what walks give after an action.
    fn note(&mut self, since: usize) {
        let pcid = self.processor.vcpu().pcid();
        for page in layout::pages() {
            let found = self.processor.walk(page);
            self.history.note(page, Epoch { since, pcid, found });
        }
    }

    fn access(&mut self, index: usize, page: Gva, access: Access, seen: Seen) {
        self.findings.accesses += 1;
        let today = self.processor.outcome(self.processor.walk(page), page, access);
        if seen != today {
            self.stale(index, page, access, (seen, today));
        }
        if let Seen::Fault(error) = seen {
            self.processor.page_fault(page);
            let defective = self.defective.iter_mut().filter(|_| error & 1 != 0);
            defective.for_each(|processor| processor.page_fault(page));
        }
    }

    fn stale(&mut self, index: usize, page: Gva, access: Access, (seen, today): (Seen, Seen)) {
        self.findings.stale += 1;
        let held = self.processor.held(page, access);
        let pcid = self.processor.vcpu().pcid();
        let gives = |found| self.processor.outcome(found, page, access) == seen;
        let past = self.history.last(page, pcid, gives);
        let first = past.map_or(index, |(_, ended)| ended);
        let since = &self.program.actions[first..index];
        if held.iter().any(|(permitted, _)| *permitted == seen) {
            let epoch = past.map(|(epoch, _)| epoch);
            for kind in kinds(epoch, since, page, pcid, seen, today) {
                self.findings.kept[kind as usize] += 1;
            }
            return;
        }
        let defective = self.defective.iter().flat_map(|one| one.held(page, access));
        if defective.into_iter().any(|(permitted, _)| permitted == seen) {
            self.findings.defect += 1;
            return;
        }
        self.findings.outside += 1;
        if self.findings.accounts.len() < ACCOUNTS {
            let numbered = since.iter().zip(&self.results[first..]).enumerate();
            let numbered = numbered.map(|(at, (action, seen))| (first + at, *action, *seen));
            let bears = |action: &Action| match action {
                Action::Access { page: other, .. } => *other == page,
                _ => true,
            };
            self.findings.accounts.push(Account {
                seed: self.program.seed,
                index,
                action: self.program.actions[index],
                seen,
                today,
                held,
                since: numbered.filter(|(_, action, _)| bears(action)).collect(),
            });
        }
    }
}
