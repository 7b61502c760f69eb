//! What no rule says of a run.

use super::counted;
use super::diagnosis::step_text;
use crate::arch::addr::CpuId;
use crate::arch::vcpu::Vcpu;
use crate::oracle::State;
use crate::runner::{Outcome, RunResult, StoppedIn};
use crate::scenario::Scenario;
use crate::symbols::Symbols;
use std::collections::BTreeMap;

/// Steps that came to something else, faults that never fired, why the guest could not go on, and
/// that nothing was ever stale: a line each.
#[must_use]
pub fn unexplained(symbols: &Symbols, scenario: &Scenario, result: &RunResult) -> Vec<String> {
    let mut lines = Vec::new();
    for mismatch in &result.mismatches {
        let step = step_text(scenario, Some(mismatch.step));
        lines.push(format!("{step} ({}): got {}", place(scenario, mismatch.step), mismatch.got));
    }
    for fault in &result.not_fired {
        lines.push(format!("fault `{fault}` never fired"));
    }
    for &step in &result.unreached {
        let text = step_text(scenario, Some(step));
        let what = match scenario.steps[step].input.op {
            Some(_) => "its `until` was never reached",
            None => "there is nothing to resume",
        };
        lines.push(format!("{text} ({}): {what}", place(scenario, step)));
    }
    if let Some((stop, vcpu)) = &result.stop {
        lines.push(stop.to_string());
        let StoppedIn { step, flush } = result.stopped_in;
        if step.is_some() {
            let within = flush.map_or_else(String::new, |it| format!(", within {}", it.name()));
            let at = step.map_or_else(String::new, |step| format!(" ({})", place(scenario, step)));
            lines.push(format!("in {}{at}{within}", step_text(scenario, step)));
        }
        lines.extend(waits(result, vcpu));
        // After a time-out the registers are those of the last trap.
        lines.push(format!("at {}", symbols.locate(vcpu.rip())));
        lines.extend(registers(vcpu));
    }
    if result.outcome == Outcome::NotAsAsked {
        let (asked, seen, say) = match result.run.config.pti {
            true => ("with page-table isolation", "user mode ran on the kernel's roots", "off"),
            false => ("without page-table isolation", "user mode ran on roots of its own", "on"),
        };
        lines.push(format!(
            "asked for a kernel {asked}, and {seen}: use `--pti {say}`, or say in the kernel's note what it \
             can do (docs/guest.md)"
        ));
    }
    if result.outcome == Outcome::Vacuous {
        let proves = "nothing was ever stale: the scenario proves nothing about flushes; change a \
                      page that was mapped before";
        lines.push(proves.to_owned());
    }
    lines
}

/// Of a guest that hangs in a flush: which CPU waits for which, and the faults that were injected before.
fn waits(result: &RunResult, vcpu: &Vcpu) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Outcome::Hang, Some(flush)) = (result.outcome, result.stopped_in.flush) {
        let open = result.obligations.iter().filter(|owed| owed.state == State::Open);
        let mut others: BTreeMap<CpuId, usize> = BTreeMap::new();
        for owed in open.filter(|owed| owed.cpu != vcpu.id) {
            *others.entry(owed.cpu).or_default() += 1;
        }
        for (other, count) in others {
            let entries = counted(count, "stale entry", "stale entries");
            lines.push(format!(
                "cpu{} is in {} and does not go on, while cpu{} has yet to remove {entries}",
                vcpu.id.0,
                flush.name(),
                other.0
            ));
        }
    }
    let fired = result.run.faults.iter().map(ToString::to_string);
    let fired = fired.filter(|fault| !result.not_fired.contains(fault));
    lines.extend(fired.map(|fault| format!("before that the fault `{fault}` was injected")));
    lines
}

/// A step's file and line, as editors and terminals know them.
fn place(scenario: &Scenario, step: usize) -> String {
    format!("{}:{}", scenario.file, scenario.file_line(scenario.steps[step].line))
}

/// The registers, in two lines.
pub fn registers(vcpu: &Vcpu) -> [String; 2] {
    let names = ["rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi"];
    let numbers = [0, 1, 2, 3, 5, 6, 7];
    let general =
        names.iter().zip(numbers).map(|(name, number)| format!("{name} {:#x}", vcpu.gpr[number]));
    [
        format!(
            "rip {:#x} rsp {:#x} rflags {:#x} cpl {} cr0 {:#x} cr2 {:#x} cr3 {:#x} cr4 {:#x}",
            vcpu.rip, vcpu.gpr[4], vcpu.rflags, vcpu.cpl, vcpu.cr0, vcpu.cr2, vcpu.cr3, vcpu.cr4
        ),
        general.collect::<Vec<_>>().join(" "),
    ]
}
