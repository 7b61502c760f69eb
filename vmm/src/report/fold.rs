//! Text of a given width: words wrap, and what continues a line stands below what it continues.

/// The columns of a line where nobody says how many there are: in a pipe, or in a file.
pub const DEFAULT_WIDTH: usize = 80;

/// Fewer columns than this hold no report.
pub const LEAST_WIDTH: usize = 40;

/// Columns below which no text is set beside something else.
const NARROW: usize = 20;

/// The columns that a text takes; what colours it takes none.
fn columns(text: &str) -> usize {
    anstream::adapter::strip_str(text).to_string().chars().count()
}

/// Words in lines of at most `width` columns. A word that is longer is broken.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ') {
        let wide = columns(word);
        if used > 0 && used + 1 + wide > width {
            lines.push(String::new());
            used = 0;
        }
        let line = lines.last_mut().expect("one at least");
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += wide;
        while used > width {
            let line = lines.last_mut().expect("one at least");
            let rest = line.split_off(column(line, width));
            used = columns(&rest);
            lines.push(rest);
        }
    }
    lines
}

/// The index of the character that is drawn in this column.
fn column(text: &str, wanted: usize) -> usize {
    let (mut at, mut drawn) = (0, 0);
    while at < text.len() && drawn < wanted {
        let rest = &text[at..];
        if rest.starts_with("\u{1b}[") {
            at += rest.find('m').map_or(rest.len(), |end| end + 1);
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            drawn += 1;
        }
    }
    at
}

/// A text with no line wider than `width` columns. A command stays one that a shell reads.
#[must_use]
pub fn fold(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
        if columns(body) <= width {
            out += body;
        } else {
            out += &fold_line(body, width);
        }
        out += end;
    }
    out
}

fn fold_line(line: &str, width: usize) -> String {
    let plain = anstream::adapter::strip_str(line).to_string();
    let indent = plain.len() - plain.trim_start().len();
    if plain.trim_start().starts_with("again: ") {
        return command(line, indent, width);
    }
    // What stands in the columns before `first` is drawn once; what follows continues at `hang`.
    let (margin, first, hang) = match plain.split_once("| ") {
        Some((before, after)) if before.chars().all(|c| c == ' ' || c.is_ascii_digit()) => {
            let margin = format!("{}| ", " ".repeat(before.len()));
            // What is said of a line stands below its marks.
            let marks = after.len() - after.trim_start_matches([' ', '^', '-', '~']).len();
            let first = margin.len() + marks;
            match first + NARROW < width {
                true => (margin, first, first),
                false => (margin.clone(), margin.len(), margin.len() + 4),
            }
        }
        _ => {
            let note = plain[indent..].strip_prefix("= ").and_then(|note| note.find(": "));
            let first = note.map_or(indent, |colon| indent + 2 + colon + 2);
            let hang = if note.is_some() { first } else { indent + 2 };
            match hang + NARROW < width {
                true => (String::new(), first, hang),
                false => (String::new(), 0, 4),
            }
        }
    };
    let (head, rest) = line.split_at(column(line, first));
    let blank = " ".repeat(hang - margin.len());
    let lines = wrap(rest, width - hang);
    format!("{head}{}", lines.join(&format!("\n{margin}{blank}")))
}

/// A command over more than one line, as a shell reads it.
fn command(line: &str, indent: usize, width: usize) -> String {
    let lead = indent + 2;
    let mut words = line.trim_start().split(' ').peekable();
    let mut out = " ".repeat(indent);
    let mut used = indent;
    let mut begun = false;
    while let Some(word) = words.next() {
        let mut word = word.to_owned();
        // What is quoted stays together.
        while word.matches('"').count() % 2 == 1 || word.matches('\'').count() % 2 == 1 {
            match words.next() {
                Some(more) => word = format!("{word} {more}"),
                None => break,
            }
        }
        let wide = columns(&word);
        if begun && used + 1 + wide + 2 > width {
            out += &format!(" \\\n{:lead$}", "");
            used = lead;
        } else if begun {
            out.push(' ');
            used += 1;
        }
        out += &word;
        used += wide;
        begun = true;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_continues_a_line_stands_below_it() {
        let text = "   = missed: event 40 INVLPG 0x410000 under PCID 0x001: the entry is tagged\n";
        assert_eq!(
            fold(text, 44),
            "   = missed: event 40 INVLPG 0x410000 under\n             PCID 0x001: the entry is tagged\n"
        );
        let text = "   | ^^^^ still there at the deadline: the next entry to user mode";
        assert_eq!(
            fold(text, 40),
            "   | ^^^^ still there at the deadline:\n   |      the next entry to user mode"
        );
        assert_eq!(fold("short\n", 40), "short\n");
    }

    #[test]
    fn no_line_is_wider_and_no_character_is_lost() {
        let word = "x".repeat(50);
        let texts =
            ["  owed for 0x410000 under PCID 0x001 (kernel half) since step 3: discharged", &word];
        for text in texts {
            for width in LEAST_WIDTH..90 {
                let folded = fold(text, width);
                assert!(folded.lines().all(|line| line.chars().count() <= width), "{folded}");
                let letters = |text: &str| text.split_whitespace().collect::<String>();
                assert_eq!(letters(&folded), letters(text));
            }
        }
    }

    #[test]
    fn a_command_that_is_folded_is_the_same_command() {
        let line =
            "  again: echo run shootdown --cpu pcid --inject \"drop mark#1\" --executor interp";
        let folded = fold(line, 40);
        assert!(
            folded.lines().count() > 1 && folded.lines().all(|line| line.len() <= 40),
            "{folded}"
        );
        let script = folded.replacen("  again: ", "", 1);
        let shell = std::process::Command::new("sh").args(["-c", &script]).output();
        assert_eq!(
            String::from_utf8_lossy(&shell.expect("a shell").stdout),
            "run shootdown --cpu pcid --inject drop mark#1 --executor interp\n"
        );
    }
}
