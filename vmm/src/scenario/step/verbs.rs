//! The verbs: a row each, with what is written, what it does and how it is read.

use super::access::access;
use super::words::{Change, Expect, Parsed, StepError, Words};
use crate::kernel::steps::StepClass;
use crate::suggest::suggest;
use stalemate_shared::hypercall::Deferral;
use stalemate_shared::page::Page;
use stalemate_shared::step::{Misbehaviour, Op, flags};

type Read = Result<Parsed, StepError>;

/// One verb.
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// What follows it.
    pub form: &'static str,
    /// What it does.
    pub help: &'static str,
    read: fn(&mut Words<'_>) -> Read,
}

const fn row(
    name: &'static str,
    form: &'static str,
    help: &'static str,
    read: fn(&mut Words<'_>) -> Read,
) -> Verb {
    Verb { name, form, help, read }
}

/// Every verb, edits first, then flushes, then the rest.
pub const VERBS: [Verb; 33] = [
    row("map", "P COLOUR [ro] [dirty]", "P, which is not mapped, gets the frame", |words| {
        map(words, Op::Map, Change::Map)
    }),
    row("remap", "P COLOUR [ro] [dirty]", "P, which is mapped, gets another frame", |words| {
        map(words, Op::Remap, Change::Edit)
    }),
    row("unmap", "P", "P is mapped no more", |words| {
        let page = words.page()?;
        edit(Op::Unmap, [page.address(), 0, 0], Change::Unmap(page))
    }),
    row("unmap_range", "P..P", "the pages are unmapped and flushed", |words| {
        let fits = |page| matches!(page, Page::User(_) | Page::Table(_));
        let (first, last) = words.range(fits, "4 KiB user pages", "u0..u3")?;
        edit(Op::UnmapRange, ends(first, last), Change::UnmapRange(first, last))
    }),
    row("unmap_batched", "P", "P is unmapped, its flush left to `flush_tlb_batched`", |words| {
        let page = words.page()?;
        if matches!(page, Page::Kernel(_)) {
            return words.error(
                "the flush of a kernel page is not deferred".to_owned(),
                "use `unmap` and `flush_tlb_one_kernel`".to_owned(),
            );
        }
        edit(Op::UnmapBatched, [page.address(), 0, 0], Change::Unmap(page))
    }),
    row(
        "unmap_lazily",
        "K [here]",
        "a kernel page is unmapped, its flush due when its address is mapped anew; `here`: on the CPU \
         that does so, alone",
        |words| {
            let page = words.page()?;
            if !matches!(page, Page::Kernel(_)) {
                return words.error(
                    "the addresses of user pages are used again at any time".to_owned(),
                    "use `unmap_batched`, or a page k…".to_owned(),
                );
            }
            let here = words.optional("here");
            let until = if here { Deferral::ReuseHere } else { Deferral::Reuse };
            edit(Op::UnmapLazily, [page.address(), until as u64, 0], Change::Unmap(page))
        },
    ),
    row("protect", "P ro|rw", "P may be written no more, or again", protect),
    row(
        "write_protect",
        "P",
        "as `protect P ro`, and flushed, with the table's lock held",
        |words| change(words, Op::WriteProtect),
    ),
    row("clean", "P", "the D bit of P is cleared", |words| change(words, Op::Clean)),
    row("make_clean", "P", "as `clean`, and flushed, with the table's lock held", |words| {
        change(words, Op::MakeClean)
    }),
    row("age", "P", "the A bit of P is cleared, which needs no flush", |words| {
        change(words, Op::Age)
    }),
    row("move", "P P", "what the first page maps the second maps from now on", |words| {
        let (from, to) = (words.page()?, words.page()?);
        if !matches!((from, to), (Page::User(_), Page::User(_))) {
            return words.error(
                "only pages u… are moved".to_owned(),
                "use two of them, as in `move u0 u1`".to_owned(),
            );
        }
        edit(Op::MovePage, [from.address(), to.address(), 0], Change::Move(from, to))
    }),
    row(
        "migrate",
        "P COLOUR",
        "P gets another frame, by way of an entry that is not present, and the old one is freed",
        |words| {
            let page = words.page()?;
            let frame = words.frame(page)?;
            edit(Op::Migrate, [page.address(), frame, 0], Change::Edit(page))
        },
    ),
    row("fork", "MM", "another address space gets what this one maps, copied on write", |words| {
        let child = words.mm()?;
        edit(Op::Fork, [child as u64, 0, 0], Change::Fork(child))
    }),
    row("split", "H", "a 2 MiB page becomes 4 KiB pages", |words| large(words, Op::SplitLarge)),
    row("merge", "H", "4 KiB pages become a 2 MiB page", |words| large(words, Op::MergeLarge)),
    row("free_table", "V", "the page table of V is freed, with all that it maps", |words| {
        match words.page()? {
            page @ Page::Table(_) => {
                edit(Op::FreeTable, [page.address(), 0, 0], Change::FreeTable(page))
            }
            _ => words.error(
                "the page table of this page is not its own".to_owned(),
                "use a page v…".to_owned(),
            ),
        }
    }),
    row("free", "COLOUR", "the frame is given back", |words| {
        let frame = words.frame(Page::User(0))?;
        edit(Op::FreeFrame, [frame, 0, 0], Change::None)
    }),
    row("flush_tlb_one_user", "P", "a user page in both halves of its address space", |words| {
        match words.page()? {
            Page::Kernel(_) => words.error(
                "a kernel page is not flushed by the user primitive".to_owned(),
                "use `flush_tlb_one_kernel`, or a page u…, v… or h…".to_owned(),
            ),
            page => flush(Op::FlushOneUser, [page.address(), 0, 0]),
        }
    }),
    row("flush_tlb_one_kernel", "K", "a kernel page in every address space", |words| {
        match words.page()? {
            page @ Page::Kernel(_) => flush(Op::FlushOneKernel, [page.address(), 0, 0]),
            _ => words.error(
                "a user page is not flushed by the kernel primitive".to_owned(),
                "use `flush_tlb_one_user`, or a page k…".to_owned(),
            ),
        }
    }),
    row("flush_tlb_one_kernel_here", "K", "a kernel page, on this CPU and no other", |words| {
        match words.page()? {
            page @ Page::Kernel(_) => flush(Op::FlushOneKernelHere, [page.address(), 0, 0]),
            _ => words.error(
                "a user page is flushed on every CPU that may hold it".to_owned(),
                "use `flush_tlb_one_user`, or a page k…".to_owned(),
            ),
        }
    }),
    row("flush_tlb_range", "P..P", "user pages, first and last included", |words| {
        let fits = |page| !matches!(page, Page::Kernel(_));
        let (first, last) = words.range(fits, "user pages", "u0..u3")?;
        flush(Op::FlushRange, ends(first, last))
    }),
    row("flush_tlb_kernel_range", "K..K", "kernel pages, first and last included", |words| {
        let fits = |page| matches!(page, Page::Kernel(_));
        let (first, last) = words.range(fits, "kernel pages", "k0..k3")?;
        flush(Op::FlushKernelRange, ends(first, last))
    }),
    row("flush_tlb_mm", "", "the whole address space", |_| flush(Op::FlushMm, [0; 3])),
    row("flush_tlb_all", "", "everything, the big hammer", |_| flush(Op::FlushAll, [0; 3])),
    row("flush_tlb_batched", "", "what `unmap_batched` has left", |_| {
        flush(Op::FlushBatched, [0; 3])
    }),
    row("switch_mm", "", "the CPU loads the address space", |_| other(Op::SwitchMm)),
    row("lazy", "", "the CPU runs a kernel thread that borrows the loaded address space", |_| {
        other(Op::Lazy)
    }),
    row("leave_mm", "", "a lazy CPU loads the kernel's own tables", |_| other(Op::LeaveMm)),
    row(
        "user",
        "read P [-> COLOUR|fault|VALUE] | write P [VALUE] [-> fault] | nop | spin P ROUNDS",
        "user mode accesses P, and tells what it saw; `nop` only enters and leaves",
        |words| access(words, true),
    ),
    row(
        "kernel",
        "read P [-> COLOUR|fault|VALUE] | write P [VALUE] [-> fault]",
        "the kernel accesses P, and tells what it saw",
        |words| access(words, false),
    ),
    row("misbehave", "HOW", "what a broken kernel does, to test the VMM", misbehave),
    // A line of this kind is known before its verb is read.
    row("resume", "", "a CPU that `until` holds back goes on", |_| Ok(Parsed::RESUME)),
];

/// What `misbehave` may be told.
const MISBEHAVIOURS: [(&str, Misbehaviour); 9] = [
    ("triple-fault", Misbehaviour::TripleFault),
    ("loop", Misbehaviour::Loop),
    ("trap-loop", Misbehaviour::TrapLoop),
    ("beyond-memory", Misbehaviour::BeyondMemory),
    ("wbinvd", Misbehaviour::Wbinvd),
    ("panic", Misbehaviour::Panic),
    ("zero-idt", Misbehaviour::ZeroIdt),
    ("store-to-code", Misbehaviour::StoreToCode),
    ("zero-root", Misbehaviour::ZeroRoot),
];

/// Reads what a line says after its CPU and address space.
pub fn verb(words: &mut Words<'_>) -> Read {
    let verb = words.next("a verb")?;
    if let Some(known) = VERBS.iter().find(|known| known.name == verb) {
        return (known.read)(words);
    }
    let help = match verb {
        "read" | "write" | "nop" => {
            format!("say who does it: `user {verb} …` or `kernel {verb} …`")
        }
        _ if verb.len() == 1 => "an address space is a letter from A to L".to_owned(),
        _ => suggest(verb, &VERBS.map(|known| known.name)),
    };
    words.error(format!("`{verb}` is no verb"), help)
}

fn edit(op: Op, rest: [u64; 3], change: Change) -> Read {
    Ok(Parsed { change, ..Parsed::new(op, rest, StepClass::Edit) })
}

fn flush(op: Op, rest: [u64; 3]) -> Read {
    Ok(Parsed::new(op, rest, StepClass::Flush))
}

fn other(op: Op) -> Read {
    Ok(Parsed::new(op, [0; 3], StepClass::Other))
}

/// The first address of a range, and its end.
fn ends(first: Page, last: Page) -> [u64; 3] {
    [first.address(), last.address() + last.size(), 0]
}

fn map(words: &mut Words<'_>, op: Op, change: fn(Page) -> Change) -> Read {
    let page = words.page()?;
    let frame = words.frame(page)?;
    let mut bits = if matches!(page, Page::Large(_)) { flags::LARGE } else { 0 };
    bits |= if words.optional("ro") { 0 } else { flags::WRITABLE };
    bits |= if words.optional("dirty") { flags::DIRTY } else { 0 };
    edit(op, [page.address(), frame, bits], change(page))
}

fn protect(words: &mut Words<'_>) -> Read {
    let page = words.page()?;
    let bits = match words.next("`ro` or `rw`")? {
        "ro" => 0,
        "rw" => flags::WRITABLE,
        other => {
            let message = format!("`{other}` is no protection");
            return words.error(message, "use `ro` or `rw`".to_owned());
        }
    };
    edit(Op::Protect, [page.address(), bits, 0], Change::Edit(page))
}

/// An edit of the entry of a page.
fn change(words: &mut Words<'_>, op: Op) -> Read {
    let page = words.page()?;
    edit(op, [page.address(), 0, 0], Change::Edit(page))
}

fn large(words: &mut Words<'_>, op: Op) -> Read {
    match words.page()? {
        page @ Page::Large(_) => edit(op, [page.address(), 0, 0], Change::Edit(page)),
        _ => words
            .error("only 2 MiB pages are split and merged".to_owned(), "use a page h…".to_owned()),
    }
}

fn misbehave(words: &mut Words<'_>) -> Read {
    let how = words.next("a way to misbehave")?;
    match MISBEHAVIOURS.iter().find(|(name, _)| *name == how) {
        Some(&(_, how)) => {
            let parsed = Parsed::new(Op::Misbehave, [how as u64, 0, 0], StepClass::Other);
            Ok(Parsed { expect: Expect::Stop, ..parsed })
        }
        None => {
            let names = MISBEHAVIOURS.map(|(name, _)| name);
            words.error(format!("`{how}` is no way to misbehave"), suggest(how, &names))
        }
    }
}
