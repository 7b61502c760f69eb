//! The words of a step line, and what a line stands for.

use crate::kernel::steps::StepClass;
use crate::suggest::suggest;
use stalemate_shared::layout::{
    COLOUR_FRAMES, COLOURS, KERNEL_PAGE_COUNT, LARGE_COLOUR_FRAMES, LARGE_COLOURS, LARGE_PAGE_SIZE,
    MM_COUNT, PAGE_SIZE, USER_LARGE_PAGE_COUNT, USER_PAGE_COUNT, USER_TABLE_PAGE_COUNT,
};
use stalemate_shared::page::Page;
use stalemate_shared::step::Op;

/// Values that an access may be expected to give, at most.
pub const MOST_VALUES: usize = 4;

/// What a step's report must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Done; no value matters.
    Done,
    /// Done, with this value read.
    Value(u64),
    /// A page fault.
    Fault,
    /// Any of these: what a processor may do either way.
    OneOf {
        /// Done, with one of these values read.
        values: [Option<u64>; MOST_VALUES],
        /// A page fault.
        fault: bool,
    },
    /// The run does not get that far.
    Stop,
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

/// What a verb becomes.
pub struct Parsed {
    /// The guest's operation; none where a CPU that was held goes on.
    pub op: Option<Op>,
    /// Its arguments, but for the address space.
    pub args: [u64; 3],
    /// Edit, flush or other.
    pub class: StepClass,
    /// What must come back.
    pub expect: Expect,
    /// What it changes.
    pub change: Change,
}

impl Parsed {
    /// A CPU that was held goes on.
    pub const RESUME: Self = Self {
        op: None,
        args: [0; 3],
        class: StepClass::Other,
        expect: Expect::Done,
        change: Change::None,
    };

    /// An operation that changes no page and gives no value.
    pub fn new(op: Op, args: [u64; 3], class: StepClass) -> Self {
        Self { op: Some(op), args, class, ..Self::RESUME }
    }
}

/// An error in a step line: the word's number, what is wrong, what would be right.
pub type StepError = (usize, String, String);

/// The words of a line, and which is next.
pub struct Words<'t> {
    /// The words.
    pub words: Vec<&'t str>,
    /// The next one's number.
    pub at: usize,
}

impl<'t> Words<'t> {
    /// The next word, which is `what`.
    pub fn next(&mut self, what: &str) -> Result<&'t str, StepError> {
        let word = self.words.get(self.at).copied();
        self.at += 1;
        word.ok_or_else(|| {
            let last = self.words.len().saturating_sub(1);
            (last, format!("{what} is missing"), format!("add {what} here"))
        })
    }

    /// The word taken last is wrong.
    pub fn error<T>(&self, message: String, help: String) -> Result<T, StepError> {
        Err((self.at.saturating_sub(1), message, help))
    }

    /// Whether the next word is this; takes it if so.
    pub fn optional(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    /// A page.
    pub fn page(&mut self) -> Result<Page, StepError> {
        let word = self.next("a page")?;
        match word.parse() {
            Ok(page) => Ok(page),
            Err(()) => self.error(
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

    /// A range of pages of one kind, which `fits` allows: from its first address to its end.
    pub fn range(
        &mut self,
        fits: fn(Page) -> bool,
        kind: &str,
        example: &str,
    ) -> Result<(Page, Page), StepError> {
        let word = self.next("a range of pages")?;
        let ends = word.split_once("..").and_then(|(first, last)| {
            Some((first.parse::<Page>().ok()?, last.parse::<Page>().ok()?))
        });
        let alike = |(first, last): &(Page, Page)| {
            first <= last && std::mem::discriminant(first) == std::mem::discriminant(last)
        };
        match ends.filter(alike).filter(|(first, _)| fits(*first)) {
            Some(ends) => Ok(ends),
            None => self.error(
                format!("`{word}` is no range of {kind}"),
                format!("use the first and the last page, as in `{example}`"),
            ),
        }
    }

    /// An address space.
    pub fn mm(&mut self) -> Result<usize, StepError> {
        let word = self.next("an address space")?;
        match parse_mm(word) {
            Some(mm) => Ok(mm),
            None => self.error(
                format!("`{word}` is no address space"),
                "an address space is a letter from A to L".to_owned(),
            ),
        }
    }

    /// A colour that names a frame as large as the page.
    pub fn frame(&mut self, page: Page) -> Result<u64, StepError> {
        let word = self.next("a colour")?;
        let large = matches!(page, Page::Large(_));
        let known = if large { &COLOURS[..LARGE_COLOURS] } else { &COLOURS[..] };
        match known.iter().position(|colour| *colour == word) {
            Some(index) if large => Ok(LARGE_COLOUR_FRAMES + index as u64 * LARGE_PAGE_SIZE),
            Some(index) => Ok(COLOUR_FRAMES + index as u64 * PAGE_SIZE),
            None => self.error(format!("`{word}` is no frame"), suggest(word, known)),
        }
    }

    /// No more words.
    pub fn end(&mut self) -> Result<(), StepError> {
        match self.words.get(self.at) {
            None => Ok(()),
            Some(word) => {
                let message = format!("`{word}` is one word too many");
                Err((self.at, message, "leave it out".to_owned()))
            }
        }
    }
}

/// A number, decimal or hexadecimal.
pub fn parse_value(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

/// An address space's number, of its letter.
pub fn parse_mm(word: &str) -> Option<usize> {
    let &[letter] = word.as_bytes() else { return None };
    let number = usize::from(letter.wrapping_sub(b'A'));
    (number < MM_COUNT).then_some(number)
}
