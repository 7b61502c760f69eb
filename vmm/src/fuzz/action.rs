//! The steps of random programs, and how a scenario writes them.

use crate::kernel::steps::Abilities;
use crate::scenario::MOST_VALUES;
use crate::schedule::{HOLD_POINTS, Hold};
use stalemate_shared::layout::{COLOURS, colour_word};
use stalemate_shared::page::Page;
use stalemate_shared::step::Op;
use std::fmt::{self, Write};

/// What one step does; its address space is beside it, in [`Action`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A page that is not mapped shows a frame.
    Map(Page, Frame),
    /// A mapped page shows another frame, or the same one afresh.
    Remap(Page, Frame),
    /// A mapped page is mapped no more.
    Unmap(Page),
    /// A mapped page may be written, or may not.
    Protect(Page, bool),
    /// D is cleared.
    Clean(Page),
    /// A is cleared.
    Age(Page),
    /// `flush_tlb_one_user` or `flush_tlb_one_kernel`, as the page wants it.
    FlushOne(Page),
    /// `flush_tlb_range` from the first page to the last, of one kind.
    FlushRange(Page, Page),
    /// `flush_tlb_mm`
    FlushMm,
    /// `flush_tlb_all`
    FlushAll,
    /// `flush_tlb_kernel_range` from the first page to the last.
    FlushKernelRange(Page, Page),
    /// A mapped page is mapped no more; the flush is left to the CPU's next batched one.
    UnmapBatched(Page),
    /// `flush_tlb_batched`
    FlushBatched,
    /// Another address space gets the small user pages, to be copied at the first store; flushed.
    Fork(usize),
    /// A 2 MiB page becomes small ones; flushed.
    Split(Page),
    /// And back; flushed.
    Merge(Page),
    /// `move`: what the first page maps is moved to the second, which maps nothing; flushed.
    Move(Page, Page),
    /// `migrate`: a page gets another frame, of this colour, and its own is freed; flushed.
    Migrate(Page, usize),
    /// `write_protect`: as [`Verb::Protect`], flushed.
    WriteProtect(Page),
    /// `make_clean`: as [`Verb::Clean`], flushed.
    MakeClean(Page),
    /// `unmap_range`: what is mapped of these pages is mapped no more, and freed; flushed.
    UnmapRange(Page, Page),
    /// The page table of v0..v3 is freed, with what it maps; flushed.
    FreeTable(Page),
    /// The CPU runs a kernel thread, lazily.
    Lazy,
    /// The CPU loads the address space without a user half.
    LeaveMm,
    /// `switch_mm`
    Switch,
    /// To user mode and back.
    Nop,
    /// A load, in user mode if so.
    Read(Page, bool),
    /// A store of a value, in user mode if so.
    Write(Page, bool, u64),
    /// The CPU, which is held back, goes on.
    Resume,
}

impl Verb {
    /// Whether a flush is owed after it. More permission makes nothing stale; but until the old
    /// entry is flushed a store may fault once, and a program could not say what it comes to.
    #[must_use]
    pub fn owes(self) -> bool {
        matches!(self, Self::Remap(..) | Self::Unmap(_) | Self::Protect(..) | Self::Clean(_))
    }
}

/// What a page is mapped to, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Index of its colour; above those, a copy.
    pub colour: usize,
    /// The page may be written.
    pub writable: bool,
    /// A and D are set from the beginning.
    pub dirty: bool,
    /// It is copied at the first store of user mode.
    pub shared: bool,
    /// It is a large page in parts.
    pub split: bool,
}

impl Frame {
    /// A frame that is mapped afresh.
    #[must_use]
    pub fn new(colour: usize, writable: bool, dirty: bool) -> Self {
        Self { colour, writable, dirty, shared: false, split: false }
    }
}

/// One step of a program, without what it must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// The CPU's number.
    pub cpu: u8,
    /// The address space's number.
    pub mm: usize,
    /// What is done.
    pub verb: Verb,
    /// Until where the CPU comes with it, before it is held back.
    pub hold: Option<Hold>,
}

/// What a step must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, and no value matters.
    Done,
    /// This value is read.
    Value(u64),
    /// A page fault.
    Fault,
    /// Any of these, as the timing or what is cached has it.
    OneOf {
        /// A value that is read.
        values: [Option<u64>; MOST_VALUES],
        /// A page fault.
        fault: bool,
    },
}

impl Outcome {
    /// The values of which one must be read, and whether a page fault will do.
    fn parts(self) -> (Vec<u64>, bool) {
        match self {
            Self::Done => (Vec::new(), false),
            Self::Value(value) => (vec![value], false),
            Self::Fault => (Vec::new(), true),
            Self::OneOf { values, fault } => (values.into_iter().flatten().collect(), fault),
        }
    }
}

impl Verb {
    /// The step of the kernel; none of one that only lets a CPU go on.
    fn op(self) -> Option<Op> {
        let kernel = |page| matches!(page, Page::Kernel(_));
        Some(match self {
            Self::Map(..) => Op::Map,
            Self::Remap(..) => Op::Remap,
            Self::Unmap(_) => Op::Unmap,
            Self::Protect(..) => Op::Protect,
            Self::Clean(_) => Op::Clean,
            Self::Age(_) => Op::Age,
            Self::FlushOne(page) if kernel(page) => Op::FlushOneKernel,
            Self::FlushOne(_) => Op::FlushOneUser,
            Self::FlushRange(..) => Op::FlushRange,
            Self::FlushMm => Op::FlushMm,
            Self::FlushAll => Op::FlushAll,
            Self::FlushKernelRange(..) => Op::FlushKernelRange,
            Self::UnmapBatched(_) => Op::UnmapBatched,
            Self::FlushBatched => Op::FlushBatched,
            Self::Fork(_) => Op::Fork,
            Self::Split(_) => Op::SplitLarge,
            Self::Merge(_) => Op::MergeLarge,
            Self::Move(..) => Op::MovePage,
            Self::Migrate(..) => Op::Migrate,
            Self::WriteProtect(_) => Op::WriteProtect,
            Self::MakeClean(_) => Op::MakeClean,
            Self::UnmapRange(..) => Op::UnmapRange,
            Self::FreeTable(_) => Op::FreeTable,
            Self::Lazy => Op::Lazy,
            Self::LeaveMm => Op::LeaveMm,
            Self::Switch => Op::SwitchMm,
            Self::Nop => Op::UserNop,
            Self::Read(_, true) => Op::UserRead,
            Self::Read(_, false) => Op::KernelRead,
            Self::Write(_, true, _) => Op::UserWrite,
            Self::Write(_, false, _) => Op::KernelWrite,
            Self::Resume => return None,
        })
    }
}

impl Action {
    /// Whether a kernel with these abilities can do the step, and flush what it owes then.
    #[must_use]
    pub fn fits(&self, abilities: &Abilities) -> bool {
        let pages: Vec<Page> = { *self }.pages_mut().map(|page| *page).collect();
        let can_flush = |page: &Page| {
            abilities.does(Op::FlushAll)
                || Verb::FlushOne(*page).op().is_some_and(|op| abilities.does(op))
        };
        let other = match self.verb {
            Verb::Fork(child) => child < abilities.spaces,
            Verb::UnmapBatched(_) => abilities.does(Op::FlushBatched),
            verb if verb.owes() => pages.iter().all(can_flush),
            _ => true,
        };
        other
            && self.verb.op().is_none_or(|op| abilities.does(op))
            && pages.iter().all(|&page| abilities.maps(page))
            && self.mm < abilities.spaces
    }

    /// Whether the step is neither an edit nor a flush: by then, what is owed must be paid.
    #[must_use]
    pub fn is_other(&self) -> bool {
        matches!(
            self.verb,
            Verb::Switch
                | Verb::Nop
                | Verb::Lazy
                | Verb::LeaveMm
                | Verb::Resume
                | Verb::Read(..)
                | Verb::Write(..)
        )
    }

    /// Whether the step is about no address space in particular.
    #[must_use]
    pub fn is_of_all(&self) -> bool {
        let kernel = |page| matches!(page, Page::Kernel(_));
        match self.verb {
            Verb::Map(page, _)
            | Verb::Remap(page, _)
            | Verb::Unmap(page)
            | Verb::Protect(page, _)
            | Verb::Clean(page)
            | Verb::Age(page)
            | Verb::FlushOne(page) => kernel(page),
            Verb::FlushAll
            | Verb::FlushKernelRange(..)
            | Verb::FlushBatched
            | Verb::Lazy
            | Verb::LeaveMm
            | Verb::Resume => true,
            _ => false,
        }
    }

    /// The pages that it names, for renaming them.
    pub fn pages_mut(&mut self) -> impl Iterator<Item = &mut Page> {
        let [first, last] = match &mut self.verb {
            Verb::Map(page, _)
            | Verb::Remap(page, _)
            | Verb::Unmap(page)
            | Verb::Protect(page, _)
            | Verb::Clean(page)
            | Verb::Age(page)
            | Verb::FlushOne(page)
            | Verb::UnmapBatched(page)
            | Verb::Split(page)
            | Verb::Merge(page)
            | Verb::Migrate(page, _)
            | Verb::WriteProtect(page)
            | Verb::MakeClean(page)
            | Verb::FreeTable(page)
            | Verb::Read(page, _)
            | Verb::Write(page, ..) => [Some(page), None],
            Verb::FlushRange(first, last)
            | Verb::FlushKernelRange(first, last)
            | Verb::UnmapRange(first, last)
            | Verb::Move(first, last) => [Some(first), Some(last)],
            Verb::FlushMm
            | Verb::FlushAll
            | Verb::FlushBatched
            | Verb::Fork(_)
            | Verb::Lazy
            | Verb::LeaveMm
            | Verb::Resume
            | Verb::Switch
            | Verb::Nop => [None, None],
        };
        first.into_iter().chain(last)
    }
}

/// What step lines name.
#[derive(Clone, Copy)]
pub(super) struct Named {
    pub mm: bool,
    pub cpu: bool,
}

fn letter(mm: usize) -> char {
    (b'A' + mm as u8) as char
}

/// One step as a scenario file has it.
pub(super) fn line(action: &Action, outcome: Outcome, named: Named) -> String {
    let mut text = String::with_capacity(40);
    // Writing to a String cannot fail.
    if named.cpu {
        let _ = write!(text, "cpu{} ", action.cpu);
    }
    if named.mm && !action.is_of_all() {
        let _ = write!(text, "{} ", letter(action.mm));
    }
    let _ = write!(text, "{}", Shown(action.verb));
    let (values, fault) = outcome.parts();
    let shown = |value: &u64| match (0..COLOURS.len()).find(|&at| colour_word(at) == *value) {
        Some(colour) => COLOURS[colour].to_owned(),
        None => format!("{value:#x}"),
    };
    let all = values.iter().map(shown).chain(fault.then(|| "fault".to_owned()));
    for (number, one) in all.enumerate() {
        let _ = write!(text, "{}{one}", if number == 0 { " -> " } else { "|" });
    }
    if let Some(Hold { point, nth }) = action.hold {
        let name =
            HOLD_POINTS.iter().find(|(_, known, _)| *known == point).map_or("?", |row| row.0);
        let _ = match nth {
            1 => write!(text, " until {name}"),
            nth => write!(text, " until {name}#{nth}"),
        };
    }
    text
}

/// A verb as a step line has it.
struct Shown(Verb);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = |user| if user { "user" } else { "kernel" };
        match self.0 {
            Verb::Map(page, frame) => write!(f, "map {page} {frame}"),
            Verb::Remap(page, frame) => write!(f, "remap {page} {frame}"),
            Verb::Unmap(page) => write!(f, "unmap {page}"),
            Verb::Protect(page, true) => write!(f, "protect {page} rw"),
            Verb::Protect(page, false) => write!(f, "protect {page} ro"),
            Verb::Clean(page) => write!(f, "clean {page}"),
            Verb::Age(page) => write!(f, "age {page}"),
            Verb::FlushOne(page @ Page::Kernel(_)) => write!(f, "flush_tlb_one_kernel {page}"),
            Verb::FlushOne(page) => write!(f, "flush_tlb_one_user {page}"),
            Verb::FlushRange(first, last) => write!(f, "flush_tlb_range {first}..{last}"),
            Verb::FlushMm => f.write_str("flush_tlb_mm"),
            Verb::FlushAll => f.write_str("flush_tlb_all"),
            Verb::FlushKernelRange(first, last) => {
                write!(f, "flush_tlb_kernel_range {first}..{last}")
            }
            Verb::UnmapBatched(page) => write!(f, "unmap_batched {page}"),
            Verb::FlushBatched => f.write_str("flush_tlb_batched"),
            Verb::Fork(child) => write!(f, "fork {}", letter(child)),
            Verb::Split(page) => write!(f, "split {page}"),
            Verb::Merge(page) => write!(f, "merge {page}"),
            Verb::Move(from, to) => write!(f, "move {from} {to}"),
            Verb::Migrate(page, colour) => write!(f, "migrate {page} {}", COLOURS[colour]),
            Verb::WriteProtect(page) => write!(f, "write_protect {page}"),
            Verb::MakeClean(page) => write!(f, "make_clean {page}"),
            Verb::UnmapRange(first, last) => write!(f, "unmap_range {first}..{last}"),
            Verb::Resume => f.write_str("resume"),
            Verb::FreeTable(page) => write!(f, "free_table {page}"),
            Verb::Lazy => f.write_str("lazy"),
            Verb::LeaveMm => f.write_str("leave_mm"),
            Verb::Switch => f.write_str("switch_mm"),
            Verb::Nop => f.write_str("user nop"),
            Verb::Read(page, user) => write!(f, "{} read {page}", mode(user)),
            Verb::Write(page, user, value) => write!(f, "{} write {page} {value:#x}", mode(user)),
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(COLOURS[self.colour])?;
        f.write_str(if self.writable { "" } else { " ro" })?;
        f.write_str(if self.dirty { " dirty" } else { "" })
    }
}
