//! The audit by call site: what each caller of a primitive asked for, what was owed, and with what
//! hammer the policy came.

use crate::arch::cr3::NOFLUSH;
use crate::arch::happened::Happened;
use crate::event::{Announcement, Event, Flush, FlushKind, Trace};
use crate::oracle::{Obligation, OpenFlush, Replica, State};
use crate::symbols::Symbols;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// The caller of a primitive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Site {
    /// The primitive's name.
    pub primitive: &'static str,
    /// The calling function.
    pub caller: String,
    /// Its source file and line.
    pub line: String,
}

/// What the calls from one site came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "calls")]
pub struct Calls {
    /// How many.
    pub calls: u64,
    /// Obligations that stood when a call began and lay in its range.
    pub owed: u64,
    /// Calls that met none.
    pub needless: u64,
    /// Calls that removed pages only, at once.
    pub little: u64,
    /// Calls that left a user PCID to its next load, by a mark, or everything to the next switch,
    /// and removed the rest by page.
    pub deferred: u64,
    /// Calls that emptied a PCID, or everything, at once.
    pub big: u64,
    /// Calls for one page or a few that emptied a PCID, or everything, at once.
    pub grown: u64,
}

impl Calls {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.owed += other.owed;
        self.needless += other.needless;
        self.little += other.little;
        self.deferred += other.deferred;
        self.big += other.big;
        self.grown += other.grown;
    }
}

/// Calls by site.
pub type Audit = BTreeMap<Site, Calls>;

/// Where the wrappers are that announce, in the guest's sources; the first function around them
/// is the caller.
const WRAPPERS: [&str; 2] = ["/src/flush.rs", "/src/arch/hypercall.rs"];

fn site(symbols: &Symbols, event: &Event, flush: &Flush) -> Site {
    let frames = symbols.inlined(event.rip);
    let caller =
        frames.into_iter().find(|(_, line)| !WRAPPERS.iter().any(|wrapper| line.contains(wrapper)));
    let (caller, line) = caller.unwrap_or_else(|| {
        let at = symbols.locate(event.rip);
        (at.symbol.unwrap_or_default(), at.line.unwrap_or_default())
    });
    Site { primitive: flush.name(), caller, line }
}

/// Whether the caller asked for pages, not for an address space or everything.
fn asks_for_pages(flush: &Flush) -> bool {
    matches!(flush.kind, FlushKind::OneUser | FlushKind::OneKernel | FlushKind::Range)
}

fn stood(obligation: &Obligation, begin: u64) -> bool {
    let since = obligation.downgrade.seq < begin;
    let until = match obligation.state {
        State::Open => true,
        State::Discharged { seq, .. } | State::Violated { seq, .. } => seq > begin,
    };
    since && until
}

/// The hammers of one call.
#[derive(Default)]
struct Hammers {
    pages: bool,
    marks: bool,
    big: bool,
}

impl Hammers {
    fn add(&mut self, event: &Event) {
        match event.happened() {
            Some(Happened::Invlpg { .. } | Happened::Invpcid { kind: 0, .. }) => self.pages = true,
            Some(Happened::Invpcid { .. } | Happened::WriteCr4 { .. }) => self.big = true,
            Some(Happened::LoadCr3 { value, .. }) => self.big |= value & NOFLUSH == 0,
            _ => {}
        }
        let marks = |said: &Announcement| matches!(said, Announcement::Marked { .. });
        self.marks |= event.announcements().iter().any(marks);
    }
}

/// A call that has not returned.
struct Call<'e> {
    begin: &'e Event,
    open: OpenFlush,
    hammers: Hammers,
}

/// Audits a worst-case run: its events and what became of its obligations.
#[must_use]
pub fn audit(trace: &Trace, obligations: &[Obligation], symbols: &Symbols) -> Audit {
    let mut audit = Audit::new();
    let Some(header) = &trace.header else { return audit };
    let replica = Replica::new(header);
    let mut calls: Vec<Call<'_>> = Vec::new();
    for event in &trace.events {
        // What a CPU without a call of its own does was requested by another one.
        let own = calls.iter().rposition(|call| call.open.cpu == event.cpu);
        if let Some(call) = own.or(calls.len().checked_sub(1)).map(|at| &mut calls[at]) {
            call.hammers.add(event);
        }
        for said in event.announcements() {
            match *said {
                Announcement::FlushBegins { id, flush } => {
                    let open = OpenFlush { id, cpu: event.cpu, since: event.seq, flush };
                    calls.push(Call { begin: event, open, hammers: Hammers::default() });
                }
                Announcement::FlushReturns { id, .. } => {
                    let Some(at) = calls.iter().position(|call| call.open.id == id) else {
                        continue;
                    };
                    let call = calls.remove(at);
                    let owed = obligations.iter().filter(|owed| {
                        owed.is_requested_of(&call.open, &replica) && stood(owed, call.open.since)
                    });
                    let site = site(symbols, call.begin, &call.open.flush);
                    audit.entry(site).or_default().count(&call, owed.count() as u64);
                }
                _ => {}
            }
        }
    }
    audit
}

impl Calls {
    fn count(&mut self, call: &Call<'_>, owed: u64) {
        self.calls += 1;
        self.owed += owed;
        self.needless += u64::from(owed == 0);
        match call.hammers {
            Hammers { big: true, .. } => self.big += 1,
            Hammers { marks: false, pages: true, .. } => self.little += 1,
            _ => self.deferred += 1,
        }
        self.grown += u64::from(call.hammers.big && asks_for_pages(&call.open.flush));
    }
}
