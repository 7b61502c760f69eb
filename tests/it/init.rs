//! The init of kernels under audit: on the kernel of this host, as an ordinary process, and in its
//! archive.

use cpio::newc::Reader;
use stalemate::kernel::free::{init, initramfs};
use stalemate_init::kind::KINDS;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const PREFIX: &str = "stalemate-init: ";

/// What is wrong with the lines that an init printed, if anything.
fn fault(console: &str) -> Option<String> {
    let mut lines = Vec::new();
    for line in console.lines() {
        let Some(line) = line.strip_prefix(PREFIX) else {
            return Some(format!("{line} has no prefix"));
        };
        if line.starts_with("WRONG ") {
            return Some(line.to_owned());
        }
        // A host may forbid what a kernel of one's own does not.
        if !line.starts_with("FAILED ") {
            lines.push(line);
        }
    }
    let [begins, ready, kinds @ .., done] = &lines[..] else { return Some("cut short".to_owned()) };
    if (*begins, *ready, *done) != ("begins", "ready", "done") {
        return Some("not as it begins and ends".to_owned());
    }
    let names = kinds.iter().map(|line| {
        let (kind, count) = line.split_once(' ')?;
        (count == "absent" || count.parse::<u32>().is_ok()).then_some(kind)
    });
    if names.ne(KINDS.iter().map(|kind| Some(kind.name()))) {
        return Some("not a line for each kind".to_owned());
    }
    None
}

#[test]
fn an_ordinary_process_makes_every_kind_of_call() {
    let directory = std::env::temp_dir().join(format!("stalemate-init-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let program = directory.join("init");
    std::fs::write(&program, init()).expect("written");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("executable");
    let ran = Command::new(&program).args(["--here", "stalemate.rounds=2"]).output();
    std::fs::remove_dir_all(&directory).expect("removed");
    let output = match ran {
        Ok(output) => output,
        Err(error) => {
            return eprintln!("SKIP: no program runs from a temporary directory: {error}");
        }
    };
    let console = String::from_utf8(output.stdout).expect("text");
    assert_eq!(fault(&console), None, "{console}");
    assert!(output.status.success(), "{console}");
    // What every kernel offers to every process.
    for kind in [
        "mmap",
        "mmap-shared",
        "munmap",
        "mprotect",
        "mprotect-none",
        "mremap-grow",
        "mremap-move",
        "madvise-dontneed",
        "fork",
        "copy-on-write",
        "exec",
        "exit",
        "thread",
    ] {
        for none in ["0", "absent"] {
            assert!(!console.contains(&format!("{PREFIX}{kind} {none}\n")), "{console}");
        }
    }
}

#[test]
fn every_fault_of_a_console_is_seen() {
    let kinds: String = KINDS.iter().map(|kind| format!("{PREFIX}{} 1\n", kind.name())).collect();
    let whole = format!("{PREFIX}begins\n{PREFIX}ready\n{kinds}{PREFIX}done\n");
    assert_eq!(fault(&whole), None);
    assert_eq!(fault(&whole.replace("mlock 1", "mlock absent")), None);
    for (from, to) in [
        ("ready", "WRONG mprotect: contents"),
        ("stalemate-init: done\n", ""),
        ("mlock 1", "mlock"),
        ("stalemate-init: mlock 1\n", ""),
        ("begins\n", "begins\nSegmentation fault\n"),
    ] {
        assert_ne!(fault(&whole.replacen(from, to, 1)), None, "{from} -> {to}");
    }
}

#[test]
fn the_archive_has_what_a_kernel_needs() {
    let archive = initramfs(b"an init");
    let mut rest = &archive[..];
    let mut entries = Vec::new();
    loop {
        let mut reader = Reader::new(rest).expect("an entry");
        let entry = reader.entry();
        if entry.is_trailer() {
            break;
        }
        let device = (entry.rdev_major(), entry.rdev_minor());
        let (name, mode) = (entry.name().to_owned(), entry.mode());
        let mut contents = Vec::new();
        reader.read_to_end(&mut contents).expect("contents");
        entries.push((name, mode, device, contents));
        rest = reader.finish().expect("the next entry");
    }
    let none = Vec::new;
    assert_eq!(
        entries,
        [
            ("dev".to_owned(), 0o040_755, (0, 0), none()),
            ("proc".to_owned(), 0o040_755, (0, 0), none()),
            ("sys".to_owned(), 0o040_755, (0, 0), none()),
            ("dev/console".to_owned(), 0o020_600, (5, 1), none()),
            ("init".to_owned(), 0o100_755, (0, 0), b"an init".to_vec()),
        ]
    );
}
