//! The command as a user runs it: output, exit codes, errors.

use crate::common::{command, fails, stalemate, text};
use serde_json::Value;
use stalemate::executor::REQUIRE_KVM;
use stalemate::oracle::rules;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

const NO_ELF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
const MARK: &str = "user-flush-on-next-return";

/// The executors that this host has.
fn executors() -> Vec<&'static str> {
    let rigs = crate::common::rigs();
    rigs.iter().map(|rig| rig.backend.name()).collect()
}

fn temporary(name: &str, contents: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("stalemate-{}-{name}", std::process::id()));
    std::fs::write(&path, contents).expect("a temporary file");
    path
}

#[test]
fn the_mark_scenario_with_the_mark_dropped_prints_its_witness() {
    let output = stalemate(&["run", MARK, "--cpu", "pcid", "--inject", "drop mark#1"]);
    assert_eq!(output.status.code(), Some(1));
    let out = text(&output.stdout);
    for line in [
        "error[stale-user-entry]: user mode is entered while PCID 0x801 still holds a stale entry",
        "entry: PCID 0x801: 0x410000 -> 0x1e0000",
        "walk: from root",
        "by stalemate_guest::paging::remap",
        "guest/src/paging/mod.rs:",
        "INVLPG 0x410000 under PCID 0x001: the entry is tagged PCID 0x801",
        "reads red, the old value",
        "(kernel half)",
        "discharged by invlpg",
        "again: stalemate run user-flush-on-next-return --cpu pcid",
    ] {
        assert!(out.contains(line), "no `{line}` in:\n{out}");
    }
}

#[test]
fn without_the_fault_the_report_shows_consume() {
    let arguments = ["run", MARK, "--cpu", "pcid", "--policy", "split", "--case", "0"];
    let short = text(&stalemate(&arguments).stdout);
    assert!(short.contains("all clean") && !short.contains("(user half)"), "{short}");
    let output = stalemate(&[&arguments[..], &["-v"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let out = text(&output.stdout);
    assert!(out.contains("(user half)") && out.contains("discharged by consume"), "{out}");
}

#[test]
fn two_runs_of_the_suite_print_the_same_bytes() {
    for executor in executors() {
        let run = || stalemate(&["run", "--executor", executor]);
        let (first, second) = (run(), run());
        assert_eq!(first.status.code(), Some(0), "{}", text(&first.stdout));
        assert_eq!(first.stdout, second.stdout);
        assert!(first.stderr.is_empty(), "nothing but the report outside a terminal");
    }
}

#[test]
fn both_executors_report_the_same_but_for_their_names() {
    let run = |executor| text(&stalemate(&["run", "--executor", executor]).stdout);
    let reports: Vec<String> = executors().into_iter().map(run).collect();
    let body = |report: &str| {
        let (_, rest) = report.split_once('\n').expect("a first line");
        rest.split("\n-v shows").next().expect("what comes before").to_owned()
    };
    assert!(reports.iter().all(|report| body(report) == body(&reports[0])));
}

#[test]
fn without_kvm_the_default_is_the_interpreter_and_one_line_says_so() {
    let output = stalemate(&["--kvm-device", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("executor interp"), "{}", text(&output.stdout));
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("running on the interpreter"), "{said}");
}

#[test]
fn stalemate_require_kvm_forbids_the_interpreter_instead() {
    let output =
        command(&["--kvm-device", "/nonexistent"]).env(REQUIRE_KVM, "1").output().expect("it runs");
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("STALEMATE_REQUIRE_KVM=1"), "{}", text(&output.stderr));
    let asked = ["run", MARK, "--executor", "interp", "--kvm-device", "/nonexistent"];
    let output = command(&asked).env(REQUIRE_KVM, "1").output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "what is asked for is no fallback");
}

#[test]
fn the_json_report_follows_its_schema() {
    let schema: Value =
        serde_json::from_str(include_str!("../../docs/report.schema.json")).expect("a schema");
    let stops = temporary("stops.toml", b"summary = \"s\"\nsteps = \"misbehave panic\"\n");
    for arguments in [
        &["run", "--format", "json", "--cpu", "pcid,nopcid"][..],
        &["run", MARK, "--format", "json", "--inject", "set noflush@return"],
        &["run", "zoo", "--format", "json", "--cpu", "pcid", "--executor", "interp"],
        &["run", "nmi-flush", "--format", "json", "--cpu", "pcid", "--inject", "nmi@each#5"],
        &["run", "two-shooters", "--format", "json", "--cpu", "pcid", "--schedule", "events"],
        &["run", &stops.to_string_lossy(), "--format", "json"],
    ] {
        let report: Value = serde_json::from_slice(&stalemate(arguments).stdout).expect("JSON");
        let errors = crate::common::schema::errors(&schema, &report);
        assert!(errors.is_empty(), "{errors:?}");
    }
    std::fs::remove_file(stops).expect("it was written");
    let mut broken: Value = serde_json::from_slice(
        &stalemate(&["run", MARK, "--cpu", "pcid", "--format", "json"]).stdout,
    )
    .expect("JSON");
    broken["runs"][0]["outcome"] = "fine".into();
    assert!(!crate::common::schema::errors(&schema, &broken).is_empty(), "the schema can refuse");
    let rules: Vec<&str> = rules::abouts().map(|rule| rule.name).collect();
    assert_eq!(schema["$defs"]["rule"]["enum"], serde_json::json!(rules));
}

#[test]
fn outcomes_that_are_not_as_expected_exit_with_1() {
    let idle = temporary("idle.toml", b"summary = \"s\"\nsteps = \"map u0 red\"\n");
    let output = stalemate(&["run", &idle.to_string_lossy(), "--cpu", "pcid"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("nothing was ever stale"), "{}", text(&output.stdout));
    let output = stalemate(&["run", MARK, "--cpu", "pcid-invpcid", "--inject", "drop mark#9"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("`drop mark#9` never fired"));
    std::fs::remove_file(idle).expect("it was written");
}

#[test]
fn bad_usage_and_bad_input_exit_with_2_before_anything_boots() {
    for (arguments, says) in [
        (&["run", "no-such-scenario"][..], "no built-in scenario and no file"),
        (&["run", "unmapp"], "did you mean `unmap`?"),
        (&["run", MARK, "--cpu", "pentium"], "possible values: all, nopcid, pcid"),
        (&["run", MARK, "--cpu", "nopcid"], "no selected CPU fits"),
        (&["run", MARK, "--policy", "joint"], "possible values: split"),
        (&["run", MARK, "--inject", "drop mrk"], "`mrk` is no operation; use one of"),
        (&["run", MARK, "--executor", "bochs"], "possible values: kvm, interp, both"),
        (&["run", "--guest", NO_ELF], "not a readable 64-bit ELF file"),
        (&["run", "--guest", "/dev/null"], "not a regular file"),
        (&["explain", "nothing"], "no rule, fault, policy, fill, variant, CPU, scenario, step,"),
        (&["fuzz", "--count", "0"], "0 is not in 1.."),
        (&["frobnicate"], "unrecognized subcommand"),
    ] {
        let error = fails(arguments, 2);
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
    let bad = temporary("bad.toml", b"summary = \"s\"\nsteps = \"\"\"\nmap u0\n\"\"\"\n");
    let error = fails(&["run", &bad.to_string_lossy()], 2);
    assert!(error.contains("error: a colour is missing"), "{error}");
    std::fs::remove_file(bad).expect("it was written");
}

#[test]
fn a_host_that_cannot_exits_with_3_and_one_sentence() {
    for executor in ["kvm", "both"] {
        let missing = fails(&["run", "--executor", executor, "--kvm-device", "/nonexistent"], 3);
        let null = fails(&["run", "--executor", executor, "--kvm-device", "/dev/null"], 3);
        assert_eq!(missing.lines().count(), 1);
        if cfg!(feature = "kvm") {
            assert!(missing.contains("no such device"), "{missing}");
            assert!(missing.contains("--kvm-device"), "{missing}");
            assert!(null.contains("not a KVM device"), "{null}");
        } else {
            assert!(missing.contains("built without the `kvm` feature"), "{missing}");
        }
    }
}

#[test]
fn a_user_without_permission_is_told_what_to_do() {
    // Only root can become another user; and a device that all may open forbids nobody.
    let mode = std::fs::metadata("/dev/kvm").map(|data| data.permissions().mode()).unwrap_or(6);
    let root = std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t")));
    if !root || mode & 6 != 0 || !cfg!(feature = "kvm") {
        crate::common::say(
            "SKIP: needs root, the `kvm` feature, a /dev/kvm that others may not open",
        );
        return;
    }
    // By another process: a descriptor of ours open for writing would be inherited by whatever
    // another test starts at this moment, and the copy could not be executed.
    let copy = std::env::temp_dir().join(format!("stalemate-{}-binary", std::process::id()));
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_stalemate")).arg(&copy).status();
    assert!(copied.expect("cp runs").success());
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).expect("ours");
    let output = Command::new(&copy)
        .args(["run", "--executor", "kvm"])
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output()
        .expect("it runs");
    std::fs::remove_file(&copy).expect("it was written");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("permission denied"), "{}", text(&output.stderr));
}

#[test]
fn completions_and_man_pages_know_every_command() {
    let commands = ["run", "fuzz", "faults", "compare", "replay", "list", "explain", "doctor"];
    for shell in ["bash", "zsh", "fish"] {
        let output = stalemate(&["completions", shell]);
        let script = text(&output.stdout);
        assert!(output.status.success() && commands.iter().all(|name| script.contains(name)));
    }
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("man");
    let _ = std::fs::remove_dir_all(&directory);
    let output = stalemate(&["man", &directory.display().to_string()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for name in commands {
        let page = directory.join(format!("stalemate-{name}.1"));
        let page = std::fs::read_to_string(&page).expect("a page");
        assert!(page.contains(".TH ") && page.contains(".SH NAME"), "{name}");
    }
}

#[test]
fn lists_and_explanations_are_there() {
    for what in ["scenarios", "rules", "faults", "policies", "cpus"] {
        let output = stalemate(&["list", what]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).lines().count() >= 3, "{what}");
    }
    for rule in stalemate::oracle::rules::abouts() {
        let output = stalemate(&["explain", rule.name]);
        let says = if rule.is_of_audits() { "judges: " } else { "violated by: " };
        assert!(text(&output.stdout).contains(says), "{}", rule.name);
    }
    for (form, _) in stalemate::inject::forms::FORMS {
        assert_eq!(stalemate(&["explain", form]).status.code(), Some(0), "{form}");
    }
    assert_eq!(stalemate(&["explain", "drop mark#1"]).status.code(), Some(0));
    for name in ["unsplit", "pcid-smep", "unmap", "narrow-mask", "mask-too-narrow"] {
        assert_eq!(stalemate(&["explain", name]).status.code(), Some(0), "{name}");
    }
    assert!(text(&stalemate(&["explain", "lazy-a"]).stdout).contains("where A is set"));
}

#[test]
fn the_doctor_tells_the_truth_on_both_kinds_of_host() {
    let output = stalemate(&["doctor", "--kvm-device", "/nonexistent"]);
    assert!(text(&output.stdout).contains("executor: interp"), "{}", text(&output.stdout));
    kvm_or_skip!();
    let out = text(&stalemate(&["doctor"]).stdout);
    assert!(out.contains("KVM API 12") && out.contains("executor: kvm"), "{out}");
    assert!(!out.contains("witness"), "{out}");
}

#[test]
fn the_doctor_asks_the_host_s_tlb_where_there_is_one_and_says_where_not() {
    let none = ["doctor", "--witness", "--kvm-device", "/nonexistent"];
    let output = stalemate(&none);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("\nwitness: SKIP, there is no TLB to ask: "));
    let output = command(&none).env(REQUIRE_KVM, "1").output().expect("it runs");
    assert_eq!(output.status.code(), Some(3));
    let error = fails(&["doctor", "--count", "1"], 2);
    assert!(error.contains("--witness"), "{error}");
    kvm_or_skip!();
    let output = stalemate(&["doctor", "--witness", "--seed", "5", "--count", "2"]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert!(out.contains("\nwitness: 2 programs, ") && out.contains("was seen to keep\n"), "{out}");
}

#[test]
fn what_cannot_be_written_is_said_before_anything_runs() {
    let output = stalemate(&["run", "unmap", "--cpu", "pcid", "--html", "/nonexistent/page.html"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/page.html"));
}

#[test]
fn a_sweep_is_shown_as_the_run_that_it_is_about() {
    let directory = env!("CARGO_TARGET_TMPDIR");
    let (page, trace) = (format!("{directory}/sweep.html"), format!("{directory}/sweep.json"));
    let wanted = ["run", "nmi-flush", "--cpu", "pcid", "--policy", "split", "--executor", "interp"];
    let files = ["--inject", "nmi@each", "--html", &page, "--perfetto", &trace];
    let output = stalemate(&[&wanted[..], &files].concat());
    assert_eq!(output.status.code(), Some(1));
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page.len() < 100_000, "one run, not thousands: {} bytes", page.len());
    assert!(
        page.contains(
            "this is the first that differs: it came before the instruction at enter_user"
        )
    );
    let trace: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(trace).expect("a trace")).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    let told = |event: &&serde_json::Value| event["name"] == "violated: stale-user-entry";
    assert_eq!(events.iter().filter(told).count(), 1);
}

#[test]
fn a_recording_can_be_drawn_later() {
    let directory = env!("CARGO_TARGET_TMPDIR");
    let [run, first, second] =
        ["drawn.json", "drawn-1.html", "drawn-2.html"].map(|name| format!("{directory}/{name}"));
    let mark = ["run", "user-flush-on-next-return", "--cpu", "pcid", "--executor", "interp"];
    let files = ["--inject", "drop mark#1", "--record", &run, "--html", &first];
    assert_eq!(stalemate(&[&mark[..], &files].concat()).status.code(), Some(1));
    let again = ["replay", &run, "--executor", "interp", "--html", &second];
    assert_eq!(stalemate(&again).status.code(), Some(0));
    let read = |path: &str| std::fs::read_to_string(path).expect("a page");
    assert_eq!(read(&first), read(&second));
}

#[test]
fn explain_knows_the_words_of_reports_and_of_steps() {
    let page = include_str!("../../docs/glossary.md").replace('\n', " ");
    let terms: Vec<&str> = page.split("**").skip(1).step_by(2).collect();
    assert!(terms.len() > 10 && terms.contains(&"owed"), "{terms:?}");
    for term in terms {
        let said = text(&stalemate(&["explain", term]).stdout);
        let (_, what) = said.split_once("\n\n").expect("an explanation");
        let wanted = format!("**{term}**: {}.", what.trim_end());
        assert!(page.contains(&wanted), "docs/glossary.md has not `{wanted}`");
    }
    for (word, said) in [
        ("remap", "step: remap P COLOUR"),
        ("after-mark", "nmi@after-mark"),
        ("return", "cr3@return"),
        ("u15", "a user page of 4 KiB"),
        ("h", "h0 to h1"),
    ] {
        let out = text(&stalemate(&["explain", word]).stdout);
        assert!(out.contains(said), "{word}: {out}");
    }
    assert!(fails(&["explain", "u16"], 2).contains("`u16` is no rule"));
    assert!(fails(&["explain", "flush_tlb_on_user"], 2).contains("mean `flush_tlb_one_user`?"));
}

#[test]
fn a_first_slip_is_met_with_what_was_meant() {
    let said = fails(&["unmap"], 2);
    assert!(said.contains("`stalemate run unmap` runs it"), "{said}");
    let said = fails(&["run", "unmap", "--cpu", "pcid", "nopcid"], 2);
    assert!(said.contains("`--cpu pcid,nopcid`"), "{said}");
    let said = fails(&["run", "unmap", "mark"], 2);
    assert!(said.contains("`--inject \"drop mark\"`"), "{said}");
    assert!(fails(&["unmpa"], 2).contains("unrecognized subcommand"));
}
