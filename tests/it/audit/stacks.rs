//! Who called whom, as a finding says it: by ORC tables of the small kernel.

use super::elf::with_sections;
use super::kernel::{Does, User, kernel_with_symbols};
use super::layout::*;
use super::scripts::{call, done};
use super::settings;
use stalemate::audit::{Audited, Calls, Subject, audit};
use stalemate::ink::Ink;
use stalemate::kernel::free::{KernelImage, Unwound};
use stalemate::symbols::Symbols;

/// Where the tables would be in memory.
const DISTANCES: u64 = KERNEL + 0x30_0000;

/// Bytes of an entry: RSP and 8, and a frame's kind.
fn entry(kind: u8) -> [u8; 6] {
    [8, 0, 0, 0, 5, kind]
}

/// The tables that say of these addresses, in order, of which kind the frame is.
fn tables(kinds: &[(u64, u8)]) -> [(&'static str, u64, Vec<u8>); 2] {
    let distance = |(number, &(at, _)): (usize, &(u64, u8))| {
        (at.wrapping_sub(DISTANCES + 4 * number as u64) as i32).to_le_bytes()
    };
    let distances = kinds.iter().enumerate().flat_map(distance).collect();
    let entries = kinds.iter().flat_map(|&(_, kind)| entry(kind)).collect();
    [(".orc_unwind_ip", DISTANCES, distances), (".orc_unwind", DISTANCES, entries)]
}

/// What comes of a kernel that forgets the user half of a page's flush, in two functions.
fn found(call_and_end: Option<[u8; 2]>, has_header: bool) -> Audited {
    let page = data(0);
    let inner = Does::Function("unmap", [0; 3], vec![Does::Store(A.slot(0), 0)]);
    let flush = Does::Function("flush", [0; 3], vec![Does::Invlpg(page)]);
    let outer = Does::Function("outer", [0; 3], vec![inner, flush]);
    let script = vec![
        User::Read(page),
        call([Some(Does::Read(page))]),
        call([Some(outer)]),
        User::Read(page),
        done(),
    ];
    let (mut elf, labels) = kernel_with_symbols(&[(A, script)]);
    if let Some([call, end]) = call_and_end {
        let kinds = [(KERNEL + CODE, end), (labels["outer"], call), (labels["behind outer"], end)];
        let mut sections = Vec::from(tables(&kinds));
        if has_header {
            sections.push((".orc_header", DISTANCES, vec![1; 20]));
        }
        elf = with_sections(elf, &sections);
    }
    let kernel = KernelImage::parse(&elf).expect("a kernel");
    let symbols: Vec<_> = labels.into_iter().map(|(name, at)| (at, 'T', name)).collect();
    let subject = Subject {
        kernel: &kernel,
        initrd: &[],
        command_line: "",
        symbols: &Symbols::of_kernel(&symbols),
        profile: None,
        settings: settings(false),
        faults: &[],
        until: None,
    };
    audit(&subject, &mut |_| {}).expect("it runs")
}

fn names(calls: &Calls) -> Vec<&str> {
    let name = |function: &str| function.find('+').unwrap_or(function.len());
    calls.frames.iter().map(|called| &called.function[..name(&called.function)]).collect()
}

#[test]
fn a_finding_says_who_called_whom_where_the_image_has_tables_of_either_layout() {
    for (kinds, has_header) in [([0, 4], false), ([2, 1], true)] {
        let audited = found(Some(kinds), has_header);
        let [finding] = &audited.findings[..] else { panic!("{:?}", audited.findings) };
        let of: Vec<&str> = finding.stacks.iter().map(|calls| calls.of).collect();
        assert_eq!(of, ["store", "flush", "deadline", "use"], "{:?}", finding.stacks);
        let [store, flush, due, used] = &finding.stacks[..] else { panic!() };
        assert_eq!((store.by, store.at), (Unwound::Orc, finding.noted.stored.expect("when")));
        assert_eq!(names(store), ["unmap", "outer", "call 1"]);
        // It is called behind the other function, in the same one.
        assert_eq!(names(flush), ["flush", "behind unmap", "call 1"]);
        assert_eq!(due.frames.len(), 1, "{due:?}");
        assert!(used.frames[0].function.starts_with("0x"), "user mode has no names: {used:?}");
        let text = stalemate::audit::text(&audited, Ink::Plain);
        assert!(text.contains("\n  Call Trace at the store:\n   unmap+0x"), "{text}");
    }
}

/// The kind of a call in one layout is none in the other, or another.
#[test]
fn tables_of_one_layout_are_not_read_as_the_other() {
    let misread = found(Some([2, 1]), false);
    assert_ne!(names(&misread.findings[0].stacks[0]), ["unmap", "outer", "call 1"]);
}

#[test]
fn without_tables_there_are_frame_pointers_and_where_there_are_none_the_function_alone() {
    let audited = found(None, false);
    let store = &audited.findings[0].stacks[0];
    assert_eq!((store.by, names(store)), (Unwound::FramePointers, vec!["unmap"]));
    let text = stalemate::audit::text(&audited, Ink::Plain);
    assert!(
        text.contains("\n  Call Trace at the store, by frame pointers:\n   unmap+0x"),
        "{text}"
    );
}
