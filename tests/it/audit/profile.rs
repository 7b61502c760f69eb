//! What a profile of the small kernel adds to what is found, and what it lets pass all the same.

use super::kernel::{Does, MARKS, STACK_TOP, Task, User, kernel_with_symbols};
use super::layout::*;
use super::scripts::{call, done};
use super::{both, rules, settings};
use stalemate::audit::{Audited, Line, Profile, Subject, Verdict, audit};
use stalemate::ink::Ink;
use stalemate::kernel::free::KernelImage;
use stalemate::symbols::Symbols;

const PROFILE: &str = r#"
summary = "the small kernel of the tests"
symbol = "boot"

[[primitive]]
symbol = "flush_range"
promises = "range"
space = "rdi"
start = "rsi"
end = "rdx"
why = "the test says so"

[[primitive]]
symbol = "flush_kernel"
promises = "kernel-range"
start = "rdi"
end = "rsi"
why = "the test says so"

[descriptors]
base = "frames"
size = 64
why = "the test says so"

[[frees]]
symbol = "free"
page = "rdi"
order = "rsi"
why = "the test says so"

[[operation_ends]]
symbol = "rest"
why = "the test says so"

[[stale_by_design]]
start = "0xffffc90000002000"
size = 0x1000
why = "the test says so"
"#;

/// A word of the kernel's that is 0: its first frame's descriptor would be there.
const NO_FRAMES: u64 = KERNEL + VARIABLES + 0x100;
/// A word that leads into the kernel, and never changes: what LGDT reads, behind the limit.
const SAME_FOR_ALL: u64 = GDT + 0x82;
/// What the kernel has of the CPU: so far from the GS base.
const OF_CPU: [(&str, u64); 3] =
    [("marks", MARKS - KERNEL), ("stack_top", STACK_TOP - KERNEL), ("same_for_all", SAME_FOR_ALL)];

fn audited(tasks: &[Task], profile: Option<&str>) -> Audited {
    let (elf, mut labels) = kernel_with_symbols(tasks);
    let kernel = KernelImage::parse(&elf).expect("a kernel");
    labels.insert("frames".to_owned(), NO_FRAMES);
    let mut symbols: Vec<_> = labels.into_iter().map(|(name, at)| (at, 'T', name)).collect();
    symbols.extend(OF_CPU.map(|(name, at)| (at, 'A', name.to_owned())));
    let profile = profile.map(|text| Profile::parse("test.toml", text).expect("a profile"));
    let subject = Subject {
        kernel: &kernel,
        initrd: &[],
        command_line: "",
        symbols: &Symbols::of_kernel(&symbols),
        profile: profile.as_ref(),
        settings: settings(false),
        faults: &[],
        until: None,
    };
    audit(&subject, &mut |_| {}).expect("it runs")
}

/// What rules say without the profile, and with it.
fn without_and_with(tasks: &[Task]) -> (String, String) {
    let [without, with] = [None, Some(PROFILE)].map(|profile| audited(tasks, profile));
    assert_eq!(without.run.instructions, with.run.instructions, "a profile changes no run");
    (rules(&without).join(" "), rules(&with).join(" "))
}

/// `flush_range` of a user page in the first space.
fn flush_range(page: u64, does: impl IntoIterator<Item = Does>) -> Does {
    let does = Vec::from_iter(does);
    Does::Function("flush_range", [KERNEL + A.root(), page, page + 0x1000], does)
}

/// The first task unmaps a page; then the second one is in user mode; then all is flushed. The second
/// comes between the store and the primitive, into the primitive, or behind it; or the primitive is of
/// another page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    Before,
    Within,
    Behind,
    BehindAnotherPage,
    BehindAStoreWithin,
}

fn interrupted(other: Other) -> [Task; 2] {
    let page = data(0);
    let unmap = Does::Store(A.slot(0), 0);
    let away = Does::Switch(1);
    let [invlpg, invpcid] = both(page);
    // The user half is forgotten, and then remembered.
    let does = match other {
        Other::Before => vec![unmap, away, flush_range(page, [invlpg, invpcid.clone()])],
        Other::Within => vec![unmap, flush_range(page, [invlpg, away, invpcid.clone()])],
        Other::Behind => vec![unmap, flush_range(page, [invlpg]), away],
        Other::BehindAnotherPage => vec![unmap, flush_range(data(1), [invlpg]), away],
        Other::BehindAStoreWithin => vec![flush_range(page, [unmap, invlpg]), away],
    };
    let hand_over = call([Some(Does::Switch(1))]);
    let first = call(does.into_iter().chain([invpcid]).map(Some));
    let back = call([Some(Does::Switch(0))]);
    let read = User::Read(page);
    [
        (A, vec![read.clone(), hand_over, first, done()]),
        (A, vec![read.clone(), back.clone(), read, back]),
    ]
}

#[test]
fn what_a_primitive_promised_is_due_when_it_returns_and_not_before() {
    for (other, found) in [
        (Other::Before, ""),
        (Other::Within, ""),
        (Other::Behind, "stale-user-entry"),
        (Other::BehindAnotherPage, ""),
        (Other::BehindAStoreWithin, ""),
    ] {
        let (without, with) = without_and_with(&interrupted(other));
        assert_eq!((&*without, &*with), ("", found), "{other:?}");
    }
}

#[test]
fn a_finding_names_the_line_that_says_when_it_was_due() {
    let audited = audited(&interrupted(Other::Behind), Some(PROFILE));
    let due = "it was flushed when this returned: `flush_range`, line 5 of test.toml";
    assert_eq!(audited.findings[0].due, due);
    let text = stalemate::audit::text(&audited, Ink::Plain);
    assert!(text.contains(due), "{text}");
    // What nobody requested is due by the task.
    let script = vec![User::Read(data(0)), call([Some(Does::Store(A.slot(0), 0))]), done()];
    let audited = self::audited(&[(A, script)], Some(PROFILE));
    assert_eq!(rules(&audited), ["stale-user-entry"]);
    assert!(audited.findings[0].due.contains("a heuristic"), "{}", audited.findings[0].due);
}

/// One task, which has used its page and pages of the kernel's; then the kernel does these, and the task
/// that.
fn after_use(does: impl IntoIterator<Item = Does>, then: User) -> [Task; 1] {
    let used = [data(0), area(0), area(2), area(GLOBAL)].map(|va| Some(Does::Read(va)));
    let does = call(does.into_iter().map(Some));
    [(A, vec![User::Read(data(0)), call(used), does, then, done()])]
}

fn flush_kernel(index: u64, does: impl IntoIterator<Item = Does>) -> Does {
    Does::Function("flush_kernel", [area(index), area(index) + 0x1000, 0], Vec::from_iter(does))
}

#[test]
fn a_kernel_page_is_due_when_the_primitive_for_kernel_pages_returns() {
    let protect = |index| Does::Store(area_slot(index), (C.frame(8 + index) | KERNEL_PAGE) & !2);
    let flush = Does::Cr3(A.cr3());
    for (does, found) in [
        (vec![protect(0), flush_kernel(0, [])], "stale-kernel-entry"),
        (vec![protect(0), flush_kernel(0, [Does::Invlpg(area(0))])], ""),
        (vec![protect(0), flush_kernel(0, [flush.clone()])], ""),
        (vec![protect(0), flush_kernel(1, [])], ""),
        // A load of CR3 leaves globals.
        (
            vec![
                Does::Store(area_slot(GLOBAL), (C.frame(8 + GLOBAL) | GLOBAL_PAGE) & !2),
                flush_kernel(GLOBAL, [flush]),
            ],
            "stale-kernel-entry",
        ),
    ] {
        let (without, with) = without_and_with(&after_use(does.clone(), User::Read(data(1))));
        assert_eq!((&*without, &*with), ("", found), "{does:?}");
    }
}

#[test]
fn a_mark_that_is_cleared_is_a_flush_that_is_owed() {
    let profile =
        PROFILE.to_owned() + "[mark]\npercpu = \"marks\"\nslots = 3\nwhy = \"the test says so\"\n";
    let (mark, trap) = (Does::Mark(A.pcid()), Does::Invlpg(data(0)));
    let clear = Does::Store(MARKS - KERNEL, 0);
    let flush = Does::InvpcidAll(A.user_pcid());
    for (does, found) in [
        (vec![mark.clone(), trap.clone()], ""),
        (vec![mark.clone(), trap.clone(), clear.clone()], "lost-mark"),
        (vec![mark.clone(), trap.clone(), clear.clone(), trap.clone(), flush], ""),
        // Nothing was marked.
        (vec![clear.clone(), trap.clone()], ""),
        // Of no slot.
        (vec![Does::Mark(4), trap.clone()], ""),
        (vec![Does::Mark(0), trap], "stray-mark"),
    ] {
        let audited = audited(&after_use(does.clone(), User::Read(data(1))), Some(&profile));
        assert_eq!(rules(&audited).join(" "), found, "{does:?}");
    }
}

#[test]
fn the_current_task_is_where_the_profile_says() {
    let current = |percpu: &str| {
        let line = format!("[[current]]\npercpu = \"{percpu}\"\nwhy = \"the test says so\"\n");
        let audited = audited(&interrupted(Other::Before), Some(&(PROFILE.to_owned() + &line)));
        rules(&audited).join(" ")
    };
    assert_eq!(current("stack_top"), "");
    assert_eq!(current("same_for_all"), "stale-user-entry", "the two tasks are one");
    assert_eq!(current("nowhere"), "", "their stacks stand for them");
}

/// `free` of frames from one on.
fn free(frame: u64, order: u64) -> Does {
    Does::Function("free", [frame / 0x1000 * 64, order, 0], Vec::new())
}

#[test]
fn a_frame_is_not_given_back_while_what_leads_to_it_is_stale() {
    let unmap = Does::Store(A.slot(0), 0);
    let flush = both(data(0));
    let kernel_page = |index: u64| Does::Store(area_slot(index), 0);
    let early = |does: Does| [&[unmap.clone(), does][..], &flush].concat();
    for (does, found) in [
        (early(free(A.frame(0), 0)), "reuse-before-flush"),
        (early(free(A.frame(1), 0)), ""),
        // The last of four.
        (early(free(A.frame(0) - 0x3000, 2)), "reuse-before-flush"),
        (early(free(A.frame(0) - 0x4000, 2)), ""),
        ([&[unmap.clone()][..], &flush, &[free(A.frame(0), 0)]].concat(), ""),
        (vec![kernel_page(0), free(C.frame(8), 0)], "reuse-before-flush"),
        // What is stale by design.
        (vec![kernel_page(2), free(C.frame(10), 0)], ""),
    ] {
        let (without, with) = without_and_with(&after_use(does.clone(), User::Read(data(1))));
        assert_eq!((&*without, &*with), ("", found), "{does:?}");
    }
}

/// A second task, which is in no space of its own and never in user mode, unmaps a page of the first
/// one's, and does this before it waits.
fn in_the_background(does: Option<Does>) -> [Task; 2] {
    let unmap = Does::Store(A.slot(0), 0);
    let work = [Some(Does::Cr3(B.cr3())), Some(unmap), does, Some(Does::Cr3(A.cr3() | NOFLUSH))];
    let back = call(work.into_iter().chain([Some(Does::Switch(0))]));
    let read = User::Read(data(0));
    let over = call([Some(Does::Switch(1))]);
    [(A, vec![read.clone(), over, read, done()]), (A, vec![back])]
}

#[test]
fn an_operation_of_a_task_that_never_returns_to_user_mode_is_over_when_it_says_so() {
    let rest = || Does::Function("rest", [0; 3], Vec::new());
    let (without, with) = without_and_with(&in_the_background(None));
    assert_eq!((&*without, &*with), ("", ""));
    let (without, with) = without_and_with(&in_the_background(Some(rest())));
    assert_eq!((&*without, &*with), ("", "stale-user-entry"));
}

fn line<'a>(audited: &'a Audited, symbol: &str) -> &'a Line {
    let profile = audited.profile.as_ref().expect("a profile");
    profile.lines.iter().find(|line| line.symbol == symbol).expect("a line")
}

#[test]
fn a_line_that_came_to_nothing_is_said() {
    let lost = Does::Function("flush_range", [KERNEL, 0, 0], vec![Does::Reset]);
    let unclear = free(0, 11);
    let mut first = after_use([unclear], User::Read(data(1)));
    first[0].1.insert(3, call([Some(lost)]));
    let audited = audited(&first, Some(PROFILE));
    for (symbol, calls, missing) in [
        ("flush_range", Some(1), "it was called 1 times and never returned"),
        ("free", Some(1), "of 1 of its 1 calls it could not be told what they were of"),
        ("rest", None, "the kernel has no symbol `rest`"),
    ] {
        let line = line(&audited, symbol);
        assert_eq!((line.calls, line.missing.as_deref()), (calls, Some(missing)), "{symbol}");
        let text = stalemate::audit::text(&audited, Ink::Plain);
        assert!(text.contains(&format!("`{symbol}`, {}: {missing}", line.what)), "{text}");
        let json = stalemate::audit::json(&(&audited).into()).to_string();
        assert!(json.contains(missing), "{json}");
    }
    assert_eq!(line(&audited, "frames").missing, None);
}

#[test]
fn a_profile_of_other_kernels_is_not_used_and_that_is_said() {
    let tasks = interrupted(Other::Behind);
    for (from, to, why) in [
        ("symbol = \"boot\"", "symbol = \"start\"", "the kernel has no symbol `start`"),
        (
            "symbol = \"boot\"",
            "symbol = \"boot\"\ncommand_line = [\"nokaslr\"]",
            "it needs `nokaslr` on the command line",
        ),
    ] {
        let audited = audited(&tasks, Some(&PROFILE.replacen(from, to, 1)));
        assert_eq!(audited.verdict(), Verdict::Clean);
        let text = stalemate::audit::text(&audited, Ink::Plain);
        assert!(text.contains(&format!("test.toml is not used: {why}")), "{text}");
    }
    // A line that is true of other versions; this kernel says none.
    let line = "symbol = \"flush_range\"";
    let text = PROFILE.replacen(line, &format!("kernels = \"6.1..\"\n{line}"), 1);
    let audited = audited(&tasks, Some(&text));
    assert_eq!(audited.verdict(), Verdict::Clean);
}

#[test]
fn a_file_that_is_wrong_says_where_and_what_would_be_right() {
    assert!(Profile::built_in().is_ok());
    let range = "promises = \"range\"";
    for (from, to, line, message, help) in [
        ("space = \"rdi\"", "space = \"rdx9\"", 8, "`rdx9` is no register", "rdx"),
        ("space = \"rdi\"", "space = 7", 8, "invalid type: integer `7`", "a register, as \"rdi\""),
        ("space = \"rdi\"", "spaces = \"rdi\"", 8, "unknown field `spaces`", "mean `space`?"),
        (range, "promises = \"rang\"", 7, "unknown value `rang`", "did you mean `range`?"),
        (range, "promises = \"everything\"", 8, "promises nothing about a `space`", "no arguments"),
        ("space = \"rdi\"\n", "", 5, "`flush_range` is given no `space`", "has `space`, `start`"),
        (range, "", 5, "missing field `promises`", "promises = …"),
        ("why = \"the test says so\"", "why = \" \"", 11, "has no reason", "what in the kernel"),
        (range, "promises = \"range\"\nkernels = \"6\"", 8, "no kernel versions", "\"6.1..6.12\""),
        (
            "[descriptors]\nbase = \"frames\"\nsize = 64",
            "[descriptors]\nbase = \"frames\"\nsize = 0",
            22,
            "a size of 0",
            "in bytes",
        ),
        (
            "start = \"0xffffc90000002000\"",
            "start = \"vmalloc\"",
            36,
            "vmalloc",
            "an address, as \"0x",
        ),
        (
            "summary = \"the small kernel of the tests\"",
            "summary = \"\"",
            2,
            "is empty",
            "one line",
        ),
    ] {
        assert!(PROFILE.contains(from), "{from}");
        let text = PROFILE.replacen(from, to, 1);
        let error = Profile::parse("test.toml", &text).expect_err(to);
        let said = error.to_string();
        assert_eq!((error.file.as_str(), error.line), ("test.toml", line), "{said}");
        assert!(error.message.contains(message), "{to}: {said}");
        assert!(error.help.contains(help), "{to}: {said}");
    }
    let start = PROFILE.find("[descriptors]").expect("a table");
    let end = PROFILE.find("[[frees]]").expect("the next");
    let error = Profile::parse("test.toml", &[&PROFILE[..start], &PROFILE[end..]].concat());
    let error = error.expect_err("no descriptors");
    assert!(error.message.contains("nothing says where descriptors are"), "{error}");
}
