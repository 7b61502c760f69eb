//! What the init is asked to do, by its arguments or by words of the kernel's command line.

/// What the init is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How often the workload is done.
    pub rounds: u32,
    /// An ordinary process: mounts nothing, changes no setting of the machine, exits.
    pub is_here: bool,
    /// The program that `exec` begins: checks itself, exits.
    pub is_child: bool,
}

/// Rounds where nobody says how many.
pub const ROUNDS: u32 = 5;

/// The argument that makes the program one that `exec` began.
pub const CHILD: &str = "--child";

impl Default for Options {
    fn default() -> Self {
        Self { rounds: ROUNDS, is_here: false, is_child: false }
    }
}

impl Options {
    /// Takes in one argument, or one word of a command line. Other words are meant for others.
    pub fn word(&mut self, word: &[u8]) {
        if word == b"--here" {
            self.is_here = true;
        } else if word == CHILD.as_bytes() {
            self.is_child = true;
        } else if let Some(number) = word.strip_prefix(b"stalemate.rounds=")
            && let Some(rounds) = number_of(number)
        {
            self.rounds = rounds;
        }
    }

    /// Takes in a kernel's command line. Words with a dot belong to modules and are not handed to
    /// an init as its arguments, so that it reads them there.
    pub fn command_line(&mut self, line: &[u8]) {
        for word in line.split(u8::is_ascii_whitespace) {
            self.word(word);
        }
    }
}

/// The decimal number that `text` begins with, and nothing but white space follows.
#[must_use]
pub fn number_of(text: &[u8]) -> Option<u32> {
    core::str::from_utf8(text).ok()?.trim_ascii().parse().ok()
}

/// The number that follows `name` and a space at the beginning of a line of `text`.
#[must_use]
pub fn field(text: &[u8], name: &str) -> Option<u32> {
    let mut lines = text.split(|byte| *byte == b'\n');
    lines.find_map(|line| number_of(line.strip_prefix(name.as_bytes())?.strip_prefix(b" ")?))
}

#[cfg(test)]
mod tests {
    use super::{Options, field};

    #[test]
    fn a_command_line_says_how_many_rounds() {
        let mut options = Options::default();
        options.command_line(b"console=ttyS0 stalemate.rounds=12 panic=-1\n");
        assert_eq!(options, Options { rounds: 12, ..Options::default() });
        options.word(b"stalemate.rounds=many");
        options.word(b"--here");
        assert_eq!(options, Options { rounds: 12, is_here: true, is_child: false });
    }

    #[test]
    fn a_field_is_a_whole_word() {
        let text = b"pswpin 3\nthp_fault_alloc_x 9\nthp_fault_alloc 7\n";
        assert_eq!(field(text, "thp_fault_alloc"), Some(7));
        assert_eq!(field(text, "pswp"), None);
    }
}
