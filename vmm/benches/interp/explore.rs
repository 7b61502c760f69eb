//! How fast every interleaving of small programs of two CPUs is explored.

use crate::common::{Effort, Figures, timed};
use stalemate::executor::Backend;
use stalemate::explore::{Covered, Limits, explore};
use stalemate::kernel::steps::Guest;
use stalemate::runner::Runner;
use stalemate::scenario::{Selection, parse};

/// By name: what comes in order, and what comes in any.
const PROGRAMS: [(&str, &str, &str); 2] = [
    (
        "shootdown",
        "A map u0 red\nA user read u0\ncpu1 A user read u0",
        "A remap u0 blue\nA flush_tlb_one_user u0\ncpu1 A user read u0",
    ),
    (
        "lazy",
        "A map u0 red\nA user read u0\ncpu1 A user read u0",
        "A remap u0 blue\nA flush_tlb_one_user u0\ncpu1 lazy\ncpu1 A user read u0",
    ),
];

/// Explores each to the end: turns and states a second of CPU time, and bytes a state.
pub fn explorations(effort: Effort, guest: &Guest, figures: &mut Figures) {
    println!("\nexplore (pcid, split, pti), to the end");
    let limits = Limits {
        bound: None,
        states: effort.rounds_of(1_000_000),
        time: None,
        every_instruction: false,
    };
    let mut speeds = Vec::new();
    for (name, before, after) in PROGRAMS {
        let text = format!(
            "summary = \"{name}\"\nkernel = {{ pti = true }}\nsteps = \"\"\"\n{before}\nconcurrently:\n\
             {after}\n\"\"\"\n"
        );
        let scenario = parse(name, "bench.toml", &text).expect("a scenario");
        let runs = scenario.runs(&Selection::of(&["pcid".parse().expect("a CPU")]));
        let mut runner = Runner::new(guest, &Backend::interp());
        runner.boot(&runs[0].config).expect("it boots");
        let explored =
            timed(|| explore(&mut runner, &runs[0], &limits, &mut |_, _| {}).expect("it runs"));
        let (time, found) = explored;
        assert!(found.is_clean(), "{:?}", found.found);
        let whole = if found.covered == Covered::Complete { "complete" } else { "cut short" };
        let per = |count: u64| count as f64 / time.as_secs_f64();
        let counts = found.counts;
        speeds.push(per(counts.transitions));
        let about = format!(
            "{:.0} states/s of {}, {} bytes each, {whole}",
            per(counts.states),
            counts.states,
            counts.bytes as u64 / counts.states.max(1)
        );
        figures.detail(name, &format!("{:.0} turns/s", per(counts.transitions)), &about);
    }
    let mean = speeds.iter().sum::<f64>() / speeds.len() as f64;
    figures.print("explore, turns/s", &format!("{mean:.0}"), ">= 50000");
}
