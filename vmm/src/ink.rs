//! How text for a terminal is coloured, or that it is not.

use annotate_snippets::Renderer;
use anstyle::{AnsiColor, Style};

/// Whether text carries colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ink {
    /// Characters only: files, pipes, and what asks for it.
    #[default]
    Plain,
    /// With ANSI escapes.
    Coloured,
}

/// What a piece of text says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// Something is wrong.
    Bad,
    /// Look at this.
    Warning,
    /// A heading.
    Heading,
    /// Of less weight.
    Faint,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Good => AnsiColor::Green.on_default(),
            Self::Bad => AnsiColor::BrightRed.on_default().bold(),
            Self::Warning => AnsiColor::Yellow.on_default().bold(),
            Self::Heading => Style::new().bold(),
            Self::Faint => Style::new().dimmed(),
        }
    }
}

/// What a person wrote, with nothing in it that an eight-bit terminal takes for a command. The
/// renderer looks after the other control characters. A character stands for one of as many bytes.
#[must_use]
pub fn tame(text: &str) -> String {
    text.replace(|c| ('\u{80}'..='\u{9f}').contains(&c), "¤")
}

/// Whether a terminal may take the character for a command, or draw what follows in another order: control
/// characters of seven and of eight bits, and those that change the direction of text.
fn commands(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

/// A name, or a text that somebody else has made, for the middle of a line: what a terminal takes for a
/// command is spelt out, line ends too.
#[must_use]
pub fn one_line(text: &str) -> String {
    let spelt = |c: char| match commands(c) {
        true => c.escape_unicode().to_string(),
        false => c.to_string(),
    };
    text.chars().map(spelt).collect()
}

impl Ink {
    /// Text as it may go to a terminal: of what one takes for a command line ends are left, and where text
    /// is coloured what colours it. A tab is as wide as a space.
    #[must_use]
    pub fn harmless(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let colour = if self == Self::Coloured { colour(rest) } else { 0 };
            let taken = colour.max(c.len_utf8());
            match c {
                '\n' => out.push(c),
                '\t' => out.push(' '),
                _ if colour > 0 => out.push_str(&rest[..colour]),
                c if commands(c) => out.extend(c.escape_unicode()),
                c => out.push(c),
            }
            rest = &rest[taken..];
        }
        out
    }

    /// `text` in this tone. Pad it first: escapes have no width.
    #[must_use]
    pub fn paint(self, tone: Tone, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => {
                let style = tone.style();
                format!("{style}{text}{style:#}")
            }
        }
    }

    /// What draws source lines with their notes.
    #[must_use]
    pub fn renderer(self) -> Renderer {
        match self {
            Self::Plain => Renderer::plain(),
            Self::Coloured => Renderer::styled(),
        }
    }
}

/// The length of the escape sequence that `text` begins with, if all it does is to colour.
fn colour(text: &str) -> usize {
    let Some(rest) = text.strip_prefix("\x1b[") else { return 0 };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';');
    end.filter(|end| rest[*end..].starts_with('m')).map_or(0, |end| end + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each character that a terminal takes for a command, or that turns text around.
    fn all() -> impl Iterator<Item = char> {
        let turns = ['\u{61c}', '\u{200e}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}'];
        ('\0'..=' ').chain('\u{7f}'..='\u{9f}').chain(turns)
    }

    #[test]
    fn no_command_reaches_a_terminal() {
        for c in all().filter(|c| *c != ' ') {
            let text = format!("a{c}b");
            assert!(!one_line(&text).contains(c), "{c:?}");
            for ink in [Ink::Plain, Ink::Coloured] {
                assert!(c == '\n' || !ink.harmless(&text).contains(c), "{c:?}");
            }
        }
        assert_eq!(one_line("a\nb\u{9b}c"), "a\\u{a}b\\u{9b}c");
    }

    #[test]
    fn what_colours_stays_where_text_is_coloured() {
        let text = Ink::Coloured.paint(Tone::Bad, "é\tno") + "\x1b]0;title\x07\x1b[2J\x1b[";
        let shown = Ink::Coloured.harmless(&text);
        let painted = Ink::Coloured.paint(Tone::Bad, "é no");
        assert_eq!(shown, painted + "\\u{1b}]0;title\\u{7}\\u{1b}[2J\\u{1b}[");
        assert!(!Ink::Plain.harmless(&text).contains('\x1b'));
    }
}
