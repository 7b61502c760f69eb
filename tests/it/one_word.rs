//! A kernel whose words are not Linux's: it describes one mark for each CPU, as FreeBSD has, by a table.

use crate::common::{kvm, root, say, stalemate, text};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernel with the mistake of this number, built; none where there is no compiler for C.
fn kernel(mistake: u8) -> Option<PathBuf> {
    if let Err(error) = Command::new("cc").arg("--version").output() {
        say(&format!("SKIP: cc: {error}"));
        return None;
    }
    let name = format!("stalemate-one-word-{}-{mistake}.elf", std::process::id());
    let out = std::env::temp_dir().join(name);
    std::fs::write(&out, "").expect("a place for it");
    let mut build = Command::new(root().join("tests/it/one-word/build"));
    let output = build.arg(&out).arg(mistake.to_string()).output().expect("a shell");
    assert!(output.status.success(), "{}", text(&output.stderr));
    Some(out)
}

/// Exit code and what is printed of this command on it.
fn of(kernel: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let kernel = kernel.display().to_string();
    let output = stalemate(&[arguments, &["--guest", &kernel]].concat());
    let _ = std::fs::remove_file(&kernel);
    (output.status.code(), text(&output.stdout))
}

#[test]
fn a_mark_of_one_word_is_judged_as_linuxs_mask_is() {
    let Some(right) = kernel(0) else { return };
    let executor = if kvm().is_ok() { "both" } else { "interp" };
    let (code, text) = of(&right, &["run", "--cpu", "pcid", "--executor", executor]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("PCIDs on, user roots of its own"), "{text}");
    // What its table does not say is not judged; marks are.
    let unjudged = text.lines().find(|line| line.starts_with("not judged")).expect("a line");
    assert!(unjudged.contains("generation (generations)"), "{unjudged}");
    assert!(!unjudged.contains("mark"), "{unjudged}");
}

#[test]
fn each_mistake_with_that_word_is_found() {
    let cases = [
        (1, "user-flush-on-next-return", "error[stale-user-entry]: user mode is entered while"),
        (2, "user-flush-on-next-return", "error[lost-mark]: the mark of PCID 0x801 was cleared"),
        (3, "parked-kernel", "error[stale-other-asid]: a CR3 load makes PCID 0x001 current"),
    ];
    for (mistake, scenario, says) in cases {
        let Some(wrong) = kernel(mistake) else { return };
        let (code, text) = of(&wrong, &["run", scenario, "--cpu", "pcid", "--executor", "interp"]);
        assert_eq!(code, Some(1), "mistake {mistake}: {text}");
        assert!(text.contains(says), "mistake {mistake}: {text}");
    }
}

/// Faults know the word by what it says: a store that moves a mark is neither one that makes it nor
/// one that takes it back.
#[test]
fn faults_alter_that_word_and_none_escapes() {
    let Some(right) = kernel(0) else { return };
    let (code, text) = of(&right, &["faults", "two-spaces", "mark-not-loaded", "--cpu", "pcid"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(", 0 escaped"), "{text}");
    for (fault, rule) in [("drop mark", "stale-user-entry"), ("early consume", "lost-mark")] {
        let row = text.lines().skip_while(|line| !line.starts_with(fault)).nth(1);
        assert!(row.is_some_and(|row| row.contains(rule)), "{fault}: {text}");
    }
}
