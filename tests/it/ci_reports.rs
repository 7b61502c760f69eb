//! Reports for CI systems: readers that are not ours read them, they say what happened, and they
//! are the same every time.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn stalemate(arguments: &[&str]) -> Output {
    crate::common::stalemate(&[&["run", "--executor", "interp"], arguments].concat())
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

const MARK: &str = "user-flush-on-next-return";
const BAD: [&str; 7] = [MARK, "unmap", "--cpu", "pcid", "--inject", "drop mark#1", "--format"];

#[test]
fn junit_has_a_suite_for_each_scenario_and_a_case_for_each_run() {
    let output = stalemate(&[MARK, "unmap", "--cpu", "pcid", "--format", "junit"]);
    assert_eq!(output.status.code(), Some(0));
    let xml = text(&output);
    let document = roxmltree::Document::parse(&xml).expect("XML");
    let root = document.root_element();
    assert!(root.has_tag_name("testsuites") && root.attribute("failures") == Some("0"));
    let suites: Vec<_> = root.children().filter(|node| node.has_tag_name("testsuite")).collect();
    let names: Vec<_> = suites.iter().filter_map(|suite| suite.attribute("name")).collect();
    assert_eq!(names, [MARK, "unmap"]);
    for suite in &suites {
        let cases = suite.children().filter(|node| node.has_tag_name("testcase")).count();
        assert_eq!(suite.attribute("tests"), Some(&cases.to_string()[..]));
        assert!(cases > 2);
    }
    assert!(xml.contains("caught, as expected: stale-user-entry"));
    assert!(!xml.contains("timestamp") && !xml.contains(" time="), "{xml}");
    assert_eq!(xml, text(&stalemate(&[MARK, "unmap", "--cpu", "pcid", "--format", "junit"])));
}

#[test]
fn a_failure_in_junit_has_its_rule_and_its_witness() {
    let output = stalemate(&[&BAD[..], &["junit"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let xml = text(&output);
    let document = roxmltree::Document::parse(&xml).expect("XML");
    let failures: Vec<_> =
        document.descendants().filter(|node| node.has_tag_name("failure")).collect();
    assert_eq!(
        document.root_element().attribute("failures"),
        Some(&failures.len().to_string()[..])
    );
    let stale = failures.iter().find(|node| node.attribute("type") == Some("stale-user-entry"));
    let witness = stale.and_then(|node| node.text()).expect("a witness");
    assert!(witness.contains("remap") && witness.contains("INVLPG"), "{witness}");
    assert!(witness.contains("again: stalemate run"), "{witness}");
}

/// What a reader of TAP 14 must find: the plan, and each number once, in order. The blocks below
/// test points are skipped by their indentation.
fn points(tap: &str) -> Vec<(bool, String)> {
    let mut lines = tap.lines().filter(|line| !line.starts_with("  ") && !line.starts_with('#'));
    assert_eq!(lines.next(), Some("TAP version 14"));
    let plan = lines.next().and_then(|line| line.strip_prefix("1..")).expect("a plan");
    let point = |(number, line): (usize, &str)| {
        let (ok, rest) = match line.strip_prefix("not ok ") {
            Some(rest) => (false, rest),
            None => (true, line.strip_prefix("ok ").expect("a test point")),
        };
        let (found, title) = rest.split_once(" - ").expect("a title");
        assert_eq!(found, number.to_string());
        (ok, title.to_owned())
    };
    let points: Vec<_> = (1..).zip(lines).map(point).collect();
    assert_eq!(plan, points.len().to_string());
    points
}

#[test]
fn tap_has_a_point_for_each_run() {
    let good = stalemate(&[MARK, "--cpu", "pcid", "--format", "tap"]);
    let points_of_good = points(&text(&good));
    assert!(good.status.success() && points_of_good.iter().all(|(ok, _)| *ok));
    assert!(points_of_good.len() > 3);
    let bad = stalemate(&[&BAD[..], &["tap"]].concat());
    assert_eq!(bad.status.code(), Some(1));
    let tap = text(&bad);
    let failed = points(&tap).into_iter().filter(|(ok, _)| !ok).count();
    assert!(failed > 0 && failed == tap.matches("\n  ---\n").count());
    // An unescaped `#` would begin a directive.
    assert!(tap.contains("drop mark\\#1") && tap.contains("violated: [stale-user-entry]"), "{tap}");
}

/// The exit code, and the one run of the report.
fn sarif(arguments: &[&str]) -> (Option<i32>, Value) {
    let output = stalemate(&[arguments, &["--format", "sarif"]].concat());
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report["version"], "2.1.0");
    assert!(report["$schema"].as_str().is_some_and(|schema| schema.contains("sarif-2.1.0")));
    assert_eq!(report["runs"].as_array().map(Vec::len), Some(1));
    (output.status.code(), report["runs"][0].clone())
}

fn results(run: &Value) -> &[Value] {
    run["results"].as_array().expect("results")
}

/// What a location points at in its file.
fn pointed_at(place: &Value) -> String {
    let place = &place["physicalLocation"];
    let file = place["artifactLocation"]["uri"].as_str().expect("a file");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let source = std::fs::read_to_string(root.join(file)).expect("there");
    let number = |name: &str| place["region"][name].as_u64().expect(name) as usize - 1;
    let line = source.lines().nth(number("startLine")).expect("a line");
    line[number("startColumn")..number("endColumn")].to_owned()
}

#[test]
fn sarif_shows_a_violation_at_its_step_and_what_led_to_it() {
    let (code, run) = sarif(&BAD[..6]);
    assert_eq!(code, Some(1));
    let found = results(&run).iter().find(|found| found["ruleId"] == "stale-user-entry");
    let found = found.expect("a violation");
    let message = found["message"]["text"].as_str().unwrap_or_default();
    assert!(message.contains("PCID 0x801") && message.contains("drop mark#1"), "{message}");
    let text = |places: &Value| -> Vec<String> {
        places.as_array().expect("places").iter().map(pointed_at).collect()
    };
    assert_eq!(text(&found["locations"]), ["user read u0 -> blue"]);
    assert_eq!(text(&found["relatedLocations"]), ["remap u0 blue", "flush_tlb_one_user u0"]);
    let rules = run["tool"]["driver"]["rules"].as_array().expect("rules");
    let named = |found: &Value| rules.iter().any(|rule| rule["id"] == found["ruleId"]);
    assert!(results(&run).iter().all(named), "{rules:?}");
}

#[test]
fn sarif_has_what_no_rule_says_and_nothing_of_what_is_as_expected() {
    let (code, run) = sarif(&[MARK, "unmap", "--cpu", "pcid"]);
    assert_eq!((code, results(&run).len()), (Some(0), 0));
    let vacuous = temporary("ci sarif.toml", "summary = \"s\"\nsteps = \"map u0 red\"\n");
    let (code, run) = sarif(&[&vacuous, "--cpu", "pcid", "--policy", "split"]);
    assert_eq!(code, Some(1));
    let found = &results(&run)[0];
    assert_eq!(found["ruleId"], "unexpected-outcome");
    assert!(found["message"]["text"].as_str().expect("a text").contains("vacuous"));
    let uri = &found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
    assert!(uri.as_str().is_some_and(|uri| uri.ends_with("/ci%20sarif.toml")), "{uri}");
}

fn temporary(name: &str, contents: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, contents).expect("a file");
    path.display().to_string()
}

#[test]
fn names_that_look_like_something_else_stay_names_in_every_format() {
    let text = "summary = \"<b>\\\"&]]>\"\nsteps = \"\"\"\nmap u0 red\nuser read u0 -> red\n\
                remap u0 blue\nuser read u0 -> blue\n\"\"\"\n";
    let hostile = temporary("a<b>&\"'# -- ]]>.toml", text);
    let same = Path::new(env!("CARGO_TARGET_TMPDIR")).join("same");
    std::fs::create_dir_all(&same).expect("a directory");
    let same = same.join("a<b>&\"'# -- ]]>.toml");
    std::fs::write(&same, text).expect("a file");
    let same = same.display().to_string();
    let arguments =
        |format| [&hostile, &same, "--cpu", "pcid", "--policy", "split", "--format", format];
    let xml = self::text(&stalemate(&arguments("junit")));
    let document = roxmltree::Document::parse(&xml).expect("XML");
    let suites: Vec<_> = document
        .descendants()
        .filter(|node| node.has_tag_name("testsuite"))
        .filter_map(|node| node.attribute("name"))
        .collect();
    assert_eq!(suites, [&hostile, &same]);
    let points = points(&self::text(&stalemate(&arguments("tap"))));
    let titles: std::collections::BTreeSet<_> = points.iter().map(|(_, title)| title).collect();
    assert!(points.iter().all(|(ok, _)| !ok) && titles.len() == points.len(), "{titles:?}");
    let (_, run) = sarif(&arguments("sarif")[..6]);
    let prints: Vec<_> =
        results(&run).iter().map(|found| found["partialFingerprints"].to_string()).collect();
    let different: std::collections::BTreeSet<_> = prints.iter().collect();
    assert!(prints.len() > 1 && different.len() == prints.len(), "{prints:?}");
    let report: Value =
        serde_json::from_slice(&stalemate(&arguments("json")).stdout).expect("JSON");
    assert_eq!(report["runs"][0]["file"], hostile);
    // What is no name at all is refused.
    let control = temporary("a\u{1b}[31m\nb.toml", text);
    assert_eq!(stalemate(&[&control]).status.code(), Some(2));
}

#[test]
fn the_action_passes_exit_codes_on_and_leaves_its_reports() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.github/scripts/run-scenarios");
    let good = temporary(
        "ci good.toml",
        "summary = \"s\"\ncpu = { pcid = true }\nsteps = \"\"\"\n\
         map u0 red\nuser read u0 -> red\nunmap u0\nflush_tlb_one_user u0\nuser read u0 -> fault\n\"\"\"\n",
    );
    let bad = temporary(
        "ci-bad.toml",
        "summary = \"s\"\ncpu = { pcid = true }\nsteps = \"\"\"\n\
         map u0 red\nuser read u0 -> red\nunmap u0\nuser read u0 -> fault\n\"\"\"\n",
    );
    let wrong = temporary("ci-wrong.toml", "summary = \"s\"\nsteps = \"mpa u0 red\"\n");
    for (file, executor, code, page) in
        [(&good, "interp", 0, false), (&bad, "interp", 1, true), (&wrong, "interp", 2, false)]
    {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ci-out-{code}"));
        let _ = std::fs::remove_dir_all(&out);
        let _ = std::fs::remove_file(out.with_extension("outputs"));
        let status = Command::new(&script)
            .env("STALEMATE", env!("CARGO_BIN_EXE_stalemate"))
            .env("STALEMATE_SCENARIOS", format!("\n\"{file}\"\n"))
            .env("STALEMATE_ARGUMENTS", format!("--executor {executor} --cpu pcid"))
            .env("STALEMATE_OUT", &out)
            .env("GITHUB_OUTPUT", out.with_extension("outputs"))
            .env_remove("STALEMATE_REQUIRE_KVM")
            .output()
            .expect("a shell");
        let said = String::from_utf8_lossy(&status.stderr).into_owned();
        assert_eq!(status.status.code(), Some(code), "{file}: {said}");
        assert_eq!(out.join("timeline.html").is_file(), page, "{file}");
        let outputs = std::fs::read_to_string(out.with_extension("outputs")).expect("outputs");
        assert!(outputs.contains(&format!("exit-code={code}\n")), "{outputs}");
        // What is named is there.
        let named = outputs.lines().filter_map(|line| line.split_once('=')).skip(1);
        let there = named.filter(|(_, file)| Path::new(file).is_file()).count();
        assert_eq!(there, if code < 2 { 2 } else { 0 }, "{outputs}");
        if code < 2 {
            let xml = std::fs::read_to_string(out.join("junit.xml")).expect("a report");
            roxmltree::Document::parse(&xml).expect("XML");
            let sarif = std::fs::read(out.join("report.sarif")).expect("a report");
            let sarif: Value = serde_json::from_slice(&sarif).expect("SARIF");
            assert_eq!(!results(&sarif["runs"][0]).is_empty(), code == 1, "{file}");
        }
    }
}
