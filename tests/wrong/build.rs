//! Writes a copy of the model with a switch at each condition of the oracle, and at each place that
//! `replaced.rs` names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

include!("conditions.rs");
include!("replaced.rs");

/// Where each condition is switched, below `vmm/model/src`: a file or a directory.
const SWITCHED: [&str; 9] = [
    "event/header.rs",
    "oracle/deadline.rs",
    "oracle/held.rs",
    "oracle/ledger.rs",
    "oracle/ledger/",
    "oracle/obligation.rs",
    "oracle/rule.rs",
    "oracle/replica/",
    "oracle/rules/",
];

/// Text to be written at a byte of a file. What ends there comes first, and what is shorter inside.
type Insertion = (usize, bool, isize, String);

#[derive(Default)]
struct Copy {
    /// Rows of `PLACES`.
    places: Vec<String>,
}

impl Copy {
    fn place(&mut self, file: &str, name: &str, choices: &str) -> usize {
        self.places
            .push(format!("    Place {{ file: {file:?}, name: {name:?}, choices: {choices} }},"));
        self.places.len() - 1
    }

    fn switch(&mut self, file: &str, source: &str) -> String {
        let mut inserted: Vec<Insertion> = Vec::new();
        let mut wrap = |start: usize, end: usize, before: String, after: String| {
            let len = (end - start) as isize;
            inserted.push((start, true, -len, before));
            inserted.push((end, false, len, after));
        };
        if SWITCHED.iter().any(|switched| file.starts_with(switched)) {
            let tests = source.find("#[cfg(test)]").unwrap_or(source.len());
            let scan = Scan { source, tokens: tokens(&source[..tests]) };
            let mut met: BTreeMap<String, usize> = BTreeMap::new();
            for Condition { start, end, is_name } in scan.conditions() {
                let mut name = name(&scan, start, end);
                let times = met.entry(name.clone()).or_default();
                *times += 1;
                if *times > 1 {
                    write!(name, " #{times}").expect("a string takes it");
                }
                let number = self.place(file, &name, "&[\"true\", \"false\"]");
                let (before, after) = if is_name {
                    (format!("|it| crate::wrong::holds({number}, ("), ")(it))".to_owned())
                } else {
                    (format!("crate::wrong::holds({number}, {{"), "})".to_owned())
                };
                wrap(start, end, before, after);
            }
        }
        for (name, _, right, wrong) in REPLACED.iter().filter(|row| row.1 == file) {
            let marks: Vec<&str> = right.split(['«', '»']).collect();
            let [before, expression, after] = marks[..] else { panic!("{name}: no «»") };
            let text = [before, expression, after].concat();
            let mut places = source.match_indices(&*text);
            let (at, _) = places.next().unwrap_or_else(|| panic!("{file} has no {right:?}"));
            assert!(places.next().is_none(), "{file} has {right:?} twice");
            let number = self.place(file, name, "&[\"wrong\"]");
            let start = at + before.len();
            let switch = format!("(if crate::wrong::is({number}) {{ {wrong} }} else {{ ");
            wrap(start, start + expression.len(), switch, " })".to_owned());
        }
        inserted.sort();
        let mut copy = String::new();
        let mut at = 0;
        for (place, _, _, text) in inserted {
            copy.push_str(&source[at..place]);
            copy.push_str(&text);
            at = place;
        }
        copy + &source[at..]
    }
}

/// The function that a condition is in, and its text in one line.
fn name(scan: &Scan<'_>, start: usize, end: usize) -> String {
    let before = scan.tokens.windows(2).take_while(|two| two[1].at < start);
    let function = before.filter(|two| two[0].text == "fn").last().map_or("?", |two| two[1].text);
    let text: Vec<&str> = scan.source[start..end].split_whitespace().collect();
    let text: String = text.join(" ").chars().take(90).collect();
    format!("{function}: {text}")
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the model's sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn main() {
    let root =
        Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo says")).join("../../vmm/model/src");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo says"));
    for watched in
        [root.to_str().expect("a path of text"), "build.rs", "conditions.rs", "replaced.rs"]
    {
        println!("cargo::rerun-if-changed={watched}");
    }
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    paths.sort();
    let mut all = Copy::default();
    for path in &paths {
        let below = path.strip_prefix(&root).expect("below it");
        let file = below.to_str().expect("a path of text");
        let source = fs::read_to_string(path).expect("readable");
        let mut copy = all.switch(file, &source);
        if file == "lib.rs" {
            // Inner attributes and documentation are those of the file that includes it.
            let inner = |line: &&str| !line.starts_with("//!") && !line.starts_with("#![");
            copy = copy.lines().filter(inner).collect::<Vec<_>>().join("\n");
        }
        let to = out.join("model").join(below);
        fs::create_dir_all(to.parent().expect("a directory")).expect("cargo's directory");
        fs::write(to, copy).expect("cargo's directory");
    }
    let unknown = REPLACED.iter().find(|row| !paths.iter().any(|path| path.ends_with(row.1)));
    assert!(unknown.is_none(), "no such file: {unknown:?}");
    let rows = all.places.join("\n");
    let choices = format!("/// All places.\npub static PLACES: &[Place] = &[\n{rows}\n];\n");
    fs::write(out.join("choices.rs"), choices).expect("cargo's directory");
}
