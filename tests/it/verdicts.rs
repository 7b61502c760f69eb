//! What a run is said to have come to, against what its scenario says, and how to have it again.

use crate::common::{fails, stalemate, text};

const MARK: &str = "user-flush-on-next-return";

#[test]
fn a_guest_that_must_stop_is_held_to_how() {
    let path = format!("{}/stops.toml", env!("CARGO_TARGET_TMPDIR"));
    let exit = |steps: &str, row: &str| {
        let cpu = "cpu = { pcid = true, invpcid = false }";
        let kernel = "kernel = { pti = true, variant = \"narrow-mask\" }";
        let kernel = if row.contains("verdict") { kernel } else { "" };
        let summary = "summary = \"a test\"";
        let file = format!("{summary}\n{cpu}\n{kernel}\nsteps = \"\"\"\n{steps}\n\"\"\"\n{row}\n");
        std::fs::write(&path, file).expect("ours");
        let line = format!("run {path} --executor interp --policy split --cpu pcid");
        let output = stalemate(&line.split(' ').collect::<Vec<_>>());
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let shot = "A map u0 red\nA user read u0 -> red\ncpu1 A user read u0 -> red\n\
                cpu0 A remap u0 blue\ncpu0 A flush_tlb_one_user u0\n\
                cpu1 A user read u0 -> blue";
    // A mark that goes astray hits what the kernel has beside the mask.
    let astray = "C switch_mm\nE switch_mm\nF switch_mm\nflush_tlb_all";
    let unmarked = "A map u0 red\nA user read u0 -> red\nA remap u0 blue\n\
                    A flush_tlb_one_user u0\nA user read u0";
    let stopped = "stops.toml:9), within flush_tlb_one_user\n";
    for (steps, row, expected, said) in [
        (
            shot,
            "[[fault]]\ninject = \"drop ipi\"\nstops = \"hang\"",
            0,
            "2 injected faults caught (hang)",
        ),
        (shot, "[[fault]]\ninject = \"drop ipi\"\nstops = \"crash\"", 1, stopped),
        (shot, "[[fault]]\ninject = \"early ack\"\nstops = \"hang\"", 1, "but a hang was expected"),
        (
            shot,
            "[[fault]]\ninject = \"early ack\"\nviolates = [\"stale-remote-entry\"]",
            0,
            "early ack: caught by stale-remote-entry, as the file says",
        ),
        (
            astray,
            "[[verdict]]\nwhen = { policy = \"split\" }\nstops = \"crash\"",
            0,
            "ends in a crash, as the file",
        ),
        (astray, "[[verdict]]\nwhen = { policy = \"split\" }\nstops = \"hang\"", 1, "a hang was"),
        (
            unmarked,
            "[[verdict]]\nwhen = { policy = \"split\" }\nstops = \"crash\"",
            1,
            "a crash was",
        ),
    ] {
        let (code, output) = exit(steps, row);
        assert_eq!(code, Some(expected), "{row}: {output}");
        assert!(output.contains(said), "{row}: {output}");
    }
}

/// The runs that are not as expected, each from its headline to the command that does it again.
fn unexpected(report: &str) -> Vec<String> {
    let end = "  again: ";
    let runs = report.split("unmap on ").filter_map(|run| {
        let (facts, command) = run.split_once(end)?;
        Some([facts, end, command.lines().next()?].concat())
    });
    runs.collect()
}

#[test]
fn the_command_that_does_it_again_does_it_again() {
    let directory = format!("{}/scenarios with blanks", env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&directory).expect("a directory");
    // Called like a built-in one, and another: nothing is flushed, and that is expected only without
    // isolation; one fault does harm though it must not, the other is expected to and does not.
    let path = format!("{directory}/unmap.toml");
    let text = r#"
summary = "s"
cpu = { pcid = true, invpcid = false }
steps = """
map u0 red
map u1 red
user read u0 -> red
remap u0 blue
flush_tlb_one_user u0
user read u0 -> blue
remap u1 blue
user read u1 -> blue
"""

[[fault]]
inject = "drop mark#1"
when = { pti = true }
violates = []

[[fault]]
inject = "repeat mark#1"
when = { pti = true }
violates = ["stale-user-entry"]

[[verdict]]
when = { pti = false }
violates = ["never-flushed"]
"#;
    std::fs::write(&path, text).expect("a file");
    let said = |arguments: &[&str]| {
        let output = stalemate(&[arguments, &["--executor", "interp"]].concat());
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stdout).expect("text")
    };
    let runs = unexpected(&said(&["run", &path, "--cpu", "pcid"]));
    assert_eq!(runs.len(), 3, "{runs:#?}");
    for run in runs {
        let again = run.lines().find_map(|line| line.trim().strip_prefix("again: stalemate "));
        let words = crate::common::words(again.expect("a command"));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(unexpected(&said(&words)), [run]);
    }
}

#[test]
fn every_again_line_of_a_sample_repeats_its_verdict() {
    // Headlines of runs that are not as expected, with the commands below them.
    let of = |report: &str| -> Vec<(String, String)> {
        let mut headline = String::new();
        let mut found = Vec::new();
        for line in report.lines() {
            if line.contains(" on ") && line.contains(" (no scenario says what comes of --inject)")
            {
                headline = line.to_owned();
            }
            if let Some(command) = line.strip_prefix("  again: stalemate ") {
                found.push((std::mem::take(&mut headline), command.to_owned()));
            }
        }
        found
    };
    let mut repeated = 0;
    for line in [
        "unmap --cpu pcid --inject \"drop invlpg#1\"",
        "shootdown --cpu pcid,nopcid --inject \"drop ipi#1\"",
        "shootdown --cpu pcid-invpcid --inject \"early ack\" --schedule events --seed 3",
        "nmi-flush --cpu pcid --executor interp --inject nmi@each#6",
        "nmi-flush --cpu pcid --inject nmi@each#6",
        "seeded --cpu pcid --inject \"drop invlpg\"",
        "matrix/move/lazy --cpu pcid --inject \"drop invlpg\"",
        "user-flush-on-next-return --cpu pcid --inject \"drop mark#9\"",
    ] {
        let words = crate::common::words(&format!("run {line}"));
        let output = stalemate(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let runs = of(&text(&output.stdout));
        let code = if runs.is_empty() { 0 } else { 1 };
        assert_eq!(output.status.code(), Some(code), "{line}: {}", text(&output.stdout));
        for (headline, command) in runs {
            let words = crate::common::words(&command);
            let output = stalemate(&words.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(output.status.code(), Some(1), "{command}");
            assert_eq!(of(&text(&output.stdout)), [(headline, command)]);
            repeated += 1;
        }
    }
    assert!(repeated >= 10, "{repeated} runs were not as expected");
}

#[test]
fn a_hang_says_who_waits_for_whom_and_that_the_ipi_was_dropped() {
    let arguments = ["run", "shootdown", "--cpu", "pcid", "--inject", "drop ipi#1"];
    let said = text(&stalemate(&arguments).stdout);
    let waits = "  cpu0 is in flush_tlb_one_user and does not go on, while cpu1 has yet to remove ";
    assert!(said.contains(waits), "{said}");
    assert!(said.contains("  before that the fault `drop ipi#1` was injected\n"), "{said}");
}

#[test]
fn a_fault_of_a_file_can_be_selected_and_must_be_there() {
    let run =
        |case| stalemate(&["run", MARK, "--cpu", "pcid", "--policy", "split", "--case", case]);
    let caught = text(&run("1").stdout);
    let said = "1 run, as the scenarios say: 1 injected fault caught\n(stale-user-entry).\n";
    assert!(caught.contains(said), "{caught}");
    assert!(
        caught.contains("\ndrop mark#1: caught by stale-user-entry, as the file says\n"),
        "{caught}"
    );
    let said = fails(&["run", MARK, "--case", "99"], 2);
    assert!(said.contains("there is no fault 99"), "{said}");
}

#[test]
fn what_the_selection_leaves_out_is_said() {
    let directory = env!("CARGO_TARGET_TMPDIR");
    let path = format!("{directory}/left-out.toml");
    let text = "summary = \"s\"\nsteps = \"\"\"\nmap u0 red\nuser read u0 -> red\nunmap u0\n\
                flush_tlb_one_user u0\nuser read u0 -> fault\n\"\"\"\n\
                [[fault]]\ninject = \"drop invlpg\"\nwhen = { policy = \"joined\" }\n\
                violates = [\"stale-kernel-entry\"]\n";
    std::fs::write(&path, text).expect("a file");
    let said = |more: &[&str]| {
        let output = stalemate(&[&["run", &path, MARK][..], more].concat());
        String::from_utf8(output.stdout).expect("text")
    };
    let of_cpu = said(&["--cpu", "nopcid"]);
    let unfit = format!("left out, since no selected CPU fits: {MARK}\n");
    assert!(of_cpu.contains(&unfit), "{of_cpu}");
    let one = "left-out: left out, since it runs only with --policy joined: fault 1\n";
    assert!(of_cpu.contains(one), "{of_cpu}");
    let of_policy = said(&["--cpu", "pcid", "--policy", "eager"]);
    let many = "left out, since the scenarios say nothing of them under eager: ";
    assert!(of_policy.contains(many), "{of_policy}");
    let none = said(&["--cpu", "pcid", "--policy", "split", "--inject", "drop invlpg#1"]);
    assert!(!none.contains("left out"), "{none}");
}

/// What the program says of a file with these steps on one processor, and its exit code.
fn judged(steps: &str, rows: &str, more: &[&str]) -> (Option<i32>, String) {
    let path = format!("{}/judged.toml", env!("CARGO_TARGET_TMPDIR"));
    let head = "summary = \"s\"\ncpu = { pcid = true, invpcid = false }\nkernel = { pti = true }";
    std::fs::write(&path, format!("{head}\nsteps = \"\"\"\n{steps}\n\"\"\"\n{rows}\n"))
        .expect("a file");
    let output =
        stalemate(&[&["run", &path, "--executor", "interp", "--cpu", "pcid"], more].concat());
    (output.status.code(), text(&output.stdout))
}

#[test]
fn what_was_expected_and_what_was_not_is_said_by_name() {
    let steps = "map u0 red\nuser write u0 1\nprotect u0 ro\nflush_tlb_one_user u0\n\
                 user write u0 2 -> fault";
    let row = |violates| format!("[[fault]]\ninject = \"drop mark\"\nviolates = [{violates}]");
    for (violates, code, said) in [
        ("\"stale-user-entry\"", 0, "violation, as expected"),
        (
            "\"stale-kernel-entry\"",
            1,
            "but stale-kernel-entry was expected and stale-user-entry was not",
        ),
        ("\"stale-user-entry\", \"lost-mark\"", 1, "but lost-mark was expected"),
        ("", 1, "but clean was expected"),
    ] {
        let (exit, report) = judged(steps, &row(violates), &["--case", "1", "-v"]);
        assert_eq!(exit, Some(code), "{report}");
        assert!(report.contains(said), "{report}");
        // What the file names was caught, whatever else was not as expected.
        let caught = report.contains("caught[stale-user-entry]");
        assert_eq!(caught, violates.contains("stale-user-entry"), "{report}");
        assert!(report.contains("the store goes through, with the old rights"), "{report}");
        assert!(report.contains(":9): got no fault, the store went through"), "{report}");
    }
    let (exit, report) = judged(steps, "", &["--inject", "drop mark"]);
    assert_eq!(exit, Some(1));
    assert!(report.contains("violation (no scenario says what comes of --inject)"), "{report}");
}
