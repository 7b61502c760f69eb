//! The report as JSON; its schema is docs/report.schema.json.

use super::Results;
use crate::arch::addr::Gva;
use crate::arch::tlb::{Fill, Tag};
use crate::inject::Interrupt;
use crate::machine::Schedule;
use crate::oracle::{Obligation, State, Violation};
use crate::runner::{Difference, RunResult, SweepResult};
use crate::scenario::{Expected, Stops};
use serde_json::{Value, json as value};

/// Version of the schema. Rises when a field changes its meaning or is removed.
pub const SCHEMA_VERSION: u32 = 1;

/// The whole report.
#[must_use]
pub fn json(results: &Results<'_>) -> Value {
    let runs: Vec<Value> = results.results.iter().map(|result| run(results, result)).collect();
    let differences: Vec<Value> =
        results.differences.iter().map(|found| difference(results, found)).collect();
    value!({
        "schema": SCHEMA_VERSION,
        "stalemate": env!("CARGO_PKG_VERSION"),
        "executor": results.executor(),
        "differences": differences,
        "possible_runs": results.possible,
        "as_expected": results.all_as_expected(),
        "runs": runs,
    })
}

fn difference(results: &Results<'_>, found: &Difference) -> Value {
    let scenario = &results.scenarios[found.run.scenario];
    value!({
        "scenario": scenario.name,
        "event": found.seq,
        "command": results.command(&found.run),
        "sides": found.sides.iter().map(|side| value!({
            "executor": side.executor,
            "event": side.event,
            "instruction": side.instruction,
        })).collect::<Vec<_>>(),
    })
}

fn run(results: &Results<'_>, result: &RunResult) -> Value {
    let scenario = results.scenario(result);
    let config = &result.run.config;
    let expected = match &result.run.expected {
        Expected::Clean | Expected::Stops(_) => value!([]),
        Expected::Violates(rules) => value!(rules),
        Expected::Unstated => Value::Null,
    };
    let expected_stop = match &result.run.expected {
        Expected::Stops(Stops::Hang) => Some("hang"),
        Expected::Stops(Stops::Crash) => Some("crash"),
        _ => None,
    };
    let faults: Vec<String> = result.run.faults.iter().map(ToString::to_string).collect();
    let schedule = match config.schedule {
        Schedule::InOrder => value!({ "kind": "in-order" }),
        Schedule::Events(seed) => value!({ "kind": "events", "seed": seed }),
        Schedule::Instructions(seed) => value!({ "kind": "instructions", "seed": seed }),
    };
    value!({
        "scenario": scenario.name,
        "file": scenario.file,
        "cpu": config.cpu.name,
        "policy": config.policy,
        "pti": config.pti,
        "kernel_global": config.kernel_global(),
        "fill": config.fill.name(),
        "seed": config.seed,
        "variant": config.variant.map(|variant| variant.about().name),
        "cpus": config.cpus,
        "schedule": schedule,
        "faults": faults,
        "expected_violations": expected,
        "expected_stop": expected_stop,
        "outcome": result.outcome,
        "as_expected": result.as_expected,
        "violations": result.violations.iter()
            .map(|violation| self::violation(results, violation)).collect::<Vec<_>>(),
        "obligations": result.obligations.iter()
            .map(|owed| obligation(results, owed)).collect::<Vec<_>>(),
        "mismatches": result.mismatches,
        "faults_not_fired": result.not_fired,
        "stop": result.stop.as_ref().map(|(stop, vcpu)| value!({
            "why": stop.to_string(),
            "at": results.symbols.locate(vcpu.rip()),
        })),
        "sweep": result.sweep.as_ref().map(|found| sweep(results, found)),
        "big_hammers": result.hammers.0,
        "needless_flushes": result.needless,
        "live_entries_lost": if config.fill == Fill::OnDemand {
            value!(result.hammers.1)
        } else {
            Value::Null
        },
        "events": result.counts,
        "command": results.command(&result.run),
    })
}

fn sweep(results: &Results<'_>, sweep: &SweepResult) -> Value {
    value!({
        "interrupt": match sweep.interrupt {
            Interrupt::Nmi => "nmi",
            Interrupt::Irq => "irq",
        },
        "tried": sweep.swept.tried,
        "held": sweep.swept.held,
        "undelivered": sweep.swept.undelivered,
        "cut_short": sweep.swept.cut_short,
        "failing": sweep.failing.iter().map(|failing| value!({
            "step": failing.step,
            "first": results.symbols.locate(failing.first),
            "last": results.symbols.locate(failing.last),
            "boundaries": failing.boundaries,
            "outcome": failing.outcome,
            "rules": failing.rules,
        })).collect::<Vec<_>>(),
    })
}

fn violation(results: &Results<'_>, violation: &Violation) -> Value {
    let at = |rip: Gva| results.symbols.locate(rip);
    value!({
        "rule": violation.rule,
        "message": violation.message,
        "event": violation.seq,
        "cpu": violation.cpu,
        "step": violation.step,
        "at": at(violation.rip),
        "entry": violation.entry.as_ref().map(|(tag, entry)| value!({
            "tag": tag.to_string(),
            "translation": entry.translation,
        })),
        "structure": violation.structure.as_ref().map(|structure| value!({
            "tag": Tag::Pcid(structure.pcid).to_string(),
            "level": structure.level,
            "base": structure.base,
            "table": structure.table,
        })),
        "walk": violation.walk.as_ref().map(|walk| value!({
            "root": walk.root,
            "levels": walk.path.iter().map(|step| value!({
                "level": step.level, "slot": step.slot, "entry": step.entry,
            })).collect::<Vec<_>>(),
            "result": walk.result,
        })),
        "store": violation.downgrade.map(|store| value!({
            "event": store.seq,
            "step": store.step,
            "slot": store.slot,
            "old": store.old,
            "new": store.new,
            "at": at(store.rip),
        })),
        "asked": violation.asked.map(|asked| value!({
            "primitive": asked.primitive.name(),
            "step": asked.step,
        })),
        "deadline": violation.deadline,
        "missed": violation.missed.iter().map(|missed| value!({
            "event": missed.seq, "what": missed.what, "why": missed.why, "at": at(missed.rip),
        })).collect::<Vec<_>>(),
        "because": violation.because.map(|(seq, rip, what)| value!({
            "event": seq, "what": what, "at": at(rip),
        })),
    })
}

fn obligation(results: &Results<'_>, owed: &Obligation) -> Value {
    let (state, by, event) = match owed.state {
        State::Open => ("open", Value::Null, Value::Null),
        State::Discharged { by, seq, .. } => ("discharged", value!(by), value!(seq)),
        State::Violated { rule, seq } => ("violated", value!(rule), value!(seq)),
    };
    value!({
        "page": owed.page,
        "cpu": owed.cpu,
        "tag": owed.tag.to_string(),
        "made_by_event": owed.downgrade.seq,
        "made_in_step": owed.downgrade.step,
        "made_at": results.symbols.locate(owed.downgrade.rip),
        "state": state,
        "by": by,
        "event": event,
    })
}
