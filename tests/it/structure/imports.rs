//! Which file imports which, read off the sources: paths that begin with `crate`, `super`, `self` or
//! the name of a module of the same file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The files of one crate, and what each imports of the others.
pub struct Imports {
    /// By module path: `["arch", "tlb", "set"]`; the root is empty.
    files: BTreeMap<Vec<String>, PathBuf>,
    edges: BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
}

impl Imports {
    /// Reads the crate whose sources are in `root`.
    pub fn read(root: &Path, sources: &[(PathBuf, String)]) -> Self {
        let module = |path: &PathBuf| {
            let inside = path.strip_prefix(root).expect("a file of the crate").with_extension("");
            let mut names: Vec<String> =
                inside.iter().map(|name| name.to_string_lossy().into_owned()).collect();
            if matches!(names.last().map(String::as_str), Some("mod" | "lib" | "main")) {
                names.pop();
            }
            names
        };
        let files = sources.iter().map(|(path, _)| (module(path), path.clone())).collect();
        let mut imports = Self { files, edges: BTreeMap::new() };
        for (path, text) in sources {
            let own = module(path);
            let found = paths(&without_tests(text));
            let found = found.iter().filter_map(|path| imports.resolve(&own, path));
            let found: BTreeSet<_> = found.filter(|other| *other != own).collect();
            imports.edges.entry(own).or_default().extend(found);
        }
        imports
    }

    /// Who imports whom; the root, which lists what there is, imports nobody.
    pub fn edges(&self) -> impl Iterator<Item = (&[String], &[String])> {
        let of = |from| self.edges.get(from).into_iter().flatten();
        self.edges.keys().flat_map(move |from| of(from).map(|to| (from.as_slice(), to.as_slice())))
    }

    /// The module that a path of module `own` leads to: as far as it names modules.
    fn resolve(&self, own: &[String], path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first().filter(|_| !own.is_empty())?;
        let (mut at, mut rest) = match first.as_str() {
            "crate" => (Vec::new(), rest),
            "self" => (own.to_vec(), rest),
            "super" => (own[..own.len().checked_sub(1)?].to_vec(), rest),
            child => {
                let at = [own, &[child.to_owned()]].concat();
                self.files.contains_key(&at).then_some((at, rest))?
            }
        };
        while let Some((next, more)) = rest.split_first() {
            match next.as_str() {
                "super" => at.truncate(at.len().checked_sub(1)?),
                _ if self.files.contains_key(&[&at[..], std::slice::from_ref(next)].concat()) => {
                    at.push(next.clone());
                }
                _ => break,
            }
            rest = more;
        }
        // The root is a list of what there is.
        (!at.is_empty()).then_some(at)
    }

    /// The circles: files of which each imports, by way of others, all of them.
    pub fn circles(&self) -> Vec<BTreeSet<Vec<String>>> {
        let reached: BTreeMap<_, _> =
            self.edges.keys().map(|file| (file.clone(), self.reached(file))).collect();
        let mut circles = BTreeSet::new();
        for (file, of) in &reached {
            let back: BTreeSet<_> =
                of.iter().filter(|other| reached[*other].contains(file)).cloned().collect();
            if back.len() > 1 {
                circles.insert(back);
            }
        }
        circles.into_iter().collect()
    }

    fn reached(&self, from: &[String]) -> BTreeSet<Vec<String>> {
        let (mut found, mut todo) = (BTreeSet::new(), vec![from.to_vec()]);
        while let Some(file) = todo.pop() {
            for next in self.edges.get(&file).into_iter().flatten() {
                if found.insert(next.clone()) {
                    todo.push(next.clone());
                }
            }
        }
        found
    }
}

/// A file without its comments, its texts and its module of tests.
fn without_tests(text: &str) -> String {
    let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Every path in the text, with the groups of `use` taken apart.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("::") {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let head = rest[..at].rsplit(|c| !is_word(c)).next().unwrap_or_default();
        let mut path = vec![head.to_owned()];
        rest = &rest[at + 2..];
        loop {
            let word = rest.split(|c| !is_word(c)).next().unwrap_or_default();
            if word.is_empty() {
                break;
            }
            path.push(word.to_owned());
            rest = &rest[word.len()..];
            match rest.strip_prefix("::") {
                Some(more) => rest = more,
                None => break,
            }
        }
        if rest.starts_with('{') && !path[0].is_empty() {
            let group = group(rest);
            for part in parts(group) {
                for inner in paths(&format!("{}::{part}", path.join("::"))) {
                    found.push(inner);
                }
            }
            rest = &rest[group.len() + 2..];
            continue;
        }
        found.push(path);
    }
    found
}

/// What is between the brace that the text begins with and its own.
fn group(text: &str) -> &str {
    let mut depth = 0;
    let end = text.char_indices().find(|(_, c)| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth == 0
    });
    &text[1..end.map_or(text.len(), |(at, _)| at)]
}

/// The parts of a group, at its own commas.
fn parts(group: &str) -> Vec<&str> {
    let mut depth = 0;
    let split = group.split(|c| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        c == ',' && depth == 0
    });
    split.map(str::trim).filter(|part| !part.is_empty()).collect()
}

#[test]
fn groups_are_taken_apart() {
    let found = paths("use crate::a::{B, c::{D, self}}; super::e::f(); let x = g::H;");
    let shown: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(
        shown,
        ["crate::a::B", "crate::a::c::D", "crate::a::c::self", "super::e::f", "g::H"]
    );
}

#[test]
fn a_circle_of_three_files_is_found() {
    let root = PathBuf::from("src");
    let file = |name: &str, text: &str| (root.join(name), text.to_owned());
    let sources = [
        file("lib.rs", "pub mod a; mod b; mod c; use a::X;"),
        file("a/mod.rs", "use crate::b::Y;"),
        file("b.rs", "fn y() { crate::c::z() }"),
        file("c.rs", "use super::a::X;"),
    ];
    let circles = Imports::read(&root, &sources).circles();
    assert_eq!(circles.len(), 1);
    assert_eq!(circles[0].len(), 3, "{circles:?}");
}
