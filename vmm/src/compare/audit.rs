//! The audit by call site: what each caller of a primitive asked for, what was owed, and with what
//! hammer the policy came.

use crate::arch::addr::CpuId;
use crate::boot::Symbols;
use crate::event::{Event, Kind, Primitive};
use crate::oracle::{Obligation, State};
use serde::Serialize;
use stalemate_shared::hypercall::primitive;
use stalemate_shared::pcid::NOFLUSH;
use stalemate_shared::tlb_state::USER_PCID_FLUSH_MASK;
use std::collections::BTreeMap;

/// The caller of a primitive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Site {
    /// The primitive.
    pub primitive: &'static str,
    /// The calling function.
    pub caller: String,
    /// Its source file and line.
    pub line: String,
}

/// What the calls from one site came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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

fn site(symbols: &Symbols, event: &Event, primitive: &Primitive) -> Site {
    let frames = symbols.inlined(event.rip);
    let caller =
        frames.into_iter().find(|(_, line)| !WRAPPERS.iter().any(|wrapper| line.contains(wrapper)));
    let (caller, line) = caller.unwrap_or_else(|| {
        let at = symbols.locate(event.rip);
        (at.symbol.unwrap_or_default(), at.line.unwrap_or_default())
    });
    Site { primitive: primitive.name(), caller, line }
}

/// Whether the caller asked for pages, not for an address space or everything.
fn asks_for_pages(primitive: &Primitive) -> bool {
    matches!(primitive.id, primitive::ONE_USER | primitive::ONE_KERNEL | primitive::RANGE)
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
    fn add(&mut self, kind: &Kind) {
        match kind {
            Kind::Invlpg { .. } | Kind::Invpcid { kind: 0, .. } => self.pages = true,
            Kind::Invpcid { .. } => self.big = true,
            Kind::LoadCr3 { value, .. } => self.big |= value & NOFLUSH == 0,
            Kind::WriteCr4 { .. } => self.big = true,
            Kind::StateStore { offset: USER_PCID_FLUSH_MASK, old, new, .. } => {
                self.marks |= new & !old != 0;
            }
            _ => {}
        }
    }
}

/// Audits a worst-case run: its events and what became of its obligations.
#[must_use]
pub fn audit(events: &[Event], obligations: &[Obligation], symbols: &Symbols) -> Audit {
    let mut audit = Audit::new();
    let mut open: BTreeMap<CpuId, (&Event, Primitive, Hammers)> = BTreeMap::new();
    for event in events {
        match &event.kind {
            Kind::PrimitiveBegin(primitive) => {
                open.insert(event.cpu, (event, *primitive, Hammers::default()));
            }
            Kind::PrimitiveEnd(_) => {
                let Some((begin, primitive, hammers)) = open.remove(&event.cpu) else { continue };
                let owed = obligations
                    .iter()
                    .filter(|owed| {
                        owed.is_asked_of(begin.cpu, begin.seq, &primitive) && stood(owed, begin.seq)
                    })
                    .count() as u64;
                let calls = audit.entry(site(symbols, begin, &primitive)).or_default();
                calls.calls += 1;
                calls.owed += owed;
                calls.needless += u64::from(owed == 0);
                match hammers {
                    Hammers { big: true, .. } => calls.big += 1,
                    Hammers { marks: false, pages: true, .. } => calls.little += 1,
                    _ => calls.deferred += 1,
                }
                calls.grown += u64::from(hammers.big && asks_for_pages(&primitive));
            }
            kind => {
                // What a CPU without a call of its own does it was asked for by another.
                let other = open.keys().next().copied();
                let cpu = if open.contains_key(&event.cpu) { Some(event.cpu) } else { other };
                if let Some((_, _, hammers)) = cpu.and_then(|cpu| open.get_mut(&cpu)) {
                    hammers.add(kind);
                }
            }
        }
    }
    audit
}
