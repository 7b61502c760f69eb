//! SIGINT and SIGTERM: what was found so far is reported, and how to go on.

use crate::common::{command, text};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Bits of SIGINT and SIGTERM in the masks of /proc/PID/status.
const BOTH: u64 = 1 << 1 | 1 << 14;

/// One of the masks of signals in a process's status.
fn mask(child: &Child, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix(name))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// Waits until a mask is as it should be: minutes, of what takes a moment on a host with nothing else to do.
fn wait(child: &Child, name: &str, is: impl Fn(u64) -> bool) {
    for _ in 0..12_000 {
        if mask(child, name).is_some_and(&is) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{name} of {child:?} stays as it is");
}

/// The program once it listens to both signals.
fn listening(arguments: &[&str]) -> Child {
    let mut child = command(arguments);
    let child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    wait(&child, "SigCgt:", |caught| caught & BOTH == BOTH);
    child
}

/// Sends a signal, and waits until it has arrived: two that wait are one.
fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(sent.expect("there is a kill").success());
    wait(child, "ShdPnd:", |pending| pending & BOTH == 0);
}

fn ended(child: Child) -> Output {
    child.wait_with_output().expect("it ends")
}

#[test]
fn a_signal_between_two_runs_ends_with_the_report_of_those_before() {
    for (signal, name, code) in [("-INT", "SIGINT", 130), ("-TERM", "SIGTERM", 143)] {
        let child = listening(&["run", "--cpu", "all", "--executor", "interp", "--format", "json"]);
        send(signal, &child);
        let output = ended(child);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
        let made = report["runs"].as_array().expect("runs").len();
        let line = format!("warning: stopped by {name}: {made} of ");
        assert!(said.contains(&line) && said.contains("the same command makes all"), "{said}");
    }
}

#[test]
fn a_campaign_says_where_it_goes_on() {
    let child = listening(&["fuzz", "--count", "100000", "--executor", "interp"]);
    std::thread::sleep(Duration::from_millis(300));
    send("-INT", &child);
    let output = ended(child);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    let rest = said.split_once("--first ").expect("where").1;
    let (first, count) = rest.trim().split_once(" --count ").expect("how many");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    assert_eq!(number(first) + number(count), 100_000, "{said}");
    let out = text(&output.stdout);
    assert!(out.contains(&format!("seed 1: {first} of 100000 programs")), "{out}");
}

#[test]
fn a_score_is_of_what_was_scored() {
    let child = listening(&["faults", "--cpu", "all", "--format", "json"]);
    send("-TERM", &child);
    let output = ended(child);
    assert_eq!(output.status.code(), Some(143), "{}", text(&output.stderr));
    assert!(serde_json::from_slice::<serde_json::Value>(&output.stdout).is_ok());
}

#[test]
fn the_second_signal_ends_the_process_at_once() {
    // One run, which takes long.
    let sweep = ["run", "nmi-window", "--cpu", "pcid", "--policy", "split", "--executor", "interp"];
    let child = listening(&[&sweep[..], &["--inject", "nmi@each"]].concat());
    send("-INT", &child);
    send("-INT", &child);
    let output = ended(child);
    assert_eq!((output.status.code(), output.status.signal()), (Some(130), None));
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
}

#[test]
fn what_cannot_be_written_in_the_end_hides_no_verdict() {
    for (inject, code) in [(&["--inject", "drop mark#1"][..], 1), (&[], 3)] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
        let run = ["run", "user-flush-on-next-return", "--cpu", "pcid", "--executor", "interp"];
        let mut command = command(&[&run[..], inject].concat());
        let output = command.stdout(full).output().expect("it runs");
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("No space left on device"));
        let mut command =
            crate::common::command(&[&run[..], inject, &["--record", "/dev/full"]].concat());
        let output = command.output().expect("it runs");
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("/dev/full: No space left on device"));
        assert!(!output.stdout.is_empty());
    }
}
