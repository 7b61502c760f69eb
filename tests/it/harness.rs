//! The kernels in the text of `docs/guest.md`, as a reader who follows it has them.

use crate::common::{root, say, text};
use stalemate_shared::VERSION;
use stalemate_shared::note::{Description, kernel};
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PAGE: &str = include_str!("../../docs/guest.md");

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
    // Tests run beside each other, each on a thread of its own.
    let thread = std::thread::current().id();
    let name = format!("stalemate-{kind}-{}-{thread:?}", std::process::id());
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

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = crate::common::command(&["run", "--guest", "kernel.elf"]);
    command.args(arguments).current_dir(folder).output().expect("it runs")
}

/// Exit code and standard output, or standard error where nothing ran.
fn said(output: &Output) -> (Option<i32>, String) {
    let text = if output.status.code() == Some(2) { &output.stderr } else { &output.stdout };
    (output.status.code(), crate::common::text(text))
}

/// The kernel of `kind` is clean; and once its INVLPG is deleted it is found, at its own line.
fn is_judged(kind: &str, source: &str) {
    let folder = extracted(kind);
    build(&folder.0);
    let (code, text) = said(&run(&folder.0, &["--executor", "interp"]));
    assert_eq!(code, Some(0), "{text}");
    let seen = "kernel.elf on nopcid, pcid, pcid-invpcid, pcid-nopge: PCIDs off, one root for both modes, \
                no global pages, no INVPCID\n";
    assert!(text.contains(seen) && text.contains("\nkernel.elf can run 8 of "), "{text}");
    if crate::common::kvm().is_ok() {
        let (code, text) = said(&run(&folder.0, &["two-spaces", "--executor", "both"]));
        assert_eq!(code, Some(0), "{text}");
    }
    let at = folder.0.join(source);
    let whole = std::fs::read_to_string(&at).expect("the source");
    let is_flush = |line: &str| line.contains("invlpg");
    assert_eq!(whole.lines().filter(|line| is_flush(line)).count(), 1);
    let kept = |line| if is_flush(line) { "" } else { line };
    let broken: String = whole.lines().flat_map(|line| [kept(line), "\n"]).collect();
    std::fs::write(&at, &broken).expect("the source");
    build(&folder.0);
    let (code, text) = said(&run(&folder.0, &["remap", "--executor", "interp", "--cpu", "pcid"]));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("remap on pcid own nopti without PCIDs: violation"), "{text}");
    assert!(text.contains("error[stale-kernel-entry]: flush_tlb_one_user returns"), "{text}");
    let lines = broken.lines().zip(1..);
    let begin = lines.clone().find(|(line, _)| line.contains("flush_one(")).expect("it").1;
    let end = lines.skip(begin).find(|(line, _)| *line == "}").expect("its end").1;
    let named = (begin..end).any(|line| text.contains(&format!("{source}:{line}\n")));
    assert!(named && text.contains("flush_one+"), "lines {begin} to {end} of {source}: {text}");
}

/// The description in the note of an image, to be changed.
fn description(image: &mut [u8]) -> &mut [u8] {
    let name = image.windows(12).position(|bytes| bytes == stalemate_shared::note::NAME);
    &mut image[name.expect("a note") + 12..]
}

/// What comes of the page's kernel in Rust once its note says something else.
fn with_note(folder: &Path, at: usize, value: u32, arguments: &[&str]) -> (Option<i32>, String) {
    let path = folder.join("kernel.elf");
    let whole = std::fs::read(&path).expect("the image");
    let mut image = whole.clone();
    description(&mut image)[at..at + 4].copy_from_slice(&value.to_le_bytes());
    std::fs::write(&path, image).expect("the image");
    let came =
        said(&run(folder, &[&["--executor", "interp", "--cpu", "pcid"], arguments].concat()));
    std::fs::write(&path, whole).expect("the image");
    came
}

#[test]
fn what_a_kernel_says_of_itself_decides_what_is_run_and_what_was_seen_what_is_said() {
    let folder = extracted("rust");
    build(&folder.0);
    let note = |at, value, arguments: &[&str]| with_note(&folder.0, at, value, arguments);
    let (version, features) = (offset_of!(Description, version), offset_of!(Description, features));
    let (code, text) = note(version, 2, &["unmap"]);
    assert_eq!(code, Some(2));
    let speaks =
        format!("built with version 2 of the interface, and this Stalemate speaks 3 to {VERSION}");
    assert!(text.contains(&speaks), "{text}");
    // It says that it isolates page tables, and does not.
    let (code, text) = note(features, kernel::PTI as u32, &["unmap"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("unmap on pcid own pti without PCIDs: not-as-asked"), "{text}");
    let (code, text) = note(features, 0, &["unmap"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("asks for what it lacks: PTI and NO_PTI, of which its note"), "{text}");
    // One that has policies is run under those of the files.
    let all = (kernel::NO_PTI | kernel::POLICIES) as u32;
    let (code, text) = note(features, all, &["unmap", "--case", "0", "--policy", "full", "-v"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("unmap on pcid full nopti without PCIDs: clean"), "{text}");
    let (code, text) = said(&run(&folder.0, &["unmap", "--policy", "full"]));
    assert_eq!(code, Some(2));
    assert!(text.contains("kernel.elf has a policy of its own; leave --policy out"), "{text}");
}

#[test]
fn what_a_kernel_cannot_run_is_skipped_in_every_format() {
    let folder = extracted("rust");
    build(&folder.0);
    let of = |format| {
        let arguments =
            ["shootdown", "unmap", "large-page", "--executor", "interp", "--cpu", "pcid"];
        said(&run(&folder.0, &[&arguments[..], &["--format", format]].concat())).1
    };
    let text = of("text");
    assert!(text.contains("SKIP shootdown, for want of steps: LAZY\n"), "{text}");
    assert!(text.contains("SKIP large-page, for want of 2 MiB pages h…\n"), "{text}");
    assert!(text.contains("kernel.elf can run 1 of 3 scenarios\n"), "{text}");
    let tap = of("tap");
    assert!(tap.contains("1..3\nok 1 - unmap on pcid own nopti without PCIDs\n"), "{tap}");
    assert!(tap.contains("ok 3 - large-page # SKIP the kernel lacks 2 MiB pages"), "{tap}");
    let junit = of("junit");
    assert!(junit.contains("<skipped message=\"the kernel lacks steps: LAZY\"/>"), "{junit}");
    let json: serde_json::Value = serde_json::from_str(&of("json")).expect("JSON");
    assert_eq!(json["skipped"][0]["scenario"], "shootdown");
    let run = &json["runs"][0];
    assert_eq!((run["policy"].as_str(), run["pcids"].as_bool()), (Some("own"), Some(false)));
    let mut list = crate::common::command(&["list", "--guest", "kernel.elf"]);
    let (_, list) = said(&list.current_dir(&folder.0).output().expect("it runs"));
    assert!(list.contains("SKIP, for want of page-table isolation\n"), "{list}");
}

/// What a command says of the page's kernel in Rust, built in this folder.
fn of_kernel(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = crate::common::command(arguments);
    said(&command.args(["--guest", "kernel.elf"]).current_dir(folder).output().expect("it runs"))
}

#[test]
fn faults_fuzz_and_compare_take_a_kernel_of_ones_own() {
    let folder = extracted("rust");
    build(&folder.0);
    let (code, text) = of_kernel(&folder.0, &["faults", "remap", "unmap", "--cpu", "pcid"]);
    assert_eq!(code, Some(0), "{text}");
    let row = text.lines().skip_while(|line| !line.starts_with("drop invlpg")).nth(1);
    assert_eq!(row, Some("    stale-kernel-entry 4"), "{text}");
    assert!(
        text.contains("kernel.elf can run 2 of 2 scenarios\n") && text.contains(", 0 escaped"),
        "{text}"
    );
    let fuzz = ["fuzz", "--count", "60", "--executor", "interp"];
    let (code, text) = of_kernel(&folder.0, &fuzz);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("\nown         pcid"), "{text}");
    let (code, text) = of_kernel(&folder.0, &["compare", "--cpu", "pcid"]);
    assert_eq!(code, Some(0), "{text}");
    let is_own = |line: &&str| line.contains(" own ") && line.ends_with("-        -");
    let own: Vec<&str> = text.lines().filter(is_own).collect();
    assert!(own.len() > 1 && own.iter().any(|line| line.contains("clean")), "{text}");
    // And without its INVLPG it is found by random programs, which become small.
    let at = folder.0.join("src/main.rs");
    let whole = std::fs::read_to_string(&at).expect("the source");
    let lines = whole.lines().filter(|line| !line.contains("invlpg"));
    std::fs::write(&at, lines.flat_map(|line| [line, "\n"]).collect::<String>()).expect("it");
    build(&folder.0);
    let (code, text) = of_kernel(&folder.0, &fuzz);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("stale-kernel-entry\n  shrunk from"), "{text}");
    assert!(text.contains("kernel  = { policy = \"own\", pti = false }"), "{text}");
    assert!(text.contains(" --guest kernel.elf\n"), "{text}");
}

/// The page's kernel in Rust with other text in its place, and what it is built to.
fn changed(folder: &Path, changes: &[(&str, &str)]) {
    let at = folder.join("src/main.rs");
    let mut text = std::fs::read_to_string(&at).expect("the source");
    for (before, after) in changes {
        assert_eq!(text.matches(before).count(), 1, "{before}");
        text = text.replace(before, after);
    }
    std::fs::write(&at, text).expect("the source");
    build(folder);
}

/// Apart, since no code of this file is: it edits the page's.
const UNSAFE: &str = "unsafe";

#[test]
fn a_kernel_may_print_and_have_more_memory_and_one_of_the_version_before_runs() {
    let folder = extracted("rust");
    let print = "for byte in *b\"TEXT\\n\" { HARD { asm!(\"out 0xe9, al\", in(\"al\") byte) } }";
    let print = print.replace("HARD", UNSAFE);
    let boot = print.replace("TEXT", "hello");
    let more = "assert!(HARD { (*block).memory_size } == 16 << 20);
        let high = (KERNEL_BASE + (12 << 20)) as *mut u64;
        HARD { write_volatile(high, read_volatile(high) + 7) };";
    let more = more.replace("HARD", UNSAFE);
    let booted = format!("    init_cpu();\n    switch_mm(roots(0));\n{boot}\n{more}");
    let step = format!("    let root = roots(mm);\n{}\n    match", print.replace("TEXT", "a step"));
    changed(
        &folder.0,
        &[
            ("    ..Description::NOTHING", "    memory: 16 << 20,\n    ..Description::NOTHING"),
            ("    init_cpu();\n    switch_mm(roots(0));", &booted),
            ("    let root = roots(mm);\n    match", &step),
        ],
    );
    let executor = if crate::common::kvm().is_ok() { "both" } else { "interp" };
    let (code, text) =
        said(&run(&folder.0, &["unmap", "--cpu", "pcid", "--executor", executor, "-v"]));
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text.matches("  printed: a step\n").count(), 7, "one a step: {text}");
    assert!(!text.contains("hello"), "{text}");
    for (what, rule) in [("FRAME_FREED", "reuse-before-flush"), ("marks", "lost-mark, stray-mark")]
    {
        assert!(text.contains(&format!("{rule} ({what})")), "{text}");
    }
    assert!(
        !text.contains("stale-remote-entry, needless-flush ("),
        "it says BEGIN and END: {text}"
    );
    let (code, text) = of_check(&folder.0);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("  printed     hello\n") && text.contains(", 16 MiB of memory\n"),
        "{text}"
    );
    // The description as it was in version 3, without the last field.
    let at = folder.0.join("kernel.elf");
    let mut image = std::fs::read(&at).expect("the image");
    let size = image.len() - description(&mut image).len() - 12 - 8;
    image[size..size + 4].copy_from_slice(&40u32.to_le_bytes());
    description(&mut image)[..4].copy_from_slice(&3u32.to_le_bytes());
    std::fs::write(&at, image).expect("the image");
    let (code, text) = of_check(&folder.0);
    assert!(text.contains("  version     3, which is spoken\n"), "{text}");
    // It has less memory than it is built for.
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(", 8 MiB of memory\n") && text.contains("  STOPS       on"), "{text}");
}

#[test]
fn a_kernel_may_have_the_test_pages_elsewhere() {
    let folder = extracted("rust");
    let elsewhere = "    user_pages: 0x7000_1234_5000,\n    kernel_pages: 0xffff_ffff_b012_3000,\n";
    let note = "    ..Description::NOTHING";
    changed(&folder.0, &[(note, &format!("{elsewhere}{note}"))]);
    let executor = if crate::common::kvm().is_ok() { "both" } else { "interp" };
    let (code, text) = said(&run(&folder.0, &["--cpu", "pcid", "--executor", executor]));
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = of_check(&folder.0);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("u at 0x700012345000 k at 0xffffffffb0123000\n"), "{text}");
    // Faults and fuzzed programs name pages as scenarios do.
    let (code, text) = of_kernel(&folder.0, &["faults", "remap", "--cpu", "pcid"]);
    assert_eq!(code, Some(0), "{text}");
    let row = text.lines().skip_while(|line| !line.starts_with("evict PAGE@POINT")).nth(1);
    assert!(row.is_some_and(|row| row.contains("eviction")), "{text}");
    let invlpg = format!("    {UNSAFE} {{ asm!(\"invlpg [{{}}]\", in(reg) va) }};\n");
    changed(&folder.0, &[(&invlpg, "")]);
    let (code, text) = said(&run(&folder.0, &["remap", "--executor", "interp", "--cpu", "pcid"]));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("still holds a stale entry for 0x700012346000"), "{text}");
    // And where none can be.
    for (user, says) in [
        ("0x8000_0000_0000", "u0 at 0x800000000000: user pages are below"),
        ("0x80_1000", "h0 at 0x800000: it overlaps another kind"),
        ("0x41_0800", "u0 at 0x410800: u pages begin at a multiple of 4 KiB"),
    ] {
        changed(&folder.0, &[("0x7000_1234_5000", user)]);
        let (code, text) = of_check(&folder.0);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(says), "{text}");
        changed(&folder.0, &[(user, "0x7000_1234_5000")]);
    }
}

/// Boot and steps are enough for what the architecture decides.
#[test]
fn a_kernel_that_announces_nothing_is_judged_by_what_it_does() {
    let folder = extracted("rust");
    let at = folder.0.join("src/main.rs");
    let whole = std::fs::read_to_string(&at).expect("the source");
    let silent =
        whole.replace("hypercall(BEGIN,", "unsaid(BEGIN,").replace("hypercall(END,", "unsaid(END,");
    assert_ne!(silent, whole);
    let unsaid = "fn unsaid(_: u64, _: u64, _: u64, _: u64, _: u64) -> [u64; 5] {\n    [0; 5]\n}\n";
    std::fs::write(&at, silent + unsaid).expect("the source");
    build(&folder.0);
    let (code, text) = said(&run(&folder.0, &["--executor", "interp", "--cpu", "pcid"]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("stale-remote-entry, needless-flush (BEGIN and END)"), "{text}");
    let invlpg = format!("    {UNSAFE} {{ asm!(\"invlpg [{{}}]\", in(reg) va) }};\n");
    changed(&folder.0, &[(&invlpg, "")]);
    let (code, text) = said(&run(&folder.0, &["remap", "--executor", "interp", "--cpu", "pcid"]));
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("error[never-flushed]: nobody has asked for a flush of 0x411000"),
        "{text}"
    );
}

/// The file in the folder, and what `check-guest` says of it.
fn checked(folder: &Path, name: &str, bytes: &[u8]) -> (Option<i32>, String) {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a file");
    said(&crate::common::stalemate(&["check-guest", &path.to_string_lossy()]))
}

#[test]
fn check_guest_says_what_is_right_and_what_would_be() {
    let folder = extracted("rust");
    build(&folder.0);
    let whole = std::fs::read(folder.0.join("kernel.elf")).expect("the image");
    let (code, text) = checked(&folder.0, "right.elf", &whole);
    assert_eq!(code, Some(0), "{text}");
    for says in [
        "  steps       MAP REMAP UNMAP PROTECT FLUSH_ONE_USER",
        "  pages       u k\n",
        "  has         1 CPU, 12 address spaces, 8 MiB of memory\n",
        "  code        whatever is privileged traps",
        "pcid-nopge nopti: PCIDs off, one root for both modes, no global pages, no INVPCID\n",
        "  scenarios   8 of ",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    let (code, text) = checked(&folder.0, "ours.elf", &crate::common::guest_image());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("  note        none: taken for a kernel that does all"), "{text}");
    // Bytes of the header: its class, its type, where the first segment goes, where it begins.
    let with = |at: usize, bytes: &[u8]| {
        let mut image = whole.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        image
    };
    let mut old = whole.clone();
    description(&mut old)[..4].copy_from_slice(&1u32.to_le_bytes());
    let beyond = with(64 + 24, &0x100_0000u64.to_le_bytes());
    let cases: [(&[u8], &str); 8] = [
        (b"a text file", "not a readable 64-bit ELF file"),
        (&whole[..whole.len().min(0x400)], "is truncated: it ends at byte"),
        (&with(4, &[1]), "a 32-bit ELF file, and a kernel begins in 64-bit mode"),
        (&with(16, &[3]), "of type 3, but an executable (2) is needed: link with -static -no-pie"),
        (&with(18, &[183]), "for machine 183, but this VMM runs x86-64"),
        (
            &with(24, &0x10_0000u64.to_le_bytes()),
            "entry point 0x100000 is in no executable segment",
        ),
        (
            &beyond,
            "that its note asks for; a kernel that boots by itself is judged by `stalemate audit --kernel",
        ),
        (&old, "built with version 1 of the interface, and this Stalemate speaks"),
    ];
    for (bytes, says) in cases {
        let (code, text) = checked(&folder.0, "wrong.elf", bytes);
        assert_eq!(code, Some(2), "{says}: {text}");
        assert!(text.contains(says), "{says}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

/// One sentence, and not a triple fault for each run.
#[test]
fn a_kernel_that_comes_to_no_first_step_is_told_once_which_command_is_for_it() {
    let folder = extracted("rust");
    build(&folder.0);
    let at = folder.0.join("kernel.elf");
    let mut image = std::fs::read(&at).expect("the image");
    // UD2 at its entry, which is in the segment that is loaded at 1 MiB.
    let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("eight"));
    let (entry, offset, start) = (word(24), word(64 + 8), word(64 + 16));
    let place = (entry - start + offset) as usize;
    image[place..place + 2].copy_from_slice(&[0x0f, 0x0b]);
    std::fs::write(&at, image).expect("the image");
    let (code, text) = said(&run(&folder.0, &["unmap", "remap", "--executor", "interp"]));
    assert_eq!(code, Some(2), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("kernel.elf does not come to its first step on"), "{text}");
    assert!(
        text.contains("`stalemate audit --kernel kernel.elf`, and docs/guest.md says"),
        "{text}"
    );
    let (code, text) = of_check(&folder.0);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("  STOPS       on nopcid nopti, pcid nopti"), "{text}");
}

fn of_check(folder: &Path) -> (Option<i32>, String) {
    let mut command = crate::common::command(&["check-guest", "kernel.elf"]);
    said(&command.current_dir(folder).output().expect("it runs"))
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
