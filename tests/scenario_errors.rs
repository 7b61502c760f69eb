//! What is wrong with a scenario is said with its place, and what would be right, before anything
//! boots.
#![allow(missing_docs)]

use stalemate::scenario::{builtin, parse};

fn error(text: &str) -> String {
    parse("s", "s.toml", text).expect_err("an error").to_string()
}

/// A file with these steps.
fn steps(steps: &str) -> String {
    format!("summary = \"s\"\nsteps = \"\"\"\n{steps}\n\"\"\"\n")
}

#[test]
fn a_diagnostic_underlines_the_word_and_says_what_would_be_right() {
    assert_eq!(
        error(&steps("map u0 red\nflush_tlb_one_usr u0")),
        "s.toml:4:1: `flush_tlb_one_usr` is no verb\n  \
         |\n4 | flush_tlb_one_usr u0\n  | ^^^^^^^^^^^^^^^^^\n  \
         = help: did you mean `flush_tlb_one_user`?"
    );
}

#[test]
fn every_error_has_its_place_and_its_help() {
    for (text, place, message, help) in [
        (steps("map u99 red"), "3:5", "`u99` is no page", "u0..u15"),
        (steps("map u0 pink"), "3:8", "`pink` is no frame", "red, blue"),
        (steps("map h0 yellow"), "3:8", "`yellow` is no frame", "red, blue, green"),
        (steps("map u0 red\nmap u0 blue"), "4:1", "mapped already", "remap"),
        (steps("unmap u0"), "3:1", "not mapped here", "`map` it"),
        (steps("A map u0 red\nB remap u0 blue"), "4:1", "not mapped here", "this address space"),
        (steps("flush_tlb_one_user k0"), "3:20", "kernel page", "flush_tlb_one_kernel"),
        (steps("flush_tlb_one_kernel u0"), "3:22", "user page", "flush_tlb_one_user"),
        (steps("flush_tlb_range u3..u0"), "3:17", "no range", "u0..u3"),
        (steps("user read u0 -> pink"), "3:17", "nothing that can be read", "fault"),
        (steps("user read"), "3:6", "a page is missing", "add"),
        (steps("user nop now"), "3:10", "one word too many", "leave it out"),
        (steps("misbehave wildly"), "3:11", "no way to misbehave", "triple-fault"),
        (steps("# nothing"), "2:9", "no steps", "one step a line"),
        (steps("map u0 red").replace("summary", "sumary"), "1:1", "unknown field", "summary"),
        ("summary = 1\nsteps = \"x\"".into(), "1:11", "invalid type", "string"),
        ("summary = \"s\"".into(), "1:1", "missing field", "steps"),
        ("summary = \"s".into(), "1:13", "invalid basic string", "expected"),
        (steps("map u0 red") + "cpu = { pcidd = true }", "5:9", "unknown field", "pcid"),
        (steps("map u0 red") + "cpu = { pcid = 1 }", "5:16", "invalid type", "value or a list"),
        (
            steps("map u0 red") + "kernel = { policy = \"joind\" }",
            "5:21",
            "unknown variant",
            "split",
        ),
        (
            steps("map u0 red") + "cpu = { pge = false }\nkernel = { global = true }",
            "6:21",
            "without PGE",
            "pge = true",
        ),
        (
            steps("map u0 red") + "[[fault]]\ninject = \"drop mrk\"\nviolates = []",
            "6:10",
            "`mrk` is no operation",
            "mark",
        ),
        (
            steps("map u0 red") + "[[fault]]\ninject = \"drop mark\"\nviolates = [\"stale\"]",
            "7:12",
            "`stale` is no rule",
            "stale-user-entry",
        ),
    ] {
        let error = error(&text);
        let first = error.lines().next().unwrap_or_default();
        assert!(first.starts_with(&format!("s.toml:{place}: ")), "{place}: {error}");
        assert!(first.contains(message), "{message}: {error}");
        let last = error.lines().last().unwrap_or_default();
        assert!(last.contains("help: ") && last.contains(help), "{help}: {error}");
    }
}

#[test]
fn the_built_in_scenarios_are_right() {
    let scenarios = builtin().unwrap_or_else(|error| panic!("{error}"));
    assert!(scenarios.len() >= 12);
    for scenario in scenarios {
        assert!(!scenario.summary.is_empty(), "{}", scenario.name);
    }
}
