//! `include/stalemate.h` says what `shared/` says, and `docs/guest.md` names all of it.

use stalemate_shared::boot::{self, BootBlock, Policy, features, options};
use stalemate_shared::hypercall::{self as call, Deferral, Primitive};
use stalemate_shared::step::{Op, Status, flags};
use stalemate_shared::words::{self, Meaning, WordRow};
use stalemate_shared::{VERSION, layout, note};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::mem::offset_of;

const HEADER: &str = include_str!("../../include/stalemate.h");
const PAGE: &str = include_str!("../../docs/guest.md");

/// `OneUser` as C writes it.
fn screaming(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

/// Every number that stands for something in `T`, by its name with `prefix`.
fn numbers<T: TryFrom<u64> + Debug>(prefix: &str) -> BTreeMap<String, u64> {
    let named = |number| Some((T::try_from(number).ok()?, number));
    let all = (0..1024).filter_map(named);
    all.map(|(of, number)| (format!("{prefix}{}", screaming(&format!("{of:?}"))), number)).collect()
}

/// Constants of a module, which have no numbers to be found by: those listed, and by their number the
/// test finds out whether the list is whole.
macro_rules! constants {
    ($prefix:literal, $module:path, $($name:ident),+ $(,)?) => {{
        use $module as module;
        [$((format!("{}{}", $prefix, stringify!($name)), module::$name as u64)),+]
    }};
}

/// The names of the constants that a file of `shared/` declares.
fn declared(source: &str) -> usize {
    let constants = source.lines().filter_map(|line| line.trim_start().strip_prefix("pub const "));
    constants.filter(|line| !line.starts_with("fn ")).count()
}

/// What the header must define.
fn wanted() -> BTreeMap<String, u64> {
    let mut all = BTreeMap::from([
        ("VERSION".to_owned(), u64::from(VERSION)),
        ("MAGIC".to_owned(), boot::MAGIC),
        ("TRAMPOLINE_RANGES".to_owned(), boot::TRAMPOLINE_RANGES as u64),
    ]);
    all.extend(numbers::<Op>("OP_"));
    all.extend(numbers::<Status>("STATUS_"));
    all.extend(numbers::<Primitive>("PRIMITIVE_"));
    all.extend(numbers::<Deferral>("DEFERRAL_"));
    all.extend(numbers::<Policy>("POLICY_"));
    all.extend(numbers::<Meaning>("WORD_"));
    let words = constants!("WORDS_", words, NAME_SIZE, MAX_ROWS, MAX_WORDS);
    assert_eq!(words.len(), declared(include_str!("../../shared/src/words.rs")));
    all.extend(words);
    let features = constants!("FEATURE_", features, PCID, INVPCID, PGE, SMEP);
    let options = constants!("OPTION_", options, PTI, GLOBAL_WITH_PTI, PARANOID_REWRITE, NMI_FLUSH);
    let constants = declared(include_str!("../../shared/src/boot.rs"));
    assert_eq!(features.len() + options.len() + 2, constants, "MAGIC and TRAMPOLINE_RANGES too");
    let flags = constants!("FLAG_", flags, WRITABLE, LARGE, DIRTY);
    assert_eq!(flags.len(), declared(include_str!("../../shared/src/step.rs")));
    #[rustfmt::skip]
    let calls = constants!(
        "", call, PORT, DEBUG_PORT, READY, NEXT_STEP, BEGIN, END, FRAME_FREED, CONTENTS_TAKEN, ENTRY_READ, YIELD,
        DEFER, PANIC,
    );
    assert_eq!(calls.len(), declared(include_str!("../../shared/src/hypercall.rs")));
    #[rustfmt::skip]
    let layout = constants!(
        "", layout, MEMORY_SIZE, MAX_MEMORY_SIZE, BOOT_BLOCK, BOOT_TABLES, IMAGE, IMAGE_END, TABLE_FRAMES, TABLE_FRAMES_END,
        KERNEL_BASE, DIRECT_MAP_SIZE, KERNEL_PAGES, KERNEL_PAGE_COUNT, USER_CODE, USER_PAGES,
        USER_PAGE_COUNT, USER_LARGE_PAGES, USER_LARGE_PAGE_COUNT, USER_TABLE_PAGES,
        USER_TABLE_PAGE_COUNT, USER_END, MM_COUNT, MAX_CPUS, KERNEL_CS, KERNEL_SS, SYSRET_BASE, USER_SS,
        USER_CS, TSS_SELECTOR, IRQ_VECTOR, SHOOTDOWN_VECTOR,
    );
    let pages = constants!("PAGES_", note::pages, USER, LARGE, TABLE, KERNEL);
    let kernel = constants!(
        "KERNEL_",
        note::kernel,
        PCID,
        PTI,
        NO_PTI,
        GLOBAL,
        INTERRUPTS,
        POLICIES,
        MISTAKES
    );
    let constants = declared(include_str!("../../shared/src/note.rs"));
    assert_eq!(pages.len() + kernel.len() + 4, constants, "SECTION, NAME, KIND, and NOTHING too");
    all.extend(features.into_iter().chain(options).chain(flags).chain(pages).chain(kernel));
    all.extend(calls.into_iter().chain(layout));
    all
}

/// What it defines.
fn defined() -> BTreeMap<String, u64> {
    let lines = HEADER.lines().filter_map(|line| line.strip_prefix("#define STALEMATE_"));
    let lines = lines.filter(|line| !line.contains('('));
    let defined = lines.filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        let value = value.split(' ').next()?;
        let number = match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => value.parse(),
        };
        Some((name.to_owned(), number.unwrap_or_else(|_| panic!("{line}"))))
    });
    defined.collect()
}

#[test]
fn the_header_defines_what_shared_does() {
    let (wanted, defined) = (wanted(), defined());
    for (name, value) in &wanted {
        assert_eq!(defined.get(name), Some(value), "STALEMATE_{name}");
    }
    let more: Vec<_> = defined.keys().filter(|name| !wanted.contains_key(*name)).collect();
    assert!(more.is_empty(), "{more:?}");
}

/// The fields of one of the header's structures, by where C puts them, and its size.
fn fields(structure: &str) -> (BTreeMap<&'static str, usize>, usize) {
    let start = HEADER.find(&format!("struct {structure} {{")).expect("a structure");
    let body = &HEADER[start..][..HEADER[start..].find("};").expect("an end")];
    let mut at = 0;
    let mut fields = BTreeMap::new();
    for line in body.lines().filter(|line| line.ends_with(';')) {
        let (kind, name) = line.trim().trim_end_matches(';').rsplit_once(' ').expect("a field");
        let size = match kind {
            "uint32_t" => 4,
            "uint64_t" => 8,
            "char" => words::NAME_SIZE,
            "struct stalemate_range" => 16 * boot::TRAMPOLINE_RANGES,
            other => panic!("{other}"),
        };
        fields.insert(name.split('[').next().expect("a name"), at);
        at += size;
    }
    (fields, at)
}

macro_rules! offsets {
    ($structure:ident, $($field:ident),+ $(,)?) => {
        [$((stringify!($field), offset_of!($structure, $field))),+]
    };
}

#[test]
fn the_headers_boot_block_and_rows_are_shareds() {
    let (found, size) = fields("stalemate_boot_block");
    assert_eq!(size, size_of::<BootBlock>(), "a field is missing, or one too many");
    #[rustfmt::skip]
    let wanted = offsets!(
        BootBlock, magic, version, size, memory_size, policy, options, features, cpus, variant, tlb_state,
        mm_states, ap_entry, kernel_global, trampoline_count, trampoline, isolated, words, word_rows,
    );
    assert_eq!(found, BTreeMap::from(wanted));
    let (found, size) = fields("stalemate_word_row");
    assert_eq!(size, size_of::<WordRow>());
    let wanted = offsets!(WordRow, meaning, at, cpu_stride, stride, count, pcid, idle, name);
    assert_eq!(found, BTreeMap::from(wanted));
}

#[test]
fn the_page_names_every_step_call_and_field() {
    let mut names: Vec<String> = ["OP_", "PRIMITIVE_"]
        .iter()
        .flat_map(|prefix| {
            let of = move |name: String| Some(name.strip_prefix(prefix)?.to_owned());
            defined().into_keys().filter_map(of)
        })
        .collect();
    let calls = ["READY", "NEXT_STEP", "BEGIN", "END", "FRAME_FREED", "CONTENTS_TAKEN"];
    names.extend(
        calls.iter().chain(&["ENTRY_READ", "YIELD", "DEFER", "PANIC"]).map(|name| (*name).into()),
    );
    names.extend(defined().into_keys().filter(|name| name.starts_with("WORD_")));
    for structure in ["stalemate_boot_block", "stalemate_word_row"] {
        names.extend(fields(structure).0.into_keys().map(str::to_owned));
    }
    for name in names {
        assert!(PAGE.contains(&format!("`{name}`")), "{name}");
    }
}
