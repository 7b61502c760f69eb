//! The skeletons under `examples/`, and what the `x86_64` crate's flushes come to.

use crate::common::{root, say, text};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const PAGE: &str = include_str!("../../docs/guest.md");

/// A copy of a skeleton beside links to what it is built with.
fn copied(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skeletons").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(folder.join("examples")).expect("a folder");
    for shared in ["include", "shared", "examples/harness-rust"] {
        let link = folder.join(shared);
        if !shared.ends_with(name) {
            std::os::unix::fs::symlink(root().join(shared), link).expect("a link");
        }
    }
    let (from, to) = (root().join("examples").join(name), folder.join("examples").join(name));
    let copied = Command::new("cp").arg("-r").arg(from).arg(&to).status().expect("cp");
    assert!(copied.success());
    to
}

/// Builds a skeleton in Rust; its image.
fn built_rust(folder: &Path) -> PathBuf {
    let target = folder.join("../../target");
    let mut cargo = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_") && name != "CARGO_HOME" || name == "RUSTFLAGS" {
            cargo.env_remove(name);
        }
    }
    cargo.args(["build", "--release", "--offline", "--quiet"]).current_dir(folder);
    let output = cargo.env("CARGO_TARGET_DIR", &target).output().expect("cargo runs");
    let said = text(&output.stderr);
    assert!(output.status.success() && !said.contains("warning"), "{said}");
    target.join("x86_64-unknown-linux-gnu/release/kernel")
}

/// Builds the skeleton in C; its image.
fn built_c(folder: &Path) -> PathBuf {
    let output = Command::new("sh").arg(folder.join("build")).output().expect("a shell");
    let said = text(&output.stderr);
    assert!(output.status.success() && !said.contains("warning"), "{said}");
    folder.join("kernel.elf")
}

fn run(image: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut command = crate::common::command(&["run", "--executor", "interp", "--guest"]);
    let output = command.arg(image).args(more).output().expect("it runs");
    (output.status.code(), text(&output.stdout))
}

/// A skeleton is clean; and once the INVLPG of user pages is deleted, the store's flush is found missing.
fn is_judged(folder: &Path, flushes: &str, build: fn(&Path) -> PathBuf) {
    let (code, said) = run(&build(folder), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("can run 13 of "), "{said}");
    let at = folder.join(flushes);
    let whole = std::fs::read_to_string(&at).expect("the source");
    let nothing = if flushes.ends_with(".c") { "(void)va;" } else { "let _ = va;" };
    let mut inside = false;
    let lines = whole.lines().map(|line| {
        inside = line.contains("flush_one_user(") || inside && line != "}";
        if inside && line.contains("invlpg") { nothing } else { line }
    });
    let broken: String = lines.flat_map(|line| [line, "\n"]).collect();
    assert_ne!(whole, broken);
    std::fs::write(&at, broken).expect("the source");
    let (code, said) = run(&build(folder), &["remap", "--cpu", "pcid"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("error[stale-kernel-entry]: flush_tlb_one_user returns"), "{said}");
}

#[test]
fn the_skeleton_in_c_is_clean_and_found_once_its_flush_is_deleted() {
    if let Err(error) = Command::new("cc").arg("--version").output() {
        return say(&format!("SKIP: cc: {error}"));
    }
    is_judged(&copied("harness-c"), "flush.c", built_c);
}

#[test]
fn the_skeleton_in_rust_is_clean_and_found_once_its_flush_is_deleted() {
    is_judged(&copied("harness-rust"), "src/flush.rs", built_rust);
}

/// What is not clean: scenario, processor, rules. The page explains each, and is what is compared with.
#[test]
fn the_verdicts_on_the_x86_64_crate_are_the_pages() {
    let table = PAGE.split("<!-- verdicts -->").nth(1).expect("a table");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let wanted: BTreeSet<(String, String, String)> = rows
        .flat_map(|row| {
            let cells: Vec<String> = row
                .trim_matches('|')
                .split(" | ")
                .map(|cell| cell.replace(['`', ' '], ""))
                .collect();
            let cpus: Vec<String> = cells[1].split(',').map(str::to_owned).collect();
            cpus.into_iter().map(move |cpu| (cells[0].clone(), cpu, cells[2].clone()))
        })
        .collect();
    assert!(wanted.len() > 5, "{wanted:?}");
    let image = built_rust(&copied("harness-x86_64"));
    let cpus = "nopcid,nopcid-nopge,pcid,pcid-nopge";
    let (code, json) = run(&image, &["--cpu", cpus, "--format", "json"]);
    assert_eq!(code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let runs = report["runs"].as_array().expect("runs");
    let name = |value: &serde_json::Value| value.as_str().expect("a name").to_owned();
    let unexpected = runs.iter().filter(|run| run["as_expected"] == false);
    let found: BTreeSet<(String, String, String)> = unexpected
        .map(|run| {
            let violations = run["violations"].as_array().expect("violations");
            let rules: BTreeSet<String> = violations.iter().map(|one| name(&one["rule"])).collect();
            let rules = rules.into_iter().collect::<Vec<_>>().join(",");
            (name(&run["scenario"]), name(&run["cpu"]), rules)
        })
        .collect();
    assert_eq!(found, wanted);
    let clean = runs.iter().filter(|run| run["outcome"] == "clean").count();
    assert!(clean > 40, "{clean} clean runs beside them");
}
