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

impl Ink {
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
