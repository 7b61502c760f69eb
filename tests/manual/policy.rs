//! The page on policies, followed to the letter in a copy of the checkout: its file is made, its
//! changes are applied, and its commands run on the program that comes of it.

use super::{console, root};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A block of the page: what its fence says, and its lines.
fn blocks(page: &str) -> Vec<(String, Vec<String>)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(fence) = line.strip_prefix("```") {
            let body = lines.by_ref().take_while(|line| *line != "```");
            blocks.push((fence.to_owned(), body.map(str::to_owned).collect()));
        }
    }
    blocks
}

/// A text with the lines of a change that begin with `-` gone and those with `+` in it.
fn changed(text: &str, change: &[String]) -> String {
    let side = |sign: char| -> String {
        let lines = change.iter().filter(|line| !line.starts_with(sign));
        lines.flat_map(|line| [&line[1..], "\n"]).collect()
    };
    let (before, after) = (side('+'), side('-'));
    assert_eq!(text.matches(&before).count(), 1, "the change is where it says:\n{before}");
    text.replace(&before, &after)
}

/// Calls with each file of a tree and its place in another, whose directories are made.
fn for_each_file(from: &Path, to: &Path, each: &mut impl FnMut(&Path, &Path)) {
    if !from.is_dir() {
        return each(from, to);
    }
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        for_each_file(&entry.path(), &to.join(entry.file_name()), each);
    }
}

/// Writes a file; where it is so already it keeps its time, and is not built anew.
fn write(path: &Path, contents: &[u8]) {
    if std::fs::read(path).ok().as_deref() != Some(contents) {
        std::fs::write(path, contents).expect("a file");
    }
}

/// A copy of what the program is built from, with the page's file and changes in it.
fn checkout(blocks: &[(String, Vec<String>)]) -> PathBuf {
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("policy");
    std::fs::create_dir_all(&to).expect("a directory");
    let mut changed_files = BTreeMap::new();
    for (fence, body) in blocks {
        if fence.starts_with("rust") {
            let code = body.join("\n") + "\n";
            changed_files.insert("guest/src/policy/lazymark.rs".to_owned(), code);
        } else if let Some(path) = fence.strip_prefix("diff ") {
            let read = || std::fs::read_to_string(root().join(path)).expect("a source");
            let text = changed_files.entry(path.to_owned()).or_insert_with(read);
            *text = changed(text, body);
        }
    }
    assert_eq!(changed_files.len(), 4, "a file and changes to three");
    // The program alone, without its tests; and as another version, so that it has files of its own
    // where both are built.
    let edited = |name: &str, edit: fn(&str) -> String| {
        let text = std::fs::read_to_string(root().join(name)).expect("a manifest");
        (name.to_owned(), edit(&text))
    };
    changed_files.extend([
        edited("Cargo.toml", |text| {
            text.replace("version = \"0.1.0\"", "version = \"0.1.0-policy\"")
                .replace(", \"tests/wrong\"", "")
        }),
        edited("vmm/Cargo.toml", |text| {
            let (text, _) = text.split_once("[[bench]]").expect("targets");
            text.replace("name = \"stalemate\"\npath", "name = \"stalemate-policy\"\npath")
                .replace("default-run = \"stalemate\"", "autobenches = false")
        }),
    ]);
    let mut written: BTreeSet<PathBuf> = changed_files.keys().map(|name| to.join(name)).collect();
    for name in [
        "Cargo.toml",
        "Cargo.lock",
        "guest",
        "init",
        "shared",
        "vmm",
        "scenarios",
        "profiles",
        "docs",
    ] {
        for_each_file(&root().join(name), &to.join(name), &mut |from, to| {
            written.insert(to.to_owned());
            let name = from.strip_prefix(root()).expect("a path of the checkout");
            match changed_files.remove(&*name.to_string_lossy()) {
                Some(text) => write(to, text.as_bytes()),
                None => write(to, &std::fs::read(from).expect("a file")),
            }
        });
    }
    for (name, text) in changed_files {
        write(&to.join(name), text.as_bytes());
    }
    // A file that has since been renamed would be there twice.
    for_each_file(&to, &to, &mut |file, _| {
        if !written.contains(file) {
            std::fs::remove_file(file).expect("an old file");
        }
    });
    to
}

/// The program of the page's policy.
fn build(checkout: &Path) -> PathBuf {
    let ours = Path::new(env!("CARGO_BIN_EXE_stalemate"));
    let profile = ours.parent().expect("the directory of a profile");
    let target = profile.parent().expect("the target directory");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(checkout).args(["build", "--quiet", "--offline", "-p", "stalemate"]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    // What cargo told this test is not meant for the build.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        if text.starts_with("CARGO_") && text != "CARGO_HOME" || text == "OUT_DIR" {
            cargo.env_remove(name);
        }
    }
    let output = cargo.env("CARGO_TARGET_DIR", target).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    profile.join("stalemate-policy")
}

#[test]
fn the_page_on_policies_makes_one() {
    let page = std::fs::read_to_string(root().join("docs/policy.md")).expect("a page");
    let blocks = blocks(&page);
    let program = build(&checkout(&blocks));
    let mut commands = 0;
    for (_, body) in blocks.iter().filter(|(fence, _)| fence == "sh,policy") {
        for line in body {
            let (arguments, code) = console::parsed(line).expect("a command of ours");
            let output = Command::new(&program).args(arguments).output().expect("it runs");
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(code), "{line}:\n{said}");
            assert!(!line.ends_with("compare") || said.contains("lazymark"), "{said}");
            commands += 1;
        }
    }
    assert!(commands > 3, "{commands} commands");
}
