//! `stalemate audit` as a user calls it.

use super::images::{bz_image, elf, gzip};
use super::kernel::{Does, User, kernel};
use super::layout::{A, data};
use super::scripts::{LINES, Lacks, call, done, tasks};
use crate::common::{stalemate, text};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Output;

/// A directory with files to audit, which goes with it.
pub struct Files(PathBuf);

impl Files {
    pub fn new(name: &str) -> Self {
        let place =
            std::env::temp_dir().join(format!("stalemate-audit-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&place).expect("a directory");
        let files = Self(place);
        files.put("initrd", &[]);
        files
    }

    pub fn put(&self, name: &str, contents: &[u8]) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, contents).expect("a file");
        path.to_string_lossy().into_owned()
    }

    /// What comes of an audit of this file.
    pub fn audit(&self, kernel: &[u8], more: &[&str]) -> Output {
        let (kernel, initrd) = (self.put("kernel", kernel), self.put("initrd", &[]));
        self.audit_named(&kernel, &initrd, more)
    }

    fn audit_named(&self, kernel: &str, initrd: &str, more: &[&str]) -> Output {
        let arguments = ["audit", "--kernel", kernel, "--initrd", initrd, "--ram", "32"];
        stalemate(&[&arguments[..], &["--cmdline-only", ""], more].concat())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_file_that_is_no_kernel_is_a_usage_error_that_says_what_would_be_right() {
    let files = Files::new("refused");
    let elf = elf();
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = elf.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    // The first program header.
    let segment = |field: usize, value: u64| changed(64 + field, &value.to_le_bytes());
    let mut old = bz_image(&elf);
    old[0x206] = 7;
    let mut large = bz_image(&elf);
    large.truncate(5000);
    let cases: [(&[u8], &str); 15] = [
        (b"", "neither a bzImage nor an ELF file: give a kernel as it is installed"),
        (b"#!/bin/sh\n", "neither a bzImage nor an ELF file: give a kernel as it is installed"),
        (b"\x7fELF", "not a readable 64-bit ELF file"),
        (&changed(18, &[183, 0]), "an ELF file for machine 183; this VMM runs x86-64 (62)"),
        (&changed(16, &[3, 0]), "an ELF file of type 3; a kernel is an executable (2)"),
        (&changed(56, &[0, 0]), "no PT_LOAD segment"),
        (&elf[..elf.len() - 1], "it is cut short"),
        (&segment(24, 0x1000), "segment 0 begins at physical 0x1000; a kernel begins at 0x100000"),
        (&segment(40, 40 << 20), "kernel and initramfs need 42 MiB, and --ram gives 32 MiB"),
        (&segment(40, u64::MAX), "kernel and initramfs need 17592186044416 MiB, and --ram"),
        (&segment(40, 1), "bytes in the file, and 0x1 in memory to hold them"),
        (&changed(24, &[0; 8]), "its first instruction is at 0x0, and no segment has that address"),
        (&old, "a bzImage of boot protocol 2.07; 2.08 or later is needed"),
        (&large, "a bzImage whose packed kernel ends at byte"),
        (&bz_image(b"BZh9"), "a bzImage packed with bzip2; zstd, lz4, gzip, xz and lzma are known"),
    ];
    for (file, sentence) in cases {
        let output = files.audit(file, &[]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{sentence}: {said}");
        assert!(said.contains(sentence), "no `{sentence}` in {said}");
        assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    }
    let mut packed = gzip(&elf);
    let middle = packed.len() / 2;
    packed[middle..].fill(0);
    let output = files.audit(&bz_image(&packed), &[]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("unpacking its gzip payload failed"), "{said}");
}

#[test]
fn what_does_not_fit_is_a_usage_error() {
    let files = Files::new("fit");
    let long = "x".repeat(2048);
    let cases: [(&[u8], &str, &str); 2] = [
        (&elf(), &long, "a command line of 2048 bytes; this kernel takes 2047"),
        (&bz_image(&elf()), &long[..101], "a command line of 101 bytes; this kernel takes 100"),
    ];
    for (file, line, sentence) in cases {
        let (kernel, initrd) = (files.put("kernel", file), files.put("initrd", &[]));
        let arguments = ["audit", "--kernel", &kernel, "--initrd", &initrd, "--cmdline-only", line];
        let output = stalemate(&arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(sentence), "{said}");
    }
    let (kernel, initrd) = (files.put("kernel", &elf()), files.put("large", &vec![0; 32 << 20]));
    let output = files.audit_named(&kernel, &initrd, &[]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("kernel and initramfs need 40 MiB, and --ram gives 32 MiB"), "{said}");
    for (kernel, initrd) in [("/nonexistent", &*initrd), (&*kernel, "/nonexistent")] {
        let output = files.audit_named(kernel, initrd, &[]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("/nonexistent"), "{}", text(&output.stderr));
    }
}

#[test]
fn what_an_audit_cannot_do_is_a_usage_error() {
    let files = Files::new("usage");
    for (more, sentence) in [
        (&["--cpu", "pcid", "--cpu", "nopcid"][..], "--cpu"),
        (&["--cpu", "all"], "an audit is made on one processor; see `stalemate list cpus`"),
        (&["--until", ""], "a value is required for '--until <TEXT>'"),
        (&["--tick", "0"], "0 is not in 1..=1000"),
        (&["--inject", "drop everything#1"], "drop everything#1"),
        (&["--cmdline", "quiet"], "cannot be used with"),
    ] {
        let output = files.audit(&elf(), more);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{more:?}: {said}");
        assert!(said.contains(sentence), "no `{sentence}` in {said}");
    }
}

#[test]
fn a_profile_is_read_from_a_file_or_there_is_none() {
    let files = Files::new("profile");
    let profile = files.put("wrong.toml", b"summary = \"x\"\nsymbols = \"boot\"\n");
    let output = files.audit(&elf(), &["--profile", &profile]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("wrong.toml:2:1") && said.contains("did you mean `symbol`?"), "{said}");
    let kernel = kernel(&tasks(Lacks::Nothing));
    let none = text(&files.audit(&kernel, &["--profile", "none"]).stdout);
    assert!(
        none.contains("profile        none: when a flush is due, the task alone says"),
        "{none}"
    );
    let of_linux = text(&files.audit(&kernel, &[]).stdout);
    let why = "profiles/linux.toml is not used: the kernel has no symbol `linux_banner`";
    assert!(of_linux.contains(why), "{of_linux}");
}

#[test]
fn a_clean_kernel_exits_with_zero_and_one_that_forgets_with_one() {
    let files = Files::new("exit");
    for (lacks, code, first) in [
        (Lacks::Nothing, 0, "clean: of 5 stores that took something away"),
        (Lacks::UserHalf, 1, "violation: 1 times a translation was still cached"),
    ] {
        let output = files.audit(&kernel(&tasks(lacks)), &[]);
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{out}");
        assert!(out.starts_with(first), "{out}");
        assert_eq!(out.contains("BUG: STALEMATE: stale-user-entry"), code == 1, "{out}");
        // The console is no part of the report.
        assert_eq!(text(&output.stderr), LINES.concat());
    }
}

#[test]
fn a_run_in_which_nothing_was_judged_is_no_success() {
    let files = Files::new("vacuous");
    let nothing = kernel(&[(A, vec![User::Read(data(0)), done()])]);
    let correct = kernel(&tasks(Lacks::Nothing));
    for (kernel, more, first) in [
        (&nothing, &[][..], "vacuous: nothing was ever stale"),
        (&correct, &["--until", "booted"], "vacuous: nothing was ever stale"),
        (&correct, &["--instructions", "20"], "stopped: the kernel did not run to user mode"),
        (&correct, &["--inject", "drop invlpg#9"], "not-applied: a fault"),
    ] {
        let output = files.audit(kernel, more);
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{out}");
        assert!(out.starts_with(first), "{out}");
    }
}

#[test]
fn a_run_ends_with_the_text_that_is_waited_for_or_after_so_many_instructions() {
    let files = Files::new("until");
    let correct = kernel(&tasks(Lacks::Nothing));
    let report = |more: &[&str]| {
        let output = files.audit(&correct, &[&["--format", "json"], more].concat());
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (report, text(&output.stderr))
    };
    let (said, console) = report(&["--until", "other space"]);
    assert_eq!((&said["end"], &said["verdict"]), (&"said".into(), &"clean".into()));
    assert_eq!(console, format!("{}in the other space", LINES[0]));
    let (whole, console) = report(&["--until", "what it never prints"]);
    assert_eq!((&whole["end"], &*console), (&"reset".into(), &*LINES.concat()));
    let all = whole["instructions"].as_u64().expect("a number");
    let (part, console) = report(&["--instructions", &(all / 2).to_string()]);
    assert_eq!(part["end"], "instructions");
    assert!(LINES.concat().starts_with(&console) && console.len() < LINES.concat().len());
}

#[test]
fn two_runs_give_the_same_report_and_the_same_console() {
    let files = Files::new("twice");
    for lacks in [Lacks::Nothing, Lacks::Parked] {
        let run = || files.audit(&kernel(&tasks(lacks)), &["--format", "json", "--tick", "7"]);
        let (first, second) = (run(), run());
        assert_eq!(text(&first.stdout), text(&second.stdout));
        assert_eq!(text(&first.stderr), text(&second.stderr));
        assert!(!first.stdout.is_empty() && !first.stderr.is_empty());
    }
}

#[test]
fn a_finding_of_a_lower_grade_than_is_asked_for_is_no_failure() {
    let files = Files::new("grades");
    // The user half of the flush is forgotten, and nobody comes to the page any more.
    let unmap = call([Some(Does::Store(A.slot(0), 0)), Some(Does::Invlpg(data(0)))]);
    let held = kernel(&[(A, vec![User::Read(data(0)), unmap, done()])]);
    let used = kernel(&tasks(Lacks::UserHalf));
    for (kernel, grade, code) in
        [(&held, "used", 0), (&held, "held", 1), (&held, "speculative", 1), (&used, "used", 1)]
    {
        let output = files.audit(kernel, &["--fail-on", grade]);
        assert_eq!(output.status.code(), Some(code), "{grade}");
        assert!(text(&output.stdout).starts_with("violation: "), "{grade}");
    }
    let json = files.audit(&held, &["--format", "json"]);
    let report: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let finding = &report["findings"][0];
    assert_eq!((&finding["grade"], &finding["used_by"]), (&"held".into(), &Value::Null));
    let key = finding["key"].as_str().expect("a key");
    for (grade, code) in [("used", 0), ("held", 1)] {
        let bisected = files.audit(&held, &["--bisect", key, "--fail-on", grade]);
        assert_eq!(bisected.status.code(), Some(code), "{grade}");
    }
}

#[test]
fn a_page_is_written_and_nothing_that_is_read_is_overwritten() {
    let files = Files::new("page");
    let lacking = kernel(&tasks(Lacks::UserHalf));
    let page = files.0.join("page.html").to_string_lossy().into_owned();
    let output = files.audit(&lacking, &["--html", &page]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let written = std::fs::read_to_string(&page).expect("a page");
    assert!(written.contains("stale-user-entry") && written.ends_with("</html>\n"), "{written}");
    assert!(written.contains(&format!("<code>stalemate audit --kernel {}", files.0.display())));
    let kernel = files.put("kernel", &lacking);
    let output = files.audit(&lacking, &["--html", &kernel]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    assert_eq!(std::fs::read(&kernel).expect("the kernel"), lacking);
}

#[test]
fn recorded_events_are_judged_again_and_a_file_that_is_none_is_refused() {
    let files = Files::new("record");
    let path = files.0.join("events").to_string_lossy().into_owned();
    for (lacks, code, sentence) in [
        (Lacks::Nothing, 0, "the recorded events: no rule violated, as recorded"),
        (Lacks::UserHalf, 1, "the recorded events: stale-user-entry (1) violated, as recorded"),
    ] {
        let output = files.audit(&kernel(&tasks(lacks)), &["--record", &path]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        let replayed = stalemate(&["replay", &path]);
        let out = text(&replayed.stdout);
        assert_eq!(replayed.status.code(), Some(0), "{out}{}", text(&replayed.stderr));
        assert!(out.contains(sentence) && out.contains("an audit of kernel: "), "{out}");
        assert!(out.contains("to run the kernel again: stalemate audit --kernel "), "{out}");
    }
    let recorded = std::fs::read_to_string(&path).expect("a recording");
    let lines: Vec<&str> = recorded.lines().collect();
    // Without its store nothing was ever stale.
    let unmaps = |line: &&str| line.contains("TableStore") && line.contains("\"new\":0");
    let without: Vec<&str> = lines.iter().copied().filter(|line| !unmaps(line)).collect();
    assert!(without.len() < lines.len(), "{recorded}");
    let shorter = files.put("shorter", (without.join("\n") + "\n").as_bytes());
    let replayed = stalemate(&["replay", &shorter]);
    let out = text(&replayed.stdout);
    assert_eq!(replayed.status.code(), Some(1), "{out}");
    assert!(out.contains("no rule violated, recorded: stale-user-entry (1) violated"), "{out}");
    let second = lines[1].replacen("\"cpu\":0", "\"cpu\":9", 1);
    let half = &recorded[..lines[0].len() + lines[1].len() / 2];
    let version = recorded.replacen("\"audit\":1", "\"audit\":2", 1);
    let cases = [
        (half.to_owned(), "line 2 is not what `stalemate audit --record` writes"),
        (lines[..3].join("\n"), "it is cut short: after line 3 comes no line that says"),
        (
            format!("{}\n{second}\n", lines[0]),
            "line 2 is of cpu9, and processors are numbered below 1",
        ),
        (version, "a recording of version 2; this stalemate reads version 1"),
        (lines[0].replacen("\"kernel\":\"", "\"kernel\":\"\\u001b", 1), "`kernel` has control"),
        (format!("{}\n{}", lines[0], "x".repeat((1 << 20) + 1)), "line 2 is longer than 1048576"),
    ];
    for (contents, sentence) in cases {
        let broken = files.put("broken", contents.as_bytes());
        let output = stalemate(&["replay", &broken]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{sentence}: {said}");
        assert!(said.contains(sentence), "no `{sentence}` in {said}");
    }
    let picture = stalemate(&["replay", &path, "--html", &files.put("page", &[])]);
    assert_eq!(picture.status.code(), Some(2));
    assert!(text(&picture.stderr).contains("of which there is no picture"));
}
