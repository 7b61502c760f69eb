//! Blocks of commands: each line `$ stalemate …` is run, and what follows is what it prints.
//!
//! A page's commands run in a directory of the page's own, in which its blocks
//! "```toml FILE" are files, as the reader who follows the text has them. A line `...` stands for any
//! lines. A command that does not exit with 0 says so: `$ stalemate … # exits with 1`.
//!
//! Commands without an output stand in blocks of "```sh" and are run too; those of "```sh,long"
//! take minutes or need a certain host, so that only their arguments are looked at.

use super::common;
use clap::Parser;
use regex_lite::Regex;
use stalemate::cli::Cli;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A text without what depends on the compiler of the guest (places in its code, frames of its
/// tables) or on whether the host has KVM.
pub fn canonical(text: &str) -> String {
    static PATTERNS: OnceLock<Vec<(Regex, &'static str)>> = OnceLock::new();
    let patterns = PATTERNS.get_or_init(|| {
        [
            (r"\+0x[0-9a-f]+", "+…"),
            (r"\.rs:\d+", ".rs:…"),
            (r"0x[0-9a-f]{6,}", "0x…"),
            (r"at each boundary: \d+ tried", "at each boundary: … tried"),
            (r"executor (kvm|interp)", "executor …"),
            (r"(?m)^(real|interpreted): .*$", "real or interpreted"),
        ]
        .map(|(pattern, with)| (Regex::new(pattern).expect("a pattern"), with))
        .to_vec()
    });
    let replace = |text: String, (pattern, with): &(Regex, &str)| {
        pattern.replace_all(&text, *with).into_owned()
    };
    patterns.iter().fold(text.to_owned(), replace)
}

/// Where a page's commands run.
fn directory(page: &Path) -> PathBuf {
    let name = page.file_stem().expect("a name").to_string_lossy();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("manual-{name}"));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("a directory");
    directory
}

/// The arguments of a command of ours and its exit code; `None` for a command of others.
pub fn parsed(line: &str) -> Option<(Vec<String>, i32)> {
    let (line, code) = match line.split_once(" # exits with ") {
        Some((line, code)) => (line, code.parse().expect("an exit code")),
        None => (line, 0),
    };
    // A remark, or what others make of the output.
    let line = [" #", " | "].iter().fold(line, |line, end| line.split(end).next().unwrap_or(line));
    let words = common::words(line);
    let arguments = match &words[..] {
        [program, rest @ ..] if program == "stalemate" => rest,
        [cargo, run, rest @ ..] if cargo == "cargo" && run == "run" => {
            rest.strip_prefix(&["--".to_owned()]).unwrap_or(rest)
        }
        _ => return None,
    };
    Some((arguments.to_vec(), code))
}

/// What a command prints: its errors, then its output.
fn run(line: &str, directory: &Path) -> String {
    let (arguments, code) =
        parsed(line).unwrap_or_else(|| panic!("`{line}` is no command of ours"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_stalemate"));
    command.args(arguments).current_dir(directory).env_remove("STALEMATE_BLESS");
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(code), "{line}");
    let fallback = |line: &&str| !line.contains("running on the interpreter");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut text: String = errors.lines().filter(fallback).flat_map(|line| [line, "\n"]).collect();
    text += &String::from_utf8_lossy(&output.stdout);
    text
}

/// Whether lines are what a pattern says, in which `...` stands for any of them.
fn fits(pattern: &[String], lines: &[String]) -> bool {
    match pattern {
        [] => lines.is_empty(),
        [any, rest @ ..] if any.trim() == "..." => {
            (0..=lines.len()).any(|skipped| fits(rest, &lines[skipped..]))
        }
        [first, rest @ ..] => {
            lines.first().is_some_and(|line| line == first) && fits(rest, &lines[1..])
        }
    }
}

/// What stands below a command, where it is what the command prints; else what it prints.
fn settled(is: &str, prints: &str) -> String {
    let lines = |text: &str| -> Vec<String> {
        canonical(text).lines().map(|line| line.trim_end().to_owned()).collect()
    };
    if fits(&lines(is), &lines(prints)) { is.to_owned() } else { prints.to_owned() }
}

/// The page with what its commands print.
pub fn with_outputs(path: &Path, text: &str) -> String {
    let directory = directory(path);
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let _ = writeln!(out, "{line}");
        let Some(fence) = line.trim_start().strip_prefix("```") else { continue };
        let mut body = Vec::new();
        while let Some(line) = lines.next_if(|line| line.trim_start() != "```") {
            body.push(line);
        }
        let contents: String = body.iter().flat_map(|line| [line, "\n"]).collect();
        if let Some(name) = fence.strip_prefix("toml ") {
            std::fs::write(directory.join(name), &contents).expect("a file");
        }
        if fence == "console" {
            out += &block(&body, &directory);
        } else {
            body.iter().for_each(|line| unprinted(fence, line, &directory, path));
            out += &contents;
        }
        out.extend(lines.next().into_iter().flat_map(|end| [end, "\n"]));
    }
    out
}

/// A command of which the page shows no output.
fn unprinted(fence: &str, line: &str, directory: &Path, page: &Path) {
    let Some((arguments, code)) = parsed(line) else { return };
    match fence {
        "sh" => _ = run(line, directory),
        "sh,long" => {
            assert_eq!(code, 0, "{line}: what does not run says no exit code");
            let words = std::iter::once("stalemate".to_owned()).chain(arguments);
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        // Usages; and what the tests of the pages on policies and on guests run.
        "text" | "toml" | "sh,policy" | "sh,guest" => (),
        _ => panic!("{}: `{line}` stands in a block that nobody runs", page.display()),
    }
}

/// A block of commands, each with what it prints.
fn block(body: &[&str], directory: &Path) -> String {
    let mut out = String::new();
    let mut lines = body.iter().peekable();
    while let Some(line) = lines.next() {
        let command = line.strip_prefix("$ ").expect("a block of commands begins with one");
        let mut is = String::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with("$ ")) {
            is += line;
            is.push('\n');
        }
        let _ = write!(out, "{line}\n{}", settled(&is, &run(command, directory)));
    }
    out
}

#[test]
fn a_wrong_output_is_noticed() {
    let page = Path::new("wrong.md");
    let right = "```console\n$ stalemate explain split\nsplit\n...\n```\n";
    assert_eq!(with_outputs(page, right), right);
    let wrong = "```console\n$ stalemate explain split\nsplitt\n...\n```\n";
    assert_ne!(canonical(&with_outputs(page, wrong)), canonical(wrong));
    assert_eq!(canonical("f+0x28 at a.rs:7, 0x18d000"), canonical("f+0x2c at a.rs:9, 0x18e000"));
    assert_ne!(canonical("PCID 0x801"), canonical("PCID 0x001"));
}
