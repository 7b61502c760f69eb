//! The symbols of a kernel as text: its `System.map`, or `/proc/kallsyms` where it runs.

use super::KernelSymbol;

/// Why a text is no list of symbols. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SystemMapError {
    /// A line does not begin with an address.
    #[error("line {line}: \"{found}\" is no address: one has up to 16 hexadecimal digits")]
    Address {
        /// The line's number.
        line: usize,
        /// What stands in the address's place.
        found: String,
    },
    /// What follows the address is no kind of symbol.
    #[error("line {line}: \"{found}\" is no kind of symbol: one is a letter, as nm prints it")]
    Kind {
        /// The line's number.
        line: usize,
        /// What stands in the kind's place.
        found: String,
    },
    /// A line ends too early.
    #[error("line {line}: it ends where {missing} belongs: a line is \"address kind name\"")]
    CutShort {
        /// The line's number.
        line: usize,
        /// What is not there.
        missing: &'static str,
    },
    /// A line does not end with the name.
    #[error("line {line}: \"{found}\" follows the name, where only a module in brackets may stand")]
    Trailing {
        /// The line's number.
        line: usize,
        /// What follows.
        found: String,
    },
    /// The kernel has hidden the addresses.
    #[error("every address is 0: kernels hide them from all but root (kernel.kptr_restrict)")]
    Hidden,
    /// There is no line.
    #[error("there is no symbol in it")]
    Empty,
}

/// The symbols that `text` lists, one a line: `address kind name`, and the module in brackets where
/// it is one's. Those at address 0 are left out: a kernel writes 0 for what it does not tell.
///
/// # Errors
/// The first line that is none of a symbol; no symbol at all.
pub fn parse(text: &str) -> Result<Vec<KernelSymbol>, SystemMapError> {
    let mut symbols = Vec::new();
    let mut hidden = false;
    for (index, text) in text.lines().enumerate() {
        if text.trim().is_empty() {
            continue;
        }
        let symbol = symbol(index + 1, text)?;
        match symbol.0 {
            0 => hidden = true,
            _ => symbols.push(symbol),
        }
    }
    match symbols.is_empty() {
        true if hidden => Err(SystemMapError::Hidden),
        true => Err(SystemMapError::Empty),
        false => Ok(symbols),
    }
}

fn symbol(line: usize, text: &str) -> Result<KernelSymbol, SystemMapError> {
    let mut words = text.split_ascii_whitespace();
    let mut word = |missing| words.next().ok_or(SystemMapError::CutShort { line, missing });
    let digits = word("the address")?;
    // A sign is no digit, though a number may have one.
    let address = match digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        true => u64::from_str_radix(digits, 16).ok(),
        false => None,
    };
    let address =
        address.ok_or_else(|| SystemMapError::Address { line, found: excerpt(digits) })?;
    let kind = word("the kind")?;
    let letter = match kind.as_bytes() {
        &[letter] if letter.is_ascii_alphabetic() || letter == b'?' => char::from(letter),
        _ => return Err(SystemMapError::Kind { line, found: excerpt(kind) }),
    };
    let name = word("the name")?.to_owned();
    let rest = words.next().filter(|rest| !(rest.starts_with('[') && rest.ends_with(']')));
    match rest.or_else(|| words.next()) {
        Some(found) => Err(SystemMapError::Trailing { line, found: excerpt(found) }),
        None => Ok((address, letter, name)),
    }
}

/// As much of a word as a message has room for.
fn excerpt(word: &str) -> String {
    word.chars().take(40).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_read() {
        let text = "0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\r\n\n\
                    ffffffffc0201000 t xmit\t[virtio_net]\n";
        let expected = [
            (0xffff_ffff_8100_0000, 'T', "_text".to_owned()),
            (0xffff_ffff_c020_1000, 't', "xmit".to_owned()),
        ];
        assert_eq!(parse(text), Ok(expected.to_vec()));
    }

    #[test]
    fn what_is_no_symbol_is_said_with_its_line() {
        for (text, message) in [
            ("", "there is no symbol in it"),
            ("\n0 T a\n0 t b", "every address is 0: kernels hide"),
            ("1 T a\n\nwhat T b", "line 3: \"what\" is no address"),
            ("+1 T a", "line 1: \"+1\" is no address"),
            ("10000000000000000 T a", "line 1: \"10000000000000000\" is no address"),
            ("1 TT a", "line 1: \"TT\" is no kind of symbol"),
            ("1 7 a", "line 1: \"7\" is no kind of symbol"),
            ("1 T a\n2", "line 2: it ends where the kind belongs"),
            ("1 T", "line 1: it ends where the name belongs"),
            ("1 B The real System.map is elsewhere", "line 1: \"real\" follows the name"),
            ("1 T a [m] b", "line 1: \"b\" follows the name"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.starts_with(message), "{text:?}: {error}");
        }
        let long = parse(&format!("1 T a\n{} T b", "\u{1b}".repeat(500))).expect_err("no address");
        assert!(long.to_string().len() < 400 && !long.to_string().contains('\u{1b}'));
    }
}
