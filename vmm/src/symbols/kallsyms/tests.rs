//! Tables that are made here, whole and damaged.

use super::*;

const TEXT: u64 = 0xffff_ffff_8100_0000;
const TEXT_SIZE: u64 = 0x10_0000;
const READ_ONLY: u64 = TEXT + TEXT_SIZE;

/// In which order the tables stand; between 6.2 and 6.4 another one is among them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Before6_4,
    Between,
    Since6_4,
}

/// An image's read-only data, and where what begins in it.
#[derive(Default)]
struct Made {
    data: Vec<u8>,
    count: usize,
    markers: Range<usize>,
    tokens: usize,
    index: Range<usize>,
    offsets: usize,
    base: usize,
}

impl Made {
    fn begin(&mut self) -> usize {
        let at = self.data.len().next_multiple_of(ALIGNMENT);
        self.data.resize(at, 0);
        at
    }

    fn offsets(&mut self, symbols: &[KernelSymbol], encoding: Encoding) {
        self.offsets = self.begin();
        let base = symbols.iter().map(|symbol| symbol.0).find(|at| at >> 63 == 1).expect("text");
        for &(address, _, _) in symbols {
            let distance = address.wrapping_sub(base) as u32;
            let word = match encoding {
                Encoding::AbsolutePerCpu if address < base => address as u32,
                Encoding::AbsolutePerCpu => !distance,
                Encoding::Distance => distance,
            };
            self.data.extend(word.to_le_bytes());
        }
        self.base = self.begin();
        self.data.extend(base.to_le_bytes());
    }

    fn new(symbols: &[KernelSymbol], order: Order, encoding: Encoding) -> Self {
        let mut made = Self::default();
        // What is nearly it: digits in UTF-16, and numbers.
        made.data.extend((0..300u16).flat_map(u16::to_le_bytes));
        made.data.extend((0..200u64).flat_map(|number| (number * 7).to_le_bytes()));
        if order != Order::Since6_4 {
            made.offsets(symbols, encoding);
        }
        made.count = made.begin();
        made.data.extend((symbols.len() as u64).to_le_bytes());
        let names = made.begin();
        let mut markers = Vec::new();
        for (number, (_, kind, name)) in symbols.iter().enumerate() {
            if number % MARKED == 0 {
                markers.push((made.data.len() - names) as u32);
            }
            let record = packed(&format!("{kind}{name}"));
            if record.len() > 0x7f {
                made.data.push(record.len() as u8 | 0x80);
                made.data.push((record.len() >> 7) as u8);
            } else {
                made.data.push(record.len() as u8);
            }
            made.data.extend(record);
        }
        let begin = made.begin();
        made.data.extend(markers.into_iter().flat_map(u32::to_le_bytes));
        made.markers = begin..made.data.len();
        if order == Order::Between {
            made.begin();
            made.data.extend((0..symbols.len() * 3).map(|at| at as u8));
        }
        made.tokens = made.begin();
        let mut index = Vec::new();
        for token in 0..=255 {
            index.push((made.data.len() - made.tokens) as u16);
            made.data.extend(token_text(token).bytes().chain([0]));
        }
        let begin = made.begin();
        made.data.extend(index.into_iter().flat_map(u16::to_le_bytes));
        made.index = begin..made.data.len();
        if order == Order::Since6_4 {
            made.offsets(symbols, encoding);
        }
        made
    }

    fn read(&self) -> Option<Vec<KernelSymbol>> {
        read(&elf_with(&self.data))
    }
}

/// Characters of names are themselves; the other tokens are words.
fn token_text(token: u8) -> String {
    match token {
        0 => "sys_".to_owned(),
        1 => "flush".to_owned(),
        b'!'..=b'~' => char::from(token).to_string(),
        _ => format!("w{token}"),
    }
}

fn packed(mut name: &str) -> Vec<u8> {
    let mut tokens = Vec::new();
    while let Some(first) = name.bytes().next() {
        let token = (0..=1).find(|&token| name.starts_with(&token_text(token))).unwrap_or(first);
        tokens.push(token);
        name = &name[token_text(token).len()..];
    }
    tokens
}

const READABLE: u32 = elf::PF_R.0;
const EXECUTABLE: u32 = elf::PF_R.0 | elf::PF_X.0;

fn elf_with(data: &[u8]) -> Vec<u8> {
    elf_of(data, EXECUTABLE, READABLE)
}

/// An ELF file with text of which it has no contents, per-CPU data, and read-only data.
fn elf_of(data: &[u8], text_flags: u32, data_flags: u32) -> Vec<u8> {
    const CONTENTS: u64 = 0x200;
    let len = data.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    for word in [TEXT, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 3, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for (flags, at, file_size, size) in [
        (text_flags, TEXT, 0, TEXT_SIZE),
        (READABLE, 0, 0, 0x1000),
        (data_flags, READ_ONLY, len, len),
    ] {
        for word in [elf::PT_LOAD.0, flags] {
            file.extend(word.to_le_bytes());
        }
        for word in [CONTENTS, at, at, file_size, size, 0x1000] {
            file.extend(word.to_le_bytes());
        }
    }
    file.resize(CONTENTS as usize, 0);
    file.extend(data);
    file
}

fn symbols(encoding: Encoding) -> Vec<KernelSymbol> {
    let mut symbols = Vec::new();
    if let Encoding::AbsolutePerCpu = encoding {
        symbols.push((0, 'A', "per_cpu_begin".to_owned()));
        symbols.push((0x35000, 'A', "pcpu_hot".to_owned()));
    }
    symbols.push((TEXT, 'T', "_text".to_owned()));
    symbols.push((TEXT, 'T', "_stext".to_owned()));
    symbols.push((TEXT + 0x10, 't', "very_long_".repeat(50)));
    let functions = (2..600).map(|number| (TEXT + number * 0x20, 't', format!("sys_f{number}")));
    symbols.extend(functions);
    symbols.push((TEXT + TEXT_SIZE - 0x40, 'W', "flush_everything_at_last".to_owned()));
    symbols
}

const ORDERS: [Order; 3] = [Order::Before6_4, Order::Between, Order::Since6_4];

fn each() -> impl Iterator<Item = (Vec<KernelSymbol>, Made)> {
    ORDERS.into_iter().flat_map(|order| {
        Encoding::ALL.into_iter().map(move |encoding| {
            let symbols = symbols(encoding);
            let made = Made::new(&symbols, order, encoding);
            (symbols, made)
        })
    })
}

#[test]
fn what_was_written_is_read() {
    for (symbols, made) in each() {
        assert_eq!(made.read(), Some(symbols));
    }
}

#[test]
fn digits_are_found_wherever_they_begin() {
    for begin in 0..40 {
        let mut data = vec![0; begin];
        data.extend(b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0");
        data.extend(b"a0\x001\x002\x003\x005");
        assert_eq!(digits(&data).collect::<Vec<_>>(), [begin]);
        data.truncate(begin + 19);
        assert_eq!(digits(&data).count(), 0);
    }
}

#[test]
fn an_image_without_tables_has_none() {
    assert_eq!(read(&[]), None);
    assert_eq!(read(b"\x7fELF"), None);
    assert_eq!(read(&elf_with(&[])), None);
    assert_eq!(read(&elf_with(&[0; 5000])), None);
    assert_eq!(
        read(&elf_with(&b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0".repeat(300))),
        None
    );
}

#[test]
fn a_segment_that_no_memory_holds_is_no_kernels() {
    let (_, made) = each().next().expect("a table");
    let mut file = elf_with(&made.data);
    file[64 + 40..64 + 48].fill(0xff);
    assert_eq!(read(&file), None);
}

/// Whatever byte is damaged, it reads all symbols or none, and none where one table says of another
/// what is not so.
#[test]
fn a_damaged_byte_is_noticed_or_harmless() {
    for (run, (symbols, mut made)) in each().enumerate() {
        let count = made.count..made.count + 8;
        let strict = [count, made.markers.clone(), made.index.clone()];
        for at in 0..made.data.len() {
            let noticed = strict.iter().any(|of| of.contains(&at));
            // Of all other bytes each is damaged in one of the images.
            if !noticed && at % 6 != run {
                continue;
            }
            let whole = made.data[at];
            made.data[at] = match at % 4 {
                0 => whole ^ 1,
                1 => whole ^ 0x80,
                2 => !whole,
                _ => u8::from(whole == 0),
            };
            let read = made.read();
            assert!(read.is_none() || !noticed, "byte {at:#x} is damaged, and that is not noticed");
            assert!(read.is_none_or(|read| read.len() == symbols.len()), "byte {at:#x}");
            made.data[at] = whole;
        }
    }
}

#[test]
fn a_table_that_is_cut_short_is_none() {
    for (_, made) in each() {
        let file = elf_with(&made.data);
        for len in (0..made.data.len()).step_by(13) {
            assert_eq!(read(&elf_with(&made.data[..len])), None, "{len} bytes of data");
            assert_eq!(read(&file[..file.len() - 1 - len]), None, "{len} bytes of the file");
        }
    }
}

#[test]
fn what_no_kernel_has_is_not_believed() {
    let encoding = Encoding::AbsolutePerCpu;
    let read_changed = |change: &dyn Fn(&mut Vec<KernelSymbol>)| {
        let mut symbols = symbols(encoding);
        change(&mut symbols);
        Made::new(&symbols, Order::Since6_4, encoding).read()
    };
    assert!(read_changed(&|_| ()).is_some());
    assert_eq!(read_changed(&|all| all.swap(300, 400)), None, "not by address");
    let beyond = |all: &mut Vec<KernelSymbol>| all.last_mut().expect("some").0 = TEXT + (1 << 30);
    assert_eq!(read_changed(&beyond), None, "an address beyond the image");
    let before = |all: &mut Vec<KernelSymbol>| all.insert(2, (TEXT - 16, 't', "low".to_owned()));
    assert_eq!(read_changed(&before), None, "an address before the image");
    let renamed = |all: &mut Vec<KernelSymbol>| {
        all.iter_mut().for_each(|symbol| symbol.2 = symbol.2.replace("text", "code"));
    };
    assert_eq!(read_changed(&renamed), None, "no begin of the text");
    assert_eq!(read_changed(&|all| all.truncate(FEWEST - 1)), None, "too few to judge");
    assert_eq!(read_changed(&|all| all[9].1 = '7'), None, "no kind");
    assert_eq!(read_changed(&|all| all[9].2 = "long".repeat(128)), None, "too long a name");

    let symbols = symbols(encoding);
    let made = Made::new(&symbols, Order::Since6_4, encoding);
    assert_eq!(
        read(&elf_of(&made.data, READABLE, EXECUTABLE)),
        None,
        "text that cannot be executed"
    );
}

#[test]
fn a_token_that_is_in_no_name_and_a_base_elsewhere_are_not_believed() {
    for (_, mut made) in each() {
        made.data[made.tokens] = b' ';
        assert_eq!(made.read(), None);
        made.data[made.tokens] = b's';
        assert!(made.read().is_some());
        made.data[made.base + 4] = 0;
        assert_eq!(made.read(), None);
    }
}

/// An image can be made so that each place has names that take long to refuse.
#[test]
fn looking_has_an_end() {
    let (_, made) = each().next().expect("a table");
    let zero = digits(&made.data).last().expect("digits");
    let tokens = Tokens::around(&made.data, zero).expect("tokens");
    let mut enough = 1 << 20;
    assert!(Names::at(&made.data, &tokens, made.count, &mut enough).is_some());
    let mut looks = (1 << 20) - enough - 1;
    assert!(Names::at(&made.data, &tokens, made.count, &mut looks).is_none());

    // As a number it is a count of symbols, as bytes a length that leads to the next such number.
    let slow = [0x5057u64].repeat(1 << 17).into_iter().flat_map(u64::to_le_bytes);
    let slow = slow.chain(made.data[made.tokens..].iter().copied()).collect::<Vec<_>>();
    assert_eq!(read(&elf_with(&slow)), None);
}
