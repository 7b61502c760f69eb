use super::Layout;
use crate::arch::addr::{CpuId, Gpa, Pcid};
use crate::arch::core::Memory;
use crate::arch::happened::WordStore;
use crate::event::{Announcement, Owner, SpaceId};
use crate::memory::GuestMemory;
use stalemate_shared::pcid::ASID_SLOTS;
use stalemate_shared::tlb_state::{TLB_STATE_WORDS, USER_PCID_FLUSH_MASK, WAITING};
use stalemate_shared::words::{MAX_ROWS, Meaning, NAME_SIZE, WordRow};
use std::mem::offset_of;

const STATES: Gpa = Gpa(0x10_0000);
const SPACES: Gpa = Gpa(0x11_0000);
/// Where the tables of these tests are, and the words that they describe.
const TABLE: u64 = 0x12_0000;
const WORDS: u64 = 0x13_0000;

fn memory() -> GuestMemory {
    GuestMemory::new(2 << 20).expect("memory")
}

fn ours() -> Layout {
    Layout::of_states(STATES, SPACES, 3)
}

fn said(layout: &Layout, memory: &GuestMemory, at: u64, old: u64, new: u64) -> Vec<Announcement> {
    layout.stored(memory, &WordStore { at: Gpa(at), old, new }).announcements
}

/// A table as a kernel of `cpus` CPUs has it.
fn read(memory: &GuestMemory, rows: &[WordRow], cpus: u8) -> Result<Layout, String> {
    for (number, row) in rows.iter().enumerate() {
        let at = TABLE + (number * size_of::<WordRow>()) as u64;
        let words = [
            (offset_of!(WordRow, meaning), row.meaning),
            (offset_of!(WordRow, at), row.at),
            (offset_of!(WordRow, cpu_stride), row.cpu_stride),
            (offset_of!(WordRow, stride), row.stride),
            (offset_of!(WordRow, count), row.count),
            (offset_of!(WordRow, pcid), row.pcid),
            (offset_of!(WordRow, idle), row.idle),
        ];
        for (offset, word) in words {
            memory.write_word(Gpa(at + offset as u64), word);
        }
        memory.write(Gpa(at + offset_of!(WordRow, name) as u64), &row.name);
    }
    Layout::read(memory, TABLE, rows.len() as u64, cpus)
}

fn row(meaning: Meaning, name: &str, at: u64) -> WordRow {
    WordRow { at: WORDS + at, cpu_stride: 0x100, ..WordRow::new(meaning, name) }
}

#[test]
fn every_word_of_tlb_state_is_known() {
    let (layout, memory) = (ours(), memory());
    for cpu in 0..3 {
        for word in 0..TLB_STATE_WORDS as u64 {
            let at = Gpa(STATES.0 + cpu * 0x1000 + word * 8);
            let statement = layout.stored(&memory, &WordStore { at, old: 0, new: 1 });
            assert_eq!(statement.word.owner, Owner::Cpu(CpuId(cpu as u8)), "word {word}");
            assert!(!statement.word.field.contains("the word at"), "{}", statement.word.field);
        }
    }
    let beyond = WordStore { at: Gpa(STATES.0 + TLB_STATE_WORDS as u64 * 8), old: 0, new: 1 };
    assert_eq!(layout.stored(&memory, &beyond).word.owner, Owner::Unknown);
    assert_eq!(layout.slots().len(), ASID_SLOTS);
    let slot = WordStore { at: Gpa(STATES.0 + 56 + 3 * 16 + 8), old: 0, new: 9 };
    let statement = layout.stored(&memory, &slot);
    assert_eq!(statement.word.field, "slots[3].tlb_gen");
    let flushed = Announcement::SlotFlushed { cpu: CpuId(0), slot: 3, generation: 9 };
    assert_eq!(statement.announcements, [flushed]);
}

#[test]
fn a_bit_that_was_set_already_is_no_mark() {
    let (layout, memory) = (ours(), memory());
    let at = STATES.0 + 0x1000 + USER_PCID_FLUSH_MASK;
    let cpu = CpuId(1);
    let marked = |bit: u16| Announcement::Marked { cpu, pcid: Pcid::new(0x800 | bit) };
    assert_eq!(said(&layout, &memory, at, 0b010, 0b110), [marked(2)]);
    assert_eq!(said(&layout, &memory, at, 0b110, 0b110), []);
    let unmarked = Announcement::Unmarked { cpu, pcid: Pcid::new(0x801) };
    assert_eq!(said(&layout, &memory, at, 0b110, 0b100), [unmarked]);
}

#[test]
fn whoever_clears_the_bit_it_is_the_acknowledgement_of_the_bits_cpu() {
    let said = said(&ours(), &memory(), STATES.0 + WAITING, 0b110, 0b010);
    assert_eq!(said, [Announcement::Acknowledged { by: CpuId(2), to: CpuId(0) }]);
}

/// The marks of FreeBSD: one word a CPU, of the PCID that another word names.
#[test]
fn one_word_for_the_loaded_address_space_is_a_mark_of_its_pcid() {
    let (memory, idle) = (memory(), u64::MAX);
    let mark = WordRow { idle, ..row(Meaning::Mark, "ucr3_load_mask", 0) };
    let rows = [mark, row(Meaning::MarkPcid, "ucr3", 8)];
    let layout = read(&memory, &rows, 2).expect("a table");
    let cpu = CpuId(1);
    let (at, names) = (WORDS + 0x100, WORDS + 0x108);
    let [one, other] = [0x803, 0x805].map(Pcid::new);
    memory.write_word(Gpa(names), 0x16_3803);
    let (marked, unmarked) =
        (|pcid| Announcement::Marked { cpu, pcid }, |pcid| Announcement::Unmarked { cpu, pcid });
    assert_eq!(said(&layout, &memory, at, idle, !(1 << 63)), [marked(one)]);
    assert_eq!(said(&layout, &memory, at, !(1 << 63), 5), [], "it was set");
    assert_eq!(said(&layout, &memory, at, !(1 << 63), idle), [unmarked(one)]);
    // A mark that is set is of whichever PCID is named.
    memory.write_word(Gpa(at), idle);
    assert_eq!(said(&layout, &memory, names, 0x16_3803, 0x17_3805), []);
    memory.write_word(Gpa(at), !(1 << 63));
    let moved = [unmarked(one), marked(other)];
    assert_eq!(said(&layout, &memory, names, 0x16_3803, 0x17_3805), moved);
    memory.write_word(Gpa(WORDS), idle);
    assert_eq!(layout.state(&memory), [marked(one)]);
}

#[test]
fn slots_and_address_spaces_may_lie_anywhere_and_have_any_pcids() {
    let memory = memory();
    let rows = [
        WordRow { stride: 32, count: 3, pcid: 16, ..row(Meaning::SlotOwner, "ctx", 0) },
        WordRow { stride: 32, count: 3, ..row(Meaning::SlotGeneration, "gen", 8) },
        WordRow { pcid: 0x810, ..row(Meaning::Marks, "owed", 0x80) },
        WordRow { stride: 64, count: 4, ..row(Meaning::SpaceNumber, "asid", 0x1000) },
        WordRow { stride: 64, count: 4, ..row(Meaning::SpaceRoot, "pml4", 0x1008) },
    ];
    let layout = read(&memory, &rows, 2).expect("a table");
    let cpu = CpuId(1);
    let pcids: Vec<u16> = layout.slots().iter().map(|slot| slot.user.value()).collect();
    assert_eq!(pcids, [0x810, 0x811, 0x812]);
    let marked = Announcement::Marked { cpu, pcid: Pcid::new(0x812) };
    assert_eq!(said(&layout, &memory, WORDS + 0x180, 0, 4), [marked]);
    let store = layout.store_for(&memory, &marked).expect("a word");
    assert_eq!((store.at, store.new), (Gpa(WORDS + 0x180), 4));
    let space = Some(SpaceId(7));
    let owner = Announcement::SlotOwner { cpu, slot: 2, space };
    assert_eq!(said(&layout, &memory, WORDS + 0x140, 0, 7), [owner]);
    let statement = layout.stored(&memory, &WordStore { at: Gpa(WORDS + 0x148), old: 0, new: 1 });
    assert_eq!(statement.word.field, "gen[2]");
    memory.write_word(Gpa(WORDS + 0x1000 + 64), 7);
    let root = Announcement::Root { space: SpaceId(7), root: Gpa(0x5000) };
    assert_eq!(said(&layout, &memory, WORDS + 0x1008 + 64, 0, 0x5000), [root]);
    let pages: Vec<u64> = layout.frames().iter().map(|frame| frame.0).collect();
    assert_eq!(pages, [WORDS, WORDS + 0x1000]);
}

#[test]
fn a_table_that_cannot_be_is_refused_by_its_rows_name() {
    let memory = memory();
    let good = row(Meaning::Marks, "owed", 0);
    let refused = |rows: &[WordRow], cpus| read(&memory, rows, cpus).expect_err("refused");
    let cases: [(&[WordRow], &str); 11] = [
        (&[WordRow { meaning: 99, ..good }], "the row \"owed\" of its table of words means 99"),
        (&[WordRow { at: 0x13_0004, ..good }], "is not of whole words"),
        (&[WordRow { at: 2 << 20, ..good }], "begins at guest-physical 0x200000, and not all"),
        (&[WordRow { cpu_stride: 1 << 63, ..good }], "not all of it is in memory"),
        (&[WordRow { cpu_stride: 0, ..good }], "both have the word at"),
        (&[WordRow { count: 2, ..good }], "is of 2 words"),
        (
            &[good, row(Meaning::Marks, "again", 8)],
            "\"owed\" and \"again\" of its table of words mean",
        ),
        (&[good, row(Meaning::Lazy, "lazy", 0)], "both have the word at"),
        (&[row(Meaning::Mark, "mask", 0)], "the row \"mask\" of its table of words (Mark) needs"),
        (&[row(Meaning::SlotGeneration, "gen", 0)], "needs one that says SlotOwner"),
        (
            &[WordRow { pcid: 0x7ff, count: 2, stride: 8, ..row(Meaning::SlotOwner, "ctx", 0) }],
            "kernel PCIDs have bit 11 set",
        ),
    ];
    for (rows, says) in cases {
        let why = refused(rows, 2);
        assert!(why.contains(says), "{says}: {why}");
    }
    let many = [WordRow { count: 16385, stride: 8, ..row(Meaning::SlotOwner, "ctx", 0) }];
    assert!(refused(&many, 1).contains("is of 16385 words"));
    assert!(Layout::read(&memory, TABLE, MAX_ROWS as u64 + 1, 1).is_err());
    assert!(Layout::read(&memory, (2 << 20) - 8, 1, 1).is_err());
    assert!(Layout::read(&memory, u64::MAX - 7, 1, 1).is_err());
    let name = WordRow { name: *b"\x1b[31mred, no zero in it\0", ..good };
    assert_eq!(name.name.len(), NAME_SIZE);
    let why = refused(&[WordRow { meaning: 99, ..name }], 1);
    assert!(!why.contains('\x1b'), "{why}");
}
