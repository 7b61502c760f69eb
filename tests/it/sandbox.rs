//! What a process that runs guests can still do: what a run needs, and nothing that a guest which got out
//! of its machine would want.

use crate::common::{command, text};
use clap::Parser;
use nix::sys::ptrace;
use nix::unistd::Pid;
use stalemate::cli::{self, Cli};
use std::fs;
use std::io;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;

/// The command line of the process inside; without it the test that is that process does nothing.
const INSIDE: &str = "STALEMATE_TEST_INSIDE";
/// A folder that it was not handed.
const ELSEWHERE: &str = "STALEMATE_TEST_ELSEWHERE";

type Attempt = (&'static str, Box<dyn Fn() -> io::Result<()> + Send>);

/// What is tried. Nothing of it harms where it is allowed, and what replaces the process comes last.
fn attempts() -> Vec<Attempt> {
    let elsewhere = PathBuf::from(std::env::var_os(ELSEWHERE).expect("the parent sets it"));
    let at = move |name: &str| elsewhere.join(name);
    let (made, from, to, gone) = (at("made"), at("from"), at("to"), at("gone"));
    vec![
        ("open", Box::new(|| fs::File::open("/etc/passwd").map(drop))),
        ("list", Box::new(|| fs::read_dir("/").map(drop))),
        ("create", Box::new(move || fs::write(&made, "x"))),
        ("rename", Box::new(move || fs::rename(&from, &to))),
        ("remove", Box::new(move || fs::remove_file(&gone))),
        ("network", Box::new(|| UdpSocket::bind("127.0.0.1:0").map(drop))),
        ("socket", Box::new(|| UnixDatagram::pair().map(drop))),
        ("spawn", Box::new(|| Command::new("/bin/true").status().map(drop))),
        // There is no such process, which is another error.
        ("ptrace", Box::new(|| Ok(ptrace::attach(Pid::from_raw(i32::MAX))?))),
        ("exec", Box::new(|| Err(Command::new("/bin/true").exec()))),
    ]
}

/// Those of them that are refused, but for what is left out.
fn refused(without: &[&str]) -> Vec<&'static str> {
    let is_refused = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    let mut tried = attempts();
    tried.retain(|(name, _)| !without.contains(name));
    tried.retain(|(_, attempt)| attempt().is_err_and(|error| is_refused(&error)));
    tried.into_iter().map(|(name, _)| name).collect()
}

/// The process inside: it does what its command line says by the program's own function, and then tries.
#[test]
#[ignore = "a process of its own, which the other tests here start"]
fn inside() {
    let Ok(line) = std::env::var(INSIDE) else { return };
    let (go, wait) = mpsc::channel::<()>();
    let before = std::thread::spawn(move || {
        let _ = wait.recv();
        // Landlock is of the thread that confines and of later ones; the filter is of all.
        refused(&["rename", "remove"])
    });
    let words = ["stalemate"].into_iter().chain(line.split_whitespace());
    let code = cli::main(Cli::parse_from(words)).unwrap_or_else(|failure| panic!("{failure}"));
    eprintln!("exit {code}");
    drop(go);
    if line.contains("--no-sandbox") {
        eprintln!("here: {}", refused(&[]).join(" "));
        return;
    }
    let earlier = before.join().expect("no panic");
    let later = std::thread::spawn(|| refused(&[])).join().expect("no panic");
    eprintln!("here: {}", refused(&[]).join(" "));
    eprintln!("a later thread: {}", later.join(" "));
    eprintln!("an earlier thread: {}", earlier.join(" "));
}

/// What the process inside says.
fn of_inside(name: &str, line: &str) -> String {
    let elsewhere = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("sandbox-{name}"));
    fs::create_dir_all(&elsewhere).expect("a folder");
    for file in ["from", "gone"] {
        fs::write(elsewhere.join(file), "x").expect("a file");
    }
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child.args(["--exact", "sandbox::inside", "--ignored", "--nocapture", "--test-threads", "1"]);
    let output = child.env(INSIDE, line).env(ELSEWHERE, &elsewhere).output().expect("it runs");
    fs::remove_dir_all(&elsewhere).expect("it is there");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stderr)
}

const ALL: &str = "open list create rename remove network socket spawn ptrace exec";

#[test]
fn whoever_gets_out_of_a_guest_can_do_nothing() {
    let outputs = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sandbox-outputs");
    fs::create_dir_all(&outputs).expect("a folder");
    let recording = outputs.join("unmap.json").display().to_string();
    let found = outputs.join("found").display().to_string();
    for (name, line) in [
        ("run", "run unmap --cpu pcid".to_owned()),
        ("record", format!("run unmap --cpu pcid --record {recording}")),
        ("replay", format!("replay {recording}")),
        ("fuzz", format!("fuzz --count 200 --policy unsplit --executor interp --out {found}")),
        ("faults", "faults unmap --cpu pcid --policy split".to_owned()),
    ] {
        let said = of_inside(name, &line);
        assert!(said.contains(&format!("here: {ALL}\n")), "{line}: {said}");
        assert!(said.contains(&format!("a later thread: {ALL}\n")), "{line}: {said}");
        let earlier = ALL.replace("rename remove ", "");
        assert!(said.contains(&format!("an earlier thread: {earlier}\n")), "{line}: {said}");
    }
    assert!(fs::read_dir(&found).expect("a folder").count() > 0, "a campaign's files are written");
    assert!(fs::read_to_string(&recording).expect("written").starts_with("{\"version\""));
    fs::remove_dir_all(&outputs).expect("it is there");
}

#[test]
fn without_the_sandbox_all_of_it_can_be_done() {
    let said = of_inside("without", "run unmap --cpu pcid --no-sandbox");
    // The last attempt replaced the process.
    assert!(said.contains("exit 0") && !said.contains("here:"), "{said}");
}

#[test]
fn doctor_says_what_is_in_force() {
    let said = text(&command(&["doctor"]).output().expect("it runs").stdout);
    let line = said.lines().find(|line| line.starts_with("sandbox of runs: ")).expect("its line");
    assert!(line.contains("seccomp") && line.contains("landlock"), "{line}");
}
