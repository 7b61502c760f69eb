//! The kernels in the text of `docs/guest.md`, as a reader who follows it has them.

use crate::common::{say, text};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PAGE: &str = include_str!("../../docs/guest.md");

/// Scenarios that ask for nothing that the kernels of the page have not.
const CAN_RUN: [&str; 4] = ["unmap", "remap", "protect", "two-spaces"];

/// The checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A folder outside the checkout, which goes with it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left over is in nobody's way.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The files of the page that lie under `kind`, in a folder of their own.
fn extracted(kind: &str) -> Folder {
    let name = format!("stalemate-{kind}-{}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    let mut files = PAGE.split("<!-- file: ").skip(1).filter_map(|part| part.split_once(" -->\n"));
    let mut count = 0;
    for (path, rest) in &mut files {
        let Some(path) = path.strip_prefix(&format!("{kind}/")) else { continue };
        let fence =
            rest.strip_prefix("```").and_then(|rest| rest.split_once('\n')).expect("a block");
        let contents = fence.1.split("```").next().expect("an end");
        let shared = root().join("shared").canonicalize().expect("a folder");
        let contents = contents.replace("/path/to/stalemate/shared", &shared.display().to_string());
        let at = folder.0.join(path);
        std::fs::create_dir_all(at.parent().expect("a folder")).expect("a folder");
        std::fs::write(at, contents).expect("a file");
        count += 1;
    }
    assert!(count >= 3, "{count} files of {kind}");
    folder
}

/// Builds what is in the folder as the page says.
fn build(folder: &Path) {
    let mut sh = Command::new("sh");
    sh.args(["-e", "build"]).current_dir(folder).env("STALEMATE", root());
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"] {
        sh.env_remove(name);
    }
    let output = sh.output().expect("a shell");
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("warning"), "{said}");
}

fn run(folder: &Path, scenarios: &[&str], more: &[&str]) -> Output {
    let mut command = crate::common::command(&["run", "--guest", "kernel.elf", "--pti", "off"]);
    command.args(["--cpu", "nopcid,pcid", "--policy", "split", "--case", "0"]);
    command.args(scenarios).args(more).current_dir(folder).output().expect("it runs")
}

/// The kernel of `kind` is clean; and once its INVLPG is deleted it is found, at its own line.
fn is_judged(kind: &str, source: &str) {
    let folder = extracted(kind);
    build(&folder.0);
    for executor in ["interp", if crate::common::kvm().is_ok() { "both" } else { "interp" }] {
        let output = run(&folder.0, &CAN_RUN, &["--executor", executor]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    }
    let at = folder.0.join(source);
    let whole = std::fs::read_to_string(&at).expect("the source");
    let is_flush = |line: &str| line.contains("invlpg");
    assert_eq!(whole.lines().filter(|line| is_flush(line)).count(), 1);
    let broken: String = whole
        .lines()
        .map(|line| if is_flush(line) { "\n".into() } else { format!("{line}\n") })
        .collect();
    std::fs::write(&at, &broken).expect("the source");
    build(&folder.0);
    let output = run(&folder.0, &["remap"], &["--executor", "interp"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error[stale-kernel-entry]: flush_tlb_one_user returns"), "{said}");
    let lines = broken.lines().zip(1..);
    let begin = lines.clone().find(|(line, _)| line.contains("flush_one(")).expect("it").1;
    let end = lines.skip(begin).find(|(line, _)| *line == "}").expect("its end").1;
    let named = (begin..end).any(|line| said.contains(&format!("{source}:{line}\n")));
    assert!(named && said.contains("flush_one+"), "lines {begin} to {end} of {source}: {said}");
}

#[test]
fn the_pages_kernel_in_c_is_clean_and_found_once_its_flush_is_deleted() {
    if let Err(error) = Command::new("cc").arg("--version").output() {
        return say(&format!("SKIP: cc: {error}"));
    }
    is_judged("c", "kernel.c");
}

#[test]
fn the_pages_kernel_in_rust_is_clean_and_found_once_its_flush_is_deleted() {
    is_judged("rust", "src/main.rs");
}
