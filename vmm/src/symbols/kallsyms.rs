//! The symbols of a Linux kernel, out of its own image.
//!
//! A kernel with `CONFIG_KALLSYMS` carries its symbols in read-only data, for its own backtraces,
//! and nothing in the image says where. What is known is their form (Linux, scripts/kallsyms.c):
//!
//! | table | contents |
//! |---|---|
//! | `num_syms` | how many symbols, as `u32` |
//! | `names` | for each symbol its length in tokens, and that many tokens, a byte each |
//! | `markers` | for each 256th symbol, as `u32`, where in `names` it begins |
//! | `token_table` | 256 strings that end in a zero; the digits stand for themselves |
//! | `token_index` | for each token, as `u16`, where in `token_table` it begins |
//! | `offsets` | for each symbol, as 32 bits, its address, relative to a base |
//! | `relative_base` | that base, as `u64` |
//!
//! Each begins on a boundary of 8 bytes. Since 6.4 they stand in this order; before, the last two
//! stood in front of the others. Another table, `seqs_of_names`, may stand between `markers` and
//! `token_table`, or at the end. The first character of a name is its kind, as `nm` has it.
//!
//! The digits lead to the tokens, and each next table is believed where all that it says of the
//! others is true.

use super::KernelSymbol;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};
use std::ops::Range;

/// What each table begins on, in bytes.
const ALIGNMENT: usize = 8;
/// Symbols for each marker.
const MARKED: usize = 256;
/// The fewest symbols that are believed: fewer have no markers by which to judge.
const FEWEST: usize = 2 * MARKED + 1;
/// The most symbols that a kernel has.
const MOST: usize = 1 << 21;
/// The longest name, with its kind.
const LONGEST: usize = 512;
/// The most bytes that lie between the number of symbols and the tokens.
const FARTHEST: usize = 1 << 26;
/// How many places are taken for a token table, in all.
const MOST_TOKEN_TABLES: usize = 64;
/// How many tokens and characters of names are looked at, in all: an image can be made to be slow
/// to read.
const MOST_LOOKS: usize = 1 << 26;

/// The symbols of the kernel that `elf` is, in the order of its tables: by address, and of those at
/// one address first the one that the kernel would show. Per-CPU symbols may have offsets in place
/// of addresses. None where there are no such tables, or what they say is not consistent.
#[must_use]
pub fn read(elf: &[u8]) -> Option<Vec<KernelSymbol>> {
    let image = Image::parse(elf)?;
    let mut looks = MOST_LOOKS;
    let mut token_tables = MOST_TOKEN_TABLES;
    image.contents.iter().find_map(|data| {
        let digits = digits(data).take(token_tables).collect::<Vec<_>>();
        token_tables -= digits.len();
        digits.into_iter().find_map(|digits| {
            let tokens = Tokens::around(data, digits)?;
            let last = tokens.begin.saturating_sub(FARTHEST).next_multiple_of(ALIGNMENT);
            let places = (last..tokens.begin).step_by(ALIGNMENT).rev();
            let mut names = places.filter_map(|at| Names::at(data, &tokens, at, &mut looks));
            names.find_map(|names| {
                let addresses = addresses(data, &image, &tokens, &names)?;
                let symbols = names.symbols(data, &tokens, &addresses)?;
                image.contains_text_of(&symbols).then_some(symbols)
            })
        })
    })
}

/// The kernel's part of an ELF file.
struct Image<'e> {
    /// What the file has of each segment.
    contents: Vec<&'e [u8]>,
    /// The addresses from which it runs.
    text: Vec<Range<u64>>,
    /// All its addresses, with its end, at which there are symbols too.
    all: Range<u64>,
}

impl<'e> Image<'e> {
    fn parse(elf: &'e [u8]) -> Option<Self> {
        let file = elf::FileHeader64::<Endianness>::parse(elf).ok()?;
        let endian = file.endian().ok()?;
        // An empty range, which the first segment replaces.
        let all = Range { start: u64::MAX, end: 0 };
        let mut image = Self { contents: Vec::new(), text: Vec::new(), all };
        for segment in file.program_headers(endian, elf).ok()? {
            let begin = segment.p_vaddr(endian);
            let end = begin.checked_add(segment.p_memsz(endian))?;
            // The per-CPU segment begins at 0.
            if segment.p_type(endian) != elf::PT_LOAD || begin >> 63 == 0 {
                continue;
            }
            image.all = image.all.start.min(begin)..image.all.end.max(end.checked_add(1)?);
            if segment.p_flags(endian).0 & elf::PF_X.0 != 0 {
                image.text.push(begin..end);
            }
            if begin % ALIGNMENT as u64 == 0 {
                image.contents.push(segment.data(endian, elf).ok()?);
            }
        }
        Some(image)
    }

    /// Whether the symbol at the begin of every kernel's text is where text is.
    fn contains_text_of(&self, symbols: &[KernelSymbol]) -> bool {
        let text = symbols.iter().find(|(_, _, name)| name == "_stext" || name == "_text");
        text.is_some_and(|(at, _, _)| self.text.iter().any(|text| text.contains(at)))
    }
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

/// Where the strings "0" to "9" stand one after the other.
fn digits(data: &[u8]) -> impl Iterator<Item = usize> + '_ {
    const DIGITS: &[u8; 20] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";
    // Wherever they begin, the first step from there is at a digit or before one, which says how
    // far that is.
    const STEP: usize = DIGITS.len() / 2;
    (0..data.len()).step_by(STEP).filter_map(|step| {
        let at = if data[step] == 0 { step + 1 } else { step };
        let digit = data.get(at).filter(|byte| byte.is_ascii_digit())?;
        let begin = at.checked_sub(2 * usize::from(digit - b'0'))?;
        let first = begin.next_multiple_of(STEP) == step;
        (first && data[begin..].starts_with(DIGITS)).then_some(begin)
    })
}

/// `token_table` and `token_index`.
struct Tokens<'d> {
    /// Where the table begins.
    begin: usize,
    /// Where the index ends.
    end: usize,
    each: Vec<&'d [u8]>,
}

impl<'d> Tokens<'d> {
    const COUNT: usize = 256;

    /// The tables of which the token "0" stands at `zero`: it has the number of its character.
    fn around(data: &'d [u8], zero: usize) -> Option<Self> {
        let after = data.get(zero..)?;
        let after = &after[..after.len().min(usize::from(u16::MAX))];
        let mut strings = after.split_inclusive(|&byte| byte == 0);
        let behind = strings.by_ref().take(Self::COUNT - usize::from(b'0'));
        let table_end = zero + behind.map(<[u8]>::len).sum::<usize>();
        let index_begin = table_end.next_multiple_of(ALIGNMENT);
        let end = index_begin + Self::COUNT * size_of::<u16>();
        let index = data.get(index_begin..end)?.chunks_exact(size_of::<u16>());
        let index = index.map(|at| usize::from(at[0]) | usize::from(at[1]) << 8);
        let index = index.collect::<Vec<_>>();
        let begin = zero.checked_sub(index[usize::from(b'0')])?;

        let mut each = Vec::new();
        let mut at = begin;
        for next in index {
            if begin + next != at {
                return None;
            }
            let token = data.get(at..table_end)?.split(|&byte| byte == 0).next()?;
            if token.len() > LONGEST || !token.iter().all(u8::is_ascii_graphic) {
                return None;
            }
            at += token.len() + 1;
            each.push(token);
        }
        Some(Self { begin, end, each })
    }
}

/// `num_syms`, `names` and `markers`.
struct Names {
    /// Where the number stands.
    begin: usize,
    count: usize,
}

impl Names {
    /// Those of which the number of symbols stands at `begin`, if it does.
    fn at(data: &[u8], tokens: &Tokens<'_>, begin: usize, looks: &mut usize) -> Option<Self> {
        let count = u32_at(data, begin)? as usize;
        let padding = u32_at(data, begin + size_of::<u32>())?;
        let this = Self { begin, count };
        // They end before the tokens begin.
        let data = data.get(..tokens.begin)?;
        let room = data.len().checked_sub(this.records_begin())?;
        // A name has a length and a token at least.
        if padding != 0 || !(FEWEST..=MOST).contains(&count) || count > room / 2 {
            return None;
        }
        let mut markers = Vec::new();
        let mut records = this.records(data);
        for number in 0..count {
            if number % MARKED == 0 {
                markers.push(u32::try_from(records.at - this.records_begin()).ok()?);
            }
            let record = records.next()?;
            let parts = record.iter().map(|&token| tokens.each[usize::from(token)]);
            let kind = parts.clone().find_map(|part| part.first())?;
            let len = parts.map(<[u8]>::len).sum::<usize>();
            *looks = looks.checked_sub(record.len() + len)?;
            if !kind.is_ascii_alphabetic() || !(2..=LONGEST).contains(&len) {
                return None;
            }
        }
        let table = records.at.next_multiple_of(ALIGNMENT);
        let mut markers = markers.iter().zip((table..).step_by(size_of::<u32>()));
        markers.all(|(&marker, at)| u32_at(data, at) == Some(marker)).then_some(this)
    }

    fn records_begin(&self) -> usize {
        self.begin + ALIGNMENT
    }

    fn records<'d>(&self, data: &'d [u8]) -> Records<'d> {
        Records { data, at: self.records_begin() }
    }

    fn symbols(
        &self,
        data: &[u8],
        tokens: &Tokens<'_>,
        addresses: &[u64],
    ) -> Option<Vec<KernelSymbol>> {
        let symbols = self.records(data).zip(addresses).map(|(record, &address)| {
            let parts = record.iter().map(|&token| tokens.each[usize::from(token)]);
            let mut name = parts.flatten().map(|&byte| char::from(byte));
            Some((address, name.next()?, name.collect()))
        });
        symbols.collect()
    }
}

/// The tokens of one name after the other.
struct Records<'d> {
    data: &'d [u8],
    /// Where the next one begins.
    at: usize,
}

impl<'d> Iterator for Records<'d> {
    type Item = &'d [u8];

    fn next(&mut self) -> Option<&'d [u8]> {
        let low = usize::from(*self.data.get(self.at)?);
        let mut begin = self.at + 1;
        let mut len = low;
        // Since 6.1 a length beyond 127 has two bytes, the low seven bits first.
        if low & 0x80 != 0 {
            len = low & 0x7f | usize::from(*self.data.get(begin)?) << 7;
            begin += 1;
        }
        let record = self.data.get(begin..begin + len)?;
        self.at = begin + len;
        Some(record)
    }
}

/// How an offset says an address.
#[derive(Clone, Copy)]
enum Encoding {
    /// `CONFIG_KALLSYMS_ABSOLUTE_PERCPU`: from 0 up it is the address, of a per-CPU symbol; below,
    /// -1 is the base, -2 the byte after, and so on.
    AbsolutePerCpu,
    /// It is the distance from the base.
    Distance,
}

impl Encoding {
    const ALL: [Self; 2] = [Self::AbsolutePerCpu, Self::Distance];

    /// The address, and whether it must be one of the image's.
    fn decode(self, offset: u32, base: u64) -> (u64, bool) {
        match (self, offset.cast_signed()) {
            (Self::AbsolutePerCpu, 0..) => (u64::from(offset), false),
            (Self::AbsolutePerCpu, _) => (base.wrapping_add(u64::from(!offset)), true),
            (Self::Distance, _) => (base.wrapping_add(u64::from(offset)), true),
        }
    }
}

/// What `offsets` and `relative_base` say: sorted, and in the image.
fn addresses(
    data: &[u8],
    image: &Image<'_>,
    tokens: &Tokens<'_>,
    names: &Names,
) -> Option<Vec<u64>> {
    let size = names.count * size_of::<u32>();
    let padded = size.next_multiple_of(ALIGNMENT);
    let since_6_4 = Some((tokens.end, tokens.end + padded));
    let base = names.begin.checked_sub(size_of::<u64>());
    let before = base.and_then(|base| Some((base.checked_sub(padded)?, base)));
    let places = [since_6_4, before].into_iter().flatten();
    let mut tables = places.filter_map(|(offsets, base)| {
        let base = u64::from_le_bytes(*data.get(base..)?.first_chunk()?);
        Some((data.get(offsets..offsets + size)?, base))
    });
    tables.find_map(|(offsets, base)| {
        Encoding::ALL.into_iter().find_map(|encoding| {
            let words = offsets.chunks_exact(size_of::<u32>());
            let words = words.filter_map(|word| u32_at(word, 0));
            let decoded = words.map(|word| encoding.decode(word, base)).collect::<Vec<_>>();
            let in_image = |&(at, must): &(u64, bool)| !must || image.all.contains(&at);
            let fits = decoded.is_sorted()
                && decoded.iter().all(in_image)
                && decoded.iter().any(|&(_, must)| must);
            fits.then(|| decoded.into_iter().map(|(at, _)| at).collect())
        })
    })
}

#[cfg(test)]
mod tests;
