//! The table: for each wrong choice the test that fails under it.
//!
//! Under each place stand its choices, each with the name of a test; or with `=` and why that choice
//! makes no difference that a trace could show. `STALEMATE_BLESS=1` writes the table anew: a test that
//! still fails stays, another is found where none does, and what nothing catches gets a `-`, which is
//! never as it should be.

use stalemate_wrong::wrong::{PLACES, Place};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// Until a test under a wrong choice is held to go on for ever, which is a failure too; it takes some
/// milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// All tests that look at the model.
const OTHERS: &[&str] = &["--skip", "table::", "--skip", "scan::"];

/// A wrong choice: the index of its place, and what is chosen there.
type Choice = (usize, &'static str);

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("table.txt")
}

fn choices() -> Vec<Choice> {
    let of =
        |(number, place): (usize, &Place)| place.choices.iter().map(move |what| (number, *what));
    PLACES.iter().enumerate().flat_map(of).collect()
}

/// A choice as the table tells it: file, place and what is chosen.
type Key = (String, String, String);

fn key(&(number, what): &Choice) -> Key {
    let place = PLACES[number];
    (place.file.to_owned(), place.name.to_owned(), what.to_owned())
}

/// The rows of the table: what it says of each choice.
fn read() -> BTreeMap<Key, String> {
    let text = fs::read_to_string(path()).unwrap_or_default();
    let (mut file, mut place) = ("", "");
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(row) = line.strip_prefix("    ") {
            let (what, says) = row.split_once(' ').unwrap_or((row, "-"));
            let key = (file.to_owned(), place.to_owned(), what.to_owned());
            let before = rows.insert(key, says.trim().to_owned());
            assert!(before.is_none(), "{file}, {place}: {what} has two rows");
        } else if let Some(name) = line.strip_prefix("  ") {
            place = name;
        } else {
            file = line;
        }
    }
    rows
}

fn write(rows: &BTreeMap<Key, String>) {
    let mut text = String::from(
        "# For each wrong choice the test of `tests/model` that fails under it; `table.rs` says more.\n",
    );
    let (mut file, mut place) = ("", usize::MAX);
    for choice @ (number, what) in choices() {
        let Place { file: of, name, .. } = PLACES[number];
        if of != file {
            writeln!(text, "\n{of}").expect("a string takes it");
        }
        if number != place {
            writeln!(text, "  {name}").expect("a string takes it");
        }
        (file, place) = (of, number);
        let says = rows.get(&key(&choice)).map_or("-", |says| says);
        writeln!(text, "    {what:<5} {says}").expect("a string takes it");
    }
    fs::write(path(), text).expect("the table can be written");
}

/// Runs tests of this binary under a wrong choice, or none: whether all pass, and what they print.
fn run(choice: Option<Choice>, tests: &[&str]) -> (bool, String) {
    let mut command = Command::new(env::current_exe().expect("this binary"));
    command.args(tests).args(["--test-threads", "1"]).env_remove("STALEMATE_WRONG");
    // A test that fails is what is wanted, and where it does is no matter.
    command.env("RUST_BACKTRACE", "0");
    if let Some((number, what)) = choice {
        command.env("STALEMATE_WRONG", format!("{number}={what}"));
    }
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = piped.expect("this binary runs");
    let mut stdout = child.stdout.take().expect("it is a pipe");
    let printed = thread::spawn(move || {
        let mut text = String::new();
        // What cannot be read is not needed.
        let _ = stdout.read_to_string(&mut text);
        text
    });
    let begin = Instant::now();
    let passes = loop {
        match child.try_wait().expect("it is a child") {
            Some(status) => break status.success(),
            None if choice.is_some() && begin.elapsed() > PATIENCE => {
                child.kill().expect("it is a child");
                child.wait().expect("it is a child");
                break false;
            }
            None => thread::sleep(Duration::from_millis(1)),
        }
    };
    (passes, printed.join().expect("it reads"))
}

/// Whether the one test fails under the choice.
fn fails(choice: Choice, test: &str) -> bool {
    !run(Some(choice), &["--exact", test]).0
}

/// The first test that fails under the choice, or does not end.
fn first_that_fails(choice: Choice) -> Option<String> {
    let (_, printed) = run(Some(choice), OTHERS);
    let mut tests = printed.lines().filter(|line| line.starts_with("test ") && line.contains("::"));
    let line = tests.find(|line| !line.trim_end().ends_with("ok"))?;
    Some(line.split(' ').nth(1)?.to_owned())
}

/// What `judge` says of each choice, on all processors.
fn each<T: Send>(judge: impl Fn(Choice) -> T + Sync) -> Vec<(Choice, T)> {
    let all = choices();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(&choice) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let judged = judge(choice);
                    done.lock().expect("nobody panics with it").push((choice, judged));
                }
            });
        }
    });
    done.into_inner().expect("nobody panics with it")
}

fn bless() {
    let old = read();
    let judged = each(|choice| {
        let says = old.get(&key(&choice)).map_or("-", |says| says);
        let names_one = !says.starts_with(['-', '=']);
        if says.starts_with('=') || names_one && fails(choice, says) {
            return says.to_owned();
        }
        first_that_fails(choice).unwrap_or_else(|| "-".to_owned())
    });
    write(&judged.into_iter().map(|(choice, says)| (key(&choice), says)).collect());
}

#[test]
fn every_wrong_choice_is_caught_by_the_test_of_its_row() {
    if env::var_os("STALEMATE_BLESS").is_some() {
        bless();
    }
    let rows = read();
    let (_, listed) = run(None, &["--list", "--format", "terse"]);
    let tests: Vec<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let judged = each(|choice| {
        let says = rows.get(&key(&choice)).map_or("-", |says| says);
        match says.chars().next() {
            Some('=') => first_that_fails(choice).map(|test| format!("{test} tells a difference")),
            Some('-') | None => Some("nothing catches it".to_owned()),
            _ if !tests.contains(&says) => Some(format!("there is no test {says}")),
            _ => (!fails(choice, says)).then(|| format!("{says} passes")),
        }
    });
    let mut wrong: Vec<String> = judged
        .into_iter()
        .filter_map(|(choice, wrong)| {
            let (file, place, what) = key(&choice);
            Some(format!("{file}, {place} -> {what}: {}", wrong?))
        })
        .collect();
    let known: Vec<Key> = choices().iter().map(key).collect();
    let gone = rows.keys().filter(|row| !known.contains(row));
    wrong.extend(gone.map(|(file, place, what)| format!("{file} has no {place} -> {what}")));
    assert!(
        wrong.is_empty(),
        "{} rows of {} are not so (STALEMATE_BLESS=1 writes them anew):\n{}",
        wrong.len(),
        path().display(),
        wrong.join("\n")
    );
}

#[test]
fn every_rule_has_three_wrong_choices_or_more() {
    let mut of_rule: BTreeMap<&str, usize> = BTreeMap::new();
    for place in PLACES {
        *of_rule.entry(place.file).or_default() += place.choices.len();
    }
    for about in stalemate_wrong::oracle::rules::abouts() {
        let file = format!("oracle/rules/{}.rs", about.name.replace('-', "_"));
        let count = of_rule.get(&*file).copied().unwrap_or_default();
        assert!(count >= 3, "{file}: {count}");
    }
}

#[test]
fn without_a_wrong_choice_every_test_passes() {
    let (passes, printed) = run(None, OTHERS);
    assert!(passes, "{printed}");
}
