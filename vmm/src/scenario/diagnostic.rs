//! Errors in what a person wrote, with the place and what would be right.

use crate::ink::{Ink, tame};
use crate::suggest::nearest;
use annotate_snippets::{AnnotationKind, Level, Snippet, normalize_untrusted_str};
use std::fmt;

/// One error in a scenario file or on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, or what stands for one.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// Characters to underline.
    pub width: usize,
    /// The source line.
    pub source: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: String,
}

impl Diagnostic {
    /// The diagnostic for bytes `[start, end)` of `text`.
    #[must_use]
    pub fn at(
        file: &str,
        text: &str,
        start: usize,
        end: usize,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        let start = floor(text, start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = floor(text, end).clamp(start, line_end);
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            width: text[start..end].chars().count().max(1),
            source: text[line_start..line_end].to_owned(),
            message: message.into(),
            help: help.into(),
        }
    }
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

impl Diagnostic {
    /// The diagnostic as a compiler would print it.
    #[must_use]
    pub fn render(&self, ink: Ink) -> String {
        let chars = |count: usize| {
            let at = self.source.char_indices().nth(count);
            at.map_or(self.source.len(), |(at, _)| at)
        };
        let span = chars(self.column - 1)..chars(self.column - 1 + self.width);
        let snippet = Snippet::source(tame(&self.source))
            .path(&self.file)
            .line_start(self.line)
            .annotation(AnnotationKind::Primary.span(span));
        // A file may hold what a terminal would take for commands.
        let help = normalize_untrusted_str(&tame(&self.help));
        let group = Level::ERROR
            .primary_title(tame(&self.message))
            .element(snippet)
            .element(Level::HELP.message(help));
        ink.renderer().render(&[group])
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Ink::Plain))
    }
}

impl std::error::Error for Diagnostic {}

/// What the TOML reader says is wrong, and what would be right; `otherwise` is where to look for the
/// latter if its words do not tell.
pub(crate) fn explain(message: &str, otherwise: &str) -> (String, String) {
    if let Some(field) = message.strip_prefix("missing field ") {
        return (message.to_owned(), format!("add a line `{} = …`", field.trim_matches('`')));
    }
    if message == "duplicate key" {
        return ("this key is here twice".to_owned(), "leave one of them out".to_owned());
    }
    let halves =
        [", expected ", " expected "].iter().find_map(|separator| message.split_once(separator));
    let Some((wrong, right)) = halves else {
        return (message.to_owned(), otherwise.to_owned());
    };
    if wrong.ends_with("string") && right.trim_matches('`').chars().all(|c| c == '"' || c == '\'') {
        let help = "close it with the quotes that opened it";
        return ("this string does not end".to_owned(), help.to_owned());
    }
    let right = right.replace("a sequence", "a list, as in `[\"…\"]`");
    // An unknown word comes in backticks, and so do the known ones.
    let word = wrong.starts_with("unknown").then(|| wrong.split('`').nth(1)).flatten();
    let near = word.and_then(|word| nearest(word, right.split('`').skip(1).step_by(2)));
    let help = match near {
        Some(meant) => format!("did you mean `{meant}`? expected {right}"),
        None => format!("expected {right}"),
    };
    (wrong.replace("unknown variant", "unknown value"), help)
}

/// Where to look for what a scenario is.
pub(super) const SCENARIOS: &str =
    "see `stalemate list scenarios`, or copy one of the built-in files";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_inside_a_character_or_past_the_end_is_no_panic() {
        for at in 0..9 {
            let _ = Diagnostic::at("f", "é\né", at, at + 2, "", "").to_string();
        }
    }
}
