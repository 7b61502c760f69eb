//! The detection score: exact numbers for a subset, an example of each class, and an oracle that
//! lacks a rule.

use serde_json::Value;
use std::process::Output;

fn faults(arguments: &[&str]) -> Output {
    crate::common::stalemate(&[&["faults"], arguments].concat())
}

fn score(arguments: &[&str]) -> Value {
    let output = faults(&[arguments, &["--format", "json"]].concat());
    let schema: Value =
        serde_json::from_str(include_str!("../../docs/faults.schema.json")).expect("JSON");
    let score: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(crate::common::schema::errors(&schema, &score), [""; 0]);
    score
}

/// The class of one fault in the mark scenario, and by whom.
fn class(fault: &str) -> (String, Value) {
    let mark = "user-flush-on-next-return";
    let score = score(&[mark, "--cpu", "pcid", "--policy", "split", "--inject", fault]);
    let one = &score["faults"][0];
    (one["class"].as_str().unwrap_or_default().to_owned(), one["by"].clone())
}

#[test]
fn each_class_has_its_example() {
    for (fault, class_wanted, by) in [
        ("drop mark", "caught", &["stale-user-entry"][..]),
        ("repeat invlpg", "caught", &["needless-flush"]),
        ("drop consume", "covered", &["cr3-load"]),
        ("speculate u0@flush-end#1", "harmless", &[]),
        ("repeat mark", "harmless", &[]),
        ("set-registers@flush-end", "harmless", &[]),
        ("drop cr3@entry", "stopped", &["crash"]),
        ("drop invpcid", "not-applied", &[]),
    ] {
        let (class, who) = class(fault);
        assert_eq!((class.as_str(), who), (class_wanted, serde_json::json!(by)), "{fault}");
    }
}

#[test]
fn the_score_of_the_mark_scenario_is_what_it_was() {
    let score = score(&["user-flush-on-next-return", "--cpu", "pcid", "--policy", "split"]);
    let wanted = serde_json::json!({
        "caught": 33, "covered": 6, "harmless": 72, "stopped": 6, "not-applied": 60, "escaped": 0,
    });
    assert_eq!(score["score"]["classes"], wanted);
}

#[test]
fn the_score_of_a_shootdown_is_what_it_was() {
    let score = score(&["shootdown", "--cpu", "pcid", "--policy", "split"]);
    let wanted = serde_json::json!({
        "caught": 157, "covered": 29, "harmless": 324, "stopped": 22, "not-applied": 128,
        "escaped": 0,
    });
    assert_eq!(score["score"]["classes"], wanted);
}

#[test]
fn without_its_rule_a_fault_escapes_and_the_exit_code_is_1() {
    let arguments = [
        "user-flush-on-next-return",
        "--cpu",
        "pcid",
        "--policy",
        "split",
        "--inject",
        "drop mark",
    ];
    assert_eq!(faults(&arguments).status.code(), Some(0));
    let output = faults(&[&arguments[..], &["--without", "stale-user-entry"]].concat());
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}");
    assert!(out.contains("again: stalemate faults user-flush-on-next-return --cpu pcid"), "{out}");
}
