//! The manual is true: every command in it is run and prints what it says, its references are
//! written from the types, and its links lead somewhere.
//!
//! `STALEMATE_BLESS=1 cargo test -p stalemate --test manual` writes outputs and references anew.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod console;
mod policy;
mod references;

use std::path::{Path, PathBuf};

/// The checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every page, the README too, by its path.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md")];
    for directory in ["docs", "docs/rules"] {
        let entries = std::fs::read_dir(root().join(directory)).expect("a directory");
        paths.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a page");
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

fn is_blessing() -> bool {
    std::env::var_os("STALEMATE_BLESS").is_some_and(|value| value == "1")
}

/// Compares a file with what it ought to be, or writes it.
fn check(path: &Path, wanted: &str) {
    if is_blessing() {
        std::fs::write(path, wanted).expect("the manual can be written");
    }
    let is = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        console::canonical(&is) == console::canonical(wanted),
        "{} is out of date: STALEMATE_BLESS=1 cargo test -p stalemate --test manual",
        path.display()
    );
}

#[test]
fn every_command_and_every_reference_is_what_the_program_says() {
    let (mut commands, mut parts) = (0, 0);
    for (path, text) in pages() {
        let (text, count) = references::with_references(&text);
        parts += count;
        commands += text.lines().filter(|line| line.starts_with("$ ")).count();
        check(&path, &console::with_outputs(&path, &text));
    }
    assert!(commands > 12 && parts > 20, "{commands} commands, {parts} parts");
}

#[test]
fn every_link_leads_somewhere() {
    let link = regex_lite::Regex::new(r"\]\(([^)#]+)(#[^)]*)?\)").expect("a pattern");
    for (path, text) in pages() {
        for found in link.captures_iter(&text) {
            let to = &found[1];
            if !to.contains("://") {
                let target = path.parent().expect("a directory").join(to);
                assert!(target.exists(), "{}: {to}", path.display());
            }
        }
    }
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md")).expect("a summary");
    for (path, _) in pages() {
        let Ok(name) = path.strip_prefix(root().join("docs")) else { continue };
        let name = name.display().to_string();
        assert!(name == "SUMMARY.md" || summary.contains(&format!("({name})")), "{name}");
    }
}
