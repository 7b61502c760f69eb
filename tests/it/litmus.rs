//! Litmus tests of address translation: what an access may see between a store to a page table and the
//! flush, and what it must see after it. In the manner of the enhanced litmus tests of Hossain, Trippel
//! and Martonosi, "TransForm" (ISCA 2020); the tests are this project's own.

use crate::common::{Rig, config};
use stalemate::arch::tlb::Fill;
use stalemate::executor::Backend;
use stalemate::runner::Outcome;
use stalemate::scenario::{Policy, RunConfig};
use std::collections::BTreeSet;

/// Steps whose last one is an access; what it may see, and how many of these some fill does show.
const TESTS: [(&str, &str, &str, usize); 12] = [
    (
        "a new mapping is seen without a flush",
        "user read u1 -> fault\nmap u0 red\nuser read u0",
        "red",
        1,
    ),
    (
        "a remapped page before its flush",
        "map u0 red\nuser read u0 -> red\nremap u0 blue\nuser read u0",
        "red|blue",
        1,
    ),
    (
        "a remapped page after its flush",
        "map u0 red\nuser read u0 -> red\nremap u0 blue\nflush_tlb_one_user u0\nuser read u0",
        "blue",
        1,
    ),
    (
        "a page that nobody read before it was remapped",
        "map u0 red\nremap u0 blue\nuser read u0",
        "red|blue",
        2,
    ),
    (
        "an unmapped page before its flush",
        "map u0 red\nuser read u0 -> red\nunmap u0\nuser read u0",
        "red|fault",
        1,
    ),
    ("an unmapped page that nobody read", "map u0 red\nunmap u0\nuser read u0", "red|fault", 2),
    (
        "an unmapped page after its flush",
        "map u0 red\nunmap u0\nflush_tlb_one_user u0\nuser read u0",
        "fault",
        1,
    ),
    (
        "another CPU before the flush",
        "map u0 red\ncpu1 user read u0 -> red\ncpu0 remap u0 blue\ncpu1 user read u0",
        "red|blue",
        1,
    ),
    (
        "another CPU after the flush",
        "map u0 red\ncpu1 user read u0 -> red\ncpu0 remap u0 blue\ncpu0 flush_tlb_one_user u0\ncpu1 user read u0",
        "blue",
        1,
    ),
    (
        "a second page of the same frame",
        "map u0 red\nmap u1 red\nuser write u0 7\nuser read u1",
        "7",
        1,
    ),
    (
        "a store through what was mapped before",
        "map u0 red\nmap u1 red\nuser write u0 7\nremap u0 blue\nuser write u0 9\nuser read u1",
        "7|9",
        1,
    ),
    (
        "a store after the flush",
        "map u0 red\nmap u1 red\nuser write u0 7\nremap u0 blue\nflush_tlb_one_user u0\nuser write u0 9\nuser read u1",
        "7",
        1,
    ),
];

const FILLS: [Fill; 3] = [Fill::OnDemand, Fill::WorstCase, Fill::LazyA];

#[test]
fn what_an_access_may_see_it_sees_and_nothing_else() {
    let rig = Rig::new(Backend::interp());
    let run = |steps: &str, expected: &str, fill: Fill| {
        let text = format!(
            "summary = \"a litmus test\"\nconformance = true\nsteps = \"\"\"\n{steps} -> {expected}\n\"\"\"\n"
        );
        let scenario = stalemate::scenario::parse("litmus", "litmus.toml", &text);
        let scenario = scenario.unwrap_or_else(|error| panic!("{error}"));
        let cpus = scenario.cpus();
        rig.run(&scenario, RunConfig { cpus, fill, ..config("pcid", Policy::Split, false) }, &[])
    };
    for (name, steps, expected, shown) in TESTS {
        let mut seen = BTreeSet::new();
        for fill in FILLS {
            assert_eq!(run(steps, expected, fill).outcome, Outcome::Clean, "{name}, {fill:?}");
            let one =
                expected.split('|').filter(|one| run(steps, one, fill).outcome == Outcome::Clean);
            seen.extend(one);
        }
        assert_eq!(seen.len(), shown, "{name}: {seen:?}");
        assert_eq!(run(steps, "green", Fill::WorstCase).outcome, Outcome::Mismatch, "{name}");
    }
}
