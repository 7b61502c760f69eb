//! What both benches run: the same guest, configured the same.

use stalemate::arch::features::CpuFeatures;
use stalemate::arch::tlb::{Fill, TlbModel};
use stalemate::event::{Event, Observer, TraceHeader};
use stalemate::machine::{SessionConfig, StepInput};
use stalemate::scenario::{Scenario, builtin, parse};
use stalemate_shared::boot::{Policy, options};

/// For events that nobody wants.
pub struct Nobody;

impl Observer for Nobody {
    fn begin(&mut self, _: &TraceHeader) {}
    fn event(&mut self, _: &Event) {}
}

/// `split` with PTI on a processor with PCIDs and without INVPCID, worst-case fills.
pub fn config() -> SessionConfig {
    SessionConfig {
        features: CpuFeatures {
            pcid: true,
            invpcid: false,
            pge: true,
            smep: false,
            gib_pages: true,
        },
        policy: Policy::Split,
        options: options::PTI,
        model: TlbModel { fill: Fill::WorstCase, structure_caches: true, seed: 0 },
        cpus: 1,
        schedule: stalemate::machine::Schedule::InOrder,
    }
}

/// The built-in scenarios that fit it.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = builtin().expect("the built-in scenarios");
    all.retain(|scenario| scenario.pcid != [false] && scenario.global != Some(true));
    all
}

/// Steps as a scenario writes them.
pub fn steps(text: &str) -> Vec<StepInput> {
    let text = format!("summary = \"s\"\nsteps = \"\"\"\n{text}\n\"\"\"\n");
    let scenario = parse("bench", "bench", &text).expect("a scenario");
    scenario.steps.iter().map(|step| step.input).collect()
}
