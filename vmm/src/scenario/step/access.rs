//! Accesses: `user read`, `kernel write` and their like.

use super::words::{Expect, MOST_VALUES, Parsed, StepError, Words, parse_value};
use crate::kernel::steps::StepClass;
use crate::suggest::nearest;
use stalemate_shared::layout::{COLOURS, colour_word};
use stalemate_shared::step::Op;

/// Rounds of `user spin` at most: fewer instructions than an executor gives a guest without a
/// trap.
const MAX_ROUNDS: u64 = 1_000_000;

/// What follows `user` or `kernel`.
pub fn access(words: &mut Words<'_>, user: bool) -> Result<Parsed, StepError> {
    let what = words.next("`read`, `write` or `nop`")?;
    let parsed =
        |op, args, expect| Ok(Parsed { expect, ..Parsed::new(op, args, StepClass::Other) });
    match what {
        "nop" if user => parsed(Op::UserNop, [0; 3], Expect::Done),
        "read" => {
            let page = words.page()?;
            let expect = expectation(words, true)?.unwrap_or(Expect::Done);
            let op = if user { Op::UserRead } else { Op::KernelRead };
            parsed(op, [page.address(), 0, 0], expect)
        }
        "write" => {
            let page = words.page()?;
            let given = words.words.get(words.at).and_then(|word| parse_value(word));
            words.at += usize::from(given.is_some());
            let value = given.unwrap_or(0x57a1_e000);
            let expect = expectation(words, false)?.unwrap_or(Expect::Done);
            let op = if user { Op::UserWrite } else { Op::KernelWrite };
            parsed(op, [page.address(), value, 0], expect)
        }
        "spin" if user => {
            let page = words.page()?;
            let word = words.next("a number of rounds")?;
            match parse_value(word).filter(|rounds| (1..=MAX_ROUNDS).contains(rounds)) {
                Some(rounds) => parsed(Op::UserSpin, [page.address(), rounds, 0], Expect::Done),
                None => words.error(
                    format!("`{word}` is no number of rounds"),
                    format!("use a number from 1 to {MAX_ROUNDS}"),
                ),
            }
        }
        other => words.error(
            format!("`{other}` is no access"),
            "use `read PAGE -> COLOUR|fault|VALUE`, `write PAGE [VALUE] [-> fault]`, `user nop`, \
             or `user spin PAGE ROUNDS`"
                .to_owned(),
        ),
    }
}

fn expectation(words: &mut Words<'_>, read: bool) -> Result<Option<Expect>, StepError> {
    if !words.optional("->") {
        return Ok(None);
    }
    let all = words.next("what is expected")?;
    let one = |word: &str| {
        let colour = COLOURS.iter().position(|colour| *colour == word).map(colour_word);
        match word {
            "fault" => Some(Expect::Fault),
            "ok" if !read => Some(Expect::Done),
            _ if read => colour.or_else(|| parse_value(word)).map(Expect::Value),
            _ => None,
        }
    };
    let (mut values, mut fault, mut count) = ([None; MOST_VALUES], false, 0);
    for word in all.split('|') {
        match one(word) {
            Some(expect) if !all.contains('|') => return Ok(Some(expect)),
            Some(Expect::Fault) => fault = true,
            Some(Expect::Value(value)) if count < MOST_VALUES => {
                values[count] = Some(value);
                count += 1;
            }
            Some(Expect::Value(_)) => {
                return words.error(
                    format!("`{all}` has more than {MOST_VALUES} values"),
                    "an access that may give anything needs no `->`".to_owned(),
                );
            }
            Some(_) => {
                return words.error(
                    format!("`{all}` says nothing of a store"),
                    "leave out the `->` where a store may fault or not".to_owned(),
                );
            }
            None => return unknown(words, word, read),
        }
    }
    Ok(Some(Expect::OneOf { values, fault }))
}

/// What an access cannot give.
fn unknown<T>(words: &mut Words<'_>, word: &str, read: bool) -> Result<T, StepError> {
    if !read {
        return words.error(format!("a store cannot give `{word}`"), "use `ok` or `fault`".into());
    }
    words.error(
        format!("`{word}` is nothing that can be read"),
        nearest(word, COLOURS.into_iter().chain(["fault"])).map_or_else(
            || {
                format!(
                    "use `fault`, a value, or one of {}; or several with `|`",
                    COLOURS.join(", ")
                )
            },
            |meant| format!("did you mean `{meant}`?"),
        ),
    )
}
