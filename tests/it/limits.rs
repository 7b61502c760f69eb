//! What an input decides has a limit, and outputs lose nothing.

use crate::common::{command, fails, stalemate, text};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const PLAIN: &str = "summary = \"s\"\nsteps = \"map u0 red\"\n";

/// A folder of the test's own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("limits-{name}"));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("plain letters").to_owned()
    }

    fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.at(name), text).expect("a file");
        self.at(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_matrix_past_a_limit_is_refused_and_a_list_says_each_thing_once() {
    let folder = Folder::new("matrix");
    let seeds = |of: &mut dyn Iterator<Item = usize>| {
        let list: Vec<String> = of.map(|seed| seed.to_string()).collect();
        format!("{PLAIN}model = {{ fill = \"seeded\", seed = [{}] }}\n", list.join(", "))
    };
    let many = folder.file("seeds.toml", &seeds(&mut (0..100_000)));
    let said = fails(&["run", &many, "--executor", "interp"], 2);
    assert!(said.contains("200000 combinations of what this file lists"), "{said}");
    let same = folder.file("same.toml", &seeds(&mut (0..100_000).map(|_| 7)));
    let run = ["run", &same, "--executor", "interp", "--cpu", "pcid", "--format", "json"];
    let report: serde_json::Value =
        serde_json::from_slice(&stalemate(&run).stdout).expect("a report");
    assert_eq!(report["runs"].as_array().map(Vec::len), Some(2), "with PTI and without");

    let mut axes = PLAIN.to_owned();
    for axis in ["a", "b"] {
        (0..1000).for_each(|value| {
            let _ = writeln!(axes, "[axis.{axis}.v{value}]\nx = \"red\"");
        });
    }
    let axes = folder.file("axes.toml", &axes);
    let said = fails(&["run", &axes, "--executor", "interp"], 2);
    assert!(said.contains("1000000 combinations of the values of these axes"), "{said}");
}

#[test]
fn what_is_no_regular_file_is_no_input() {
    for path in ["/dev/zero", "/dev/tty", "/proc/self/fd"] {
        let said = fails(&["replay", path], 2);
        assert!(said.contains("not a regular file") || said.contains("No such"), "{said}");
    }
    assert!(fails(&["run", "/dev/zero"], 2).contains("/dev/zero: not a regular file"));
    assert!(fails(&["run", "--guest", "/dev/zero", "unmap"], 2).contains("not a regular file"));
}

#[test]
fn outputs_are_checked_before_anything_runs_and_replace_what_was_there_whole() {
    let folder = Folder::new("outputs");
    let scenario = folder.file("s.toml", PLAIN);
    let out = folder.at("out");
    let run = |more: &[&str]| {
        let mut asked = vec!["run", &scenario, "--executor", "interp", "--cpu", "pcid"];
        asked.extend(more);
        command(&asked).output().expect("it runs")
    };
    for (more, message) in [
        (&["--html", &out, "--record", &out][..], "two outputs go to this file"),
        (&["--record", &scenario], "this output is an input too"),
        (&["--record", "/nonexistent/out"], "No such file"),
        (&["--html", &folder.at("")], "a directory"),
    ] {
        let output = run(more);
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{more:?}: something ran");
    }
    assert_eq!(std::fs::read_to_string(&scenario).expect("it is there"), PLAIN);
    // What is there stays under another name until the new file is whole.
    folder.file("out", "before");
    let kept = folder.at("kept");
    std::fs::hard_link(&out, &kept).expect("a link");
    assert_eq!(run(&["--record", &out]).status.code(), Some(1), "nothing is stale");
    assert_eq!(std::fs::read_to_string(&kept).expect("it is there"), "before");
    assert!(std::fs::read_to_string(&out).expect("it is there").starts_with("{\"version\""));
    assert_eq!(std::fs::read_dir(&folder.0).expect("it is there").count(), 3, "nothing beside");
    assert_eq!(run(&["--record", "/dev/null", "--html", "/dev/null"]).status.code(), Some(1));
}

#[test]
fn a_full_standard_error_changes_no_verdict() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let mut command = command(&["run", "no-such-scenario"]);
    assert_eq!(command.stderr(full).status().expect("it runs").code(), Some(2));
}

#[test]
fn kvm_is_required_whatever_way_it_is_said() {
    for (value, code) in
        [("1", 3), ("true", 3), ("yes", 3), ("on", 3), ("0", 0), ("false", 0), ("no", 0), ("", 0)]
    {
        let mut asked = command(&["run", "unmap", "--cpu", "pcid", "--kvm-device", "/nonexistent"]);
        let output = asked.env("STALEMATE_REQUIRE_KVM", value).output().expect("it runs");
        assert_eq!(output.status.code(), Some(code), "{value:?}");
    }
}
