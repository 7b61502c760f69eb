//! A campaign for people.

use super::{Came, Campaign, Dropped};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Operations that no rule caught of which each is shown; the JSON has all.
const SHOWN: usize = 40;

impl Came {
    /// In a word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Caught(_) => "caught",
            Self::Covered(_) => "covered",
            Self::Parked(_) => "parked",
            Self::Unused(_) => "unused",
            Self::Unjudged(_) => "unjudged",
        }
    }

    /// The rule that spoke, or what covered it.
    pub(in crate::audit) fn by(&self) -> Option<String> {
        match self {
            Self::Caught(rule) => Some(rule.to_string()),
            Self::Covered(what) => Some(what.clone()),
            Self::Parked(_) | Self::Unused(_) | Self::Unjudged(_) => None,
        }
    }

    /// What is still cached at the end.
    pub(in crate::audit) fn left(&self) -> Option<&str> {
        match self {
            Self::Parked(what) | Self::Unused(what) | Self::Unjudged(what) => Some(what),
            Self::Caught(_) | Self::Covered(_) => None,
        }
    }
}

/// What came of them, in the order in which they are shown.
pub(in crate::audit) const WORDS: [(&str, &str); 5] = [
    ("caught", "a rule spoke"),
    ("covered", "something else removed it all before it was due"),
    (
        "parked",
        "cached at the end under a PCID that is not current: a CR3 load that flushes comes first",
    ),
    ("unused", "cached at the end, of kernel addresses that were not used again"),
    ("unjudged", "cached at the end, and no deadline came"),
];

impl Campaign {
    pub(in crate::audit) fn count(&self, word: &str) -> usize {
        self.dropped.iter().filter(|one| one.came.word() == word).count()
    }

    /// How often each rule spoke, or each operation covered one that was withheld.
    fn by(&self, word: &str) -> Vec<(String, usize)> {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for one in self.dropped.iter().filter(|one| one.came.word() == word) {
            *found.entry(one.came.by().unwrap_or_default()).or_default() += 1;
        }
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        found
    }

    /// The report.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let tried = self.dropped.len();
        writeln!(out, "\nFlushes of the workload, withheld one at a time")?;
        writeln!(
            out,
            "  of {} operations that can be withheld {tried} removed something stale, and each of \
             these was; the others had nothing stale to remove",
            self.operations
        )?;
        for (word, meaning) in WORDS {
            writeln!(out, "  {:>7} {word:<9} {meaning}", self.count(word))?;
            for (by, count) in self.by(word).iter().filter(|(by, _)| !by.is_empty()) {
                writeln!(out, "  {:>17} {count:>7} by {by}", "")?;
            }
        }
        self.write_sites(out)?;
        let missed = self.dropped.iter().filter_map(|one| Some((one, one.came.left()?)));
        let missed: Vec<(&Dropped, &str)> = missed.collect();
        if !missed.is_empty() {
            writeln!(out, "\n  Those that no rule caught and nothing covered:")?;
        }
        for (one, left) in missed.iter().take(SHOWN) {
            let Dropped { fault, operation, function, came, .. } = one;
            writeln!(out, "  --inject \"{fault}\"  {operation} in {function}")?;
            writeln!(out, "      {}: {left}", came.word())?;
        }
        match missed.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => writeln!(out, "  ... and {more} more; --format json has them"),
        }
    }

    fn write_sites(&self, out: &mut String) -> std::fmt::Result {
        let mut sites: BTreeMap<(&str, &str), BTreeMap<&str, usize>> = BTreeMap::new();
        for one in &self.dropped {
            let site = sites.entry((one.operation, &one.function)).or_default();
            *site.entry(one.came.word()).or_default() += 1;
        }
        if sites.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        write!(out, "  ")?;
        WORDS.iter().try_for_each(|(word, _)| write!(out, "{word:>9}"))?;
        writeln!(out, "   operation and function")?;
        for ((operation, function), counts) in sites {
            write!(out, "  ")?;
            for (word, _) in WORDS {
                write!(out, "{:>9}", counts.get(word).copied().unwrap_or(0))?;
            }
            writeln!(out, "   {operation} in {function}")?;
        }
        Ok(())
    }
}
