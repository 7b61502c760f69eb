//! Step lines: `[cpuN] [mm] verb … [until POINT]`.
//!
//! The address space is a letter A..L; a line without one is about A, also in a scenario that
//! uses several. A line without a CPU is done by CPU 0. `until` holds the CPU back in the middle of
//! the step; `cpuN resume` lets it go on. `#` begins a comment, except in `POINT#n`.

mod access;
mod verbs;
mod words;

pub use verbs::{VERBS, Verb};
pub use words::{Change, Expect, MOST_VALUES, StepError};

use crate::arch::addr::CpuId;
use crate::kernel::steps::StepInput;
use crate::schedule::{HOLD_POINTS, Hold};
use crate::suggest::suggest;
use stalemate_shared::layout::MAX_CPUS;
use stalemate_shared::step::Op;
use words::{Parsed, Words, parse_mm};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The line as written, trimmed.
    pub text: String,
    /// Its line in the file, from 1.
    pub line: usize,
    /// The address space's number.
    pub mm: usize,
    /// For the guest.
    pub input: StepInput,
    /// What must come back.
    pub expect: Expect,
    /// What it changes.
    pub change: Change,
}

fn parse_cpu(word: &str) -> Option<Result<CpuId, ()>> {
    let number = word.strip_prefix("cpu")?;
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse::<u8>().ok().filter(|&n| plain && usize::from(n) < MAX_CPUS);
    Some(number.map(CpuId).ok_or(()))
}

/// The text of a line without its comment: from a `#` that begins a word.
#[must_use]
pub fn without_comment(line: &str) -> &str {
    let begins =
        |&(at, _): &(usize, char)| line[..at].chars().next_back().is_none_or(char::is_whitespace);
    let comment = line.char_indices().filter(|&(_, c)| c == '#').find(begins);
    comment.map_or(line, |(at, _)| &line[..at])
}

/// Parses one line, which is not empty.
///
/// # Errors
/// The offending word's number, what is wrong with it, and what would be right.
pub fn parse(text: &str, line: usize) -> Result<Step, StepError> {
    let mut words = Words { words: text.split_whitespace().collect(), at: 0 };
    let cpu = match words.words.first().and_then(|word| parse_cpu(word)) {
        Some(Err(())) => {
            let word = words.words[0];
            let help = format!("use cpu0 to cpu{}", MAX_CPUS - 1);
            return Err((0, format!("`{word}` is no CPU"), help));
        }
        Some(Ok(cpu)) => {
            words.at = 1;
            cpu
        }
        None => CpuId(0),
    };
    let mm = words.words.get(words.at).and_then(|word| parse_mm(word));
    words.at += usize::from(mm.is_some());
    let mm = mm.unwrap_or(0);
    let parsed = match words.optional("resume") {
        true => Parsed::RESUME,
        false => verbs::verb(&mut words)?,
    };
    let hold = until(&mut words)?;
    words.end()?;
    // These take no address space.
    let Parsed { op, args: [a, b, c], class, expect, change } = parsed;
    let args = match op {
        Some(Op::Misbehave | Op::FreeFrame) => [a, 0, 0, 0],
        _ => [mm as u64, a, b, c],
    };
    let input = StepInput { cpu, hold, op, args, class };
    Ok(Step { text: text.trim().to_owned(), line, mm, input, expect, change })
}

/// `until POINT`, `until POINT#n`.
fn until(words: &mut Words<'_>) -> Result<Option<Hold>, StepError> {
    if !words.optional("until") {
        return Ok(None);
    }
    let word = words.next("a point")?;
    let (name, nth) = word.split_once('#').unwrap_or((word, "1"));
    let Some((_, point, _)) = HOLD_POINTS.iter().find(|(known, ..)| *known == name) else {
        let names = HOLD_POINTS.map(|(name, ..)| name);
        return words.error(format!("`{name}` is no point"), suggest(name, &names));
    };
    match nth.parse() {
        Ok(nth) if nth > 0 => Ok(Some(Hold { point: *point, nth })),
        _ => words.error(
            format!("`{nth}` is no occurrence"),
            "use a number from 1, as in `until cr3#2`".to_owned(),
        ),
    }
}
