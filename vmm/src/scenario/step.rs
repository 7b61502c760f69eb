//! Step lines: `[cpuN] [mm] verb … [until POINT]`.
//!
//! The address space is a letter A..L; a line without one is about A, also in a scenario that
//! uses several. A line without a CPU is done by CPU 0. `until` holds the CPU back in the middle of
//! the step; `cpuN resume` lets it go on. `#` begins a comment, except in `POINT#n`.

use super::diagnostic::{nearest, suggest};
use crate::arch::addr::CpuId;
use crate::event::StepClass;
use crate::machine::{HOLD_POINTS, Hold, StepInput};
use stalemate_shared::layout::{
    COLOUR_FRAMES, COLOURS, KERNEL_PAGE_COUNT, KERNEL_PAGES, LARGE_COLOUR_FRAMES, LARGE_COLOURS,
    LARGE_PAGE_SIZE, MAX_CPUS, MM_COUNT, PAGE_SIZE, USER_LARGE_PAGE_COUNT, USER_LARGE_PAGES,
    USER_PAGE_COUNT, USER_PAGES, USER_TABLE_PAGE_COUNT, USER_TABLE_PAGES, colour_word,
};
use stalemate_shared::step::{flags, misbehaviour, op};
use std::fmt;
use std::str::FromStr;

/// What a step's report must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Done; no value matters.
    Done,
    /// Done, with this value read.
    Value(u64),
    /// A page fault.
    Fault,
    /// The run does not get that far.
    Stop,
}

/// A test page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Page {
    /// u0, u1, …
    User(u64),
    /// h0, h1: 2 MiB.
    Large(u64),
    /// v0, v1, …: on a page table of their own.
    Table(u64),
    /// k0, k1, …
    Kernel(u64),
}

impl Page {
    /// Its address.
    #[must_use]
    pub fn address(self) -> u64 {
        match self {
            Self::User(number) => USER_PAGES + number * PAGE_SIZE,
            Self::Large(number) => USER_LARGE_PAGES + number * LARGE_PAGE_SIZE,
            Self::Table(number) => USER_TABLE_PAGES + number * PAGE_SIZE,
            Self::Kernel(number) => KERNEL_PAGES + number * PAGE_SIZE,
        }
    }

    fn size(self) -> u64 {
        if matches!(self, Self::Large(_)) { LARGE_PAGE_SIZE } else { PAGE_SIZE }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(number) => write!(f, "u{number}"),
            Self::Large(number) => write!(f, "h{number}"),
            Self::Table(number) => write!(f, "v{number}"),
            Self::Kernel(number) => write!(f, "k{number}"),
        }
    }
}

impl FromStr for Page {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        parse_page(word).ok_or(())
    }
}

/// What a step changes of the page tables, for checking the order of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// None.
    None,
    /// A page is mapped that must not be.
    Map(Page),
    /// A mapped page is changed.
    Edit(Page),
    /// A mapped page is unmapped.
    Unmap(Page),
    /// Another address space gets what this one maps.
    Fork(usize),
    /// Every page that shares the page table of this one is unmapped.
    FreeTable(Page),
    /// These pages are unmapped, as far as they are mapped.
    UnmapRange(Page, Page),
    /// What the first maps the second maps from now on.
    Move(Page, Page),
}

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

/// An error in a step line: the word's number, what is wrong, what would be right.
pub type StepError = (usize, String, String);

const VERBS: [&str; 30] = [
    "unmap_range",
    "move",
    "migrate",
    "make_clean",
    "write_protect",
    "resume",
    "lazy",
    "leave_mm",
    "fork",
    "split",
    "merge",
    "free_table",
    "free",
    "unmap_batched",
    "flush_tlb_batched",
    "map",
    "remap",
    "unmap",
    "protect",
    "clean",
    "age",
    "flush_tlb_one_user",
    "flush_tlb_one_kernel",
    "flush_tlb_range",
    "flush_tlb_mm",
    "flush_tlb_all",
    "switch_mm",
    "user",
    "kernel",
    "misbehave",
];

/// Rounds of `user spin` at most: fewer instructions than an executor gives a guest without a
/// trap.
const MAX_ROUNDS: u64 = 1_000_000;

const MISBEHAVIOURS: [(&str, u64); 10] = [
    ("triple-fault", misbehaviour::TRIPLE_FAULT),
    ("loop", misbehaviour::LOOP),
    ("trap-loop", misbehaviour::TRAP_LOOP),
    ("beyond-memory", misbehaviour::BEYOND_MEMORY),
    ("wbinvd", misbehaviour::WBINVD),
    ("odd-store", misbehaviour::ODD_STORE),
    ("panic", misbehaviour::PANIC),
    ("zero-idt", misbehaviour::ZERO_IDT),
    ("store-to-code", misbehaviour::STORE_TO_CODE),
    ("zero-root", misbehaviour::ZERO_ROOT),
];

struct Words<'t> {
    words: Vec<&'t str>,
    at: usize,
}

impl<'t> Words<'t> {
    fn next(&mut self, what: &str) -> Result<&'t str, StepError> {
        let word = self.words.get(self.at).copied();
        self.at += 1;
        word.ok_or_else(|| {
            let last = self.words.len().saturating_sub(1);
            (last, format!("{what} is missing"), format!("add {what} here"))
        })
    }

    fn error<T>(&self, message: String, help: String) -> Result<T, StepError> {
        Err((self.at.saturating_sub(1), message, help))
    }

    fn optional(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn page(&mut self) -> Result<Page, StepError> {
        let word = self.next("a page")?;
        match parse_page(word) {
            Some(page) => Ok(page),
            None => self.error(
                format!("`{word}` is no page"),
                format!(
                    "use u0..u{}, h0..h{} (2 MiB), v0..v{} or k0..k{}",
                    USER_PAGE_COUNT - 1,
                    USER_LARGE_PAGE_COUNT - 1,
                    USER_TABLE_PAGE_COUNT - 1,
                    KERNEL_PAGE_COUNT - 1
                ),
            ),
        }
    }

    fn frame(&mut self, page: Page) -> Result<u64, StepError> {
        let word = self.next("a colour")?;
        let large = matches!(page, Page::Large(_));
        let known = if large { &COLOURS[..LARGE_COLOURS] } else { &COLOURS[..] };
        match known.iter().position(|colour| *colour == word) {
            Some(index) if large => Ok(LARGE_COLOUR_FRAMES + index as u64 * LARGE_PAGE_SIZE),
            Some(index) => Ok(COLOUR_FRAMES + index as u64 * PAGE_SIZE),
            None => self.error(format!("`{word}` is no frame"), suggest(word, known)),
        }
    }

    fn end(&mut self) -> Result<(), StepError> {
        match self.words.get(self.at) {
            None => Ok(()),
            Some(word) => {
                let message = format!("`{word}` is one word too many");
                Err((self.at, message, "leave it out".to_owned()))
            }
        }
    }
}

fn parse_page(word: &str) -> Option<Page> {
    let (kind, number) = word.split_at_checked(1)?;
    let plain = number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| plain)?;
    match kind {
        "u" if number < USER_PAGE_COUNT => Some(Page::User(number)),
        "h" if number < USER_LARGE_PAGE_COUNT => Some(Page::Large(number)),
        "v" if number < USER_TABLE_PAGE_COUNT => Some(Page::Table(number)),
        "k" if number < KERNEL_PAGE_COUNT => Some(Page::Kernel(number)),
        _ => None,
    }
}

fn parse_value(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

fn parse_mm(word: &str) -> Option<usize> {
    let &[letter] = word.as_bytes() else { return None };
    let number = usize::from(letter.wrapping_sub(b'A'));
    (number < MM_COUNT).then_some(number)
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
    let resumes = words.optional("resume");
    let (op, rest, class, expect, change) = match resumes {
        true => (op::STOP, [0; 3], StepClass::Other, Expect::Done, Change::None),
        false => verb(&mut words)?,
    };
    let hold = until(&mut words)?;
    words.end()?;
    // These take no address space.
    let args = match op {
        op::MISBEHAVE | op::FREE_FRAME => [rest[0], 0, 0, 0],
        _ => [mm as u64, rest[0], rest[1], rest[2]],
    };
    let input = StepInput { cpu, resumes, hold, op, args, class };
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

type Parsed = (u64, [u64; 3], StepClass, Expect, Change);

fn verb(words: &mut Words<'_>) -> Result<Parsed, StepError> {
    let verb = words.next("a verb")?;
    let edit = |op, rest, change| Ok((op, rest, StepClass::Edit, Expect::Done, change));
    let flush = |op, rest| Ok((op, rest, StepClass::Flush, Expect::Done, Change::None));
    match verb {
        "map" | "remap" => {
            let page = words.page()?;
            let frame = words.frame(page)?;
            let mut bits = if matches!(page, Page::Large(_)) { flags::LARGE } else { 0 };
            bits |= if words.optional("ro") { 0 } else { flags::WRITABLE };
            bits |= if words.optional("dirty") { flags::DIRTY } else { 0 };
            let rest = [page.address(), frame, bits];
            match verb {
                "map" => edit(op::MAP, rest, Change::Map(page)),
                _ => edit(op::REMAP, rest, Change::Edit(page)),
            }
        }
        "unmap" => {
            let page = words.page()?;
            edit(op::UNMAP, [page.address(), 0, 0], Change::Unmap(page))
        }
        "protect" => {
            let page = words.page()?;
            let bits = match words.next("`ro` or `rw`")? {
                "ro" => 0,
                "rw" => flags::WRITABLE,
                other => {
                    return words.error(
                        format!("`{other}` is no protection"),
                        "use `ro` or `rw`".to_owned(),
                    );
                }
            };
            edit(op::PROTECT, [page.address(), bits, 0], Change::Edit(page))
        }
        "clean" | "age" => {
            let page = words.page()?;
            let opcode = if verb == "clean" { op::CLEAN } else { op::AGE };
            edit(opcode, [page.address(), 0, 0], Change::Edit(page))
        }
        "flush_tlb_one_user" => match words.page()? {
            Page::Kernel(_) => words.error(
                "a kernel page is not flushed by the user primitive".to_owned(),
                "use `flush_tlb_one_kernel`, or a page u…, v… or h…".to_owned(),
            ),
            page => flush(op::FLUSH_ONE_USER, [page.address(), 0, 0]),
        },
        "flush_tlb_one_kernel" => match words.page()? {
            page @ Page::Kernel(_) => flush(op::FLUSH_ONE_KERNEL, [page.address(), 0, 0]),
            _ => words.error(
                "a user page is not flushed by the kernel primitive".to_owned(),
                "use `flush_tlb_one_user`, or a page k…".to_owned(),
            ),
        },
        "flush_tlb_range" => {
            let word = words.next("a range of pages")?;
            let ends = word.split_once("..").map(|(a, b)| (parse_page(a), parse_page(b)));
            match ends {
                Some((Some(first), Some(last)))
                    if first <= last
                        && std::mem::discriminant(&first) == std::mem::discriminant(&last)
                        && !matches!(first, Page::Kernel(_)) =>
                {
                    let end = last.address() + last.size();
                    flush(op::FLUSH_RANGE, [first.address(), end, 0])
                }
                _ => words.error(
                    format!("`{word}` is no range of user pages"),
                    "use the first and the last page, as in `u0..u3`".to_owned(),
                ),
            }
        }
        "flush_tlb_kernel_range" => {
            let word = words.next("a range of pages")?;
            let ends = word.split_once("..").map(|(a, b)| (parse_page(a), parse_page(b)));
            match ends {
                Some((Some(first @ Page::Kernel(_)), Some(last @ Page::Kernel(_))))
                    if first <= last =>
                {
                    let end = last.address() + last.size();
                    flush(op::FLUSH_KERNEL_RANGE, [first.address(), end, 0])
                }
                _ => words.error(
                    format!("`{word}` is no range of kernel pages"),
                    "use the first and the last page, as in `k0..k3`".to_owned(),
                ),
            }
        }
        "flush_tlb_batched" => flush(op::FLUSH_BATCHED, [0; 3]),
        "unmap_batched" => {
            let page = words.page()?;
            if matches!(page, Page::Kernel(_)) {
                return words.error(
                    "the flush of a kernel page is not deferred".to_owned(),
                    "use `unmap` and `flush_tlb_one_kernel`".to_owned(),
                );
            }
            edit(op::UNMAP_BATCHED, [page.address(), 0, 0], Change::Unmap(page))
        }
        "unmap_range" => {
            let word = words.next("a range of pages")?;
            let ends = word.split_once("..").map(|(a, b)| (parse_page(a), parse_page(b)));
            match ends {
                Some((Some(first), Some(last)))
                    if first <= last
                        && std::mem::discriminant(&first) == std::mem::discriminant(&last)
                        && matches!(first, Page::User(_) | Page::Table(_)) =>
                {
                    let rest = [first.address(), last.address() + last.size(), 0];
                    edit(op::UNMAP_RANGE, rest, Change::UnmapRange(first, last))
                }
                _ => words.error(
                    format!("`{word}` is no range of 4 KiB user pages"),
                    "use the first and the last page, as in `u0..u3`".to_owned(),
                ),
            }
        }
        "move" => {
            let (from, to) = (words.page()?, words.page()?);
            if !matches!((from, to), (Page::User(_), Page::User(_))) {
                return words.error(
                    "only pages u… are moved".to_owned(),
                    "use two of them, as in `move u0 u1`".to_owned(),
                );
            }
            let rest = [from.address(), to.address(), 0];
            edit(op::MOVE_PAGE, rest, Change::Move(from, to))
        }
        "migrate" => {
            let page = words.page()?;
            let frame = words.frame(page)?;
            edit(op::MIGRATE, [page.address(), frame, 0], Change::Edit(page))
        }
        "make_clean" | "write_protect" => {
            let page = words.page()?;
            let opcode = if verb == "make_clean" { op::MAKE_CLEAN } else { op::WRITE_PROTECT };
            edit(opcode, [page.address(), 0, 0], Change::Edit(page))
        }
        "fork" => {
            let word = words.next("an address space")?;
            match parse_mm(word) {
                Some(child) => edit(op::FORK, [child as u64, 0, 0], Change::Fork(child)),
                None => words.error(
                    format!("`{word}` is no address space"),
                    "an address space is a letter from A to L".to_owned(),
                ),
            }
        }
        "split" | "merge" => match words.page()? {
            page @ Page::Large(_) => {
                let opcode = if verb == "split" { op::SPLIT_LARGE } else { op::MERGE_LARGE };
                edit(opcode, [page.address(), 0, 0], Change::Edit(page))
            }
            _ => words.error(
                "only 2 MiB pages are split and merged".to_owned(),
                "use a page h…".to_owned(),
            ),
        },
        "free_table" => match words.page()? {
            page @ Page::Table(_) => {
                edit(op::FREE_TABLE, [page.address(), 0, 0], Change::FreeTable(page))
            }
            _ => words.error(
                "the page table of this page is not its own".to_owned(),
                "use a page v…".to_owned(),
            ),
        },
        "free" => {
            let frame = words.frame(Page::User(0))?;
            edit(op::FREE_FRAME, [frame, 0, 0], Change::None)
        }
        "lazy" | "leave_mm" => {
            let opcode = if verb == "lazy" { op::LAZY } else { op::LEAVE_MM };
            Ok((opcode, [0; 3], StepClass::Other, Expect::Done, Change::None))
        }
        "flush_tlb_mm" => flush(op::FLUSH_MM, [0; 3]),
        "flush_tlb_all" => flush(op::FLUSH_ALL, [0; 3]),
        "switch_mm" => Ok((op::SWITCH_MM, [0; 3], StepClass::Other, Expect::Done, Change::None)),
        "user" | "kernel" => access(words, verb == "user"),
        "misbehave" => {
            let how = words.next("a way to misbehave")?;
            match MISBEHAVIOURS.iter().find(|(name, _)| *name == how) {
                Some(&(_, how)) => {
                    let class = StepClass::Other;
                    Ok((op::MISBEHAVE, [how, 0, 0], class, Expect::Stop, Change::None))
                }
                None => {
                    let names: Vec<&str> = MISBEHAVIOURS.iter().map(|(name, _)| *name).collect();
                    words.error(format!("`{how}` is no way to misbehave"), suggest(how, &names))
                }
            }
        }
        other => {
            let help = match other {
                "read" | "write" | "nop" => {
                    format!("say who does it: `user {other} …` or `kernel {other} …`")
                }
                _ if other.len() == 1 => "an address space is a letter from A to L".to_owned(),
                _ => suggest(other, &VERBS),
            };
            words.error(format!("`{other}` is no verb"), help)
        }
    }
}

fn access(words: &mut Words<'_>, user: bool) -> Result<Parsed, StepError> {
    let what = words.next("`read`, `write` or `nop`")?;
    let class = StepClass::Other;
    match what {
        "nop" if user => Ok((op::USER_NOP, [0; 3], class, Expect::Done, Change::None)),
        "read" => {
            let page = words.page()?;
            let expect = expectation(words, true)?.unwrap_or(Expect::Done);
            let opcode = if user { op::USER_READ } else { op::KERNEL_READ };
            Ok((opcode, [page.address(), 0, 0], class, expect, Change::None))
        }
        "write" => {
            let page = words.page()?;
            let given = words.words.get(words.at).and_then(|word| parse_value(word));
            words.at += usize::from(given.is_some());
            let value = given.unwrap_or(0x57a1_e000);
            let expect = expectation(words, false)?.unwrap_or(Expect::Done);
            let opcode = if user { op::USER_WRITE } else { op::KERNEL_WRITE };
            Ok((opcode, [page.address(), value, 0], class, expect, Change::None))
        }
        "spin" if user => {
            let page = words.page()?;
            let word = words.next("a number of rounds")?;
            match parse_value(word).filter(|rounds| (1..=MAX_ROUNDS).contains(rounds)) {
                Some(rounds) => {
                    let rest = [page.address(), rounds, 0];
                    Ok((op::USER_SPIN, rest, class, Expect::Done, Change::None))
                }
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
    let word = words.next("what is expected")?;
    let colour = COLOURS.iter().position(|colour| *colour == word).map(colour_word);
    let expect = match word {
        "fault" => Some(Expect::Fault),
        "ok" if !read => Some(Expect::Done),
        _ if read => colour.or_else(|| parse_value(word)).map(Expect::Value),
        _ => None,
    };
    match expect {
        Some(expect) => Ok(Some(expect)),
        None if read => words.error(
            format!("`{word}` is nothing that can be read"),
            nearest(word, COLOURS.into_iter().chain(["fault"])).map_or_else(
                || format!("use `fault`, a value, or one of {}", COLOURS.join(", ")),
                |meant| format!("did you mean `{meant}`?"),
            ),
        ),
        None => words.error(format!("a store cannot give `{word}`"), "use `ok` or `fault`".into()),
    }
}
