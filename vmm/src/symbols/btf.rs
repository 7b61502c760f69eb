//! Where the members of a kernel's structures are, out of its own image: a Linux kernel with
//! `CONFIG_DEBUG_INFO_BTF` carries its types (Linux, Documentation/bpf/btf.rst).

use object::{Object, ObjectSection};

/// The first bytes: a magic number and version 1.
const MAGIC: [u8; 3] = [0x9f, 0xeb, 1];
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// How deep structures are in each other, at most.
const DEEPEST: usize = 16;

/// The types of one image.
pub struct Btf<'e> {
    types: &'e [u8],
    strings: &'e [u8],
    /// Where each type begins, by number less one.
    begins: Vec<usize>,
}

impl<'e> Btf<'e> {
    /// The types in an ELF file; none where it has none, or they are damaged.
    #[must_use]
    pub fn read(elf: &'e [u8]) -> Option<Self> {
        let file = object::File::parse(elf).ok()?;
        let data = file.section_by_name(".BTF")?.data().ok()?;
        if data.get(..3)? != MAGIC {
            return None;
        }
        let number = |at| word(data, at).map(|word| word as usize);
        let header = number(4)?;
        let part = |offset: usize, length: usize| {
            let begin = header.checked_add(offset)?;
            data.get(begin..begin.checked_add(length)?)
        };
        let (types, strings) = (part(number(8)?, number(12)?)?, part(number(16)?, number(20)?)?);
        let mut begins = Vec::new();
        let mut at = 0;
        while at < types.len() {
            begins.push(at);
            at = at.checked_add(12)?.checked_add(rest(word(types, at + 4)?)?)?;
        }
        Some(Self { types, strings, begins })
    }

    /// How many bytes into structure `name` its member `member` is, in whatever unnamed parts of it.
    #[must_use]
    pub fn offset(&self, name: &str, member: &str) -> Option<u64> {
        let named = |&at: &usize| {
            let kind = word(self.types, at + 4).map(kind_of);
            kind == Some(STRUCT) && self.name(at) == Some(name.as_bytes())
        };
        // Of two structures with one name, the one that has the member.
        let mut found = self.begins.iter().copied().filter(named);
        found.find_map(|at| self.member(at, member.as_bytes(), DEEPEST)).map(|bits| bits / 8)
    }

    /// Where a member is, in bits.
    fn member(&self, at: usize, member: &[u8], deepest: usize) -> Option<u64> {
        let info = word(self.types, at + 4)?;
        if !matches!(kind_of(info), STRUCT | UNION) {
            return None;
        }
        (0..info & 0xffff).find_map(|index| {
            let begin = at + 12 + index as usize * 12;
            let (of, offset) = (word(self.types, begin + 4)?, word(self.types, begin + 8)?);
            // With bit fields the upper byte is a width.
            let offset = if info >> 31 == 1 { offset & 0xff_ffff } else { offset };
            let inside = match self.name(begin)? {
                name if name == member => Some(0),
                b"" if deepest > 0 => {
                    let part = *self.begins.get((of as usize).checked_sub(1)?)?;
                    self.member(part, member, deepest - 1)
                }
                _ => None,
            };
            Some(u64::from(offset) + inside?)
        })
    }

    /// The name whose number is at `at`.
    fn name(&self, at: usize) -> Option<&'e [u8]> {
        let name = self.strings.get(word(self.types, at)? as usize..)?;
        name.split(|&byte| byte == 0).next()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

fn kind_of(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// The bytes of a type behind the first twelve.
fn rest(info: u32) -> Option<usize> {
    let count = (info & 0xffff) as usize;
    Some(match kind_of(info) {
        // Pointers, forwards, names of types, qualifiers, functions, floats, marks of types.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, marks of declarations.
        1 | 14 | 17 => 4,
        3 => 12,
        STRUCT | UNION | 15 | 19 => 12 * count,
        6 | 13 => 8 * count,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types by their words, and strings.
    fn btf<'e>(types: &'e [u8], strings: &'e [u8], begins: &[usize]) -> Btf<'e> {
        Btf { types, strings, begins: begins.to_vec() }
    }

    #[test]
    fn a_member_of_an_unnamed_part_is_found() {
        // 1: union { 5: y at 0 } unnamed; 2: struct "s" { "x" at 0, unnamed of type 1 at 64 }.
        let words: [u32; 15] = [
            0,
            UNION << 24 | 1,
            8,
            5,
            0,
            0, //
            1,
            STRUCT << 24 | 2,
            16,
            3,
            0,
            0,
            0,
            1,
            64,
        ];
        let types: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let btf = btf(&types, b"\0s\0x\0y\0", &[0, 24]);
        assert_eq!(btf.offset("s", "x"), Some(0));
        assert_eq!(btf.offset("s", "y"), Some(8));
        assert_eq!((btf.offset("s", "z"), btf.offset("t", "x")), (None, None));
    }

    #[test]
    fn what_is_cut_short_has_no_members() {
        let types = [0, STRUCT << 24 | 9, 16].map(u32::to_le_bytes).concat();
        assert_eq!(btf(&types, b"\0", &[0]).offset("", "x"), None);
        assert!(Btf::read(b"\x7fELF").is_none());
    }
}
