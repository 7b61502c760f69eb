//! What a workload cost: counted from the trace of an on-demand run.

use crate::arch::addr::{CpuId, Gva};
use crate::arch::cr3::{NOFLUSH, PCID_MASK};
use crate::arch::happened::Happened;
use crate::arch::vcpu::cr4;
use crate::arch::walk::Translation;
use crate::event::{Announcement, Event, Kind, Owner, Trace, Word};
use crate::oracle::Oracle;
use crate::symbols::Symbols;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// What one policy did in one workload on one processor, with fills on demand. Instructions are
/// those that completed, and one for each that trapped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "costs")]
pub struct Costs {
    /// INVLPG.
    pub invlpg: u64,
    /// INVPCID by type: address, single PCID, everything, everything but globals.
    pub invpcid: [u64; 4],
    /// CR3 loads that flush what is tagged with the new PCID.
    pub cr3_flushing: u64,
    /// CR3 loads that keep it.
    pub cr3_kept: u64,
    /// Writes that change CR4.PGE; a toggle is two.
    pub cr4_toggles: u64,
    /// Marks made: stores that set a bit of the mask.
    pub marks_made: u64,
    /// Marks consumed: stores that clear one.
    pub marks_consumed: u64,
    /// Live entries lost that no caller asked to flush.
    pub live_lost: u64,
    /// Fills of what had been cached before, the same in frame and rights.
    pub refills: u64,
    /// Flush primitives called.
    pub primitives: u64,
    /// Instructions between their announcements.
    pub primitive_instructions: u64,
    /// Returns to user mode, with PTI.
    pub returns: u64,
    /// Instructions of the return path, from the read of CR3 to SYSRETQ.
    pub return_instructions: u64,
    /// The shortest return, in instructions.
    pub shortest_return: u64,
    /// The longest return, in instructions.
    pub longest_return: u64,
    /// Instructions of the whole workload.
    pub instructions: u64,
    /// Bits that stores changed in the words of CPUs, by field.
    #[serde(skip)]
    pub changed: Vec<(String, u64)>,
}

/// Where the return path begins: reads of CR3 in this function.
const RETURN_PATH: &str = "enter_user";

/// Whether an instruction of the guest trapped and was carried out to make this event.
fn is_instruction(kind: &Kind) -> bool {
    match kind {
        Kind::Cpu(happened) => matches!(
            happened,
            Happened::LoadCr3 { .. }
                | Happened::WriteCr0 { .. }
                | Happened::WriteCr4 { .. }
                | Happened::WriteEfer { .. }
                | Happened::Invlpg { .. }
                | Happened::Invpcid { .. }
                | Happened::Other { .. }
                | Happened::TableStore { .. }
                | Happened::UserEntry
        ),
        Kind::Announced { word, .. } => word.is_some(),
        Kind::Suppressed { .. } | Kind::Note { .. } | Kind::End => false,
    }
}

/// Whether a task begins with the event.
fn begins_task(event: &Event) -> bool {
    event.announcements().iter().any(|said| matches!(said, Announcement::TaskBegins(_)))
}

struct Meter<'a> {
    symbols: &'a Symbols,
    costs: Costs,
    /// CR3 and CR4, by CPU.
    control: Vec<(u64, u64)>,
    filled: Vec<(CpuId, u64, Translation)>,
    /// Instructions so far, those that trapped included.
    now: u64,
    /// Where the flushes under way began.
    flushes: BTreeMap<CpuId, u64>,
    /// Where the CPUs that are on the way to user mode set out.
    leaving: BTreeMap<CpuId, u64>,
}

/// Counts what `trace` shows from its first step on.
#[must_use]
pub fn measure(trace: &Trace, symbols: &Symbols) -> Costs {
    let mut oracle = Oracle::default();
    trace.replay(&mut oracle);
    let cpus = trace.header.iter().flat_map(|header| &header.cpus);
    let mut meter = Meter {
        symbols,
        costs: Costs::default(),
        control: cpus.map(|cpu| (cpu.cr3, cpu.cr4)).collect(),
        filled: Vec::new(),
        now: 0,
        flushes: BTreeMap::new(),
        leaving: BTreeMap::new(),
    };
    let mut first = None;
    let mut trapped = 0;
    for (event, &completed) in trace.events.iter().zip(&trace.completed) {
        if first.is_none() {
            if !begins_task(event) {
                continue;
            }
            first = Some(completed);
        }
        meter.now = completed - first.unwrap_or(0) + trapped;
        meter.event(event);
        trapped += u64::from(is_instruction(&event.kind));
    }
    meter.costs.instructions = meter.now;
    meter.costs.live_lost = oracle.losses().iter().map(|(_, live)| *live as u64).sum();
    meter.costs
}

impl Meter<'_> {
    fn event(&mut self, event: &Event) {
        match &event.kind {
            Kind::Cpu(happened) => self.happened(event, happened),
            Kind::Announced { announcements, word } => {
                announcements.iter().for_each(|said| self.announced(event.cpu, said));
                if let Some(Word { field, owner: Owner::Cpu(_), old, new }) = word {
                    self.changed(field, old ^ new);
                }
            }
            _ => {}
        }
    }

    fn happened(&mut self, event: &Event, happened: &Happened) {
        let costs = &mut self.costs;
        let Some((cr3, cr4)) = self.control.get_mut(usize::from(event.cpu.0)) else { return };
        match happened {
            Happened::Invlpg { .. } => costs.invlpg += 1,
            Happened::Invpcid { kind, .. } => {
                if let Some(count) = costs.invpcid.get_mut(*kind as usize) {
                    *count += 1;
                }
            }
            Happened::LoadCr3 { value, .. } => {
                *cr3 = value & !NOFLUSH;
                let keeps = value & NOFLUSH != 0 && *cr4 & cr4::PCIDE != 0;
                let count = if keeps { &mut costs.cr3_kept } else { &mut costs.cr3_flushing };
                *count += 1;
            }
            Happened::WriteCr4 { old, new } => {
                *cr4 = *new;
                costs.cr4_toggles += u64::from((old ^ new) & cr4::PGE != 0);
            }
            Happened::Fill { translation, .. } => self.fill(event.cpu, translation),
            Happened::Other { mnemonic } if mnemonic.contains("CR3") => {
                self.reads_cr3(event.cpu, event.rip);
            }
            Happened::UserEntry => self.user_entry(event.cpu),
            _ => {}
        }
    }

    fn announced(&mut self, cpu: CpuId, said: &Announcement) {
        let costs = &mut self.costs;
        match said {
            Announcement::Marked { .. } => costs.marks_made += 1,
            Announcement::Unmarked { .. } => costs.marks_consumed += 1,
            Announcement::FlushBegins { .. } => {
                self.flushes.insert(cpu, self.now);
            }
            Announcement::FlushReturns { .. } => {
                costs.primitives += 1;
                costs.primitive_instructions +=
                    self.now - self.flushes.remove(&cpu).unwrap_or(self.now);
            }
            _ => {}
        }
    }

    fn changed(&mut self, field: &str, bits: u64) {
        let changed = &mut self.costs.changed;
        match changed.iter_mut().find(|(known, _)| known == field) {
            Some((_, known)) => *known |= bits,
            None => changed.push((field.to_owned(), bits)),
        }
    }

    fn fill(&mut self, cpu: CpuId, translation: &Translation) {
        let (cr3, cr4) = self.control.get(usize::from(cpu.0)).copied().unwrap_or_default();
        let pcid = if translation.global || cr4 & cr4::PCIDE == 0 { 0 } else { cr3 & PCID_MASK };
        if self.filled.contains(&(cpu, pcid, *translation)) {
            self.costs.refills += 1;
        } else {
            self.filled.push((cpu, pcid, *translation));
        }
    }

    fn reads_cr3(&mut self, cpu: CpuId, rip: Gva) {
        let here = self.symbols.function_at(rip).is_some_and(|(name, ..)| name == RETURN_PATH);
        if here {
            self.leaving.insert(cpu, self.now);
        }
    }

    fn user_entry(&mut self, cpu: CpuId) {
        let Some(begun) = self.leaving.remove(&cpu) else { return };
        // SYSRETQ itself.
        let taken = self.now - begun + 1;
        let costs = &mut self.costs;
        costs.shortest_return =
            if costs.returns == 0 { taken } else { costs.shortest_return.min(taken) };
        costs.longest_return = costs.longest_return.max(taken);
        costs.returns += 1;
        costs.return_instructions += taken;
    }
}
