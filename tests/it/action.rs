//! The action in a repository that it is for: a Rust kernel's, whose settings must not decide how this
//! project is built.

use crate::common::text;
use std::path::{Path, PathBuf};
use std::process::Command;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.github/scripts").join(name)
}

/// An empty folder outside the checkout.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("stalemate-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

#[test]
fn the_action_builds_in_a_repository_of_another_target_and_toolchain() {
    let repository = folder("kernel");
    std::fs::create_dir(repository.join(".cargo")).expect("a folder");
    std::fs::create_dir(repository.join("tlb")).expect("a folder");
    for (name, contents) in [
        (".cargo/config.toml", "[build]\ntarget = \"x86_64-unknown-none\"\n"),
        ("rust-toolchain.toml", "[toolchain]\nchannel = \"nightly-2015-06-01\"\n"),
        ("Cargo.toml", "[package]\nname = \"kernel\"\nversion = \"0.0.0\"\n"),
        (
            "tlb/unmap.toml",
            "summary = \"s\"\nsteps = \"\"\"\nmap u0 red\nuser read u0 -> red\nunmap u0\n\
             flush_tlb_one_user u0\nuser read u0 -> fault\n\"\"\"\n",
        ),
    ] {
        std::fs::write(repository.join(name), contents).expect("a file");
    }
    let mut build = Command::new(script("build"));
    // As a shell of the job has it, not as cargo gives it to its tests.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO") && name != "CARGO_HOME" || name == "RUSTUP_TOOLCHAIN" {
            build.env_remove(name);
        }
    }
    build
        .env("RUSTFLAGS", "-Ctarget-cpu=nonsense")
        .env("CARGO_BUILD_TARGET", "x86_64-unknown-none");
    let built = build.current_dir(&repository).output().expect("a shell");
    assert!(built.status.success(), "{}", text(&built.stderr));
    let program = text(&built.stdout).trim().to_owned();
    let outputs = repository.join("outputs");
    let ran = Command::new(script("run-scenarios"))
        .current_dir(repository.join("tlb"))
        .env("STALEMATE", &program)
        .env("STALEMATE_SCENARIOS", ".")
        .env("STALEMATE_ARGUMENTS", "--cpu pcid --executor interp")
        .env("STALEMATE_OUT", "out")
        .env("GITHUB_OUTPUT", &outputs)
        .output()
        .expect("a shell");
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    // From another directory than the one in which it ran.
    let said = std::fs::read_to_string(outputs).expect("outputs");
    let junit = said.lines().find_map(|line| line.strip_prefix("junit=")).expect("a report");
    assert!(Path::new(junit).is_absolute() && Path::new(junit).is_file(), "{junit}");
    std::fs::remove_dir_all(repository).expect("the folder");
}

#[test]
fn a_released_binary_is_used_only_if_its_checksum_is_right() {
    let releases = folder("releases");
    let of_tag = releases.join("v9");
    std::fs::create_dir(&of_tag).expect("a folder");
    let release = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/release");
    let packed = Command::new(&release)
        .args([concat!("v", env!("CARGO_PKG_VERSION")).as_ref(), of_tag.as_os_str()])
        .env("STALEMATE_PROGRAM", env!("CARGO_BIN_EXE_stalemate"))
        .output()
        .expect("a shell");
    assert!(packed.status.success(), "{}", text(&packed.stderr));
    let notes = std::fs::read_to_string(of_tag.join("notes.md")).expect("notes");
    assert!(
        notes.contains("\n* ") && !notes.contains("## "),
        "one section of the changelog: {notes}"
    );
    let another = Command::new(&release).args(["v0.0.0".as_ref(), of_tag.as_os_str()]).output();
    assert!(!another.expect("a shell").status.success(), "another version than the checkout's");
    let fetch = || {
        let mut fetch = Command::new(script("build"));
        let at = format!("file://{}", releases.display());
        fetch.env("STALEMATE_RELEASE", "v9").env("STALEMATE_RELEASES", at);
        fetch.output().expect("a shell")
    };
    if Command::new("curl").arg("--version").output().is_err() {
        return crate::common::say("SKIP: no curl");
    }
    let fetched = fetch();
    assert!(fetched.status.success(), "{}", text(&fetched.stderr));
    let program = text(&fetched.stdout).trim().to_owned();
    let said = Command::new(&program).arg("--version").output().expect("it runs");
    assert_eq!(text(&said.stdout), concat!("stalemate ", env!("CARGO_PKG_VERSION"), "\n"));
    std::fs::write(of_tag.join("stalemate-x86_64-linux.tar.gz"), "another").expect("a file");
    let other = fetch();
    assert!(!other.status.success() && other.stdout.is_empty(), "{}", text(&other.stderr));
    std::fs::remove_dir_all(releases).expect("the folder");
    std::fs::remove_dir_all(Path::new(&program).parent().expect("a folder")).expect("it");
}
