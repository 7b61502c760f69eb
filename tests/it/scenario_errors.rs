//! What is wrong with a scenario is said with its place, and what would be right, before anything
//! boots.

use proptest::prelude::*;
use stalemate::scenario::{BUILTIN, CPUS, Selection, parse, suite};

fn error(text: &str) -> String {
    parse("s", "s.toml", text).expect_err("an error").to_string()
}

/// Whether the error points to a line and column.
fn is_at(error: &str, place: &str) -> bool {
    error.lines().any(|line| line.trim_start() == format!("--> s.toml:{place}"))
}

/// A file with these steps.
fn steps(steps: &str) -> String {
    format!("summary = \"s\"\nsteps = \"\"\"\n{steps}\n\"\"\"\n")
}

#[test]
fn a_diagnostic_underlines_the_word_and_says_what_would_be_right() {
    assert_eq!(
        error(&steps("map u0 red\nflush_tlb_one_usr u0")),
        "error: `flush_tlb_one_usr` is no verb\n \
         --> s.toml:4:1\n  \
         |\n4 | flush_tlb_one_usr u0\n  | ^^^^^^^^^^^^^^^^^\n  \
         |\n  \
         = help: did you mean `flush_tlb_one_user`?"
    );
}

#[test]
fn every_error_has_its_place_and_its_help() {
    for (text, place, message, help) in [
        (
            steps("map u0 red").replace("\"s\"", "\"a\\nb\""),
            "1:11",
            "a summary of more than one line",
            "a comment may say more",
        ),
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
        ("summary = \"s".into(), "1:13", "this string does not end", "close it"),
        ("steps = \"\"\"\nx\n".into(), "3:1", "this string does not end", "close it"),
        ("summary = \"s\"\nsummary = \"t\"".into(), "2:1", "this key is here twice", "leave one"),
        (steps("map u0 red") + "cpu = { pcidd = true }", "5:9", "unknown field", "pcid"),
        (steps("map u0 red") + "cpu = { pcid = 1 }", "5:16", "invalid type", "value or a list"),
        (steps("map u0 red") + "model = { seed = 1 }", "5:18", "no `seeded` fill", "add `seeded`"),
        (
            steps("map u0 red") + "model = { fill = \"seeded\", seed = \"1\" }",
            "5:35",
            "invalid type",
            "u64",
        ),
        (
            steps("map u0 red") + "model = { fill = \"lazy\" }",
            "5:18",
            "unknown value",
            "did you mean `lazy-a`",
        ),
        (steps("map u0 red") + "kernel = { policy = \"joind\" }", "5:21", "unknown value", "split"),
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
            "7:13",
            "`stale` is no rule",
            "stale-user-entry",
        ),
        (
            steps("map u0 red") + "[[fault]]\ninject = \"drop ipi\"",
            "6:10",
            "what must come of it is missing",
            "violates = []",
        ),
        (
            steps("map u0 red")
                + "[[fault]]\ninject = \"drop ipi\"\nviolates = []\nstops = \"hang\"",
            "8:9",
            "a guest that stops, and a set",
            "leave `stops` out",
        ),
        (
            steps("map u0 red") + "[[fault]]\ninject = \"drop ipi\"\nstops = \"hangs\"",
            "7:9",
            "unknown value",
            "did you mean `hang`",
        ),
    ] {
        let error = error(&text);
        let first = error.lines().next().unwrap_or_default();
        assert!(is_at(&error, place), "{place}: {error}");
        assert!(first.contains(message), "{message}: {error}");
        let last = error.lines().last().unwrap_or_default();
        assert!(last.contains("help: ") && last.contains(help), "{help}: {error}");
    }
}

#[test]
fn the_built_in_scenarios_are_right() {
    let scenarios = suite().unwrap_or_else(|error| panic!("{error}"));
    assert!(scenarios.len() >= 12);
    for scenario in scenarios {
        assert!(!scenario.summary.is_empty(), "{}", scenario.name);
    }
}

/// Lines that a person can write, whose places are not found by counting lines alone.
#[test]
fn places_are_right_with_other_line_ends_and_quotes() {
    let lines = "summary = \"s\"\nsteps = '''\nmap u0 red # é\nfoo u0\n'''\n";
    for text in [lines.to_owned(), lines.replace('\n', "\r\n"), lines.replace("'''", "\"\"\"")] {
        let error = error(&text);
        assert!(error.starts_with("error: `foo` is no verb") && is_at(&error, "4:1"), "{error}");
    }
    // The string does not begin with a line end.
    let error = error("summary = \"s\"\nsteps = \"\"\"map u0 red\nfoo u0\"\"\"\n");
    assert!(is_at(&error, "3:1"), "{error}");
}

#[test]
fn steps_written_with_escapes_are_named_by_their_text() {
    for text in [
        "summary = \"s\"\nsteps = \"\"\"\nmap u0 red # \\\\\\\\ é\nfoo u0\n\"\"\"\n",
        "summary = \"s\"\nsteps = \"map u0 red\\nfoo u0\"\n",
    ] {
        let error = error(text);
        assert!(error.starts_with("error: in the step `foo u0`: "), "{error}");
        assert!(is_at(&error, "2:9"), "{error}");
    }
}

#[test]
fn what_can_never_happen_is_an_error() {
    let fault =
        |when: &str| format!("[[fault]]\ninject = \"drop mark\"\nwhen = {when}\nviolates = []");
    for (text, place, message, help) in [
        (
            steps("map u0 red") + "cpu = { pcid = false }\n" + &fault("{ pcid = true }"),
            "8:8",
            "matches no run",
            "no run has this `pcid`",
        ),
        (
            steps("map u0 red") + &fault("{ pti = false, pge = true, global = false }"),
            "7:8",
            "matches no run",
            "never hold together",
        ),
        (
            steps("map u0 red") + "[[verdict]]\nwhen = { fill = \"on-demand\" }\nviolates = []",
            "6:8",
            "matches no run",
            "no run has this `fill`",
        ),
        (
            steps("map u0 red")
                + "[[verdict]]\nwhen = { pcid = true }\nviolates = []\n"
                + "[[verdict]]\nwhen = { pcid = true, pti = true }\nviolates = []",
            "9:8",
            "no run is judged by this `when`",
            "put it before",
        ),
        (
            steps("map u0 red") + "cpu = { pge = true }\nkernel = { pti = false, global = false }",
            "6:34",
            "no CPU runs this",
            "agree",
        ),
        (
            steps("map u0 red") + "[[fault]]\ninject = []\nviolates = []",
            "6:10",
            "no fault to inject",
            "drop mark#1",
        ),
    ] {
        let error = error(&text);
        assert!(is_at(&error, place), "{place}: {error}");
        assert!(error.contains(message) && error.contains(help), "{message}, {help}: {error}");
    }
}

#[test]
fn a_near_miss_is_recognised() {
    for (text, help) in [
        (steps("map u0 rde"), "did you mean `red`?"),
        (steps("map u0 red\nuser read u0 -> fualt"), "did you mean `fault`?"),
        (steps("misbehave tripple-fault"), "did you mean `triple-fault`?"),
        (steps("read u0"), "`user read …`"),
        (steps("b switch_mm"), "a letter from A to L"),
        (steps("map u0 red").replace("summary", "sumary"), "did you mean `summary`?"),
        (steps("map u0 red") + "kernel = { policy = \"splt\" }", "did you mean `split`?"),
        (
            steps("map u0 red") + "[[fault]]\ninject = \"drop invlgp\"\nviolates = []",
            "did you mean `invlpg`?",
        ),
        (
            steps("map u0 red") + "[[fault]]\ninject = \"drop mark\"\nviolates = [\"lost-marks\"]",
            "did you mean `lost-mark`?",
        ),
    ] {
        let error = error(&text);
        assert!(error.contains(help), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A built-in file with a few bytes exchanged is read or refused, never a panic, and what is
    /// said of it can be shown.
    #[test]
    fn no_text_is_a_panic(
        which in 0..BUILTIN.len(),
        edits in prop::collection::vec((0.0..1.0, 0..6_usize, "[ -~]|[\"'\\\\#\n\ré→]"), 1..5),
    ) {
        let mut text: Vec<char> = BUILTIN[which].1.chars().collect();
        for (at, removed, inserted) in edits {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let at = (text.len() as f64 * at) as usize;
            let end = (at + removed).min(text.len());
            text.splice(at..end, inserted.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(error) = parse("s", "s.toml", &text) {
            prop_assert!(error.line >= 1 && error.line <= text.matches('\n').count() + 1);
            prop_assert!(!error.message.is_empty() && !error.help.is_empty());
            prop_assert!(error.to_string().contains("--> s.toml:"));
        }
    }
}

#[test]
fn fills_and_seeds_expand_into_a_matrix() {
    let text = steps("map u0 red")
        + "cpu = { pcid = false, invpcid = false, pge = false }\nkernel = { pti = true }\n\
           model = { fill = [\"lazy-a\", \"seeded\"], seed = [4, 5] }";
    let scenario = parse("s", "s.toml", &text).unwrap_or_else(|error| panic!("{error}"));
    let selection = Selection::of(&CPUS);
    let shown: Vec<String> =
        scenario.runs(&selection).iter().map(|run| run.config.to_string()).collect();
    assert_eq!(
        shown,
        [
            "nopcid-nopge split pti lazy-a",
            "nopcid-nopge split pti seeded 4",
            "nopcid-nopge split pti seeded 5"
        ]
    );
}
