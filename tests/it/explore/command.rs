//! `stalemate explore` as a user runs it.

use crate::common::{fails, stalemate, text};
use serde_json::Value;

fn file(name: &str, steps: &str) -> String {
    let name = format!("stalemate-explore-{}-{name}.toml", std::process::id());
    let path = std::env::temp_dir().join(name);
    let contents = format!(
        "summary = \"a test\"\nkernel = {{ pti = false }}\nsteps = \"\"\"\n{steps}\n\"\"\"\n"
    );
    std::fs::write(&path, contents).expect("a temporary file");
    path.to_str().expect("a path of text").to_owned()
}

const STEPS: &str = "A map u0 red\nA user read u0\ncpu1 A user read u0\nconcurrently:\n\
                     A remap u0 blue\nA flush_tlb_one_user u0\ncpu1 A user read u0 -> red|blue";

/// What JSON says of the one exploration of these arguments.
fn explored(arguments: &[&str], code: i32) -> Value {
    let arguments: Vec<&str> =
        ["explore", "--format", "json"].iter().chain(arguments).copied().collect();
    let output = stalemate(&arguments);
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["version"], 1);
    report["explored"][0].clone()
}

#[test]
fn a_schedule_that_was_printed_is_repeated_by_another_process() {
    let path = file("repeated", STEPS);
    let found = explored(&[&path, "--variant", "acknowledges-first"], 1);
    assert_eq!((found["complete"].as_bool(), found["clean"].as_bool()), (Some(false), Some(false)));
    let schedule = found["found"][0]["schedule"].as_str().expect("a schedule").to_owned();
    let what = found["found"][0]["what"].as_str().expect("what");
    let rule = what.split(':').next().expect("a rule").to_owned();
    let run = ["run", &path, "--cpu", "pcid", "--variant", "acknowledges-first", "--executor"];
    let run: Vec<&str> = run.into_iter().chain(["interp", "--schedule", &schedule]).collect();
    let recorded = |number: u32| {
        let name = format!("stalemate-recorded-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let shown = path.to_str().expect("a path of text").to_owned();
        let arguments: Vec<&str> = run.iter().copied().chain(["--html", &shown]).collect();
        let output = stalemate(&arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stdout).contains(&rule), "{}", text(&output.stdout));
        let page = std::fs::read_to_string(&path).expect("the picture");
        let _ = std::fs::remove_file(path);
        page
    };
    assert_eq!(recorded(1), recorded(2));
    // The same schedule of the kernel as it is was recorded from another one.
    let of_another: Vec<&str> =
        run.iter().map(|word| if *word == "acknowledges-first" { "none" } else { word }).collect();
    assert!(fails(&of_another, 2).contains("recorded from another"));
    let _ = std::fs::remove_file(path);
}

#[test]
fn a_bound_is_said_and_so_is_that_there_is_none() {
    let path = file("bounds", STEPS);
    let all = explored(&[&path], 0);
    assert_eq!((&all["complete"], &all["covered"]), (&true.into(), &"complete".into()));
    let few = explored(&[&path, "--bound", "1"], 0);
    assert_eq!(few["covered"], "complete to 1 preemptions");
    assert_eq!(few["complete"], false);
    let cut = explored(&[&path, "--max-states", "30"], 0);
    assert!(cut["covered"].as_str().expect("words").contains("too many states"), "{cut}");
    let _ = std::fs::remove_file(path);
}

#[test]
fn what_cannot_be_explored_is_refused_with_what_would_be_right() {
    let alone = file("alone", "A map u0 red\nA user read u0 -> red");
    assert!(fails(&["explore", &alone], 2).contains("`cpu1`"));
    let twice = file("twice", &format!("{STEPS}\nconcurrently:\nA user read u0"));
    assert!(fails(&["explore", &twice], 2).contains("for the second time"));
    let nothing = file("nothing", "A map u0 red\nconcurrently:");
    assert!(fails(&["explore", &nothing], 2).contains("no step after `concurrently:`"));
    let held = file("held", "A map u0 red\nA unmap u0 until start\nconcurrently:\nA user nop");
    assert!(fails(&["explore", &held], 2).contains("is held"));
    assert!(fails(&["explore", "shootdown", "--fill", "seeded"], 2).contains("seed"));
    assert!(fails(&["explore", "shootdown", "--max-states", "0"], 2).contains("--max-states"));
    for (schedule, says) in [("s2-00000000-0:1.1", "another version"), ("s1-0-0:1.1", "eight hex")]
    {
        assert!(fails(&["run", "shootdown", "--schedule", schedule], 2).contains(says));
    }
    let other = ["run", "shootdown", "--schedule", "s1-00000000-0:1.1"];
    assert!(fails(&other, 2).contains("recorded from another"));
    for path in [alone, twice, nothing, held] {
        let _ = std::fs::remove_file(path);
    }
}

#[test]
fn a_run_ignores_the_line() {
    let path = file("run", STEPS);
    let output = stalemate(&["run", &path, "--cpu", "pcid"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let _ = std::fs::remove_file(path);
}
