//! What `explain` knows beside what `list` lists: the words of reports, and those of steps.

use crate::inject::forms::{POINTS, SITES};
use crate::scenario::VERBS;

/// The words that reports use, as docs/glossary.md has them.
pub const TERMS: [(&str, &str); 13] = [
    (
        "owed",
        "a translation that is cached and that the page tables no longer give must be removed before \
         its deadline: until then its removal is owed, on each CPU and under each tag that holds it",
    ),
    (
        "obligation",
        "one removal that is owed: a page, a CPU and a tag, from the store to a page table that made \
         the entry stale until an invalidation discharges it or a deadline passes",
    ),
    (
        "discharged",
        "an invalidation removed the stale entry before its deadline, and the report names which",
    ),
    (
        "deadline",
        "the moment by which a stale entry must be gone: a flush returns, user mode is entered, a \
         frame is used again; each rule has its own",
    ),
    ("stale", "cached, although a walk of the page tables now gives something else"),
    (
        "clean",
        "the outcome of a run in which something was stale, and all of it was removed in time",
    ),
    ("vacuous", "the outcome of a run in which nothing was ever stale: it proves nothing"),
    (
        "caught",
        "a run of which the scenario says what goes wrong, through an injected fault or a known bug \
         of the kernel, and the rules that it names said so",
    ),
    (
        "mark",
        "a bit of user_pcid_flush_mask: the user PCID of an address space must be flushed when its \
         user tables are next loaded on this CPU",
    ),
    (
        "consume",
        "the return to user mode finds a mark, and loads CR3 so that the user PCID is emptied",
    ),
    (
        "big hammer",
        "an operation that empties a PCID or everything, where pages were to be flushed or not",
    ),
    (
        "tag",
        "what a cached entry belongs to: the PCID that was loaded when it was made, or all where it is \
         global",
    ),
    (
        "missed",
        "an invalidation between the store and the deadline that did not reach the entry, and why",
    ),
];

/// Kinds of pages, by the letter of their names: letter, number of them, what they are.
const PAGES: [(&str, usize, &str); 4] = [
    ("u", 16, "a user page of 4 KiB"),
    ("k", 16, "a kernel page of 4 KiB, the same in all address spaces"),
    ("h", 2, "a user page of 2 MiB"),
    ("v", 4, "a user page of 4 KiB with a page table of its own, which a step can free"),
];

/// What a word of steps, of faults or of reports means.
pub fn explain(word: &str) -> Option<String> {
    if let Some((term, what)) = TERMS.iter().find(|(term, _)| *term == word) {
        return Some(format!("{term}\n\n{what}\n"));
    }
    if let Some(verb) = VERBS.iter().find(|verb| verb.name == word) {
        let form = format!("{} {}", verb.name, verb.form);
        return Some(format!("{word}\n\nstep: {}\n{}\n", form.trim_end(), verb.help));
    }
    if POINTS.iter().any(|(name, _)| *name == word) {
        return Some(format!(
            "{word}\n\na point in the kernel's code at which a fault may be injected, as in `nmi@{word}`\n"
        ));
    }
    if SITES.iter().any(|(name, _)| *name == word) {
        return Some(format!(
            "{word}\n\na place of a CR3 load in the kernel, as in `drop cr3@{word}` or `set noflush@{word}`\n"
        ));
    }
    let page = |&&(letter, count, _): &&(&str, usize, &str)| {
        let number = word.strip_prefix(letter).map(str::parse::<usize>);
        word == letter || matches!(number, Some(Ok(number)) if number < count)
    };
    let (letter, count, what) = PAGES.iter().find(page)?;
    Some(format!("{word}\n\npage: {what}; there are {letter}0 to {letter}{}\n", count - 1))
}

/// Every word that it knows.
pub fn words() -> impl Iterator<Item = &'static str> {
    let terms = TERMS.iter().map(|(term, _)| *term);
    terms.chain(VERBS.iter().map(|verb| verb.name)).chain(POINTS.iter().map(|(name, _)| *name))
}
