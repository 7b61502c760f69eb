//! What a workload cost: counted from the trace of an on-demand run.

use crate::arch::addr::{CpuId, Gva};
use crate::arch::vcpu::cr4;
use crate::arch::walk::Translation;
use crate::boot::Symbols;
use crate::event::{Event, Kind};
use crate::oracle::Oracle;
use crate::runner::Trace;
use schemars::JsonSchema;
use serde::Serialize;
use stalemate_shared::pcid::{NOFLUSH, PCID_MASK};
use stalemate_shared::tlb_state::USER_PCID_FLUSH_MASK;
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
    /// Bits of `TlbState` that stores changed, by word: byte offset and bits.
    #[serde(skip)]
    pub changed: Vec<(u64, u64)>,
}

/// Where the return path begins: reads of CR3 in this function.
const RETURN_PATH: &str = "enter_user";

/// Whether an instruction of the guest trapped and was carried out to make this event.
fn is_instruction(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::LoadCr3 { .. }
            | Kind::WriteCr0 { .. }
            | Kind::WriteCr4 { .. }
            | Kind::WriteEfer { .. }
            | Kind::Invlpg { .. }
            | Kind::Invpcid { .. }
            | Kind::Other { .. }
            | Kind::StateStore { .. }
            | Kind::TableStore { .. }
            | Kind::UserEntry
    )
}

struct Meter<'a> {
    symbols: &'a Symbols,
    costs: Costs,
    /// CR3 and CR4, by CPU.
    control: Vec<(u64, u64)>,
    filled: Vec<(CpuId, u64, Translation)>,
    /// Instructions so far, those that trapped included.
    now: u64,
    /// Where the primitives under way began.
    primitives: BTreeMap<CpuId, u64>,
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
        primitives: BTreeMap::new(),
        leaving: BTreeMap::new(),
    };
    let mut first = None;
    let mut trapped = 0;
    for (event, &completed) in trace.events.iter().zip(&trace.completed) {
        if first.is_none() {
            if !matches!(event.kind, Kind::StepBegin { .. }) {
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
        let costs = &mut self.costs;
        let Some((cr3, cr4)) = self.control.get_mut(usize::from(event.cpu.0)) else { return };
        match &event.kind {
            Kind::Invlpg { .. } => costs.invlpg += 1,
            Kind::Invpcid { kind, .. } => {
                if let Some(count) = costs.invpcid.get_mut(*kind as usize) {
                    *count += 1;
                }
            }
            Kind::LoadCr3 { value, .. } => {
                *cr3 = value & !NOFLUSH;
                let keeps = value & NOFLUSH != 0 && *cr4 & cr4::PCIDE != 0;
                let count = if keeps { &mut costs.cr3_kept } else { &mut costs.cr3_flushing };
                *count += 1;
            }
            Kind::WriteCr4 { old, new } => {
                *cr4 = *new;
                costs.cr4_toggles += u64::from((old ^ new) & cr4::PGE != 0);
            }
            Kind::StateStore { offset, old, new, .. } => self.state_store(*offset, *old, *new),
            Kind::Fill { translation, .. } => self.fill(event.cpu, translation),
            Kind::PrimitiveBegin(_) => {
                self.primitives.insert(event.cpu, self.now);
            }
            Kind::PrimitiveEnd(_) => {
                costs.primitives += 1;
                costs.primitive_instructions +=
                    self.now - self.primitives.remove(&event.cpu).unwrap_or(self.now);
            }
            Kind::Other { mnemonic } if mnemonic.contains("CR3") => {
                self.reads_cr3(event.cpu, event.rip)
            }
            Kind::UserEntry => self.user_entry(event.cpu),
            _ => {}
        }
    }

    fn state_store(&mut self, offset: u64, old: u64, new: u64) {
        if offset == USER_PCID_FLUSH_MASK {
            self.costs.marks_made += u64::from(new & !old != 0);
            self.costs.marks_consumed += u64::from(old & !new != 0);
        }
        let changed = &mut self.costs.changed;
        match changed.iter_mut().find(|(word, _)| *word == offset) {
            Some((_, bits)) => *bits |= old ^ new,
            None => changed.push((offset, old ^ new)),
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
