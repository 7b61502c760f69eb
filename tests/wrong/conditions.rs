// The conditions of a source file, found by its tokens. rustfmt has made sure of the layout.

/// A token, and what it pairs with if it is a bracket.
#[derive(Clone, Copy)]
struct Token<'a> {
    /// Where it begins, in bytes.
    at: usize,
    text: &'a str,
    /// Of a bracket, the index of the other one; of anything else its own.
    pair: usize,
}

/// Operators of more than one character, the longest first.
const OPERATORS: [&str; 22] = [
    "..=", "<<=", ">>=", "&&", "||", "==", "!=", "<=", ">=", "=>", "->", "::", "..", "<<", ">>",
    "+=", "-=", "*=", "|=", "&=", "^=", "/=",
];

/// Where the comment, string or character that begins `rest` ends, if one does.
fn opaque(rest: &str) -> Option<usize> {
    let bytes = rest.as_bytes();
    match bytes[0] {
        b'/' if rest.starts_with("//") => Some(rest.find('\n').unwrap_or(rest.len())),
        b'"' => {
            let mut end = 1;
            while bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            Some(end + 1)
        }
        b'\'' if bytes[1] == b'\\' => Some(rest[2..].find('\'')? + 3),
        b'\'' if bytes[2] == b'\'' => Some(3),
        _ => None,
    }
}

fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found: Vec<Token<'_>> = Vec::new();
    let mut open = Vec::new();
    let mut at = 0;
    while at < source.len() {
        let rest = &source[at..];
        let first = rest.chars().next().expect("not the end");
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let len = if first.is_whitespace() {
            first.len_utf8()
        } else if let Some(len) = opaque(rest) {
            len
        } else if word(first) {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        } else {
            let operator = OPERATORS.iter().find(|operator| rest.starts_with(**operator));
            operator.map_or(first.len_utf8(), |operator| operator.len())
        };
        let text = &rest[..len];
        if !first.is_whitespace() && !text.starts_with("//") {
            let index = found.len();
            let mut pair = index;
            match text {
                "(" | "[" | "{" => open.push(index),
                ")" | "]" | "}" => {
                    pair = open.pop().expect("brackets are in pairs");
                    found[pair].pair = index;
                }
                _ => {}
            }
            found.push(Token { at, text, pair });
        }
        at += len;
    }
    found
}

/// Methods whose closure is a condition.
const FILTERS: [&str; 11] = [
    "filter",
    "any",
    "all",
    "find",
    "is_some_and",
    "is_none_or",
    "position",
    "retain",
    "take_while",
    "skip_while",
    "partition",
];

struct Scan<'a> {
    source: &'a str,
    tokens: Vec<Token<'a>>,
}

/// What a condition is in the source: bytes from and to, and what to write before and after it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Condition {
    start: usize,
    end: usize,
    /// It names a closure, to which what is judged is passed.
    is_name: bool,
}

impl<'a> Scan<'a> {
    fn text(&self, index: usize) -> &'a str {
        self.tokens.get(index).map_or("", |token| token.text)
    }

    fn is_word(&self, index: usize) -> bool {
        self.text(index).starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '"')
    }

    /// Whether the token is an operator between two operands, and no closure or reference.
    fn is_binary(&self, index: usize) -> bool {
        let before = index.wrapping_sub(1);
        let keyword = ["if", "return", "in", "match", "move", "while", "else"];
        let operand = self.is_word(before) && !keyword.contains(&self.text(before))
            || matches!(self.text(before), ")" | "]" | "?");
        let spaced = || {
            let at = self.tokens[index].at;
            let after = at + self.text(index).len();
            self.source[..at].ends_with(char::is_whitespace)
                && self.source[after..].starts_with(char::is_whitespace)
        };
        match self.text(index) {
            "&&" | "||" => operand,
            "==" | "!=" | "<=" | ">=" => true,
            "<" | ">" => operand && spaced(),
            _ => false,
        }
    }

    /// The index of the first token of the expression that ends before `index`; none where it is bound
    /// by a `let`.
    fn first(&self, index: usize) -> Option<usize> {
        let mut first = index;
        while first > 0 {
            let at = first - 1;
            match self.text(at) {
                ")" | "]" => first = self.tokens[at].pair,
                "(" | "[" | "{" | "}" | "," | ";" | "=>" | "|" | "if" | "while" | "return"
                | "else" | "move" | "+=" | "|=" | "&=" => break,
                "&&" | "||" if self.is_binary(at) || self.text(at) == "||" => break,
                "=" => return (!self.is_bound(at)).then_some(first),
                _ => first = at,
            }
        }
        Some(first)
    }

    /// Whether the `=` at `index` is of a condition's `let`.
    fn is_bound(&self, index: usize) -> bool {
        let mut at = index;
        while at > 0 {
            at -= 1;
            match self.text(at) {
                ")" | "]" | "}" => at = self.tokens[at].pair,
                "let" => return matches!(self.text(at.wrapping_sub(1)), "if" | "while" | "&&"),
                ";" | "{" => return false,
                _ => {}
            }
        }
        false
    }

    /// The index after the last token of the expression that begins at `index`.
    fn last(&self, index: usize) -> usize {
        let mut last = index;
        while last < self.tokens.len() {
            match self.text(last) {
                "(" | "[" => last = self.tokens[last].pair + 1,
                ")" | "]" | "{" | "}" | "," | ";" | "=>" => break,
                "&&" | "||" if self.is_binary(last) => break,
                _ => last += 1,
            }
        }
        last
    }

    fn add(&self, first: usize, last: usize, found: &mut Vec<Condition>) {
        if first >= last || self.text(first) == "let" {
            return;
        }
        let end = &self.tokens[last - 1];
        let (start, end) = (self.tokens[first].at, end.at + end.text.len());
        found.push(Condition { start, end, is_name: false });
    }

    fn conditions(&self) -> Vec<Condition> {
        let mut found = Vec::new();
        for index in 0..self.tokens.len() {
            let text = self.text(index);
            if self.is_binary(index) {
                if let Some(first) = self.first(index) {
                    let last = match text {
                        "&&" | "||" => index,
                        _ => self.last(index + 1),
                    };
                    self.add(first, last, &mut found);
                }
                if matches!(text, "&&" | "||") {
                    self.add(index + 1, self.last(index + 1), &mut found);
                }
            }
            if text == "if" {
                self.add(index + 1, self.last(index + 1), &mut found);
            }
            if text == "matches" && self.text(index + 1) == "!" {
                self.add(index, self.tokens[index + 2].pair + 1, &mut found);
            }
            if text == "." && FILTERS.contains(&self.text(index + 1)) && self.text(index + 2) == "("
            {
                self.closure(index + 2, &mut found);
            }
            // A function that says yes or no, all of it.
            if text == "->" && self.text(index + 1) == "bool" && self.text(index + 2) == "{" {
                let (open, close) = (index + 2, self.tokens[index + 2].pair);
                let (start, end) = (self.tokens[open].at + 1, self.tokens[close].at);
                found.push(Condition { start, end, is_name: false });
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// The body of the closure that is the argument of the call whose bracket is at `open`.
    fn closure(&self, open: usize, found: &mut Vec<Condition>) {
        let close = self.tokens[open].pair;
        if self.text(open + 1) != "|" {
            let (start, end) = (self.tokens[open].at + 1, self.tokens[close].at);
            found.push(Condition { start, end, is_name: true });
            return;
        }
        let bar = (open + 2..close).find(|&at| self.text(at) == "|").expect("its parameters end");
        // A comma at the end is rustfmt's.
        let last = if self.text(close - 1) == "," { close - 1 } else { close };
        self.add(bar + 1, last, found);
    }
}
